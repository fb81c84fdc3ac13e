"""The front end of `twodmcnn`; the tagger equals its published file, computed in NumPy, on real clips.

Choi et al., "Transfer learning for music classification and regression tasks" (arXiv 1703.09179), in its
Keras 2 model: kapre's mel spectrogram in decibels, standardised over the clip, then five blocks of
convolution, BatchNorm, ELU and max pooling; the features are the averages of the five ELU outputs. All sums
are in float64, on the arrays of the file.
"""

import math
import os
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch

from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.audio import TwoDMCNN

FILE = "choi_msd_tagger_keras2.hdf5"
CLIPS = 2
RESAMPLED_CLIPS = 5
SAMPLES_16K = 30 * 16_000
SAMPLES_12K = 29 * 12_000
FRAMES = 1360
FLOOR_DB = -80.0
BAR_DB = 1e-3
BAR_FEATURES = 1e-4
BAR_RESAMPLED = 0.015
ZERO_CROSSINGS, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492  # of resampy's kaiser_best
POOLS = ((2, 4), (3, 4), (2, 5), (2, 4), (4, 4))

Arrays = dict[str, np.ndarray]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("samples", [1, 16_001, 112_000, 480_000])
def test_resampling_equals_torchaudio(samples: int) -> None:
    """Waveforms at 12 kHz are within 1e-6 of those of torchaudio's Kaiser filter, cut at 29 s."""
    import torchaudio  # here, so that a torchaudio that does not load fails this test alone

    network = create_network("twodmcnn", num_classes=6)
    assert isinstance(network, TwoDMCNN)
    waveforms = torch.rand(2, samples, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = torchaudio.functional.resample(
        waveforms,
        16_000,
        12_000,
        lowpass_filter_width=ZERO_CROSSINGS,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=BETA,
    )[:, :SAMPLES_12K]
    resampled = network.resample(waveforms)
    assert resampled.shape == expected.shape
    assert float((resampled - expected).abs().max()) < 1e-6


@pytest.fixture(scope="module")
def weights() -> Path:
    """The published Keras 2 file, or a skip that says why."""
    folder = os.environ.get("MOODFUSE_WEIGHTS")
    if not folder:
        pytest.skip("MOODFUSE_WEIGHTS is not set: no folder of pretrained weights")
    path = Path(folder) / FILE
    if not path.is_file():
        pytest.skip(f"the folder in MOODFUSE_WEIGHTS holds no {FILE}")
    return path


@pytest.fixture(scope="module")
def arrays(weights: Path) -> Arrays:
    """The arrays of the file as they are stored, by layer and name."""
    arrays: Arrays = {}
    with h5py.File(weights, "r") as file:
        for layer, group in file["model_weights"].items():
            for name, value in group.get(layer, {}).items():
                arrays[f"{layer}/{name.removesuffix(':0')}"] = value[()]
    return arrays


def sound(path: Path) -> np.ndarray:
    """The first 30 s of audio, the mean of both channels, at 16 kHz, zero-padded at the end."""
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=16_000)
    with av.open(str(path)) as container:
        frames = [*container.decode(audio=0), None]  # None empties the resampler
        chunks = [chunk.to_ndarray().mean(axis=0) for frame in frames for chunk in resampler.resample(frame)]
    samples = np.concatenate(chunks)[:SAMPLES_16K]
    return np.pad(samples, (0, SAMPLES_16K - len(samples)))


def clip_paths(count: int) -> list[Path]:
    """Real clips of different moods, or a skip that says why."""
    folder = os.environ.get("MOODFUSE_CLIPS")
    if not folder:
        pytest.skip("MOODFUSE_CLIPS is not set: no folder of real clips")
    moods = [sorted(mood.glob("*.mp4")) for mood in sorted(Path(folder).iterdir()) if mood.is_dir()]
    paths = [clips[-1] for clips in moods if clips][-count:]
    if len(paths) < count:
        pytest.skip(f"the folder in MOODFUSE_CLIPS has clips of {len(paths)} moods, {count} are needed")
    return paths


@pytest.fixture(scope="module")
def sounds() -> torch.Tensor:
    """Audio of real clips of different moods, [CLIPS, 480000] at 16 kHz, or a skip that says why."""
    return torch.from_numpy(np.stack([sound(path) for path in clip_paths(CLIPS)]))


@pytest.fixture(scope="module")
def network(weights: Path) -> TwoDMCNN:
    """Our tagger with the published weights."""
    network = create_network("twodmcnn", num_classes=6, weights=weights)
    assert isinstance(network, TwoDMCNN)
    return network


@pytest.fixture(scope="module")
def signals(network: TwoDMCNN, sounds: torch.Tensor) -> torch.Tensor:
    """The 12 kHz signals, [CLIPS, 348000], that both sides start from."""
    with torch.inference_mode():
        return network.resample(sounds)


def hann() -> np.ndarray:
    """Periodic Hann window of 512 samples."""
    return np.sin(np.pi * np.arange(512) / 512) ** 2


def mel_filters() -> np.ndarray:
    """96 Slaney mels of equal area from 0 to 6 kHz, [257, 96].

    A mel is 200 / 3 Hz up to 1 kHz, and from there 27 mels are a factor of 6.4.
    """

    def hz(mel: float) -> float:
        return mel * 200 / 3 if mel <= 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * np.log(6) / np.log(6.4)
    edges = [hz(highest * number / 97) for number in range(98)]
    bins = np.linspace(0, 6000, 257)
    bank = [
        np.interp(bins, [low, centre, high], [0, 2 / (high - low), 0])
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    return np.stack(bank, axis=1)


def windows(signal: np.ndarray) -> np.ndarray:
    """Windows [1360, 512] of 29 s at 12 kHz, float64; 'same' puts 208 zeros on either side."""
    padded = np.concatenate([np.zeros(208), signal, np.zeros(208)])
    return np.stack([padded[256 * frame : 256 * frame + 512] for frame in range(FRAMES)])


def below_maximum(mel_power: np.ndarray) -> np.ndarray:
    """Decibels [96, 1360] below the clip's maximum, cut at -80, of mel power [1360, 96]."""
    decibels = 10 * np.log10(np.maximum(mel_power, 1e-10)).T
    return np.maximum(decibels - decibels.max(), FLOOR_DB)


def reference_decibels(signal: np.ndarray) -> np.ndarray:
    """Mel spectrogram of 29 s at 12 kHz, with the transform and the filters that the file's approximate."""
    return below_maximum(np.abs(np.fft.rfft(windows(signal) * hann(), axis=1)) ** 2 @ mel_filters())


def reference_block(x: np.ndarray, arrays: Arrays, block: int) -> np.ndarray:
    """Zero-padded convolution, BatchNorm and ELU of a map [H, W, C], with Keras's arrays of one block."""
    kernel = arrays[f"conv2d_{block}/kernel"].astype(np.float64)
    norm = f"batch_normalization_{block}"
    gamma, beta = arrays[f"{norm}/gamma"], arrays[f"{norm}/beta"]
    mean, variance = arrays[f"{norm}/moving_mean"], arrays[f"{norm}/moving_variance"].astype(np.float64)
    height, width, channels = x.shape
    padded = np.zeros((height + 2, width + 2, channels))
    padded[1:-1, 1:-1] = x
    out = np.zeros((height, width, kernel.shape[-1]))
    for row, column in np.ndindex(3, 3):
        out += padded[row : row + height, column : column + width] @ kernel[row, column]
    out = (out + arrays[f"conv2d_{block}/bias"] - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    return np.where(out > 0, out, np.exp(np.minimum(out, 0)) - 1)


def reference_features(signal: np.ndarray, arrays: Arrays) -> np.ndarray:
    """The 160 features of 29 s at 12 kHz."""
    decibels = reference_decibels(signal)
    x = ((decibels - decibels.mean()) / (decibels.std() + 1e-10))[:, :, None]
    features = []
    for block, (rows, columns) in enumerate(POOLS, start=1):
        x = reference_block(x, arrays, block)
        features.append(x.mean(axis=(0, 1)))
        height, width = x.shape[0] // rows, x.shape[1] // columns
        x = x[: height * rows, : width * columns].reshape(height, rows, width, columns, -1).max(axis=(1, 3))
    return np.concatenate(features)


def test_the_reference_has_the_front_end_of_the_file(arrays: Arrays) -> None:
    """The file's transform is the windowed Fourier transform, and its filters are those of the reference."""
    time, frequency = np.arange(512)[:, None], np.arange(257)[None, :]
    angle = 2 * np.pi * ((time * frequency) % 512) / 512
    real, imaginary = (arrays[f"melgram/{name}_kernels"][:, 0, 0, :] for name in ("real", "imag"))
    assert np.abs(real - hann()[:, None] * np.cos(angle)).max() < 1e-6
    assert np.abs(imaginary - hann()[:, None] * np.sin(angle)).max() < 1e-6
    assert np.abs(arrays["melgram/Variable"] - mel_filters()).max() < 1e-5 * mel_filters().max()


def test_decibels(network: TwoDMCNN, signals: torch.Tensor) -> None:
    """Above the floor of -80 dB, the log-mel spectrogram is within 1e-3 dB of the reference."""
    with torch.inference_mode():
        ours = network.decibels(signals).numpy()
    assert signals.shape == (CLIPS, SAMPLES_12K) and ours.shape == (CLIPS, 96, FRAMES)
    for actual, signal in zip(ours, signals.numpy(), strict=True):
        expected = reference_decibels(signal)
        above = expected > FLOOR_DB
        assert above.mean() > 0.5
        assert np.abs(actual - expected)[above].max() < BAR_DB
        assert (actual[~above] < FLOOR_DB + BAR_DB).all()


def test_features(network: TwoDMCNN, sounds: torch.Tensor, signals: torch.Tensor, arrays: Arrays) -> None:
    """The 160 features of each clip are within 1e-4 of the reference's largest, in every block."""
    with torch.inference_mode():
        ours = network.trunk(sounds).numpy()
    for actual, signal in zip(ours, signals.numpy(), strict=True):
        expected = reference_features(signal, arrays)
        assert expected.shape == actual.shape == (160,)
        assert np.abs(actual - expected).max() < BAR_FEATURES * np.abs(expected).max()


def decoded_sound(path: Path) -> tuple[np.ndarray, int]:
    """The first 30 s of a file's audio at its own rate, the mean of its channels, and the rate in Hz."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray().mean(axis=0, dtype=np.float64) for frame in frames])
    rate_hz, begins_s = frames[0].sample_rate, float(frames[0].pts * frames[0].time_base)
    return np.pad(samples, (round(begins_s * rate_hz), 0))[: 30 * rate_hz], rate_hz


def kaiser_resampled(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Audio of any rate at 12 kHz, float64: sums of sinc functions under a Kaiser window."""
    common = math.gcd(rate_hz, 12_000)
    period_in, period_out = rate_hz // common, 12_000 // common
    zeros_per_s = 12_000 * ROLLOFF
    reach = math.ceil(ZERO_CROSSINGS / zeros_per_s * rate_hz)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(samples, (reach, reach + period_in)), 2 * reach + 2
    )
    resampled = np.zeros(math.ceil(len(samples) * period_out / period_in))
    for output in range(period_out):
        first, remainder = divmod(output * period_in, period_out)
        crossings = (np.arange(-reach, reach + 2) - remainder / period_out) * zeros_per_s / rate_hz
        inside = np.clip(1 - (crossings / ZERO_CROSSINGS) ** 2, 0, None)
        kernel = np.sinc(crossings) * np.i0(BETA * np.sqrt(inside)) / np.i0(BETA) * (inside > 0)
        places = resampled[output::period_out]
        places[:] = (windows[first::period_in] @ kernel)[: len(places)] * zeros_per_s / rate_hz
    return resampled


def test_features_of_files_equal_those_of_audio_resampled_once(network: TwoDMCNN, arrays: Arrays) -> None:
    """Features of decoded files are within 1.5 % of those of audio resampled to 12 kHz from its own rate."""
    errors = []
    for path in clip_paths(RESAMPLED_CLIPS):
        waveform = read_clip(path, short_side_px=16).waveform
        with torch.inference_mode():
            actual = network.trunk(torch.from_numpy(waveform)[None])[0].numpy()
        signal = kaiser_resampled(*decoded_sound(path))[:SAMPLES_12K]
        expected = reference_features(np.pad(signal, (0, SAMPLES_12K - len(signal))), arrays)
        errors.append(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
    assert max(errors) < BAR_RESAMPLED


def test_mel_front_end_ignores_autocast() -> None:
    """Under bfloat16 autocast the log-mel spectrogram is the same to the bit, and features stay float32."""
    network = create_network("twodmcnn", num_classes=6)
    assert isinstance(network, TwoDMCNN)
    x = torch.rand(1, 128_000, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.inference_mode():
        plain = network.log_mel(network.resample(x))
        with torch.autocast("cpu", torch.bfloat16):
            cast = network.log_mel(network.resample(x))
            embedding, logits = network(x)
    assert torch.equal(plain, cast)
    assert embedding.dtype == torch.float32 and logits.dtype == torch.float32


def test_silence_and_length_of_log_mel() -> None:
    """Silence is all zero; a whole clip is cut at 29 s to 1360 frames, a crop keeps its own length."""
    network = create_network("twodmcnn", num_classes=6)
    assert isinstance(network, TwoDMCNN)
    with torch.inference_mode():
        whole = network.log_mel(network.resample(torch.zeros(1, 480_000)))
        crop = network.log_mel(network.resample(torch.rand(1, 112_000) - 0.5))
    assert whole.shape == (1, 1, 96, 1360) and not bool(whole.any())
    assert crop.shape == (1, 1, 96, 329)  # 84 000 samples at 12 kHz, 256 a frame
    assert abs(float(crop.mean())) < 1e-4 and abs(float(crop.std()) - 1) < 1e-3
