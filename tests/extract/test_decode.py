"""Decoding one clip: which pictures and samples it gives, and what it refuses."""

import os
import pickle
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from odd_media import Making, mirror

from moodfuse.extract.media.decode import DECODER, MediaError, probe, read_clip
from moodfuse.extract.media.reasons import REASONS
from moodfuse.synthetic_corpus import (
    MOODS,
    ClipSettings,
    make_clip,
    render_frames,
    render_waveform,
    write_clip,
)

RATE_HZ = 22_050
FRAMES_PER_S = 12


def numbered_frames(count: int) -> list[np.ndarray]:
    """Return yuv420p pictures of 64 x 48 whose brightness tells their number."""
    frames = []
    for number in range(count):
        planes = np.full((72, 64), 128, np.uint8)
        planes[:48] = 20 + number * 2 % 200
        frames.append(planes)
    return frames


def clicks(duration_s: float, *at_s: float) -> np.ndarray:
    """Return silence with short smooth clicks centred on the given seconds."""
    seconds = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return sum((0.8 * np.exp(-(((seconds - one) / 5e-4) ** 2)) for one in at_s), np.zeros_like(seconds))


def write(
    path: Path, frames: list[np.ndarray] | None, waveform: np.ndarray | None, *, faststart: bool = True
) -> Path:
    """Write pictures and sound at the rates of these tests."""
    pictures = iter(frames) if frames is not None else None
    return write_clip(
        path, pictures, waveform, frames_per_s=FRAMES_PER_S, sample_rate_hz=RATE_HZ, faststart=faststart
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 8 s with numbered pictures, and clicks at 1, 4.5 and 6 s."""
    folder = tmp_path_factory.mktemp("clip")
    return write(folder / "clip.mp4", numbered_frames(96), clicks(8.0, 1.0, 4.5, 6.0))


def code_of(path: Path, **window: float) -> str:
    """Return the code with which a clip is refused."""
    with pytest.raises(MediaError) as caught:
        read_clip(path, **window)
    assert REASONS[caught.value.code] in str(caught.value)
    return caught.value.code


def cut_to(source: Path, target: Path, share: float) -> Path:
    """Write the first share of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def peak_s(waveform: np.ndarray) -> float:
    """Return the second of the loudest sample."""
    return float(np.abs(waveform).argmax()) / 16_000


def test_shapes_and_facts(clip: Path) -> None:
    """A clip has the promised shapes, types and facts."""
    decoded = read_clip(clip)
    assert (decoded.frames.shape, decoded.frames.dtype) == ((32, 48, 64, 3), np.uint8)
    assert (decoded.frame_times_s.shape, decoded.frame_times_s.dtype) == ((32,), np.float64)
    assert (decoded.waveform.shape, decoded.waveform.dtype) == ((480_000,), np.float32)
    assert np.abs(decoded.waveform).max() <= 1.0
    facts = decoded.facts
    assert (facts.width, facts.height, facts.video_codec, facts.audio_codec) == (64, 48, "h264", "aac")
    assert (facts.sample_rate_hz, facts.channels, facts.frames_per_s) == (RATE_HZ, 1, FRAMES_PER_S)
    assert facts == probe(clip)
    assert DECODER.startswith("pyav ")


@pytest.mark.parametrize("window", [(0.0, 8.0), (2.0, 7.0), (3.3, 3.9)])
def test_frames_are_those_of_the_middles(clip: Path, window: tuple[float, float]) -> None:
    """Each picture is the one on screen at the middle of its interval, by time and by content."""
    decoded = read_clip(clip, start_s=window[0], end_s=window[1])
    middles = window[0] + (np.arange(32) + 0.5) * (window[1] - window[0]) / 32
    numbers = np.floor(middles * FRAMES_PER_S + 1e-9)
    np.testing.assert_allclose(decoded.frame_times_s, numbers / FRAMES_PER_S, atol=1e-9)
    luma = decoded.frames.mean(axis=(1, 2, 3)) * 219 / 255 + 16
    np.testing.assert_allclose(luma, 20 + numbers * 2 % 200, atol=1.5)


def test_late_picture_shows_its_first_frame_before_it_begins(tmp_path: Path) -> None:
    """Middles before the first picture show that picture, at its own time."""
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as media:
        video = media.add_stream("libx264", rate=FRAMES_PER_S)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = media.add_stream("aac", rate=RATE_HZ, layout="mono")
        sound = av.AudioFrame.from_ndarray(
            clicks(4.0, 1.0).astype(np.float32)[None], format="fltp", layout="mono"
        )
        sound.sample_rate, sound.pts = RATE_HZ, 0
        packets = audio.encode(sound) + audio.encode(None)
        for number, planes in enumerate(numbered_frames(36)):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number + FRAMES_PER_S, Fraction(1, FRAMES_PER_S)
            packets += video.encode(frame)
        for packet in sorted(packets + video.encode(None), key=lambda packet: packet.dts * packet.time_base):
            media.mux(packet)
    times_s = read_clip(path, end_s=4.0).frame_times_s
    np.testing.assert_allclose(times_s[:9], 1.0, atol=2e-3)
    assert times_s[9] > 1.05


@pytest.mark.parametrize(("start_s", "click_s"), [(0.0, 1.0), (0.75, 0.25), (4.0, 0.5), (5.2, 0.8)])
def test_sample_zero_is_the_window_start(clip: Path, start_s: float, click_s: float) -> None:
    """A click stands where the window's start says, to a tenth of a millisecond."""
    decoded = read_clip(clip, start_s=start_s, end_s=start_s + 1.2)
    assert peak_s(decoded.waveform) == pytest.approx(click_s, abs=1e-4)


def test_sound_is_padded_with_zeros(clip: Path) -> None:
    """After the real samples of a short window there are zeros only."""
    decoded = read_clip(clip, start_s=1.0, end_s=3.0)
    assert decoded.waveform_samples == 32_000
    assert not decoded.waveform[32_000:].any()


def test_a_long_window_has_its_first_30_s_of_sound(tmp_path: Path) -> None:
    """Without an end the window is 30 s; with a later one, pictures span it and sound is cut at 30 s."""
    path = write(tmp_path / "long.mp4", numbered_frames(34 * FRAMES_PER_S), clicks(34.0, 29.5, 33.0))
    usual, longer = read_clip(path), read_clip(path, end_s=34.0)
    assert (usual.end_s, longer.end_s, longer.waveform_samples) == (30.0, 34.0, 480_000)
    assert longer.frame_times_s[-1] > 33.0 > 30.0 > usual.frame_times_s[-1]
    np.testing.assert_array_equal(usual.waveform, longer.waveform)


def test_channels_are_averaged(tmp_path: Path) -> None:
    """A sound in one of two channels comes out at half its size."""
    left = clicks(2.0, 1.0)
    path = write(tmp_path / "stereo.mp4", numbered_frames(24), np.stack([left, np.zeros_like(left)]))
    assert read_clip(path).waveform.max() == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(("layout", "channels"), [("5.1", 6), ("7.1", 8), ("hexadecagonal", 16)])
def test_many_channels_are_averaged(tmp_path: Path, layout: str, channels: int) -> None:
    """Each of eight and more counts once, and nothing beside them."""
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as media:
        video = media.add_stream("libx264", rate=FRAMES_PER_S)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = media.add_stream("wavpack", rate=48_000, layout=layout)
        kept = audio.codec_context.format.name
        waves = np.zeros((channels, 48_000), np.float32)
        waves[0] = 0.8 * np.sin(2 * np.pi * 300 * np.arange(48_000) / 48_000)
        sound = av.AudioFrame.from_ndarray(waves.T.reshape(1, -1), format="flt", layout=layout)
        sound.sample_rate, sound.pts = 48_000, 0
        fitting = av.AudioResampler(format=kept, layout=layout, rate=48_000)
        for one in [*fitting.resample(sound), *fitting.resample(None), None]:
            media.mux(audio.encode(one))
        for planes in numbered_frames(FRAMES_PER_S):
            media.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        media.mux(video.encode(None))
    assert read_clip(path).waveform[4_000:12_000].std() == pytest.approx(
        0.8 / channels / np.sqrt(2), rel=0.05
    )


def test_a_window_equals_the_part_of_the_whole(clip: Path) -> None:
    """Sound and pictures do not depend on where decoding began."""
    whole, part = read_clip(clip), read_clip(clip, start_s=4.0, end_s=6.0)
    np.testing.assert_array_equal(part.waveform[:32_000], whole.waveform[64_000:96_000])
    both = np.isin(whole.frame_times_s, part.frame_times_s)
    assert both.any()
    for time_s, frame in zip(whole.frame_times_s[both], whole.frames[both], strict=True):
        np.testing.assert_array_equal(part.frames[part.frame_times_s == time_s][0], frame)


def test_decoding_twice_gives_equal_bits(clip: Path) -> None:
    """The same file gives the same bits, on any number of threads."""
    once, again = read_clip(clip, short_side_px=32), read_clip(clip, short_side_px=32, threads=2)
    for name in ("frames", "frame_times_s", "waveform"):
        assert getattr(once, name).tobytes() == getattr(again, name).tobytes()


@pytest.mark.parametrize(
    ("short_side_px", "shape"), [(24, (24, 32)), (31, (31, 42)), (48, (48, 64)), (96, (48, 64))]
)
def test_short_side_scales_down_only(clip: Path, short_side_px: int, shape: tuple[int, int]) -> None:
    """The short side is as asked, the shape is kept, and nothing is scaled up."""
    assert read_clip(clip, end_s=1.0, short_side_px=short_side_px).frames.shape[1:3] == shape


def test_a_turned_video_is_shown_upright(clip: Path, tmp_path: Path) -> None:
    """The turn that a phone notes in the file is applied."""
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    turn = [0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 48 << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big") for value in turn)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    upright, plain = read_clip(path, end_s=1.0).frames, read_clip(clip, end_s=1.0).frames
    np.testing.assert_array_equal(upright, np.rot90(plain, -1, axes=(1, 2)))


@pytest.mark.parametrize(
    ("matrix", "axes", "transposed"),
    [
        ((-1, 0, 0, 1), (2,), False),
        ((1, 0, 0, -1), (1,), False),
        ((-1, 0, 0, -1), (1, 2), False),
        ((0, 1, 1, 0), (), True),
        ((0, 1, -1, 0), (2,), True),
        ((0, -1, 1, 0), (1,), True),
        ((0, -1, -1, 0), (1, 2), True),
        ((0, 0, 0, 0), (), False),
    ],
)
def test_a_mirrored_video_is_shown_mirrored(
    matrix: tuple[int, ...], axes: tuple[int, ...], transposed: bool, tmp_path: Path
) -> None:
    """All eight orientations that a display matrix can ask for are applied; a matrix of zeros asks for none."""
    Making()(tmp_path / "plain.mp4")
    Making(patches=(mirror(*matrix),))(tmp_path / "shown.mp4")
    plain, shown = (read_clip(tmp_path / name).frames for name in ("plain.mp4", "shown.mp4"))
    expected = np.flip(plain.transpose(0, 2, 1, 3) if transposed else plain, axes)
    np.testing.assert_array_equal(shown, expected)
    smaller = read_clip(tmp_path / "shown.mp4", short_side_px=36).frames
    assert smaller.shape == (32, *((48, 36) if transposed else (36, 48)), 3)


@pytest.mark.parametrize(
    "window", [(-1.0, 2.0), (3.0, 3.0), (2.0, 1.0), (9.0, 12.0), (6.0, 16.0), (float("nan"), 2.0)]
)
def test_a_window_outside_the_file_is_refused(clip: Path, window: tuple[float, float]) -> None:
    """A window that the file does not hold is refused with the file's length."""
    assert code_of(clip, start_s=window[0], end_s=window[1]) == "window_outside"


def test_missing_empty_and_folder_are_refused(tmp_path: Path) -> None:
    """What is no file with content is refused by its own reason."""
    (tmp_path / "empty.mp4").touch()
    assert code_of(tmp_path / "none.mp4") == "missing"
    assert code_of(tmp_path / "empty.mp4") == "empty"
    assert code_of(tmp_path) == "not_a_file"


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    """A pipe named .mp4 is refused although nobody writes to it."""
    os.mkfifo(tmp_path / "pipe.mp4")
    codes: list[str] = []
    thread = threading.Thread(target=lambda: codes.append(code_of(tmp_path / "pipe.mp4")), daemon=True)
    thread.start()
    thread.join(timeout=5.0)
    assert codes == ["not_a_file"]


@pytest.mark.parametrize(
    "head", ["just some words\n", "ffconcat version 1.0\nfile '{}'\n", "#EXTM3U\n#EXTINF:8,\n{}\n"]
)
def test_text_and_playlists_are_refused(clip: Path, tmp_path: Path, head: str) -> None:
    """Text named .mp4 is no media, also where it is a playlist of a real file."""
    path = tmp_path / "list.mp4"
    path.write_text(head.format(clip) + "\n" * 400)
    assert code_of(path) == "not_media"
    with pytest.raises(MediaError, match="convert it to MP4"):
        probe(path)


@pytest.mark.parametrize("faststart", [True, False])
def test_a_file_cut_to_60_percent_is_truncated(tmp_path: Path, faststart: bool) -> None:
    """A half copied file is refused, wherever its index stands."""
    settings = ClipSettings(duration_s=6.0, width=64, height=48)
    whole = tmp_path / "whole.mp4"
    mood = MOODS["excited"]
    frames = list(render_frames(mood, settings))
    write(whole, frames, render_waveform(mood, settings), faststart=faststart)
    cut = cut_to(whole, tmp_path / "cut.mp4", 0.6)
    assert code_of(cut) == "truncated"
    if faststart:
        assert read_clip(cut, end_s=2.0).waveform_samples == 32_000


def test_a_file_with_damaged_pictures_is_refused(clip: Path, tmp_path: Path) -> None:
    """Noise in the middle of the media is not passed on as a clip."""
    data = bytearray(make_clip(tmp_path / "good.mp4", mood="excited").read_bytes())
    start = data.index(b"mdat") + 2_000
    data[start:-500] = np.random.default_rng(0).bytes(len(data) - 500 - start)
    (tmp_path / "bad.mp4").write_bytes(data)
    assert code_of(tmp_path / "bad.mp4") in ("decode_failed", "truncated")


def test_a_missing_track_is_refused(tmp_path: Path) -> None:
    """A clip needs picture and sound."""
    assert code_of(make_clip(tmp_path / "silent.mp4", audio=False)) == "no_audio"
    assert code_of(make_clip(tmp_path / "blind.mp4", video=False)) == "no_video"


def test_an_odd_name_is_no_protocol(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name with a colon or a percent sign is read as a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "take %03d.mp4"):
        Path(name).write_bytes(clip.read_bytes())
        assert read_clip(name, end_s=1.0).waveform_samples == 16_000


def test_an_error_survives_pickling() -> None:
    """A refusal crosses processes whole."""
    error = MediaError("no_audio", "a.mp4", "why")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.path) == (str(error), error.code, error.path)


def test_real_clips_decode() -> None:
    """Real clips give 30 s of sound and pictures in order."""
    folder = os.environ.get("MOODFUSE_CLIPS")
    if not folder:
        pytest.skip("MOODFUSE_CLIPS names no folder of real clips")
    for path in sorted(Path(folder).rglob("*.mp4"))[::20]:
        decoded = read_clip(path, short_side_px=128)
        assert min(decoded.frames.shape[1:3]) == 128
        assert decoded.waveform_samples >= 0.95 * 480_000
        assert (np.diff(decoded.frame_times_s) >= 0).all()
        assert decoded.waveform.std() > 0.001
