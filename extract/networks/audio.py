"""The audio networks: `onedmcnn` on the raw waveform, `twodmcnn` on a mel spectrogram.

`twodmcnn` is the music tagger of Choi et al., "Transfer learning for music classification and regression
tasks" (ISMIR 2017, arXiv 1703.09179). Its mel front end is part of the network and repeats that of the
published Keras model: 12 kHz, at most 29 s, periodic Hann window of 512, hop 256, TensorFlow's 'same'
padding, power spectrum, 96 Slaney mels with area normalisation from 0 to 6 kHz, decibels below the clip's
maximum down to -80, standardised over the clip.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moodfuse.extract.networks.base import Network, global_mean
from moodfuse.extract.networks.registry import NetworkSpec

CHANNELS = 32

ONEDMCNN_BLOCKS = 4

SAMPLE_RATE_HZ = 12_000
RATES = (4, 3)  # 16 kHz in, 12 kHz out, divided by their common divisor
ZERO_CROSSINGS = 64
ROLLOFF = 0.9475937167399596  # cutoff of the resampling filter, relative to half the output rate
KAISER_BETA = 14.769656459379492
MAX_SAMPLES = 29 * SAMPLE_RATE_HZ
N_FFT = 512
HOP = 256
N_MELS = 96
FLOOR_DB = -80.0
MIN_POWER = 1e-10
MIN_STD = 1e-10
BN_EPS = 1e-3
POOLS = ((2, 4), (3, 4), (2, 5), (2, 4))  # over mels and time, between the five blocks


class OneDMCNN(Network):
    """Four blocks of Conv1d (32 filters, width 3, stride 2), ELU, Dropout 0.1 and MaxPool 2.

    The outputs of the four convolutions (after their ELU) and of the four poolings are averaged over time: 32
    x 8 numbers, in the order conv1, pool1, ..., conv4, pool4, flattened filter by filter to 256. As
    everything is averaged over time, it takes any waveform of 2 s or more.
    """

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(1 if block == 0 else CHANNELS, CHANNELS, kernel_size=3, stride=2, padding=1)
            for block in range(ONEDMCNN_BLOCKS)
        )
        self.elu = nn.ELU()
        self.dropout = nn.Dropout(0.1)
        self.pool = nn.MaxPool1d(2)
        self.initialise()

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, 256]``, float32, of waveforms ``[N, samples]`` in [-1, 1] at 16 kHz, from 2 s."""
        features = []
        signal = x.unsqueeze(1)
        for convolution in self.convolutions:
            signal = self.elu(convolution(signal))
            features.append(global_mean(signal))
            signal = self.pool(self.dropout(signal))
            features.append(global_mean(signal))
        return torch.stack(features, dim=2).flatten(1)


def slaney_filters(
    *, sample_rate_hz: int = SAMPLE_RATE_HZ, n_fft: int = N_FFT, n_mels: int = N_MELS
) -> np.ndarray:
    """Mel filters of Slaney's Auditory Toolbox with area normalisation, float64 ``[n_fft / 2 + 1, n_mels]``.

    From 0 to half the sampling rate; linear up to 1 kHz, 15 mels, and logarithmic above.
    """
    # In float64: a weight near the foot of a triangle loses its digits in float32, and decibels show it.
    mels = np.linspace(0.0, 15.0 + 27.0 * np.log(sample_rate_hz / 2 / 1000.0) / np.log(6.4), n_mels + 2)
    edges_hz = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))
    bins_hz = np.arange(n_fft // 2 + 1)[:, None] * sample_rate_hz / n_fft
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    triangles = np.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre))
    return np.asarray(np.maximum(triangles, 0.0) * 2.0 / (high - low))


def resampling_filters() -> Tensor:
    """Filters that resample from 16 to 12 kHz, float32 ``[3, 1, 186]``: one per output sample of a period.

    Sinc interpolation under a Kaiser window with the parameters of resampy's ``kaiser_best``, librosa's
    default in 2017: the published tagger was trained on audio resampled by it.
    """
    rate_in, rate_out = RATES
    cutoff = min(RATES) * ROLLOFF
    half_width = math.ceil(ZERO_CROSSINGS * rate_in / cutoff)
    inputs = torch.arange(-half_width, half_width + rate_in, dtype=torch.float64)[None, None] / rate_in
    outputs = torch.arange(0, -rate_out, -1, dtype=torch.float64)[:, None, None] / rate_out
    times = ((outputs + inputs) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    beta = torch.tensor(KAISER_BETA, dtype=torch.float64)
    window = torch.i0(beta * (1 - (times / ZERO_CROSSINGS).square()).sqrt()) / torch.i0(beta)
    return (torch.sinc(times) * window * (cutoff / rate_in)).float()


class TwoDMCNN(Network):
    """Five blocks of Conv2d (3 x 3, 32 filters), BatchNorm, ELU and max pooling on a log-mel spectrogram.

    The features are the global averages of the five ELU outputs, each before its max pooling: 160 numbers.
    The input is the raw waveform at 16 kHz; a whole clip of 30 s is cut to its first 29 s, as the published
    model takes, and a shorter crop passes at its own length.
    """

    has_spectrogram = True
    window: Tensor
    mel_filters: Tensor
    resampling_filters: Tensor

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.2)
        blocks = range(len(POOLS) + 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(1 if block == 0 else CHANNELS, CHANNELS, kernel_size=3, padding=1) for block in blocks
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS, eps=BN_EPS) for _ in blocks)
        self.register_buffer("mel_filters", torch.from_numpy(slaney_filters()), persistent=False)
        self.register_buffer(
            "window", torch.hann_window(N_FFT, periodic=True, dtype=torch.float64), persistent=False
        )
        self.register_buffer("resampling_filters", resampling_filters(), persistent=False)
        self.initialise()

    def blocks(self) -> list[nn.Module]:
        """Each convolution with its BatchNorm."""
        return [nn.ModuleList(pair) for pair in zip(self.convolutions, self.norms, strict=True)]

    def resample(self, waveform: Tensor) -> Tensor:
        """Waveforms ``[N, samples]`` at 16 kHz -> float32 at 12 kHz, cut at 29 s."""
        with torch.autocast(waveform.device.type, enabled=False):
            rate_in, rate_out = RATES
            half_width = (self.resampling_filters.shape[2] - rate_in) // 2
            padded = F.pad(waveform.float(), (half_width, half_width + rate_in))
            phases = F.conv1d(padded[:, None], self.resampling_filters, stride=rate_in)  # [N, 3, samples / 4]
            samples = math.ceil(waveform.shape[1] * rate_out / rate_in)
            resampled = phases.transpose(1, 2).flatten(1)[:, :samples]
        return resampled[:, :MAX_SAMPLES]

    def decibels(self, waveform_12k: Tensor) -> Tensor:
        """Mel spectrogram in decibels below the clip's loudest point, from -80 to 0.

        Waveforms ``[N, samples]`` at 12 kHz -> float32 ``[N, 96, ceil(samples / 256)]``, low mels first.
        """
        # Without autocast, whose bfloat16 is off by tenths of a dB, and in float64, since in float32 quiet
        # bands next to loud ones are off by thousandths.
        with torch.autocast(waveform_12k.device.type, enabled=False):
            waveform = waveform_12k.double()
            samples = waveform.shape[1]
            total = max((-(-samples // HOP) - 1) * HOP + N_FFT - samples, 0)
            padded = F.pad(waveform, (total // 2, total - total // 2))
            spectrum = torch.stft(padded, N_FFT, HOP, window=self.window, center=False, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            mel = self.mel_filters.t() @ power
            decibel = 10 * torch.log10(mel.clamp(min=MIN_POWER))
            return (decibel - decibel.amax(dim=(1, 2), keepdim=True)).clamp(min=FLOOR_DB).float()

    def log_mel(self, waveform_12k: Tensor) -> Tensor:
        """`decibels` with mean 0 and standard deviation 1 over each clip, ``[N, 1, 96, frames]``."""
        with torch.autocast(waveform_12k.device.type, enabled=False):
            decibel = self.decibels(waveform_12k)
            mean = decibel.mean(dim=(1, 2), keepdim=True)
            std = decibel.std(dim=(1, 2), keepdim=True, correction=0)
            return ((decibel - mean) / (std + MIN_STD)).unsqueeze(1)

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, 160]``, float32, of waveforms ``[N, samples]`` in [-1, 1] at 16 kHz, from 7 s."""
        features = []
        x = self.mask(self.log_mel(self.resample(x)))
        for block, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if block > 0:
                x = F.max_pool2d(x, POOLS[block - 1])
            x = F.elu(norm(convolution(x)))
            features.append(global_mean(x))
        return torch.cat(features, dim=1)
