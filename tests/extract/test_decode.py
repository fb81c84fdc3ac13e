"""Decoding one clip: which frames and samples it gives, and what it refuses."""

import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from moodfuse.cache.records import FrameWindows
from moodfuse.extract.media.decode import DECODER, read_clip
from moodfuse.extract.media.limits import REASONS, MediaError
from moodfuse.extract.media.preprocess import resized_frames
from moodfuse.extract.networks import VideoPreprocessing
from moodfuse.synthetic_corpus import write_clip
from odd_media import AudioTrack, Making, VideoTrack, mirror

RATE_HZ = 22_050
FRAMES_PER_S = 12


def numbered_frames(count: int) -> list[np.ndarray]:
    """Return yuv420p frames of 64 x 48 whose brightness encodes their number."""
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


def write(path: Path, frames: list[np.ndarray], waveform: np.ndarray, *, faststart: bool = True) -> Path:
    """Write video and audio at the rates of these tests."""
    rates: Any = {"frames_per_s": FRAMES_PER_S, "sample_rate_hz": RATE_HZ}
    return write_clip(path, iter(frames), waveform, faststart=faststart, **rates)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 8 s with numbered frames, and clicks at 1, 4.5 and 6 s."""
    folder = tmp_path_factory.mktemp("clip")
    return write(folder / "clip.mp4", numbered_frames(96), clicks(8.0, 1.0, 4.5, 6.0))


def code_of(path: Path, **window: float) -> str:
    """Return the code with which a clip is refused."""
    with pytest.raises(MediaError) as caught:
        read_clip(path, **window)
    assert REASONS[caught.value.code] in str(caught.value)
    return caught.value.code


def peak_s(waveform: np.ndarray) -> float:
    """Return the second of the loudest sample."""
    return float(np.abs(waveform).argmax()) / 16_000


def test_shapes_and_facts(clip: Path) -> None:
    decoded = read_clip(clip)
    assert (decoded.frames.shape, decoded.frames.dtype) == ((32, 48, 64, 3), np.uint8)
    assert (decoded.frame_times_s.shape, decoded.frame_times_s.dtype) == ((32,), np.float64)
    assert (decoded.waveform.shape, decoded.waveform.dtype) == ((480_000,), np.float32)
    assert np.abs(decoded.waveform).max() <= 1.0
    facts = decoded.facts
    assert (facts.width, facts.height, facts.video_codec, facts.audio_codec) == (64, 48, "h264", "aac")
    assert (facts.sample_rate_hz, facts.channels, facts.frames_per_s) == (RATE_HZ, 1, FRAMES_PER_S)
    assert DECODER.startswith("pyav ")


@pytest.mark.parametrize("window", [(0.0, 8.0), (2.0, 7.0), (3.3, 3.9)])
def test_frames_are_those_of_the_middles(clip: Path, window: tuple[float, float]) -> None:
    decoded = read_clip(clip, start_s=window[0], end_s=window[1])
    middles = window[0] + (np.arange(32) + 0.5) * (window[1] - window[0]) / 32
    numbers = np.floor(middles * FRAMES_PER_S + 1e-9)
    np.testing.assert_allclose(decoded.frame_times_s, numbers / FRAMES_PER_S, atol=1e-9)
    luma = decoded.frames.mean(axis=(1, 2, 3)) * 219 / 255 + 16
    np.testing.assert_allclose(luma, 20 + numbers * 2 % 200, atol=1.5)


def test_frames_of_short_windows_are_those_of_their_times(clip: Path) -> None:
    """The frames at even times keep their bits."""
    windows, (start_s, end_s) = FrameWindows(2, 5, 10.0), (2.0, 7.0)
    plain = read_clip(clip, start_s=start_s, end_s=end_s)
    decoded = read_clip(clip, start_s=start_s, end_s=end_s, other_frames=[windows])
    assert decoded.frames.tobytes() == plain.frames.tobytes() and not plain.other_frames
    frames, times_s = decoded.other_frames[windows]
    numbers = np.floor(windows.times_s(start_s, end_s) * FRAMES_PER_S + 1e-9)
    np.testing.assert_allclose(times_s, numbers / FRAMES_PER_S, atol=1e-9)
    luma = frames.mean(axis=(1, 2, 3)) * 219 / 255 + 16
    np.testing.assert_allclose(luma, 20 + numbers * 2 % 200, atol=1.5)


@pytest.mark.parametrize(
    ("windows", "rate_hz", "end_s", "expected_s"),
    [
        (2, 10.0, 8.0, [1.9, 2.0, 2.1, 5.9, 6.0, 6.1]),
        (2, 1.0, 5.0, [0.25, 1.25, 2.25, 2.75, 3.75, 4.75]),
        (2, 1.0, 2.5, [0.0, 1.0, 2.0, 0.5, 1.5, 2.5]),  # moved into the clip
        (1, 1.0, 1.5, [0.0, 1.0, 1.5]),  # the clip is shorter than the window
    ],
)
def test_times_of_short_windows(windows: int, rate_hz: float, end_s: float, expected_s: list[float]) -> None:
    times_s = FrameWindows(windows, 3, rate_hz).times_s(0.0, end_s)
    np.testing.assert_allclose(times_s, expected_s, atol=1e-9)


def test_before_the_first_frame_the_first_frame_is_shown(tmp_path: Path) -> None:
    """It keeps its own time."""
    Making(VideoTrack(from_s=1.0, seconds=3.0), (AudioTrack(seconds=4.0),))(tmp_path / "late.mkv")
    times_s = read_clip(tmp_path / "late.mkv", end_s=4.0).frame_times_s
    np.testing.assert_allclose(times_s[:9], 1.0, atol=2e-3)
    assert times_s[9] > 1.05


@pytest.mark.parametrize(("start_s", "click_s"), [(0.0, 1.0), (0.75, 0.25), (4.0, 0.5), (5.2, 0.8)])
def test_sample_zero_is_the_window_start(clip: Path, start_s: float, click_s: float) -> None:
    decoded = read_clip(clip, start_s=start_s, end_s=start_s + 1.2)
    assert peak_s(decoded.waveform) == pytest.approx(click_s, abs=1e-4)


def test_audio_at_other_rates_comes_from_the_file(tmp_path: Path) -> None:
    """A tone above 8 kHz is in it, from the start of the window; audio at 16 kHz keeps its bits."""
    path = tmp_path / "tone.wav"
    times_s = np.arange(3 * 44_100) / 44_100
    tone = np.where(times_s < 1.5, 0, 0.5 * np.sin(2 * np.pi * 11_000 * times_s))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes((tone * 32_767).astype("<i2").tobytes())
    window: dict[str, Any] = {"start_s": 1.25, "end_s": 3.0, "allow_missing": True}
    plain, decoded = read_clip(path, **window), read_clip(path, **window, other_rates_hz=(48_000, 32_000))
    assert plain.waveform.tobytes() == decoded.waveform.tobytes() and not plain.other_waveforms
    for rate_hz, (waveform, samples) in decoded.other_waveforms.items():
        assert (waveform.shape, waveform.dtype) == ((30 * rate_hz,), np.float32)
        assert samples == pytest.approx(1.75 * rate_hz, abs=2) and not waveform[samples:].any()
        assert np.flatnonzero(np.abs(waveform) > 0.1)[0] / rate_hz == pytest.approx(0.25, abs=1e-3)
        assert waveform[rate_hz // 2 : rate_hz].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert np.abs(decoded.waveform).max() < 0.2
    Making(VideoTrack(), ())(tmp_path / "mute.mkv")
    mute = read_clip(tmp_path / "mute.mkv", allow_missing=True, other_rates_hz=(48_000,))
    assert mute.missing == "sound" and not mute.other_waveforms[48_000][0].any()


def test_audio_is_padded_with_zeros(clip: Path) -> None:
    decoded = read_clip(clip, start_s=1.0, end_s=3.0)
    assert decoded.waveform_samples == 32_000
    assert not decoded.waveform[32_000:].any()


def test_a_long_window_has_its_first_30_s_of_audio(tmp_path: Path) -> None:
    """Without an end the window is 30 s; with a later one, frames span it and audio is cut at 30 s."""
    path = write(tmp_path / "long.mp4", numbered_frames(34 * FRAMES_PER_S), clicks(34.0, 29.5, 33.0))
    usual, longer = read_clip(path), read_clip(path, end_s=34.0)
    assert (usual.end_s, longer.end_s, longer.waveform_samples) == (30.0, 34.0, 480_000)
    assert longer.frame_times_s[-1] > 33.0 > 30.0 > usual.frame_times_s[-1]
    np.testing.assert_array_equal(usual.waveform, longer.waveform)


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6), ("7.1", 8)])
def test_channels_are_averaged(tmp_path: Path, layout: str, channels: int) -> None:
    """A tone in one of the channels comes out at its share of the amplitude."""
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as media:
        audio = media.add_stream("wavpack", rate=48_000, layout=layout)
        waves = np.zeros((channels, 48_000), np.float32)
        waves[0] = 0.8 * np.sin(2 * np.pi * 300 * np.arange(48_000) / 48_000)
        sound = av.AudioFrame.from_ndarray(waves.T.reshape(1, -1), format="flt", layout=layout)
        sound.sample_rate, sound.pts = 48_000, 0
        fitting = av.AudioResampler(format=audio.codec_context.format.name, layout=layout, rate=48_000)
        for one in [*fitting.resample(sound), *fitting.resample(None), None]:
            media.mux(audio.encode(one))
    waveform = read_clip(path, allow_missing=True).waveform
    assert waveform[1_000:7_000].std() == pytest.approx(0.8 / channels / np.sqrt(2), rel=0.05)


def test_a_window_equals_the_part_of_the_whole(clip: Path) -> None:
    whole, part = read_clip(clip), read_clip(clip, start_s=4.0, end_s=6.0)
    np.testing.assert_array_equal(part.waveform[:32_000], whole.waveform[64_000:96_000])
    both = np.isin(whole.frame_times_s, part.frame_times_s)
    assert both.any()
    for time_s, frame in zip(whole.frame_times_s[both], whole.frames[both], strict=True):
        np.testing.assert_array_equal(part.frames[part.frame_times_s == time_s][0], frame)


def test_decoding_twice_on_any_number_of_threads_gives_equal_bits(clip: Path) -> None:
    once, again = read_clip(clip, short_side_px=32), read_clip(clip, short_side_px=32, threads=2)
    for name in ("frames", "frame_times_s", "waveform"):
        assert getattr(once, name).tobytes() == getattr(again, name).tobytes()


@pytest.mark.parametrize(
    ("short_side_px", "shape"), [(24, (24, 32)), (31, (31, 41)), (48, (48, 64)), (96, (48, 64))]
)
def test_short_side_scales_down_only(clip: Path, short_side_px: int, shape: tuple[int, int]) -> None:
    assert read_clip(clip, end_s=1.0, short_side_px=short_side_px).frames.shape[1:3] == shape


def test_scaled_frames_are_those_of_an_antialiased_bilinear_resize(clip: Path) -> None:
    """Within one level, scaling equals the resize of I3D's ports, applied to the original frames."""
    resize = VideoPreprocessing(resize_short_side_px=31, crop_px=31)
    expected = resized_frames(read_clip(clip).frames, resize).permute(0, 2, 3, 1).numpy()
    scaled = read_clip(clip, short_side_px=31).frames
    assert scaled.shape == expected.shape
    assert np.abs(scaled.astype(int) - expected).max() <= 1


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
def test_rotation_and_mirroring_are_applied(
    matrix: tuple[int, ...], axes: tuple[int, ...], transposed: bool, tmp_path: Path
) -> None:
    """All eight orientations that a display matrix can ask for are applied; a matrix of zeros asks for
    none.
    """
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
    assert code_of(clip, start_s=window[0], end_s=window[1]) == "window_outside"
