"""The windows of a video, read in one pass: each is what `read_clip` gives, and little is done or held for it."""

import os
import struct
import weakref
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile.seeds import make_seed, remux
from moodfuse.cache.errors import InputError
from moodfuse.extract.media import single_pass as sweep
from moodfuse.extract.media.decode import DecodedClip, MediaError, read_clip
from moodfuse.extract.media.frames import Picture, Pictures, picture_of
from moodfuse.extract.media.window_worker import read_windows_apart
from moodfuse.extract.media.windows import (
    Window,
    WindowsWish,
    plan_windows,
    read_planned,
    read_windows,
    window_starts,
)
from moodfuse.synthetic_corpus import (
    MOODS,
    ClipSettings,
    make_clip,
    render_frames,
    render_waveform,
    write_clip,
)

Results = Iterable[tuple[Window, DecodedClip | MediaError]]
SMALL = ClipSettings(duration_s=47.3, width=64, height=48, frames_per_s=8)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 47.3 s whose AAC has noise made up by the decoder."""
    return make_clip(tmp_path_factory.mktemp("video") / "video.mp4", mood="excited", settings=SMALL)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 100 s with its index before the media."""
    settings = ClipSettings(duration_s=100.0, width=64, height=48, frames_per_s=4)
    frames, sound = render_frames(MOODS["fear"], settings), render_waveform(MOODS["fear"], settings)
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return write_clip(path, frames, sound, frames_per_s=4, sample_rate_hz=settings.sample_rate_hz)


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """No window may be read alone."""
    monkeypatch.setattr(sweep, "_read_alone", lambda window, wish: pytest.fail(f"{window} was read alone"))


def expect_clips(results: Results, path: Path, **options: Any) -> list[DecodedClip | MediaError]:
    """Compare every window with what `read_clip` gives or raises for it, bit for bit; return what was found."""
    found = []
    for window, clip in results:
        try:
            expected: DecodedClip | MediaError = read_clip(
                path, start_s=window.start_s, end_s=window.end_s, **options
            )
        except MediaError as error:
            expected = error
        assert summary(clip) == summary(expected), window
        found.append(clip)
    return found


def summary(clip: DecodedClip | MediaError) -> list[object]:
    """All that is in a clip or its refusal, for comparison."""
    if isinstance(clip, MediaError):
        return [clip.code, str(clip)]
    values = [getattr(clip, field.name) for field in fields(clip)]
    return [
        (one.shape, one.dtype, one.tobytes()) if isinstance(one, np.ndarray) else repr(one) for one in values
    ]


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
    """The starts are multiples of the hop, and one more where the file goes on; none ends after the file."""
    found = window_starts(duration_s, hop_s=hop_s)
    np.testing.assert_allclose(found, starts_s, atol=1e-9)
    assert found.dtype == np.float64
    assert (found + 30.0 <= max(duration_s, 30.0)).all()


@pytest.mark.parametrize("hop_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hop_that_is_no_length_of_time_is_refused(hop_s: float) -> None:
    """The hop is named with what was expected."""
    with pytest.raises(InputError, match=f"hop_s is {hop_s}, expected more than 0"):
        window_starts(60.0, hop_s=hop_s)


def test_too_many_windows_are_refused() -> None:
    """More than 100 000 windows are refused with a hop that is long enough."""
    with pytest.raises(InputError, match="expected at most 100000; use a hop of 0.036 s or more"):
        window_starts(3630.0, hop_s=1e-3)
    assert len(window_starts(3630.0, hop_s=0.037)) <= 100_000


def test_a_file_that_declares_too_many_windows_is_refused(tmp_path: Path) -> None:
    """A length of weeks in a header costs that file alone: its refusal says how many windows there would be."""
    path = make_seed(tmp_path, "mkv")
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # the length of the file in milliseconds
    data[at : at + 8] = struct.pack(">d", 3e9)
    path.write_bytes(data)
    for results in (read_windows, read_windows_apart):
        with pytest.raises(MediaError, match="windows, expected at most 100000") as caught:
            next(results(WindowsWish(path, hop_s=0.1)))
        assert caught.value.code == "too_much"


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("hop_s", "short_side_px"), [(3.7, 24), (40.0, None)])
def test_every_window_is_what_read_clip_gives(video: Path, hop_s: float, short_side_px: int | None) -> None:
    """Frames, times, sound and facts are the same bits, though the decoder of the sound makes up noise."""
    results = list(read_windows(WindowsWish(video, hop_s=hop_s, short_side_px=short_side_px)))
    windows = [window for window, _ in results]
    assert [window.start_s for window in windows] == window_starts(47.3, hop_s=hop_s).tolist()
    assert [window.number for window in windows] == list(range(len(windows)))
    clips = expect_clips(results, video, short_side_px=short_side_px)
    assert all(isinstance(clip, DecodedClip) for clip in clips)


@pytest.mark.usefixtures("one_pass")
@pytest.mark.parametrize(("name", "delay_s"), [("late.mkv", 0.4), ("live.ts", 7.0)])
def test_windows_are_aligned_by_presentation_time(
    video: Path, tmp_path: Path, name: str, delay_s: float
) -> None:
    """A file whose clock does not begin at 0 has the same bits, and its windows start with its picture and sound."""
    path = remux(video, tmp_path / name, delay_s=delay_s)
    first, *others = expect_clips(read_windows(WindowsWish(path, hop_s=9.0)), path)
    assert isinstance(first, DecodedClip) and len(others) >= 2
    late_s = delay_s if delay_s < 1.0 else 0.0
    assert first.frame_times_s[0] == pytest.approx(max(late_s, 0.375), abs=0.13)
    heard_s = np.flatnonzero(np.abs(first.waveform) > 0.01)[0] / 16_000
    assert heard_s == pytest.approx(late_s, abs=0.2)


@pytest.mark.usefixtures("one_pass")
def test_a_file_shorter_than_a_window_has_one(tmp_path: Path) -> None:
    """It ends with the file, and zeros follow its sound as in training."""
    path = make_clip(tmp_path / "short.mp4", settings=ClipSettings(duration_s=3.0, width=64, height=48))
    ((window, clip),) = read_windows(WindowsWish(path, hop_s=1.0))
    assert isinstance(clip, DecodedClip)
    assert (window.start_s, window.end_s) == (0.0, clip.facts.duration_s)
    assert summary(clip) == summary(read_clip(path))
    assert not clip.waveform[clip.waveform_samples :].any()


@pytest.mark.parametrize(
    ("lacking", "missing", "code"),
    [({"sound": False}, "sound", "no_audio"), ({"picture": False}, "picture", "no_video")],
)
def test_a_missing_track_needs_one_view(
    tmp_path: Path, lacking: dict[str, bool], missing: str, code: str
) -> None:
    """Without `one_view` the file is refused at once; with it each window says what is missing."""
    settings = ClipSettings(duration_s=34.0, width=32, height=16, frames_per_s=4)
    path = make_clip(tmp_path / "half.mp4", settings=settings, **lacking)
    with pytest.raises(MediaError) as caught:
        next(read_windows(WindowsWish(path, hop_s=2.0)))
    assert caught.value.code == code
    clips = expect_clips(read_windows(WindowsWish(path, hop_s=2.0, one_view=True)), path, one_view=True)
    assert [clip.missing for clip in clips if isinstance(clip, DecodedClip)] == [missing] * 3


def test_damage_in_the_middle_costs_the_windows_that_hold_it(long_video: Path, tmp_path: Path) -> None:
    """Windows before and after it are read in full, the others refused as `read_clip` refuses them."""
    data = bytearray(long_video.read_bytes())
    start = data.index(b"mdat")
    place, length = start + (len(data) - start) * 45 // 100, len(data) // 25
    data[place : place + length] = np.random.default_rng(0).bytes(length)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    clips = expect_clips(read_windows(WindowsWish(path, hop_s=20.0)), path)
    assert [isinstance(clip, DecodedClip) for clip in clips] == [True, False, False, True, True]


def test_a_truncated_file_gives_the_windows_that_are_left(long_video: Path, tmp_path: Path) -> None:
    """Of a file cut at 60 %, whose index stands first, the windows before the cut are read."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(long_video.read_bytes()[: long_video.stat().st_size * 60 // 100])
    clips = expect_clips(read_windows(WindowsWish(path, hop_s=20.0)), path)
    assert [clip.code if isinstance(clip, MediaError) else "" for clip in clips] == [
        "",
        "",
        *["truncated"] * 3,
    ]


@pytest.mark.parametrize("seed", [9, 16])
def test_concealed_damage_is_concealed_as_by_read_clip(long_video: Path, tmp_path: Path, seed: int) -> None:
    """Where a decoder goes on over a few wrong bytes, what it shows may depend on where it began: not here."""
    data = bytearray(long_video.read_bytes())
    for place in np.random.default_rng(seed).integers(len(data) // 4, len(data) * 3 // 4, 12):
        data[place] ^= 0x55
    path = tmp_path / "scratched.mp4"
    path.write_bytes(data)
    expect_clips(read_windows(WindowsWish(path, hop_s=14.0)), path)


@pytest.mark.parametrize("leap_s", [25.0, 58.0])
def test_a_wrong_time_costs_no_window_after_it(long_video: Path, tmp_path: Path, leap_s: float) -> None:
    """A picture at 40 s that claims to be shown much later changes no window that `read_clip` begins behind it."""
    path = remux(long_video, tmp_path / "leap.mp4", leap=(40.0, leap_s))
    assert all(
        isinstance(clip, DecodedClip)
        for clip in expect_clips(read_windows(WindowsWish(path, hop_s=15.0)), path)
    )


@pytest.mark.usefixtures("one_pass")
def test_a_picture_may_last_longer_than_the_hop(tmp_path: Path) -> None:
    """At one picture a second, a window shows the one that was on screen before it began."""
    settings = ClipSettings(duration_s=36.0, width=32, height=16, frames_per_s=1)
    path = make_clip(tmp_path / "slow.mp4", settings=settings)
    expect_clips(read_windows(WindowsWish(path, hop_s=1.3)), path)


def test_a_file_that_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    """No window is given of a file that is missing."""
    with pytest.raises(MediaError, match="no such file"):
        next(read_windows(WindowsWish(tmp_path / "none.mp4", hop_s=5.0)))


@pytest.mark.usefixtures("one_pass")
def test_reading_on_from_a_later_window_gives_the_same_bits(video: Path) -> None:
    """A pass that begins in the middle of the file, after a lost worker, changes nothing."""
    wish = WindowsWish(video, 4.0)
    expect_clips(read_planned(wish, plan_windows(wish)[3:]), video)


def test_no_more_windows_are_held_than_overlap(long_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While 100 s are read at a hop of 4 s, pictures of at most 8 windows are in memory."""
    alive: weakref.WeakSet[Pictures] = weakref.WeakSet()
    most = 0

    class Counted(Pictures):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(sweep, "Pictures", Counted)
    assert sum(1 for _ in read_windows(WindowsWish(long_video, hop_s=4.0))) == 19
    assert most == 8


def test_pictures_are_decoded_and_converted_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five windows that start four intervals apart, each but the first has four new pictures."""
    decoded = converted = 0
    convert = Picture._converted

    def counted_picture(*arguments: Any) -> Picture | None:
        nonlocal decoded
        decoded += 1
        return picture_of(*arguments)

    def counted_convert(self: Picture, *size: int) -> np.ndarray:
        nonlocal converted
        converted += 1
        return convert(self, *size)

    monkeypatch.setattr(sweep, "picture_of", counted_picture)
    monkeypatch.setattr(Picture, "_converted", counted_convert)
    wish = WindowsWish(video, 3.75)
    assert sum(1 for _ in read_planned(wish, plan_windows(wish)[:5])) == 5
    assert converted == 32 + 4 * 4
    assert decoded <= 47.3 * 8 + 5 * 2


@pytest.mark.usefixtures("one_pass")
def test_windows_of_a_real_video(tmp_path: Path) -> None:
    """A real clip, twice over, gives the bits of `read_clip`, also where the second begins in a window."""
    folder = os.environ.get("MOODFUSE_CLIPS")
    if not folder:
        pytest.skip("MOODFUSE_CLIPS names no folder of real clips")
    smallest = min(Path(folder).rglob("*.mp4"), key=lambda path: path.stat().st_size)
    path = remux(smallest, tmp_path / "twice.mp4", times=2)
    results = list(read_windows(WindowsWish(path, hop_s=7.1, short_side_px=128)))
    assert len(results) == 6
    expect_clips(results[2:3], path, short_side_px=128)


def test_a_file_that_declares_hours_is_not_tried_to_their_end(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the last picture some windows are read one by one; then the file has ended."""
    data = remux(video, tmp_path / "short.mkv").read_bytes()
    place = data.index(b"\x44\x89\x88") + 3  # Duration, eight bytes of a float
    (tmp_path / "long.mkv").write_bytes(data[:place] + struct.pack(">d", 3.6e6) + data[place + 8 :])
    alone: list[Window] = []
    read_alone = sweep._read_alone

    def counted(window: Window, wish: WindowsWish) -> DecodedClip | MediaError:
        alone.append(window)
        return read_alone(window, wish)

    monkeypatch.setattr(sweep, "_read_alone", counted)
    results = [clip for _, clip in read_windows(WindowsWish(tmp_path / "long.mkv", hop_s=5.0))]
    assert len(results) > 700 and isinstance(results[0], DecodedClip)
    assert {clip.code for clip in results[50:] if isinstance(clip, MediaError)} <= {"truncated", "no_video"}
    assert all(isinstance(clip, MediaError) for clip in results[50:]) and len(alone) < 2 * sweep.MOST_BEYOND


def test_only_where_the_file_has_ended_is_nothing_more_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a picture no pass tells where a file ends, so a long bad place in its sound costs nothing behind it."""
    path = make_clip(tmp_path / "song.mp4", settings=ClipSettings(duration_s=60.0), video=False)
    clip, read_alone = sweep.Sweep._clip, sweep._read_alone
    bad_s = 1.0 + 2 * sweep.MOST_BEYOND * 0.5
    monkeypatch.setattr(
        sweep.Sweep, "_clip", lambda self, item: None if item.window.start_s < bad_s else clip(self, item)
    )

    def refused(window: Window, wish: WindowsWish) -> DecodedClip | MediaError:
        return MediaError("decode_failed", path) if window.start_s < bad_s else read_alone(window, wish)

    monkeypatch.setattr(sweep, "_read_alone", refused)
    found = [item for _, item in read_windows(WindowsWish(path, hop_s=0.5, one_view=True))]
    assert sum(isinstance(item, MediaError) for item in found) == 2 * sweep.MOST_BEYOND + 2
    assert isinstance(found[-1], DecodedClip)
