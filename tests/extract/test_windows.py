"""The windows of a video, read in one pass: each is what `read_clip` gives."""

import struct
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.media import windows as module
from moodfuse.extract.media.decode import DecodedClip, DecodeRequest, MediaError, read_clip
from moodfuse.extract.media.frames import DecodedFrame, decoded_frame
from moodfuse.extract.media.pool import read_windows_in_worker
from moodfuse.extract.media.windows import Window, WindowRequest, plan_windows, read_windows, window_starts
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from odd_media import Making, remux

Results = Iterable[tuple[Window, DecodedClip | MediaError]]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 47.3 s whose AAC has noise made up by the decoder."""
    settings = ClipSettings(duration_s=47.3, width=32, height=24, frames_per_s=8)
    return make_clip(tmp_path_factory.mktemp("video") / "video.mp4", mood="excited", settings=settings)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 100 s with its index before the media."""
    settings = ClipSettings(duration_s=100.0, width=32, height=24, frames_per_s=4)
    return make_clip(tmp_path_factory.mktemp("long") / "long.mp4", mood="fear", settings=settings)


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """No window may be read alone."""
    monkeypatch.setattr(module, "_read_alone", lambda request: pytest.fail(f"{request} was read alone"))


def expect_clips(results: Results, path: Path, **options: Any) -> list[DecodedClip | MediaError]:
    """Compare every window with what `read_clip` returns or raises for it, bit for bit."""
    found = []
    for window, clip in results:
        expected: DecodedClip | MediaError
        try:
            expected = read_clip(path, start_s=window.start_s, end_s=window.end_s, **options)
        except MediaError as error:
            expected = error
        assert content(clip) == content(expected), window
        found.append(clip)
    return found


def content(clip: DecodedClip | MediaError) -> list[object]:
    if isinstance(clip, MediaError):
        return [clip.code, str(clip)]
    values = [getattr(clip, field.name) for field in fields(clip)]
    return [
        (one.shape, one.dtype, one.tobytes()) if isinstance(one, np.ndarray) else repr(one) for one in values
    ]


def codes(clips: Iterable[DecodedClip | MediaError]) -> list[str]:
    return [clip.code if isinstance(clip, MediaError) else "" for clip in clips]


@pytest.mark.parametrize(
    ("duration_s", "hop_s", "starts_s"),
    [
        (60.0, 10.0, [0, 10, 20, 30]),
        (47.3, 7.5, [0, 7.5, 15, 17.3]),
        (30.0, 5.0, [0]),
        (12.0, 5.0, [0]),
        (0.0, 5.0, [0]),
        (31.5, 40.0, [0, 1.5]),
        (30.9, 40.0, [0]),
        (30.3, 0.1, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_windows_start_every_hop_and_the_last_ends_with_the_file(
    duration_s: float, hop_s: float, starts_s: list[float]
) -> None:
    found = window_starts(duration_s, hop_s=hop_s)
    np.testing.assert_allclose(found, starts_s, atol=1e-9)
    assert (found + 30.0 <= max(duration_s, 30.0)).all()


def test_a_useless_hop_and_too_many_windows_are_refused() -> None:
    for hop_s in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"hop_s is {hop_s}, expected more than 0"):
            WindowRequest(Path("a.mp4"), hop_s=hop_s)
    with pytest.raises(InputError, match="expected at most 100000; use a hop of 0.036 s or more"):
        window_starts(3630.0, hop_s=1e-3)
    assert len(window_starts(3630.0, hop_s=0.037)) <= 100_000


def declare_length(path: Path, milliseconds: float) -> Path:
    """Overwrite the length that a Matroska file declares."""
    data = bytearray(path.read_bytes())
    struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, milliseconds)
    path.write_bytes(data)
    return path


def test_a_file_that_declares_too_many_windows_is_refused(tmp_path: Path) -> None:
    Making(form="matroska")(tmp_path / "long.mkv")
    path = declare_length(tmp_path / "long.mkv", 3e9)
    for read in (read_windows, read_windows_in_worker):
        with pytest.raises(MediaError, match="windows, expected at most 100000") as caught:
            next(read(WindowRequest(path, hop_s=0.1)))
        assert caught.value.code == "too_much"


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("hop_s", "short_side_px"), [(3.7, 16), (40.0, None)])
def test_every_window_is_what_read_clip_gives(video: Path, hop_s: float, short_side_px: int | None) -> None:
    results = list(read_windows(WindowRequest(video, hop_s=hop_s, short_side_px=short_side_px)))
    assert [window.start_s for window, _ in results] == window_starts(47.3, hop_s=hop_s).tolist()
    assert [window.number for window, _ in results] == list(range(len(results)))
    assert not any(codes(expect_clips(results, video, short_side_px=short_side_px)))


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("name", "delay_s"), [("late.mkv", 0.4), ("live.ts", 7.0)])
def test_windows_of_a_late_clock_begin_with_its_video_and_audio(
    video: Path, tmp_path: Path, name: str, delay_s: float
) -> None:
    path = remux(video, tmp_path / name, delay_s=delay_s)
    first, *others = expect_clips(read_windows(WindowRequest(path, hop_s=9.0)), path)
    assert isinstance(first, DecodedClip) and len(others) >= 2
    late_s = delay_s if delay_s < 1.0 else 0.0
    assert first.frame_times_s[0] == pytest.approx(max(late_s, 0.375), abs=0.13)
    audible_s = np.flatnonzero(np.abs(first.waveform) > 0.01)[0] / 16_000
    assert audible_s == pytest.approx(late_s, abs=0.2)


@pytest.mark.usefixtures("one_pass")
def test_a_file_shorter_than_a_window_has_one(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "short.mp4", settings=ClipSettings(duration_s=3.0, width=64, height=48))
    ((window, clip),) = read_windows(WindowRequest(path, hop_s=1.0))
    assert isinstance(clip, DecodedClip) and content(clip) == content(read_clip(path))
    assert (window.start_s, window.end_s) == (0.0, clip.facts.duration_s)


@pytest.mark.parametrize(
    ("tracks", "missing", "code"),
    [({"audio": False}, "sound", "no_audio"), ({"video": False}, "picture", "no_video")],
)
def test_a_missing_track_is_accepted_on_request(
    tmp_path: Path, tracks: dict[str, bool], missing: str, code: str
) -> None:
    settings = ClipSettings(duration_s=34.0, width=32, height=16, frames_per_s=4)
    path = make_clip(tmp_path / "half.mp4", settings=settings, **tracks)
    with pytest.raises(MediaError) as caught:
        next(read_windows(WindowRequest(path, hop_s=2.0)))
    assert caught.value.code == code
    clips = expect_clips(
        read_windows(WindowRequest(path, hop_s=2.0, allow_missing=True)), path, allow_missing=True
    )
    assert [clip.missing for clip in clips if isinstance(clip, DecodedClip)] == [missing] * 3


def test_damage_costs_only_the_windows_that_contain_it(long_video: Path, tmp_path: Path) -> None:
    data = bytearray(long_video.read_bytes())
    start = data.index(b"mdat")
    place, length = start + (len(data) - start) * 45 // 100, len(data) // 25
    data[place : place + length] = np.random.default_rng(0).bytes(length)
    (tmp_path / "damaged.mp4").write_bytes(data)
    request = WindowRequest(tmp_path / "damaged.mp4", hop_s=20.0)
    found = codes(expect_clips(read_windows(request), request.path))
    assert [code == "" for code in found] == [True, False, False, True, True]


def test_a_truncated_file_gives_the_windows_that_are_left(long_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(long_video.read_bytes()[: long_video.stat().st_size * 60 // 100])
    results = list(read_windows(WindowRequest(path, hop_s=20.0)))
    expect_clips(results[:4], path)
    assert codes(clip for _, clip in results) == ["", "", *["truncated"] * 3]


def test_concealed_damage_is_concealed_as_by_read_clip(long_video: Path, tmp_path: Path) -> None:
    """What a decoder shows after a few wrong bytes may depend on where it began."""
    data = bytearray(long_video.read_bytes())
    for place in np.random.default_rng(9).integers(len(data) // 4, len(data) * 3 // 4, 12):
        data[place] ^= 0x55
    (tmp_path / "scratched.mp4").write_bytes(data)
    request = WindowRequest(tmp_path / "scratched.mp4", hop_s=14.0)
    expect_clips(read_windows(request), request.path)


@pytest.mark.parametrize("leap_s", [25.0, 58.0])
def test_a_wrong_time_costs_no_window_after_it(long_video: Path, tmp_path: Path, leap_s: float) -> None:
    """One frame at 40 s declares a much later time."""
    path = remux(long_video, tmp_path / "leap.mp4", leap=(40.0, leap_s))
    assert not any(codes(expect_clips(read_windows(WindowRequest(path, hop_s=15.0)), path)))


@pytest.mark.usefixtures("one_pass")
def test_a_pass_that_begins_in_the_middle_gives_the_same_bits(video: Path) -> None:
    request = WindowRequest(video, 4.0)
    expect_clips(read_windows(request, plan_windows(request)[3:]), video)


def test_frames_are_decoded_and_converted_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five windows that start four intervals apart, each but the first has four new frames."""
    decoded, converted = [], []
    convert = DecodedFrame._convert
    monkeypatch.setattr(module, "decoded_frame", lambda *one: (decoded.append(one), decoded_frame(*one))[1])
    monkeypatch.setattr(DecodedFrame, "_convert", lambda *one: (converted.append(one), convert(*one))[1])
    request = WindowRequest(video, 3.75)
    assert sum(1 for _ in read_windows(request, plan_windows(request)[:5])) == 5
    assert len(converted) == 32 + 4 * 4 and len(decoded) <= 47.3 * 8 + 5 * 2


def test_after_the_end_of_the_video_only_some_windows_are_tried(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file declares an hour."""
    path = declare_length(remux(video, tmp_path / "long.mkv"), 3.6e6)
    tried: list[DecodeRequest] = []
    read_alone = module._read_alone
    monkeypatch.setattr(module, "_read_alone", lambda one: (tried.append(one), read_alone(one))[1])
    found = codes(clip for _, clip in read_windows(WindowRequest(path, hop_s=5.0)))
    assert len(found) > 700 and found[0] == ""
    assert {*found[50:]} <= {"truncated", "no_video"} and len(tried) < 16
