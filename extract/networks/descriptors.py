"""Sources without weights: descriptors of the frames (`frame-stats`) and of the audio (`audio-stats`).

`docs/networks.md` defines each descriptor. Units are chosen so that most descriptors have a range of about
one: levels are in bels (10 dB), frequencies in kHz.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moodfuse.extract.networks.audio import slaney_filters
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.inputs import AudioPreprocessing
from moodfuse.extract.networks.registry import NetworkSpec

TINY = 1e-10


class Descriptors(Network):
    """A network whose trunk computes descriptors and has no weights, so only its classifier can be tuned."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.2)
        self.initialise()

    def trunk(self, x: Tensor) -> Tensor:
        """Descriptors ``[N, D]``, float32, also where autocast is on."""
        with torch.autocast(x.device.type, enabled=False):
            return self.describe(x.float())

    def describe(self, x: Tensor) -> Tensor:
        """Descriptors ``[N, D]`` of a batch in float32."""
        raise NotImplementedError


def mean_and_std(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean and standard deviation over time of each column, side by side: ``[N, T, K]`` -> ``[N, 2 K]``.

    Each point in time counts by its weight, ``[N, T]``.
    """
    share = torch.ones_like(values[..., :1]) if weights is None else weights[..., None]
    share = share / share.sum(dim=1, keepdim=True)
    mean = (values * share).sum(dim=1)
    variance = ((values - mean[:, None]).square() * share).sum(dim=1)
    return torch.stack([mean, variance.sqrt()], dim=2).flatten(1)


def names_of(*quantities: str) -> tuple[str, ...]:
    """Names of the columns of `mean_and_std`."""
    return tuple(f"{quantity}_{part}" for quantity in quantities for part in ("mean", "std"))


# Frames

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
DARK, BRIGHT = 0.2, 0.8  # luma
EDGE = 0.1  # gradient of luma per pixel
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
HISTOGRAM_STEPS = 8  # of a channel's histogram
CUT = 0.3  # distance of histograms
FRAME_NAMES = (
    *names_of("brightness", "contrast", "saturation", "saturation_spread", "colourfulness", "edges"),
    *names_of("dark", "bright", "hue_cos", "hue_sin", *HUES),
    *("brightness_max", "contrast_max", "saturation_max", "colourfulness_max", "edges_max"),
    *names_of("motion", "brightness_change", "histogram_change"),
    "cuts",
)
"""Names of the descriptors of `frame-stats`, in the order of the embedding."""


class FrameStats(Descriptors):
    """Colour, brightness, contrast, edges, motion and cuts of frames ``[N, 3, T, H, W]``, RGB in [0, 1]."""

    def describe(self, x: Tensor) -> Tensor:
        """Descriptors ``[N, len(FRAME_NAMES)]``; of a single frame, those of a clip without motion."""
        frames = x.transpose(1, 2)  # [N, T, 3, H, W]
        if frames.shape[1] == 1:
            frames = frames.repeat(1, 2, 1, 1, 1)
        red, green, blue = frames.unbind(2)
        luma = sum(weight * channel for weight, channel in zip(LUMA, (red, green, blue), strict=True))
        assert isinstance(luma, Tensor)
        largest, smallest = frames.amax(dim=2), frames.amin(dim=2)
        saturation = (largest - smallest) / largest.clamp(min=TINY)
        yellow_blue = (red + green) / 2 - blue
        opponent = torch.stack([red - green, yellow_blue], dim=2)
        columns = [
            mean_of(luma),
            spread_of(luma),
            mean_of(saturation),
            spread_of(saturation),
            length_of(spread_of(opponent)) + 0.3 * length_of(mean_of(opponent)),
            mean_of(gradient(luma) > EDGE),
            mean_of(luma < DARK),
            mean_of(luma > BRIGHT),
            *hue_columns(frames[..., ::2, ::2]),  # a quarter of the pixels is enough for these
        ]
        per_frame = torch.stack(columns, dim=2)  # [N, T, K]
        histograms = soft_histograms(frames[..., ::2, ::2])
        distances = histograms.diff(dim=1).abs().sum(dim=-1).mean(dim=-1) / 2
        motion, brightness_change = mean_of(luma.diff(dim=1).abs()), columns[0].diff(dim=1).abs()
        return torch.cat(
            [
                mean_and_std(per_frame),
                per_frame[:, :, [0, 1, 2, 4, 5]].amax(dim=1),
                mean_and_std(torch.stack([motion, brightness_change, distances], dim=2)),
                (distances > CUT).float().mean(dim=1, keepdim=True),
            ],
            dim=1,
        )


def mean_of(pixels: Tensor) -> Tensor:
    """Mean over the pixels of each frame, ``[..., H, W]`` -> ``[...]``."""
    return pixels.float().mean(dim=(-2, -1))


def spread_of(pixels: Tensor) -> Tensor:
    """Standard deviation over the pixels of each frame, ``[..., H, W]`` -> ``[...]``."""
    return pixels.std(dim=(-2, -1), correction=0)


def length_of(vector: Tensor) -> Tensor:
    """Length of vectors, ``[N, T, 2]`` -> ``[N, T]``."""
    return vector.square().sum(dim=2).sqrt()


def gradient(luma: Tensor) -> Tensor:
    """Length of the gradient by Sobel's filters, ``[N, T, H, W]`` -> ``[N, T, H - 2, W - 2]``."""
    smooth_rows = (luma[..., :-2, :] + 2 * luma[..., 1:-1, :] + luma[..., 2:, :]) / 4
    smooth_columns = (luma[..., :-2] + 2 * luma[..., 1:-1] + luma[..., 2:]) / 4
    across = (smooth_rows[..., 2:] - smooth_rows[..., :-2]) / 2
    down = (smooth_columns[..., 2:, :] - smooth_columns[..., :-2, :]) / 2
    return (across.square() + down.square()).sqrt()


def hue_columns(frames: Tensor) -> list[Tensor]:
    """Mean direction of hue, and the share of each of `HUES`, all weighted by chroma: 8 of ``[N, T]``."""
    red, green, blue = frames.unbind(2)
    real, imaginary = red - (green + blue) / 2, (green - blue) * (math.sqrt(3) / 2)
    chroma = torch.hypot(real, imaginary)
    total = mean_of(chroma).clamp(min=1e-6)
    sector = (torch.atan2(imaginary, real) * (len(HUES) / math.tau)).round().long() % len(HUES)
    shares = [mean_of(chroma * (sector == number)) / total for number in range(len(HUES))]
    return [mean_of(real) / total, mean_of(imaginary) / total, *shares]


def soft_histograms(frames: Tensor) -> Tensor:
    """Histogram of each channel, ``[N, T, 3, H, W]`` -> ``[N, T, 3, HISTOGRAM_STEPS + 1]``.

    A value between two bins counts for both, so that small changes move it little.
    """
    position = frames * HISTOGRAM_STEPS
    bins = range(HISTOGRAM_STEPS + 1)
    return torch.stack([mean_of((1 - (position - number).abs()).clamp(min=0)) for number in bins], dim=-1)


# Audio

N_FFT, HOP = 2048, 320  # 128 ms, and 20 ms
N_MELS, N_MFCC = 64, 13
FLOOR = -10.0  # bels
RANGE = 6.0  # bels below the loudest window, from which on a window is silent
MEL_RANGE = 8.0  # bels below the loudest point of the mel spectrogram, at which it is cut
ROLL_OFF = 0.85
CHROMA_HZ = (200.0, 3200.0)  # four octaves, in which a semitone is wider than a bin of the spectrum
ONSET_REACH = 3  # windows
MIN_ONSET = 0.05  # bels
TEMPO_PER_S = (2 / 3, 4.0)  # 40 to 240 per minute
USUAL_TEMPO_PER_S = 2.0
# How well each semitone above the tonic fits a key: Krumhansl and Kessler 1982.
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
AUDIO_NAMES = (
    *names_of("level", "centroid", "bandwidth", "roll_off", "flatness", "zero_crossings", "flux"),
    *names_of(*(f"mfcc_{number}" for number in range(N_MFCC))),
    *("level_p10", "level_p90", "quiet"),
    *("major", "minor", "key_clarity", "chroma_entropy", "chroma_change"),
    *("onsets", "tempo", "tempo_strength"),
)
"""Names of the descriptors of `audio-stats`, in the order of the embedding."""


class AudioStats(Descriptors):
    """Loudness, spectrum, tonality and rhythm of waveforms ``[N, samples]`` in [-1, 1], from 2 s.

    Silent windows, and those that reach into the zeros that pad a short clip, do not count.
    """

    window: Tensor
    frequencies: Tensor
    mel_filters: Tensor
    cosines: Tensor
    pitch_classes: Tensor
    keys: Tensor

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        assert isinstance(spec.preprocessing, AudioPreprocessing)
        rate_hz = spec.preprocessing.sample_rate_hz
        frequencies_hz = torch.arange(N_FFT // 2 + 1) * (rate_hz / N_FFT)
        mel_filters = slaney_filters(sample_rate_hz=rate_hz, n_fft=N_FFT, n_mels=N_MELS)
        buffers = {
            "window": torch.hann_window(N_FFT),
            "frequencies": frequencies_hz / 1000,
            "mel_filters": torch.from_numpy(mel_filters).float(),
            "cosines": cosine_basis(N_MELS, N_MFCC),
            "pitch_classes": pitch_class_filters(frequencies_hz),
            "keys": key_profiles(),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        self.windows_per_s = rate_hz / HOP

    def describe(self, x: Tensor) -> Tensor:
        """Descriptors ``[N, len(AUDIO_NAMES)]``."""
        windows = x.unfold(1, N_FFT, HOP)  # [N, T, N_FFT]
        rms = windows.square().mean(dim=2).sqrt()
        level = 2 * torch.log10(rms.clamp(min=10 ** (FLOOR / 2)))
        sounding = (level >= level.amax(dim=1, keepdim=True) - RANGE) & before_padding(x)
        sounding = torch.where(sounding.any(dim=1, keepdim=True), sounding, True).float()
        share = sounding / sounding.sum(dim=1, keepdim=True)
        magnitude = torch.fft.rfft(windows * self.window).abs()  # [N, T, F]
        power = magnitude.square()
        mel = torch.log10((power @ self.mel_filters).clamp(min=TINY))
        mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - MEL_RANGE)
        onsets = F.pad(mel.diff(dim=1).clamp(min=0).mean(dim=2), (1, 0)) * sounding
        columns = [level, *self.spectrum_columns(magnitude, power), zero_crossings(windows), onsets]
        per_window = torch.cat([torch.stack(columns, dim=2), mel @ self.cosines], dim=2)
        mean_rms = (rms * share).sum(dim=1, keepdim=True)
        single = [
            quantile(level, sounding, 0.1),
            quantile(level, sounding, 0.9),
            (share * (rms < mean_rms)).sum(dim=1),
            *self.tonality(power @ self.pitch_classes, sounding),
            *self.rhythm(onsets, sounding),
        ]
        return torch.cat([mean_and_std(per_window, sounding), torch.stack(single, dim=1)], dim=1)

    def spectrum_columns(self, magnitude: Tensor, power: Tensor) -> list[Tensor]:
        """Centroid, bandwidth, roll-off and flatness of spectra ``[N, T, F]``: 4 of ``[N, T]``."""
        total = magnitude.sum(dim=2)
        weight = magnitude / total.clamp(min=TINY)[..., None]
        centroid = weight @ self.frequencies
        variance = (weight * (self.frequencies - centroid[..., None]).square()).sum(dim=2)
        below = (weight.cumsum(dim=2) < ROLL_OFF).sum(dim=2).clamp(max=len(self.frequencies) - 1)
        power = power.clamp(min=TINY)
        flatness = torch.log10(power).mean(dim=2) - torch.log10(power.mean(dim=2))
        return [centroid, variance.sqrt(), self.frequencies[below], flatness]

    def tonality(self, chroma: Tensor, sounding: Tensor) -> list[Tensor]:
        """Fit to major and minor keys, and concentration of pitch classes ``[N, T, 12]``: 5 of ``[N]``."""
        chroma = chroma / chroma.sum(dim=2, keepdim=True).clamp(min=TINY)
        mean, std = mean_and_std(chroma, sounding).unflatten(1, (12, 2)).unbind(2)
        centred = mean - mean.mean(dim=1, keepdim=True)
        fits = (centred / centred.norm(dim=1, keepdim=True).clamp(min=TINY)) @ self.keys  # [N, 24]
        best = fits.topk(2, dim=1).values
        entropy = -(mean * torch.log(mean.clamp(min=TINY))).sum(dim=1) / math.log(12)
        return [
            fits[:, :12].amax(dim=1),
            fits[:, 12:].amax(dim=1),
            best[:, 0] - best[:, 1],
            entropy,
            std.mean(dim=1),
        ]

    def rhythm(self, onsets: Tensor, sounding: Tensor) -> list[Tensor]:
        """Onsets per second, tempo and its strength, from the strength of onsets ``[N, T]``: 3 of ``[N]``."""
        mean, std = mean_and_std(onsets[..., None], sounding).unbind(1)
        highest = F.max_pool1d(onsets[:, None], 2 * ONSET_REACH + 1, stride=1, padding=ONSET_REACH)[:, 0]
        peaks = (onsets == highest) & (onsets > (mean + std).clamp(min=MIN_ONSET)[:, None])
        until_silence = sounding.flip(1).cumsum(dim=1).clamp(max=1).sum(dim=1)
        rate = peaks.sum(dim=1) / until_silence * self.windows_per_s
        centred = (onsets - mean[:, None]) * sounding
        spectrum = torch.fft.rfft(centred, n=2 * centred.shape[1])
        correlation = torch.fft.irfft(spectrum.abs().square())
        correlation = correlation / correlation[:, :1].clamp(min=TINY)
        slowest, fastest = TEMPO_PER_S
        shortest, longest = math.ceil(self.windows_per_s / fastest), int(self.windows_per_s / slowest)
        lags = torch.arange(shortest, longest + 1, device=onsets.device)
        octaves = torch.log2(self.windows_per_s / lags / USUAL_TEMPO_PER_S)
        lag = lags[(correlation[:, lags] * torch.exp(-octaves.square() / 2)).argmax(dim=1)]
        before, at, after = (correlation.gather(1, (lag + step)[:, None])[:, 0] for step in (-1, 0, 1))
        curvature = (2 * at - before - after).clamp(min=TINY)
        shift = ((after - before) / 2 / curvature).clamp(-0.5, 0.5)  # to the top of a parabola
        tempo = torch.where(at > 0, self.windows_per_s / (lag + shift), 0.0)
        return [rate, tempo, at]


def before_padding(x: Tensor) -> Tensor:
    """Whether each window of waveforms ``[N, samples]`` ends before the zeros at the end, ``[N, T]``."""
    later_nonzero = (x != 0).flip(1).cumsum(dim=1).flip(1) > 0
    return later_nonzero[:, N_FFT - 1 :: HOP]


def zero_crossings(windows: Tensor) -> Tensor:
    """Share of neighbouring samples whose signs differ, ``[N, T, samples]`` -> ``[N, T]``."""
    negative = windows < 0
    return (negative[..., 1:] != negative[..., :-1]).float().mean(dim=2)


def quantile(level: Tensor, sounding: Tensor, position: float) -> Tensor:
    """Quantile of the levels ``[N, T]`` of the windows that are not silent, ``[N]``."""
    count = sounding.sum(dim=1)
    index = level.shape[1] - count + (position * (count - 1)).round()
    silent_first = level.masked_fill(sounding == 0, -math.inf)
    return silent_first.sort(dim=1).values.gather(1, index.long()[:, None])[:, 0]


def cosine_basis(size: int, count: int) -> Tensor:
    """The first columns of the orthonormal discrete cosine transform, type 2, ``[size, count]``."""
    position = (torch.arange(size)[:, None] + 0.5) * torch.arange(count) * (math.pi / size)
    basis = torch.cos(position) * math.sqrt(2 / size)
    basis[:, 0] = math.sqrt(1 / size)
    return basis


def pitch_class_filters(frequencies_hz: Tensor) -> Tensor:
    """Which pitch class, from C, each frequency of `CHROMA_HZ` is nearest to: 0 or 1, ``[F, 12]``."""
    low, high = CHROMA_HZ
    used = (frequencies_hz >= low) & (frequencies_hz < high)
    semitones_from_a = 12 * torch.log2(frequencies_hz.clamp(min=low) / 440)
    pitch_class = (semitones_from_a.round().long() + 9) % 12
    return F.one_hot(pitch_class, 12).float() * used[:, None]


def key_profiles() -> Tensor:
    """Profiles of the 12 major and the 12 minor keys, with mean 0 and length 1, ``[12, 24]``."""
    profiles = torch.tensor([MAJOR, MINOR])
    profiles = profiles - profiles.mean(dim=1, keepdim=True)
    profiles = profiles / profiles.norm(dim=1, keepdim=True)
    return torch.stack([profile.roll(tonic) for profile in profiles for tonic in range(12)], dim=1)
