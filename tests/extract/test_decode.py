"""Decoding: which frames, where the sound starts, and a reason for whatever cannot be read."""

import os
from pathlib import Path

import numpy as np
import pytest

from extract.media.container import REASONS, MediaError, probe
from extract.media.decode import FRAMES, SAMPLES, middles_s, read_clip
from extract.media.pool import DecodeRequest, decode_many
from moodfuse.corpus import ClipSettings, make_clip, write_clip

RATE_HZ = 16_000


def counting(path: Path, *, seconds: float = 4.0, frames_per_s: int = 10, faststart: bool = True) -> Path:
    """A video whose grey level counts frames, with a click of sound at 2.5 s."""
    count = round(seconds * frames_per_s)
    planes = [np.full((48 * 3 // 2, 64), 128, np.uint8) for _ in range(count)]
    for number, plane in enumerate(planes):
        plane[:48] = 20 + number * 4
    sound = np.zeros(round(seconds * RATE_HZ), np.float32)
    click = round(2.5 * RATE_HZ)
    sound[click : click + 160] = 0.8
    return write_clip(path, iter(planes), sound, frames_per_s=frames_per_s, sample_rate_hz=RATE_HZ, faststart=faststart)


def test_frames_are_those_on_screen_at_the_middles(tmp_path: Path) -> None:
    """Shapes, types, times and grey levels of a constant-rate file."""
    clip = read_clip(counting(tmp_path / "a.mp4"))
    assert clip.frames.shape == (FRAMES, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert clip.waveform.shape == (SAMPLES,) and clip.waveform.dtype == np.float32
    shown = np.floor(middles_s(clip.start_s, clip.end_s) * 10 + 1e-6)
    np.testing.assert_allclose(clip.frame_times_s, shown / 10, atol=1e-6)
    levels = clip.frames.astype(float).mean(axis=(1, 2, 3))
    assert np.all(np.diff(levels)[np.diff(shown) > 0] > 0)


def test_sound_starts_with_the_window_and_is_padded_with_zeros(tmp_path: Path) -> None:
    """A click at 2.5 s lies at sample 40000, and 0.5 s into a window that starts at 2 s."""
    path = counting(tmp_path / "a.mp4")
    whole, part = read_clip(path), read_clip(path, start_s=2.0, end_s=4.0)
    for clip, second in ((whole, 2.5), (part, 0.5)):
        loud = np.flatnonzero(np.abs(clip.waveform) > 0.4)
        assert abs(loud[0] - second * RATE_HZ) < 64
        assert not clip.waveform[clip.waveform_samples :].any()
    assert abs(part.waveform_samples - 2 * RATE_HZ) < 1100 and part.frame_times_s.min() >= 1.9


def test_decoding_twice_gives_the_same_bits(tmp_path: Path) -> None:
    """Threads and repetition change nothing."""
    path = counting(tmp_path / "a.mp4")
    first, second = read_clip(path), read_clip(path, threads=2)
    assert np.array_equal(first.frames, second.frames) and np.array_equal(first.waveform, second.waveform)


def test_a_short_side_scales_down_and_never_up(tmp_path: Path) -> None:
    """64 x 48 at a short side of 24 is 32 x 24; at 100 it stays."""
    path = counting(tmp_path / "a.mp4")
    assert read_clip(path, short_side_px=24).frames.shape == (FRAMES, 24, 32, 3)
    assert read_clip(path, short_side_px=100).frames.shape == (FRAMES, 48, 64, 3)


def test_what_cannot_be_read_gets_its_reason(tmp_path: Path) -> None:
    """Each kind of bad file has a code of the table, and the message names the file."""
    good = counting(tmp_path / "good.mp4").read_bytes()
    behind = counting(tmp_path / "behind.mp4", faststart=False).read_bytes()
    bad = {"zero": b"", "text": b"not a video\n" * 50, "cut": good[: len(good) * 6 // 10], "headless": behind[:-800]}
    for name, data in bad.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    make_clip(tmp_path / "mute.mp4", sound=False)
    make_clip(tmp_path / "blind.mp4", picture=False)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'good.mp4'}\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    found = {}
    for name in (*bad, "mute", "blind", "list", "pipe", "none"):
        with pytest.raises(MediaError, match=rf"{name}\.mp4: ") as error:
            read_clip(tmp_path / f"{name}.mp4")
        found[name] = error.value.code
    expected = {"zero": "empty", "text": "not_media", "mute": "no_audio", "blind": "no_video", "pipe": "not_a_file"}
    assert {name: found[name] for name in expected} == expected
    assert found["none"] == "missing" and set(found.values()) <= set(REASONS)
    assert found["cut"] in ("truncated", "decode_failed") and found["list"] == "not_media"


def test_a_window_outside_the_file_is_refused(tmp_path: Path) -> None:
    """The message gives the window and the file's length."""
    with pytest.raises(MediaError, match="window 10 to .* file 4"):
        read_clip(counting(tmp_path / "a.mp4"), start_s=10.0)


def test_probe_reads_headers(tmp_path: Path) -> None:
    """Codecs, size and duration without decoding."""
    facts = probe(counting(tmp_path / "a.mp4"))
    assert (facts.width, facts.height, facts.video_codec, facts.audio_codec) == (64, 48, "h264", "aac")
    assert facts.duration_s == pytest.approx(4.0, abs=0.2)


def test_many_keep_their_order_and_a_bad_one_costs_itself(tmp_path: Path) -> None:
    """Workers give every request its result, in order, bad files as errors."""
    (tmp_path / "bad.mp4").write_text("no")
    names = ("a", "bad", "c")
    for name in ("a", "c"):
        counting(tmp_path / f"{name}.mp4", seconds=1.0)
    requests = [DecodeRequest(tmp_path / f"{name}.mp4") for name in names]
    results = list(decode_many(requests, jobs=2))
    assert [request.path.stem for request, _ in results] == list(names)
    assert [isinstance(result, MediaError) for _, result in results] == [False, True, False]
    assert np.array_equal(results[0][1].frames, read_clip(tmp_path / "a.mp4").frames)  # type: ignore[union-attr]


def test_a_deadline_costs_one_clip(tmp_path: Path) -> None:
    """A worker over its deadline is killed, and the clip is named `timeout`."""
    make_clip(tmp_path / "long.mp4", settings=ClipSettings(20.0, 320, 240))
    ((_, result),) = decode_many([DecodeRequest(tmp_path / "long.mp4")], jobs=1, deadline_s=0.01)
    assert isinstance(result, MediaError) and result.code == "timeout"


def test_real_clips_decode_whole() -> None:
    """Three real clips give 32 frames and 30 s of sound."""
    folder = os.environ.get("MOODFUSE_CLIPS")
    if not folder:
        pytest.skip("MOODFUSE_CLIPS is not set to a folder of real clips")
    for path in sorted(Path(folder).rglob("*.mp4"))[::20]:
        clip = read_clip(path)
        assert len(clip.frames) == FRAMES and clip.waveform_samples > 28 * RATE_HZ
        assert np.abs(clip.waveform).mean() > 0.001 and np.abs(clip.waveform).max() <= 1.0
