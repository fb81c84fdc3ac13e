"""Unusual files give what their records in `odd_files` expect, and what was encoded."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.records import FRAMES
from moodfuse.extract.media import limits
from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.frames import compute_middles_s
from moodfuse.extract.media.limits import REASONS, Limits, MediaError
from moodfuse.extract.media.pool import DecodeRequest, decode_many
from odd_files import ODD_FILES, READ, Odd
from odd_media import Making, scene

MAX_S = 60.0  # for the run over all files; it takes 3 s on two cores
TICK_S = 1e-3
MEAN_LEVELS = 4
MEAN_AUDIO_ERROR = 0.02
EDGE_S = 0.05


@dataclass(frozen=True, repr=False)
class Run:
    """The results of one run over all files."""

    folder: Path
    results: dict[str, DecodedClip | MediaError]
    wall_s: float


def request_for(folder: Path, odd: Odd) -> DecodeRequest:
    """Return the request for a file."""
    start_s, end_s = odd.window_s or (0.0, None)
    return DecodeRequest(folder / odd.name, start_s, end_s, odd.short_side_px, odd.allow_missing)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All files in one run of two workers."""
    folder = tmp_path_factory.mktemp("odd")
    for odd in ODD_FILES:
        odd.make(folder / odd.name)
    requests = [request_for(folder, odd) for odd in ODD_FILES]
    began = time.monotonic()
    results = list(decode_many(requests, jobs=2, limits=Limits(20.0, 0.0)))
    wall_s = time.monotonic() - began
    return Run(folder, {request.path.name: clip for request, clip in results}, wall_s)


def names(files: tuple[Odd, ...]) -> list[str]:
    """Return names of tests."""
    return [odd.name.encode("ascii", "replace").decode() for odd in files]


def test_files_have_different_names_and_known_codes() -> None:
    assert len(ODD_FILES) == len({odd.name for odd in ODD_FILES})
    assert {odd.code for odd in ODD_FILES} <= {"", *REASONS}


@pytest.mark.parametrize("odd", ODD_FILES, ids=names(ODD_FILES))
def test_each_gives_what_its_record_expects(run: Run, odd: Odd) -> None:
    """A file is refused with its code, or read with its size, length and modalities."""
    clip = run.results[odd.name]
    if isinstance(clip, MediaError):
        assert (clip.code, odd.code) == (odd.code, clip.code), str(clip)
        return
    assert odd.code == ""
    assert (clip.missing, clip.partial) == (odd.missing, "")
    assert clip.end_s - clip.start_s == pytest.approx(odd.seconds, abs=0.1)
    assert clip.frames.shape == ((FRAMES, *odd.wh[::-1], 3) if odd.missing != "picture" else (0, 0, 0, 3))
    assert np.isfinite(clip.waveform).all() and np.abs(clip.waveform).max() <= 1.0
    sounds = odd.missing != "sound" and odd.name != "silence.mp4"
    assert (np.abs(clip.waveform).max() > 0.1) == sounds


def test_audio_whose_channels_change_is_the_mean_of_the_current_channels(run: Run) -> None:
    clip = run.results["channels_change.ts"]
    assert isinstance(clip, DecodedClip)
    starts = (1_600, 17_600, 33_600, 49_600)
    loudest = [np.abs(clip.waveform[first : first + 12_800]).max() for first in starts]
    np.testing.assert_allclose(loudest, [0.5, 0.5, 0.375, 0.375], atol=0.03)


@pytest.mark.parametrize("name", ["cut_index_first.mp4", "cut.mkv", "sound_damaged.avi"])
def test_incomplete_files_are_read_on_request(run: Run, name: str) -> None:
    clip = read_clip(run.folder / name, allow_partial=True)
    assert " s in the window" in clip.partial
    assert len(clip.frames) == FRAMES and clip.waveform_samples > 8_000


def test_the_page_has_every_refusal() -> None:
    """The table of codes in docs/media.md is that of the code, and so are the limits."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "media.md").read_text(encoding="utf-8")
    rows = ["| `{}` | {} | {} |".format(code, *sentence.split("; ", 1)) for code, sentence in REASONS.items()]
    assert [row for row in rows if row not in page] == []
    assert page.count("\n| `") == len(rows)
    names = ("MAX_CHANNELS", "MAX_RATE_HZ", "MAX_PACKETS", "MAX_OPEN_FILES")
    assert [name for name in names if f"{getattr(limits, name):,} " not in page] == []
    usual = Limits()
    deadline, memory = f"{usual.deadline_s:g} s plus {usual.deadline_per_s:g} s", f"{usual.memory_mb} MB"
    shape, size = f"over {limits.MAX_ASPECT} to 1", f"{limits.MAX_FILE_BYTES >> 30} GiB"
    assert all(words in page for words in (deadline, memory, shape, size))


def test_no_file_reaches_its_deadline(run: Run) -> None:
    codes = [clip.code for clip in run.results.values() if isinstance(clip, MediaError)]
    assert "timeout" not in codes
    assert run.wall_s < MAX_S


@pytest.mark.parametrize(
    "name",
    [
        "usual.mp4",
        "usual.webm",
        "ffv1.mkv",
        "uneven_rate.mkv",
        "slow.mp4",
        "quick.mp4",
        "96_khz.mkv",
        "late_reordered.mp4",
    ],
)
def test_frames_and_samples_are_those_that_were_encoded(run: Run, name: str) -> None:
    """Each frame is the one on screen at its middle, and each sample is at its time."""
    clip, making = run.results[name], next(odd.make for odd in READ if odd.name == name)
    assert isinstance(clip, DecodedClip) and isinstance(making, Making) and making.video
    ticks, unit = making.video.ticks()
    times_s = np.array(ticks) * float(unit)
    middles_s = compute_middles_s(clip.start_s, clip.end_s)
    on_screen = np.maximum(np.searchsorted(times_s, middles_s + 1e-6, side="right") - 1, 0)
    np.testing.assert_allclose(clip.frame_times_s, times_s[on_screen], atol=TICK_S)
    scenes = np.stack([scene(making.video.size_wh, time_s) for time_s in times_s[on_screen]])
    assert np.abs(clip.frames - scenes.astype(np.float32)).mean() <= MEAN_LEVELS
    (audio,) = making.audio
    encoded = audio.waveform().mean(axis=0)
    samples_s = clip.start_s + np.arange(clip.waveform_samples) / 16_000
    inside = (samples_s > EDGE_S) & (samples_s < audio.seconds - EDGE_S)
    expected = np.interp(samples_s[inside], np.arange(len(encoded)) / audio.rate_hz, encoded)
    assert np.abs(clip.waveform[: len(samples_s)][inside] - expected).mean() <= MEAN_AUDIO_ERROR
