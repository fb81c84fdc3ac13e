"""Inputs of networks, made from decoded frames and waveforms."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from moodfuse.cache.media import Media
from moodfuse.extract.media.preprocess import (
    InputMaker,
    audio_input,
    frame_indices,
    sounding_samples,
    video_input,
)
from moodfuse.extract.networks import (
    NETWORKS,
    AudioPreprocessing,
    VideoPreprocessing,
    preprocessing_from_record,
)

C3D = NETWORKS["c3d"].preprocessing
I3D = NETWORKS["i3d"].preprocessing
PLAIN = VideoPreprocessing(resize_short_side_px=8, crop_px=4)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(3, 36, 64), (3, 64, 36), (2, 300, 301), (1, 256, 455)])
@pytest.mark.parametrize(("preprocessing", "side"), [(C3D, 112), (I3D, 224)])
def test_frames_of_any_size_become_a_square_of_the_networks_size(
    shape: tuple[int, int, int], preprocessing: VideoPreprocessing, side: int
) -> None:
    result = video_input(noise(*shape, 3), preprocessing)
    assert result.shape == (3, shape[0], side, side)
    assert result.dtype == torch.float32 and result.is_contiguous()


def test_centre_crop_is_exact_where_nothing_is_resized() -> None:
    frames = noise(2, 8, 12, 3)
    expected = frames[:, 2:6, 4:8].transpose(3, 0, 1, 2).astype(np.float32)
    np.testing.assert_array_equal(video_input(frames, PLAIN).numpy(), expected)


@pytest.mark.parametrize("size_hw", [(8, 12), (12, 8)])
def test_three_crops_lie_along_the_longer_side(size_hw: tuple[int, int]) -> None:
    """The centre, the start and the end, centred on the shorter side; one random crop in tuning."""
    frames, three = noise(2, *size_hw, 3), replace(PLAIN, crops=3)
    views = video_input(frames, three).unflatten(1, (3, 2))
    slices = [slice(start, start + 4) for start in (4, 0, 8)]
    for number, along in enumerate(slices):
        rows, columns = (slice(2, 6), along) if size_hw[1] > size_hw[0] else (along, slice(2, 6))
        expected = frames[:, rows, columns].transpose(3, 0, 1, 2).astype(np.float32)
        np.testing.assert_array_equal(views[:, number].numpy(), expected)
    assert video_input(frames, three, generator=torch.Generator().manual_seed(0)).shape == (3, 2, 4, 4)


def test_normalisation() -> None:
    """White is 1 and black -1 for i3d; c3d subtracts the mean of its training frames; BGR turns channels
    around.
    """
    white = np.full((1, 256, 256, 3), 255, dtype=np.uint8)
    torch.testing.assert_close(video_input(white, I3D), torch.ones(3, 1, 224, 224))
    torch.testing.assert_close(video_input(white * 0, I3D), -torch.ones(3, 1, 224, 224))
    torch.testing.assert_close(video_input(white, C3D)[:, 0, 0, 0], 255 - torch.tensor(C3D.mean))
    red = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    red[..., 0] = 200
    bgr = VideoPreprocessing(resize_short_side_px=8, crop_px=8, channel_order="BGR")
    assert video_input(red, bgr)[:, 0, 0, 0].tolist() == [0, 0, 200]


def test_random_crops_repeat_with_their_seed_and_differ() -> None:
    """Many draws give many positions, and mirrored crops."""
    frames = noise(1, 8, 12, 3)
    first, second = (
        [video_input(frames, PLAIN, generator=generator) for _ in range(40)]
        for generator in (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    places = {tuple(crop.flatten().tolist()) for crop in first}
    allowed = {
        tuple(piece.flatten().tolist())
        for top in range(5)
        for left in range(9)
        for crop in [torch.from_numpy(frames[:, top : top + 4, left : left + 4]).permute(3, 0, 1, 2).float()]
        for piece in (crop, crop.flip(3))
    }
    assert len(places) > 20 and places <= allowed


def test_other_frames_are_refused() -> None:
    other = (
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    )
    for frames in other:
        with pytest.raises(ValueError, match=r"frames are \w+ of shape .* expected uint8 \[T, H, W, 3\]"):
            video_input(frames, PLAIN)


def test_a_whole_waveform_is_a_copy() -> None:
    waveform = np.linspace(-1, 1, 100, dtype=np.float32)
    result = audio_input(waveform, AudioPreprocessing(samples=100))
    np.testing.assert_array_equal(result.numpy(), waveform)
    result.zero_()
    assert waveform[0] == -1


def test_random_crops_stay_before_the_padding() -> None:
    """Crops come from anywhere in the part before it, and start at 0 where it is shorter than the crop."""
    settings = AudioPreprocessing(sample_rate_hz=10, samples=100)
    waveform = np.zeros(100, dtype=np.float32)
    waveform[:40] = np.arange(1, 41)
    generator = torch.Generator().manual_seed(0)
    crops = [audio_input(waveform, settings, crop_s=2.0, generator=generator) for _ in range(300)]
    assert {int(crop[0]) for crop in crops} == set(range(1, 22))
    assert all(len(crop) == 20 and bool((crop.diff() == 1).all()) for crop in crops)
    long = audio_input(waveform, settings, crop_s=5.0, generator=generator)
    assert int(long[0]) == 1 and len(long) == 50
    assert sounding_samples(waveform) == 40 and sounding_samples(waveform * 0) == 0


def test_other_waveforms_and_impossible_crops_are_refused() -> None:
    settings, good = AudioPreprocessing(samples=100), np.zeros(100, dtype=np.float32)
    for waveform, crop, message in (
        (good.astype(np.float64), {}, r"float64 of shape \[100\], expected float32 \[100\]"),
        (good[:99], {}, r"shape \[99\]"),
        (good + np.float32("nan"), {}, "NaN"),
        (good, {"crop_s": 1.0, "generator": torch.Generator()}, "does not fit into 100 samples"),
    ):
        with pytest.raises(ValueError, match=message):
            audio_input(waveform, settings, **crop)


@pytest.mark.parametrize("name", NETWORKS)
def test_records_are_json(name: str) -> None:
    """A preprocessing record survives JSON, so that a digest of it means the same everywhere."""
    record = NETWORKS[name].preprocessing.as_record()
    assert json.loads(json.dumps(record)) == record
    assert preprocessing_from_record(record) == NETWORKS[name].preprocessing


def test_impossible_settings_are_refused() -> None:
    """A crop larger than the frame, or two ways to resize, is an error."""
    with pytest.raises(ValueError, match="does not fit"):
        VideoPreprocessing(resize_short_side_px=100, crop_px=112)
    with pytest.raises(ValueError, match="interpolation 'cubic'; expected one of: bilinear uint8"):
        VideoPreprocessing(resize_short_side_px=100, crop_px=50, interpolation="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exactly one"):
        VideoPreprocessing(resize_short_side_px=100, resize_hw=(100, 100), crop_px=50)


def media(frames: int = 8) -> Media:
    """Frames whose level is their number, and 10 s of a tone at 16 kHz."""
    pictures = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 8, 12, 3))
    waveform = np.sin(np.arange(160_000, dtype=np.float32))
    return Media(np.ascontiguousarray(pictures), np.arange(float(frames)), waveform, len(waveform))


def test_middle_frames_are_taken() -> None:
    assert frame_indices(32, 32) == list(range(32)) and frame_indices(32, 8) == [2, 6, 10, 14, 18, 22, 26, 30]
    four = VideoPreprocessing(frames=4, resize_short_side_px=8, crop_px=4)
    assert video_input(media().frames, four)[0, :, 0, 0].tolist() == [1, 3, 5, 7]


def test_time_jitter_moves_frames_by_one_interval_at_most() -> None:
    """The frames stay in order, and every move happens."""
    generator = torch.Generator().manual_seed(0)
    for decoded, wanted, reach in ((32, 32, 1), (32, 16, 2)):
        draws = torch.tensor([frame_indices(decoded, wanted, generator) for _ in range(300)])
        moved = draws - torch.tensor(frame_indices(decoded, wanted))
        assert bool((draws.diff(dim=1) >= 0).all()) and int(draws.min()) >= 0 and int(draws.max()) < decoded
        assert {int(value) for value in moved.unique()} == set(range(-reach, reach + 1))


def test_one_object_makes_every_input() -> None:
    """Without a generator the input is always the same; with one it is augmented, and repeats with its
    seed.
    """
    clip = media()
    for preprocessing in (
        VideoPreprocessing(frames=8, resize_short_side_px=8, crop_px=4),
        AudioPreprocessing(samples=160_000),
    ):
        make = InputMaker(preprocessing, crop_s=2.0, gain_db=6.0)
        assert torch.equal(make(clip), make(clip))
        first, second = (make(clip, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, second) and not torch.equal(first, make(clip))
    assert len(first) == 32_000 and len(make(clip)) == 160_000


def test_gain_is_uniform_in_decibels_and_bounded() -> None:
    clip, generator = media(), torch.Generator().manual_seed(0)
    make = InputMaker(AudioPreprocessing(samples=160_000), gain_db=6.0)
    whole = make(clip)
    gains_db = []
    for _ in range(300):
        louder = make(clip, generator=generator)
        factor = float(louder.norm() / whole.norm())
        torch.testing.assert_close(louder, whole * factor)
        gains_db.append(20 * np.log10(factor))
    assert -6 <= min(gains_db) < -5.5 and 5.5 < max(gains_db) <= 6 and abs(np.mean(gains_db)) < 0.6


def test_odd_margins_start_at_the_floor_or_at_the_even_number() -> None:
    frames = np.zeros((1, 8, 171, 3), dtype=np.uint8)
    frames[:, :, 30] = 255
    for centre, column in (("floor", 1), ("even", 0)):
        crop = video_input(frames, VideoPreprocessing(resize_hw=(112, 171), crop_px=112, centre=centre))
        assert int(crop[0, 0, 50].argmax()) == column
