"""The media store returns what was decoded, bit for bit; damaged parts are quarantined."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from moodfuse.cache.audits import ClipMarks, MarkStore
from moodfuse.cache.errors import DamagedPartError, InputError, MissingBlockError
from moodfuse.cache.media import Media, MediaStore, Rendition, decode_frames, encode_frames, read_frame
from moodfuse.cache.records import FrameWindows
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.store import FeatureCache

CLIP = "ab" * 32
SOUND, PICTURE, SMALL = Rendition("sound", "s"), Rendition("picture", "p"), Rendition("picture", "small")


def pictures(*shape: int) -> np.ndarray:
    """Frames of noise."""
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def decoded(*size_hw: int) -> Media:
    """A clip of noise."""
    sound = np.random.default_rng(0).normal(size=480_000).astype(np.float32)
    return Media(pictures(32, *size_hw, 3), np.arange(32) * 0.9, sound, 400_000)


@pytest.mark.parametrize("shape", [(4, 36, 64, 3), (3, 1, 1, 3), (0, 0, 0, 3)])
def test_frames_come_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    frames = pictures(*shape)
    back = decode_frames(*encode_frames(frames), shape[1:3])
    assert back.dtype == np.uint8 and back.shape == shape
    np.testing.assert_array_equal(back, frames)


def test_frames_of_another_size_are_damaged() -> None:
    data, ends = encode_frames(pictures(2, 8, 9, 3))
    with pytest.raises(DamagedPartError, match=r"a frame of shape \[8, 9, 3\], not \[9, 8, 3\]"):
        decode_frames(data, ends, (9, 8))
    with pytest.raises(DamagedPartError, match="not a WebP file"):
        decode_frames(data[5:], ends - 5, (8, 9))


def test_audio_and_video_are_stored_separately(tmp_path: Path) -> None:
    media = decoded(18, 32)
    sound = MediaStore(tmp_path, SOUND)
    file = sound.write(CLIP, media)
    MediaStore(tmp_path, PICTURE).write(CLIP, media)
    heard, seen = sound.read(CLIP), MediaStore(tmp_path, PICTURE).read(CLIP)
    assert heard.waveform.tobytes() == media.waveform.tobytes() and heard.waveform_samples == 400_000
    assert not len(heard.frames) and not len(seen.waveform)
    np.testing.assert_array_equal(seen.frames, media.frames)
    np.testing.assert_array_equal(seen.frame_times_s, media.frame_times_s)
    with h5py.File(file) as part:
        np.testing.assert_array_equal(part["waveform"][()], media.waveform)
        assert json.loads(part.attrs["attributes"])["clip"] == CLIP


def test_audio_at_another_rate_is_a_rendition_of_its_own(tmp_path: Path) -> None:
    """A store reads audio at its own rate only; a part at 16 kHz declares no rate, as before."""
    high = np.random.default_rng(1).normal(size=1_440_000).astype(np.float32)
    media = replace(decoded(18, 32), other_waveforms={48_000: (high, 1_200_000)})
    usual, other = MediaStore(tmp_path, SOUND), MediaStore(tmp_path, Rendition("sound", "s48", 48_000))
    _, attributes = read_part(usual.write(CLIP, media))
    assert set(attributes) == {"clip", "format", "rules", "schema", "view", "waveform_samples"}
    other.write(CLIP, media)
    waveform, samples = other.read(CLIP).waveform_at(48_000)
    assert waveform.tobytes() == high.tobytes() and samples == 1_200_000
    assert usual.read(CLIP).waveform.tobytes() == media.waveform.tobytes()
    for store, rate_hz in ((usual, 48_000), (other, 24_000)):
        with pytest.raises(InputError, match=f"not decoded at {rate_hz} Hz"):
            store.read(CLIP).waveform_at(rate_hz)


def test_frames_of_short_windows_are_a_rendition_of_their_own(tmp_path: Path) -> None:
    """A report's thumbnail comes from them where there are no others."""
    windows = FrameWindows(2, 3, 12.5)
    frames, times_s = pictures(6, 18, 32, 3), np.arange(6.0)
    media = replace(decoded(18, 32), other_frames={windows: (frames, times_s)})
    usual = MediaStore(tmp_path, PICTURE)
    other = MediaStore(tmp_path, Rendition("picture", "w", windows=windows))
    _, attributes = read_part(usual.write(CLIP, media))
    assert "frame_windows" not in attributes
    with pytest.raises(InputError, match="decoded without 2 windows of 3 frames at 12.5 per second"):
        usual.read(CLIP).frames_in(windows)
    (tmp_path / usual.own.name).rename(tmp_path.parent / "moved")
    other.write(CLIP, media)
    stored, stored_times_s = other.read(CLIP).frames_in(windows)
    np.testing.assert_array_equal(stored, frames)
    np.testing.assert_array_equal(stored_times_s, times_s)
    frame = read_frame(tmp_path, CLIP, 16)
    assert frame is not None and frame[1] == (18, 32)
    np.testing.assert_array_equal(frame[0], frames[5])


def test_another_rendition_is_read_where_a_clip_is_missing_in_the_own_one(tmp_path: Path) -> None:
    store = MediaStore(tmp_path, SMALL, PICTURE)
    assert store.find(CLIP) is None
    MediaStore(tmp_path, PICTURE).write(CLIP, decoded(18, 32))
    assert store.read(CLIP).frames.shape == (32, 18, 32, 3)
    store.write(CLIP, decoded(9, 16))
    assert store.read(CLIP).frames.shape == (32, 9, 16, 3)
    assert MediaStore(tmp_path, PICTURE).read(CLIP).frames.shape == (32, 18, 32, 3)


def test_a_stored_clip_stays_and_a_damaged_one_is_quarantined(tmp_path: Path) -> None:
    store = MediaStore(tmp_path, PICTURE)
    file = store.write(CLIP, decoded(18, 32))
    assert store.write(CLIP, decoded(9, 16)) == file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(MissingBlockError, match="has no video here; run extract again"):
        store.read(CLIP)
    assert file.with_name(file.name + ".bad").exists() and store.find(CLIP) is None
    assert store.write(CLIP, decoded(18, 32)) == file
    np.testing.assert_array_equal(store.read(CLIP).frames, decoded(18, 32).frames)


def test_one_frame_is_read_from_the_largest_rendition(tmp_path: Path) -> None:
    MediaStore(tmp_path, SOUND).write(CLIP, decoded(18, 32))
    assert read_frame(tmp_path, CLIP, 16) is None
    small = decoded(9, 12)
    MediaStore(tmp_path, SMALL).write(
        CLIP, Media(small.frames, small.frame_times_s, small.waveform, 0, (18, 32))
    )
    frame, shape = read_frame(tmp_path, CLIP, 16) or pytest.fail("no frame")
    assert shape == (18, 32)
    np.testing.assert_array_equal(frame, small.frames[16])
    MediaStore(tmp_path, PICTURE).write(CLIP, decoded(18, 32))
    frame, shape = read_frame(tmp_path, CLIP, 99) or pytest.fail("no frame")
    np.testing.assert_array_equal(frame, decoded(18, 32).frames[31])
    assert read_frame(tmp_path, "cd" * 32, 0) is None


def test_marks_come_back(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "work", create=True)
    marks = ClipMarks(
        np.arange(3, dtype=np.uint16), np.ones(3, np.uint16), np.array([1 << 63], np.uint64), np.ones(1)
    )
    MarkStore(cache, "one").write(CLIP, marks)
    assert MarkStore(cache, "one").holds(CLIP) and not MarkStore(cache, "two").holds(CLIP)
    back = MarkStore(cache, "one").read(CLIP)
    assert back is not None and back.frame_hashes.dtype == np.uint64 and int(back.frame_hashes[0]) == 1 << 63
    assert back.peak_times.tolist() == [0, 1, 2] and MarkStore(cache, "two").read(CLIP) is None


@pytest.mark.parametrize("harm", ["another clip", "other rules", "another format"])
def test_an_intact_part_at_the_path_of_another_is_never_read(tmp_path: Path, harm: str) -> None:
    store, other = MediaStore(tmp_path, PICTURE), "cd" * 32
    file = store.write(other, decoded(18, 32))
    if harm == "another clip":
        wrong = tmp_path / PICTURE.name / CLIP[:2] / file.name.replace(other[:32], CLIP[:32])
    elif harm == "other rules":
        wrong = tmp_path / SMALL.name / other[:2] / file.name
    else:
        arrays, attributes = read_part(file)
        file.unlink()
        wrong = write_part(file.parent, other[:32], arrays, {**attributes, "format": "moodfuse-marks"})
    if not wrong.exists():
        wrong.parent.mkdir(parents=True)
        shutil.copy(file, wrong)
    clip = CLIP if harm == "another clip" else other
    reader = MediaStore(tmp_path, SMALL if harm == "other rules" else PICTURE)
    with pytest.raises(MissingBlockError):
        reader.read(clip)
    assert wrong.with_name(wrong.name + ".bad").exists() and reader.find(clip) is None
    assert (read_frame(tmp_path, clip, 0) is None) == (harm != "other rules")
