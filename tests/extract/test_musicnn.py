"""`musicnn` and the reader of its checkpoint.

Network and reader together equal NumPy sums over the arrays of a checkpoint of random numbers, written as the
package ``musicnn`` 0.1.0 has it (Pons and Serra, arXiv 1909.06654, and the code of the package).
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.extract.networks import WeightsError, create_network, weights_facts
from moodfuse.extract.networks.musicnn import Musicnn
from moodfuse.extract.networks.weights import musicnn as checkpoint
from moodfuse.extract.networks.weights.fetch import weights_folder
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS

Arrays = dict[str, np.ndarray]
RATE_HZ = 16_000
PADDED_S = 10  # three patches
BAR = 1e-4
# Kernels as frames, mels or channels, in, out; the convolutions of the front end are the first five.
KERNELS = (
    *((7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)),
    *((7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)),
)
DENSE = ((1506, 200), (200, 50))
NORMS = (1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)
# Of TensorFlow 2.21 with the package's graph and MSD weights for `chord(30)`: the first features of the mean
# over the patches, its mean and its standard deviation. The spectrogram is librosa's, in float32.
FIRST_FEATURES = (-0.177176, 0.404998, -0.284826, -0.275121, -0.353151, 1.483573, 1.562902, 0.213607)
MEAN, STD = 0.157661, 0.700099
pytestmark = pytest.mark.usefixtures("one_thread")


def numbered(layer: str, number: int) -> str:
    """The name of a layer in TensorFlow's graph."""
    return f"{layer}_{number}" if number else layer


def random_arrays() -> Arrays:
    """Random arrays under the names of the checkpoint, without the state of the optimizer."""
    random = np.random.default_rng(0)
    shapes = {numbered("conv2d", number): shape for number, shape in enumerate(KERNELS)}
    shapes |= {numbered("dense", number): shape for number, shape in enumerate(DENSE)}
    arrays: Arrays = {}
    for layer, shape in shapes.items():
        arrays[f"{layer}/kernel"] = random.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        arrays[f"{layer}/bias"] = random.normal(0, 0.1, shape[-1])
    for number, channels in enumerate(NORMS):
        norm = numbered("batch_normalization", number)
        for name in ("gamma", "moving_variance"):
            arrays[f"{norm}/{name}"] = random.uniform(0.5, 1.5, channels)
        for name in ("beta", "moving_mean"):
            arrays[f"{norm}/{name}"] = random.normal(0, 0.1, channels)
    return {name: value.astype("<f4") for name, value in arrays.items()}


def write_checkpoint(path: Path, arrays: Arrays) -> None:
    """Write the data file of a checkpoint: arrays and the state of Adam in the order of their names."""
    state = {"beta1_power": np.array([0.9], "<f4"), "beta2_power": np.array([0.999], "<f4")}
    for name, value in arrays.items():
        if "moving" not in name:
            state |= {f"{name}/{slot}": np.full_like(value, 9.0) for slot in ("Adam", "Adam_1")}
    content = {**arrays, **state}
    path.write_bytes(b"".join(content[name].tobytes() for name in sorted(content)))


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """The arrays of the checkpoint."""
    return random_arrays()


@pytest.fixture
def path(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose digest is taken for that of a published one."""
    path = tmp_path / "weights"
    write_checkpoint(path, arrays)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(checkpoint, "SHA256", {"MSD_musicnn": digest})
    return path


def network_of(path: Path | None = None) -> Musicnn:
    """The network with the weights of a checkpoint, or always the same random ones."""
    torch.manual_seed(0)
    network = create_network("musicnn", num_classes=6, weights=path)
    assert isinstance(network, Musicnn)
    return network


def embed(network: Musicnn, waveform: np.ndarray) -> np.ndarray:
    """The embedding of one waveform."""
    with torch.inference_mode():
        embedding: np.ndarray = network.trunk(torch.from_numpy(waveform.astype(np.float32))[None])[0].numpy()
    return embedding


def chord(seconds: float) -> np.ndarray:
    """A chord that swells twice a second, in noise: float32 at 16 kHz."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * hz * t) for hz in (220, 277, 330))
    noise = np.random.default_rng(0).uniform(-1, 1, len(t))
    return (0.1 * tones * (1 + np.sin(4 * np.pi * t)) + 0.05 * noise).astype(np.float32)


def mel_filters() -> np.ndarray:
    """96 Slaney mels of equal area from 0 to 8 kHz, [257, 96]."""

    def hz(mel: float) -> float:
        return mel * 200 / 3 if mel <= 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * np.log(8) / np.log(6.4)
    edges = [hz(highest * number / 97) for number in range(98)]
    bins = np.linspace(0, 8000, 257)
    triangles = [
        np.interp(bins, [low, centre, high], [0, 2 / (high - low), 0])
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    return np.stack(triangles, axis=1)


def reference_log_mel(waveform: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram [frames, 96]: frames around every 256th sample, the ends reflected."""
    padded = np.pad(waveform.astype(np.float64), 256, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 512)[::256]
    hann = np.sin(np.pi * np.arange(512) / 512) ** 2
    return np.log10(10_000 * (np.abs(np.fft.rfft(windows * hann)) ** 2 @ mel_filters()) + 1)


def normalised(x: np.ndarray, arrays: Arrays, number: int) -> np.ndarray:
    """BatchNorm over the last axis, with the running statistics."""
    norm = numbered("batch_normalization", number)
    scale = arrays[f"{norm}/gamma"] / np.sqrt(arrays[f"{norm}/moving_variance"].astype(np.float64) + 1e-3)
    return (x - arrays[f"{norm}/moving_mean"]) * scale + arrays[f"{norm}/beta"]


def convolved(x: np.ndarray, arrays: Arrays, number: int) -> np.ndarray:
    """Convolution of a map [time, height], ReLU and BatchNorm: [time, positions, filters]; time is padded."""
    kernel = arrays[f"{numbered('conv2d', number)}/kernel"][:, :, 0]  # [frames, height, filters]
    frames, height, filters = kernel.shape
    padded = np.pad(x, (((frames - 1) // 2, frames // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (frames, height))
    sums = windows.reshape(*windows.shape[:2], -1) @ kernel.reshape(-1, filters).astype(np.float64)
    rectified = np.maximum(sums + arrays[f"{numbered('conv2d', number)}/bias"], 0)
    return normalised(rectified, arrays, number + 1)


def reference_features(patch: np.ndarray, arrays: Arrays) -> np.ndarray:
    """The 200 features of one patch [187, 96]."""
    x = normalised(patch[..., None], arrays, 0)[..., 0]
    front_end = np.concatenate([convolved(x, arrays, number).max(axis=1) for number in range(5)], axis=1)
    first = convolved(front_end, arrays, 5)[:, 0]
    second = convolved(first, arrays, 6)[:, 0] + first
    third = convolved(second, arrays, 7)[:, 0] + second
    features = np.concatenate([front_end, first, second, third], axis=1)
    pooled = np.stack([features.max(axis=0), features.mean(axis=0)], axis=1).ravel()
    hidden = normalised(pooled, arrays, 9) @ arrays["dense/kernel"] + arrays["dense/bias"]
    return normalised(np.maximum(hidden, 0), arrays, 10)


def test_features_equal_the_reference(path: Path, arrays: Arrays) -> None:
    """The mean over both complete patches of 7 s is within 1e-4 of the largest feature."""
    waveform = chord(7)
    log_mel = reference_log_mel(waveform)
    network = network_of(path)
    with torch.inference_mode():
        ours = network.log_mel(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(ours, log_mel, rtol=0, atol=1e-5)
    expected = np.mean([reference_features(log_mel[at : at + 187], arrays) for at in (0, 187)], axis=0)
    assert expected.shape == (200,) and expected.std() > 0.1
    assert np.abs(embed(network, waveform) - expected).max() < BAR * np.abs(expected).max()
    assert network.pretrained


def test_facts_of_a_checkpoint(path: Path) -> None:
    """The file is recognised under any name; its last layer is dropped; another network refuses it."""
    facts = weights_facts(path, "musicnn")
    assert (facts.layout, facts.dropped, facts.bn_eps) == ("jordipons/musicnn", ("dense_1",), None)
    with pytest.raises(WeightsError, match="not weights of twodmcnn: holds arrays such as batch_norm"):
        create_network("twodmcnn", num_classes=6, weights=path)


def test_another_file_of_that_size_is_refused(path: Path) -> None:
    """One changed byte is an error with the digest of the file."""
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(WeightsError, match=f"{path}: .*its SHA-256 is {digest}, .*fetch it again") as error:
        create_network("musicnn", num_classes=6, weights=path)
    assert "\n" not in str(error.value)


def test_the_table_of_arrays_gives_the_published_size() -> None:
    """The published files have 9 465 596 bytes: 64 arrays, and the state of the optimizer."""
    assert checkpoint.SIZE_BYTES == 9_465_596
    assert {known.check.value for known in KNOWN_WEIGHTS.values() if known.network == "musicnn"} == set(
        checkpoint.SHA256.values()
    )


@pytest.mark.parametrize("seconds", [7, 3.5])
def test_patches_that_reach_into_the_padding_do_not_count(seconds: float) -> None:
    """A short clip has the same features with zeros at its end as without them, alone and in a batch."""
    network, short = network_of(), chord(seconds)
    padded = np.pad(short, (0, PADDED_S * RATE_HZ - len(short)))
    expected = embed(network, short)
    np.testing.assert_allclose(embed(network, padded), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        batch = network.trunk(torch.from_numpy(np.stack([chord(PADDED_S), padded]))).numpy()
    np.testing.assert_allclose(batch[1], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(batch[0] - expected).max() > 0.01


def test_a_clip_shorter_than_a_patch_has_features() -> None:
    """The first patch counts for 1 s and for silence; pauses inside a clip count as part of it."""
    network = network_of()
    zeros = np.zeros(PADDED_S * RATE_HZ, np.float32)
    second = zeros.copy()
    second[:RATE_HZ] = chord(1)
    np.testing.assert_allclose(
        embed(network, second), embed(network, second[: 3 * RATE_HZ]), rtol=1e-4, atol=1e-5
    )
    assert np.isfinite(embed(network, zeros)).all()
    pause = second.copy()
    pause[-RATE_HZ:] = chord(1)
    assert np.abs(embed(network, pause) - embed(network, second)).max() > 0.01


def test_front_end_ignores_autocast() -> None:
    """Under bfloat16 autocast the log-mel spectrogram is the same to the bit, and features stay float32."""
    network, waveforms = network_of(), torch.from_numpy(chord(4))[None]
    with torch.inference_mode():
        plain = network.log_mel(waveforms)
        with torch.autocast("cpu", torch.bfloat16):
            cast = network.log_mel(waveforms)
            embedding, logits = network(waveforms)
    assert torch.equal(plain, cast)
    assert embedding.dtype == torch.float32 and logits.dtype == torch.float32


def test_published_weights_equal_tensorflow() -> None:
    """With the MSD weights, the features of a chord are within 1e-4 of those of the package's own graph."""
    known = KNOWN_WEIGHTS["musicnn-msd"]
    folders = [Path(os.environ.get("MOODFUSE_WEIGHTS", "")), weights_folder()]
    published = next((folder / known.file for folder in folders if (folder / known.file).is_file()), None)
    if published is None:
        pytest.skip(f"no {known.file} in MOODFUSE_WEIGHTS or in the folder of moodfuse weights fetch")
    features = embed(network_of(published), chord(30))
    ours = [*features[: len(FIRST_FEATURES)], features.mean(), features.std()]
    assert np.abs(np.subtract(ours, [*FIRST_FEATURES, MEAN, STD])).max() < BAR * np.abs(features).max()
