"""Unusual files: each gives what its record in `odd_files` expects, and what another program decodes."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from moodfuse.extract.media import limits
from moodfuse.extract.media.container import MAX_CLOCK_OFFSET_S, MAX_LEAD_IN_S, MediaError
from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.frames import FRAMES, middles_s
from moodfuse.extract.media.limits import REASONS, Limits
from moodfuse.extract.media.pool import DecodeRequest, decode_many
from odd_files import ODD_FILES, READ, Odd

MOST_S = 60.0  # for the run over all files; it takes some 3 s on two cores
PROGRAMS = ("ffmpeg", "ffprobe")
CLOCK_S = 1e-3
MEAN_LEVELS, MAX_LEVELS = 0.5, 8
MAX_AUDIO_ERROR = 0.02
EDGE_S = 0.05
SHIFT_S = 1e-5


@dataclass(frozen=True, repr=False)
class Run:
    """What one run over all files gave."""

    folder: Path
    found: dict[str, DecodedClip | MediaError]
    wall_s: float


def request_for(folder: Path, odd: Odd) -> DecodeRequest:
    """Return what is asked about a file."""
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
    found = {request.path.name: clip for request, clip in results}
    return Run(folder, found, wall_s)


def names(files: tuple[Odd, ...]) -> list[str]:
    """Return names of tests."""
    return [odd.name.encode("ascii", "replace").decode() for odd in files]


def test_files_have_different_names_and_known_codes() -> None:
    assert len(ODD_FILES) == len({odd.name for odd in ODD_FILES})
    assert {odd.code for odd in ODD_FILES} <= {"", *REASONS}


@pytest.mark.parametrize("odd", ODD_FILES, ids=names(ODD_FILES))
def test_each_gives_what_its_record_expects(run: Run, odd: Odd) -> None:
    """A file is refused with its code, or read with its size, length and modalities."""
    clip = run.found[odd.name]
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
    clip = run.found["channels_change.ts"]
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
    names = ("MAX_CHANNELS", "MAX_RATE_HZ", "MAX_PACKETS", "MAX_FRAMES", "MAX_OPEN_FILES")
    assert [name for name in names if f"{getattr(limits, name):,} " not in page] == []
    usual = Limits()
    deadline, memory = f"{usual.deadline_s:g} s and {usual.deadline_per_s:g} s", f"{usual.memory_mb} MB"
    shape, size = f"over {limits.MAX_ASPECT} to 1", f"{limits.MAX_FILE_BYTES >> 30} GiB"
    assert all(words in page for words in (deadline, memory, shape, size))


def test_no_file_reaches_its_deadline(run: Run) -> None:
    codes = [clip.code for clip in run.found.values() if isinstance(clip, MediaError)]
    assert "timeout" not in codes
    assert run.wall_s < MOST_S


@dataclass(frozen=True, repr=False)
class Reference:
    """What the other program decodes: pictures [n, H, W, 3] and sound [channels, samples], times in
    seconds.
    """

    start_s: float
    picture_times_s: np.ndarray
    pictures: np.ndarray
    sound_from_s: float
    rate_hz: int
    sound: np.ndarray
    sound_tick_s: float

    @property
    def origin_s(self) -> float:
        """Zero of the clip clock on the other program's."""
        return 0.0 if -MAX_LEAD_IN_S <= self.start_s < MAX_CLOCK_OFFSET_S else self.start_s


@pytest.fixture(scope="module")
def programs() -> None:
    """Skip where the reference programs are not installed, or fail if they are required."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        reason = f"{' and '.join(lacking)} not installed (Debian: apt-get install ffmpeg)"
        if os.environ.get("MOODFUSE_FFMPEG") == "required":
            pytest.fail(reason)
        pytest.skip(reason)


def ask_ffprobe(path: Path) -> dict[str, Any]:
    """Return the streams and frames of a file, as ffprobe tells them."""
    stream = "stream=index,codec_type,sample_rate,channels,time_base:stream_disposition=attached_pic"
    entries = f"format=start_time:{stream}:frame=stream_index,best_effort_timestamp_time"
    command = ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", f"file:{path}"]
    report: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    )
    return report


def decode_with_ffmpeg(decoded: Mapping[Path, tuple[Path, Odd]]) -> None:
    """Write each target with suffixes .rgb (every picture) and .f32 (the sound, in its channels and rate).

    One process does it all: starting one costs more than decoding a file.
    """
    command, outputs = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-copyts"], []
    for number, (target, (path, odd)) in enumerate(decoded.items()):
        command += ["-threads", "1", "-i", f"file:{path}"]
        if odd.missing != "picture":
            scale = "scale={}:{}:flags=bicubic:interl=-1".format(*odd.wh)
            options = f"-map {number}:V:0 -vf {scale} -fps_mode passthrough -pix_fmt rgb24 -f rawvideo"
            outputs += [*options.split(), f"{target}.rgb"]
        if odd.missing != "sound":
            outputs += [*f"-map {number}:a:{odd.sound} -c:a pcm_f32le -f f32le".split(), f"{target}.f32"]
    done = subprocess.run(command + outputs, timeout=MOST_S, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def read_reference(path: Path, target: Path, odd: Odd) -> Reference:
    """Take what ffmpeg decoded of a file, and the times from ffprobe."""
    report = ask_ffprobe(path)
    video_indices = [one["index"] for one in report["streams"] if one["codec_type"] == "video"]
    video_indices = [
        one for one in video_indices if not report["streams"][one]["disposition"]["attached_pic"]
    ]
    audio_indices = [one for one in report["streams"] if one["codec_type"] == "audio"]
    times: dict[int, list[float]] = {one["index"]: [] for one in report["streams"]}
    for frame in report["frames"]:
        times[frame["stream_index"]].append(float(frame.get("best_effort_timestamp_time", "nan")))
    pictures, sound = np.zeros((0, 0, 0, 3), np.uint8), np.zeros((1, 0), np.float32)
    rate_hz, from_s, tick_s = 1, 0.0, 0.0
    if odd.missing != "picture":
        pictures = np.fromfile(f"{target}.rgb", np.uint8).reshape(-1, *odd.wh[::-1], 3)
    if odd.missing != "sound":
        track = audio_indices[odd.sound]
        sound = np.fromfile(f"{target}.f32", np.float32).reshape(-1, track["channels"]).T
        rate_hz, from_s = int(track["sample_rate"]), times[track["index"]][0]
        tick_s = float(Fraction(track["time_base"]))
    start_s = float(report["format"].get("start_time", 0.0))
    shown_s = complete(np.array(times[video_indices[0]] if video_indices else []))
    return Reference(start_s, shown_s, pictures, from_s, rate_hz, sound, tick_s)


def complete(times_s: np.ndarray) -> np.ndarray:
    """Give a last picture to which ffprobe gives no time (AVI, MPEG-PS) the time after the one before."""
    if len(times_s) > 2 and np.isnan(times_s[-1]):
        times_s[-1] = 2 * times_s[-2] - times_s[-3]
    return times_s


@pytest.fixture(scope="module")
def references(
    programs: None, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Reference]]:
    """The reference of each file; of files with the same bytes, one."""
    folder = tmp_path_factory.mktemp("references")
    targets = {
        odd.name: folder / hashlib.sha256((run.folder / odd.name).read_bytes()).hexdigest() for odd in READ
    }
    firsts = {targets[odd.name]: (run.folder / odd.name, odd) for odd in reversed(READ)}
    decode_with_ffmpeg(firsts)
    found = {target: read_reference(path, target, odd) for target, (path, odd) in firsts.items()}
    yield {name: found[target] for name, target in targets.items()}
    shutil.rmtree(folder)


@pytest.mark.parametrize("odd", READ, ids=names(READ))
def test_another_program_shows_the_same(run: Run, odd: Odd, references: dict[str, Reference]) -> None:
    """Times of pictures, pictures and sound are those of ffmpeg, which shares no code of ours."""
    clip, reference = run.found[odd.name], references[odd.name]
    assert isinstance(clip, DecodedClip)
    if odd.missing != "picture":
        compare_frames(clip, reference)
    if odd.missing != "sound" and odd.audio_compared:
        compare_audio(clip, reference)


def compare_frames(clip: DecodedClip, reference: Reference) -> None:
    """Each of the 32 is the picture on screen at its middle, at its time and of its colours."""
    times_s = reference.picture_times_s - reference.origin_s
    assert len(times_s) == len(reference.pictures)
    on_screen = np.searchsorted(times_s, middles_s(clip.start_s, clip.end_s) + 1e-6, side="right") - 1
    on_screen = np.maximum(on_screen, 0)
    np.testing.assert_allclose(clip.frame_times_s, times_s[on_screen], atol=CLOCK_S)
    levels = np.abs(clip.frames.astype(np.int16) - reference.pictures[on_screen])
    assert levels.mean() <= MEAN_LEVELS and levels.max() <= MAX_LEVELS, (levels.mean(), levels.max())


def compare_audio(clip: DecodedClip, reference: Reference) -> None:
    """The tone, low enough that no resampler changes it, is the same at each sample.

    Left out is where sound begins or ends. Where the container rounds times to more than a tenth of a
    millisecond, sound may lie up to one such tick elsewhere.
    """
    mono = reference.sound.mean(axis=0, dtype=np.float64)
    heard_s = reference.sound_from_s - reference.origin_s + np.arange(len(mono)) / reference.rate_hz
    ours = clip.waveform[: clip.waveform_samples]
    ours_s = clip.start_s + np.arange(len(ours)) / 16_000
    inside = (ours_s > heard_s[0] + EDGE_S) & (ours_s < heard_s[-1] - EDGE_S)
    for broken_s in heard_s[~np.isfinite(mono)]:
        inside &= np.abs(ours_s - broken_s) > EDGE_S
    assert inside.sum() > 0.7 * min(len(ours_s), len(mono) * 16_000 / reference.rate_hz)
    tone = CubicSpline(heard_s, np.where(np.isfinite(mono), mono, 0.0))
    tick_s = reference.sound_tick_s if reference.sound_tick_s > 1e-4 else 0.0
    shifts_s = [0.0, *np.arange(-tick_s, tick_s, SHIFT_S)] if tick_s else [0.0]
    assert any(
        np.abs(ours[inside] - tone(ours_s[inside] + shift_s)).max() <= MAX_AUDIO_ERROR for shift_s in shifts_s
    )
