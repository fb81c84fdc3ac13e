"""The windows of a video, read in one pass: each is what `read_clip` gives."""

import struct
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import ExtraMedia, FrameWindows
from moodfuse.extract.media import windows as module
from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.limits import MediaError
from moodfuse.extract.media.windows import (
    Window,
    WindowRequest,
    compute_window_starts,
    plan_windows,
    read_windows,
)
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
    monkeypatch.setattr(module, "decode_request", lambda request: pytest.fail(f"{request} was read alone"))


def check_clips(results: Results, path: Path, **options: Any) -> list[str]:
    """Compare every window with what `read_clip` gives, bit for bit; return the codes of refusals."""
    codes = []
    for window, clip in results:
        expected: DecodedClip | MediaError
        try:
            expected = read_clip(path, start_s=window.start_s, end_s=window.end_s, **options)
        except MediaError as error:
            expected = error
        assert content(clip) == content(expected), window
        codes.append(clip.code if isinstance(clip, MediaError) else "")
    return codes


def content(clip: DecodedClip | MediaError) -> list[object]:
    if isinstance(clip, MediaError):
        return [clip.code, str(clip)]
    values = [getattr(clip, field.name) for field in fields(clip) if not field.name.startswith("other_")]
    others = (*clip.other_waveforms.values(), *clip.other_frames.values())
    values += [value for pair in others for value in pair]
    return [value.tobytes() if isinstance(value, np.ndarray) else repr(value) for value in values]


@pytest.mark.parametrize(
    ("duration_s", "hop_s", "starts_s"),
    [
        (60.0, 10.0, [0, 10, 20, 30]),
        (47.3, 7.5, [0, 7.5, 15, 17.3]),
        (12.0, 5.0, [0]),
        (31.5, 40.0, [0, 1.5]),
        (30.9, 40.0, [0]),
        (30.3, 0.1, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_windows_start_every_hop_and_the_last_ends_with_the_file(
    duration_s: float, hop_s: float, starts_s: list[float]
) -> None:
    np.testing.assert_allclose(compute_window_starts(duration_s, hop_s=hop_s), starts_s, atol=1e-9)


def test_a_useless_hop_and_too_many_windows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hop_s is nan, expected more than 0"):
        WindowRequest(Path("a.mp4"), hop_s=float("nan"))
    path = tmp_path / "long.mkv"
    Making(form="matroska")(path)
    data = bytearray(path.read_bytes())
    struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, 3e9)  # milliseconds
    path.write_bytes(data)
    with pytest.raises(MediaError, match="use a larger hop") as caught:
        next(read_windows(WindowRequest(path, hop_s=0.1)))
    assert caught.value.code == "too_much"


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("hop_s", "short_side_px", "first"), [(3.7, 16, 0), (40.0, None, 0), (4.0, None, 3)])
def test_every_window_is_what_read_clip_gives(
    video: Path, hop_s: float, short_side_px: int | None, first: int
) -> None:
    """Also where the pass begins in the middle of the file."""
    frames = FrameWindows(2, 3, 5.0)
    request = WindowRequest(video, hop_s, short_side_px, extra=ExtraMedia((24_000,), (frames,)))
    windows = plan_windows(request)
    assert [window.number for window in windows] == list(range(len(windows)))
    results = list(read_windows(request, windows[first:]))
    others = {"other_rates_hz": (24_000,), "other_frames": (frames,)}
    assert not any(check_clips(results, video, short_side_px=short_side_px, **others))
    assert len(results) == len(windows) - first


@pytest.mark.parametrize(("name", "delay_s"), [("late.mkv", 0.4), ("live.ts", 7.0)])
def test_windows_of_a_file_that_starts_late(video: Path, tmp_path: Path, name: str, delay_s: float) -> None:
    path = remux(video, tmp_path / name, delay_s=delay_s)
    results = list(read_windows(WindowRequest(path, hop_s=9.0)))
    assert not any(check_clips(results, path)) and len(results) >= 3
    first = results[0][1]
    late_s = delay_s if delay_s < 1.0 else 0.0
    assert isinstance(first, DecodedClip)
    assert first.frame_times_s[0] == pytest.approx(max(late_s, 0.375), abs=0.13)


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
    results = list(read_windows(WindowRequest(path, hop_s=2.0, allow_missing=True)))
    assert not any(check_clips(results, path, allow_missing=True))
    assert [clip.missing for _, clip in results if isinstance(clip, DecodedClip)] == [missing] * 3


def test_damage_costs_only_the_windows_that_contain_it(long_video: Path, tmp_path: Path) -> None:
    data = bytearray(long_video.read_bytes())
    start = data.index(b"mdat")
    first, length = start + (len(data) - start) * 45 // 100, len(data) // 25
    data[first : first + length] = np.random.default_rng(0).bytes(length)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    codes = check_clips(read_windows(WindowRequest(path, hop_s=20.0)), path)
    assert [code == "" for code in codes] == [True, False, False, True, True]


def test_a_truncated_file_gives_the_windows_that_are_left(long_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(long_video.read_bytes()[: long_video.stat().st_size * 60 // 100])
    codes = check_clips(read_windows(WindowRequest(path, hop_s=20.0)), path)
    assert codes == ["", "", *["truncated"] * 3]


def test_concealed_damage_is_concealed_as_by_read_clip(long_video: Path, tmp_path: Path) -> None:
    """What a decoder shows after a few wrong bytes may depend on where it began."""
    data = bytearray(long_video.read_bytes())
    for position in np.random.default_rng(9).integers(len(data) // 4, len(data) * 3 // 4, 12):
        data[position] ^= 0x55
    path = tmp_path / "scratched.mp4"
    path.write_bytes(data)
    check_clips(read_windows(WindowRequest(path, hop_s=14.0)), path)


def test_a_wrong_time_costs_no_window_after_it(long_video: Path, tmp_path: Path) -> None:
    """One frame at 40 s declares a much later time."""
    path = remux(long_video, tmp_path / "leap.mp4", leap=(40.0, 25.0))
    assert not any(check_clips(read_windows(WindowRequest(path, hop_s=15.0)), path))
