"""The audio network `musicnn` on a log-mel spectrogram.

Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging" (ISMIR 2019,
arXiv 1909.06654), the model that the package ``musicnn`` calls ``MSD_musicnn`` and ``MTT_musicnn``. Its mel
front end is part of the network and repeats that of the package: 16 kHz, periodic Hann window of 512, hop
256, centred frames with reflected ends, power spectrum, 96 Slaney mels with area normalisation from 0 to 8
kHz, log10(10000 power + 1). The package rounds the power to float16, which overflows to infinity; here it is
not rounded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moodfuse.extract.networks.audio import slaney_filters
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.registry import NetworkSpec

SAMPLE_RATE_HZ = 16_000
N_FFT = 512
HOP = 256
N_MELS = 96
LOG_SCALE = 10_000.0
PATCH_FRAMES = 187  # 3 s
BN_EPS = 1e-3
# Frames, mels and filters of the front-end convolutions: two for timbre, three for rhythm.
FRONT_END = ((7, 38, 204), (7, 67, 204), (128, 1, 51), (64, 1, 51), (32, 1, 51))
MID_END = 64  # filters of each of the three mid-end convolutions
MID_END_FRAMES = 7


class Musicnn(Network):
    """Convolutions for timbre and rhythm, three dense convolutions over time, and a dense layer.

    The spectrogram is cut into patches of 187 frames (3 s) that do not overlap. The features are the
    package's `penultimate`, 200 numbers, averaged over the patches. Patches that reach into the zeros at the
    end of a waveform do not count, as the package uses complete patches of a file only, except for the first.
    """

    has_spectrogram = True
    window: Tensor
    mel_filters: Tensor

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.5)
        width = sum(filters for _, _, filters in FRONT_END)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(1, filters, (frames, mels)) for frames, mels, filters in FRONT_END
        )
        self.convolutions.extend(
            nn.Conv1d(channels, MID_END, MID_END_FRAMES, padding="same")
            for channels in (width, MID_END, MID_END)
        )
        pooled = 2 * (width + 3 * MID_END)
        self.dense = nn.Linear(pooled, spec.embedding_width)
        # In the order of the package's graph: of the input, after each convolution, and around `dense`.
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm2d(1),
                *(nn.BatchNorm2d(filters) for _, _, filters in FRONT_END),
                *(nn.BatchNorm1d(MID_END) for _ in range(3)),
                nn.BatchNorm1d(pooled),
                nn.BatchNorm1d(spec.embedding_width),
            ]
        )
        self.dropout = nn.Dropout(0.5)
        filters = slaney_filters(sample_rate_hz=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=N_MELS)
        self.register_buffer("mel_filters", torch.from_numpy(filters), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT, dtype=torch.float64), persistent=False)
        self.set_bn_eps(BN_EPS)
        self.initialise()

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel spectrogram, float32 ``[N, 1 + samples // 256, 96]``, of waveforms ``[N, samples]``."""
        # In float64, as `twodmcnn`.
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.double(), N_FFT, HOP, window=self.window, pad_mode="reflect", return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()
            mel = power.transpose(1, 2) @ self.mel_filters
            return torch.log10(LOG_SCALE * mel + 1).float()

    def blocks(self) -> list[nn.Module]:
        """The front end, each of the other convolutions with its BatchNorm, and the dense layer."""
        pairs = [nn.ModuleList(pair) for pair in zip(self.convolutions, self.norms[1:9], strict=True)]
        front_end = nn.ModuleList([self.norms[0], *pairs[: len(FRONT_END)]])
        dense = nn.ModuleList([self.norms[9], self.dense, self.norms[10]])
        return [front_end, *pairs[len(FRONT_END) :], dense]

    def convolve(self, number: int, x: Tensor) -> Tensor:
        """One convolution with its ReLU and BatchNorm."""
        output: Tensor = self.norms[number + 1](F.relu_(self.convolutions[number](x)))
        return output

    def penultimate(self, patches: Tensor) -> Tensor:
        """The package's `penultimate`, ``[N, 200]``, of log-mel patches ``[N, frames, 96]``."""
        x = self.mask(self.norms[0](patches[:, None]))
        outputs = []
        for number, (frames, _, _) in enumerate(FRONT_END):
            # TensorFlow's 'same' over time: the extra zero of an even kernel is at the end.
            padded = F.pad(x, (0, 0, (frames - 1) // 2, frames // 2))
            outputs.append(self.convolve(number, padded).amax(dim=3))
        front_end = torch.cat(outputs, dim=1)  # [N, 561, frames]
        first = self.convolve(5, front_end)
        second = self.convolve(6, first) + first
        third = self.convolve(7, second) + second
        features = torch.cat([front_end, first, second, third], dim=1).float()
        pooled = torch.stack([features.amax(dim=2), features.mean(dim=2)], dim=2).flatten(1)
        hidden = F.relu(self.dense(self.dropout(self.norms[9](pooled))))
        output: Tensor = self.norms[10](hidden)
        return output.float()

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, 200]``, float32, of waveforms ``[N, samples]`` in [-1, 1] at 16 kHz, from 3 s."""
        log_mel = self.log_mel(x)
        count = log_mel.shape[1] // PATCH_FRAMES
        patches = log_mel[:, : count * PATCH_FRAMES].unflatten(1, (count, PATCH_FRAMES))
        features = self.penultimate(patches.flatten(0, 1)).unflatten(0, (len(x), count))
        counted = torch.arange(count, device=x.device) < complete_patches(x)[:, None]  # [N, count]
        weights = counted / counted.sum(dim=1, keepdim=True)
        return (features * weights[..., None]).sum(dim=1)


def complete_patches(x: Tensor) -> Tensor:
    """How many patches of waveforms ``[N, samples]`` end before the zeros at the end, at least 1: ``[N]``."""
    positions = torch.arange(1, x.shape[1] + 1, device=x.device)
    sounding = ((x != 0) * positions).amax(dim=1)
    return ((1 + sounding // HOP) // PATCH_FRAMES).clamp(min=1)
