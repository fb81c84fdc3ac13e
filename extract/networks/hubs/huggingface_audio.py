"""Inputs of audio encoders of transformers, as their feature extractors make them, in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from moodfuse.cache.errors import InputError

MIN_POWER = 1e-10
_AST_SETTINGS = ("num_mel_bins", "max_length", "mean", "std")
_CLAP_SETTINGS = ("feature_size", "fft_window_size", "hop_length", "frequency_min", "frequency_max")
_CLAP_TRUNCATIONS = ("fusion", "rand_trunc")


def read_front_end(name: str, extractor: Any, takes: str) -> dict[str, Any]:
    """The settings of a feature extractor that its front end here needs, as JSON types."""
    if takes == "clap":
        if extractor.truncation not in _CLAP_TRUNCATIONS or extractor.padding != "repeatpad":
            raise InputError(
                f"{name}: cannot make its input: truncation {extractor.truncation!r} and padding "
                f"{extractor.padding!r}; expected {' or '.join(_CLAP_TRUNCATIONS)}, and repeatpad"
            )
        settings = {key: getattr(extractor, key) for key in _CLAP_SETTINGS}
        return {**settings, "max_samples": extractor.nb_max_samples, "truncation": extractor.truncation}
    keys = _AST_SETTINGS if takes == "spectrogram" else ()
    return {"normalised": bool(extractor.do_normalize), **{key: getattr(extractor, key) for key in keys}}


def ast_spectrograms(x: Tensor, settings: dict[str, Any], rate_hz: int) -> Tensor:
    """Log-mel spectrograms ``[N * pieces, max_length, mels]`` as of `ASTFeatureExtractor`.

    Waveforms ``[N, samples]`` are cut into pieces of as many hops of 10 ms as the model takes; short ones are
    padded.
    """
    spectrograms, length = [], settings["max_length"] * rate_hz // 100
    for piece in (piece for waveform in x for piece in waveform.split(length)):
        bands = torchaudio.compliance.kaldi.fbank(
            piece[None].float(),
            sample_frequency=rate_hz,
            window_type="hanning",
            num_mel_bins=settings["num_mel_bins"],
        )
        padding = settings["max_length"] - len(bands)
        spectrograms.append(nn.functional.pad(bands, (0, 0, 0, padding))[: settings["max_length"]])
    stacked = torch.stack(spectrograms)
    return (stacked - settings["mean"]) / (settings["std"] * 2) if settings["normalised"] else stacked


class ClapSpectrograms(nn.Module):
    """Log-mel spectrograms as of `ClapFeatureExtractor`, without its random choices.

    With truncation ``rand_trunc`` a waveform is cut into pieces of the length that the model takes, 10 s,
    where the extractor takes one piece at random. With ``fusion`` a longer waveform is shrunk to that length,
    and joined by three pieces: the middle one of each third of all pieces, where the extractor takes any of
    them. A shorter waveform or piece is repeated as often as it fits, and padded with zeros.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, settings: dict[str, Any], rate_hz: int) -> None:
        super().__init__()
        self.settings, self.fused = settings, settings["truncation"] == "fusion"
        filters = mel_filter_bank(
            num_frequency_bins=settings["fft_window_size"] // 2 + 1,
            num_mel_filters=settings["feature_size"],
            min_frequency=settings["frequency_min"],
            max_frequency=settings["frequency_max"],
            sampling_rate=rate_hz,
            norm=None if self.fused else "slaney",
            mel_scale="htk" if self.fused else "slaney",
        )
        window = torch.hann_window(settings["fft_window_size"], dtype=torch.float64)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrograms ``[N * pieces, channels, frames, mels]`` of waveforms ``[N, samples]``.

        With them comes for each whether its waveform was shrunk, bool ``[N * pieces, 1]``.
        """
        longest, hop = self.settings["max_samples"], self.settings["hop_length"]
        spare = x.shape[1] // hop - longest // hop
        if self.fused and spare >= 2:
            bands = self._decibels(x)
            frames = bands.shape[1] - spare
            shrunk = nn.functional.interpolate(bands[:, None], (frames, bands.shape[2]), mode="bilinear")
            thirds = np.array_split(np.arange(spare + 1), 3)
            starts = [int(third[len(third) // 2]) for third in thirds]
            pieces = [bands[:, None, start : start + frames] for start in starts]
            return torch.cat([shrunk, *pieces], dim=1), x.new_ones(len(x), 1, dtype=torch.bool)
        padded = torch.stack([_repeat_and_pad(piece, longest) for piece in x.split(longest, dim=1)], dim=1)
        bands = self._decibels(padded.flatten(0, 1))[:, None]
        if self.fused:
            bands = bands.expand(-1, 4, -1, -1)
        return bands, x.new_zeros(len(bands), 1, dtype=torch.bool)

    def _decibels(self, x: Tensor) -> Tensor:
        """Mel bands ``[N, frames, mels]`` in decibels, float32, of waveforms ``[N, samples]``."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.double(),
                self.settings["fft_window_size"],
                self.settings["hop_length"],
                window=self.window,
                return_complex=True,
            )
            power = spectrum.real.square() + spectrum.imag.square()
            mel = power.transpose(1, 2) @ self.filters
            return (10 * mel.clamp(min=MIN_POWER).log10()).float()


def _repeat_and_pad(x: Tensor, length: int) -> Tensor:
    """Repeat waveforms ``[N, samples]`` as often as they fit into a length, and pad them with zeros."""
    repeated = x.repeat(1, length // x.shape[1])
    return nn.functional.pad(repeated, (0, length - repeated.shape[1]))
