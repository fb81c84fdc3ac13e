"""The music tagger against a computation of its own in NumPy, on real clips with the published weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.media.decode import read_clip
from extract.networks import create_network
from extract.networks.twodmcnn import TwoDMCNN

CLIPS = 5


def slaney_filters() -> np.ndarray:
    """Filter bank [96, 257] after Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above, unit area."""

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))

    top = 15 + np.log(6000 / 1000) / (np.log(6.4) / 27)
    edges = to_hz(np.linspace(0, top, 98))
    bins = np.arange(257) * 12_000 / 512
    filters = np.zeros((96, 257))
    for band in range(96):
        low, centre, high = edges[band : band + 3]
        rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
        filters[band] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return filters


def numpy_decibels(signal: np.ndarray) -> np.ndarray:
    """Mel spectrogram [96, 1360] of 29 s at 12 kHz, in decibels below its maximum, down to -80."""
    padded = np.pad(signal.astype(np.float64), 208)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::256]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2
    decibel = 10 * np.log10(np.maximum(slaney_filters() @ power.T, 1e-10))
    return np.maximum(decibel - decibel.max(), -80)


def numpy_features(signal: np.ndarray, path: Path) -> np.ndarray:
    """The tagger's 160 numbers, from the arrays of its file as they are stored."""
    import h5py

    decibel = numpy_decibels(signal)
    x = ((decibel - decibel.mean()) / (decibel.std() + 1e-10))[:, :, None]
    features = []
    with h5py.File(path, "r") as file:
        root = file["model_weights"]
        for block, pool in enumerate([(2, 4), (3, 4), (2, 5), (2, 4), (4, 4)], start=1):
            convolution = root[f"conv2d_{block}/conv2d_{block}"]
            norm = root[f"batch_normalization_{block}/batch_normalization_{block}"]
            gamma, beta, mean, variance = (
                norm[f"{name}:0"][()] for name in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            height, width = x.shape[:2]
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            total = np.zeros((height, width, 32)) + convolution["bias:0"][()]
            for row in range(3):
                for column in range(3):
                    patch = padded[row : row + height, column : column + width]
                    total += patch @ convolution["kernel:0"][row, column].astype(np.float64)
            total = (total - mean) / np.sqrt(variance + 1e-3) * gamma + beta
            x = np.where(total > 0, total, np.expm1(np.minimum(total, 0)))
            features.append(x.mean(axis=(0, 1)))
            rows, columns = height // pool[0], width // pool[1]
            x = x[: rows * pool[0], : columns * pool[1]]
            x = x.reshape(rows, pool[0], columns, pool[1], 32).max(axis=(1, 3))
    return np.concatenate(features)


@pytest.fixture(scope="module")
def weights() -> Path:
    """The published Keras 2 file, or a skip that says why."""
    place = os.environ.get("MOODFUSE_WEIGHTS")
    if not place:
        pytest.skip("MOODFUSE_WEIGHTS is not set: no pretrained weights")
    path = Path(place) / "choi_msd_tagger_keras2.hdf5" if Path(place).is_dir() else Path(place)
    if not path.is_file():
        pytest.skip(f"MOODFUSE_WEIGHTS holds no {path.name}")
    return path


@pytest.fixture(scope="module")
def sounds() -> torch.Tensor:
    """The sound of five real clips of different emotions, [5, 480000] at 16 kHz, or a skip that says why."""
    folder = os.environ.get("MOODFUSE_CLIPS")
    if not folder:
        pytest.skip("MOODFUSE_CLIPS is not set: no folder of real clips")
    paths = [sorted(label.glob("*.mp4"))[0] for label in sorted(Path(folder).iterdir()) if label.is_dir()]
    return torch.stack([torch.from_numpy(read_clip(path, short_side_px=64).waveform) for path in paths[:CLIPS]])


@pytest.fixture(scope="module")
def network(weights: Path) -> TwoDMCNN:
    """The tagger with its published weights."""
    found = create_network("twodmcnn", num_classes=6, weights=weights)
    assert isinstance(found, TwoDMCNN)
    return found


def test_decibels_equal_numpy(network: TwoDMCNN, sounds: torch.Tensor) -> None:
    """Wherever above the floor, the mel front end is within 1e-3 dB of NumPy's, from the same 12 kHz signal."""
    with torch.inference_mode():
        signals = network.resample(sounds)
        ours = network.decibels(signals).numpy()
    assert signals.shape == (CLIPS, 348_000) and ours.shape == (CLIPS, 96, 1360)
    for signal, found in zip(signals.numpy(), ours, strict=True):
        expected = numpy_decibels(signal)
        above = expected > -80 + 1e-3
        assert above.mean() > 0.1
        assert np.abs(found - expected)[above].max() < 1e-3
        assert np.abs(found - expected).max() < 2e-3


def test_features_equal_numpy(network: TwoDMCNN, sounds: torch.Tensor, weights: Path) -> None:
    """The 160 features of five real clips equal NumPy's to 1e-4 relative."""
    with torch.inference_mode():
        signals = network.resample(sounds).numpy()
        features = network.trunk(sounds).numpy()
    for signal, found in zip(signals, features, strict=True):
        expected = numpy_features(signal, weights)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_batch_of_five_equals_five_single_ones(network: TwoDMCNN, sounds: torch.Tensor) -> None:
    """No clip's features depend on its batch mates, and different clips differ."""
    with torch.inference_mode():
        together = network.trunk(sounds)
        alone = torch.cat([network.trunk(sound[None]) for sound in sounds])
    assert float((together - alone).abs().max()) < 1e-5 * float(alone.abs().max())
    assert float(torch.pdist(alone).min()) > 0.01 * float(alone.abs().max())
