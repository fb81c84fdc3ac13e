"""`torchaudio:<bundle>`: speech models of torchaudio's pipelines on the waveform.

The embedding is the mean over time of the mean of the outputs of all transformer layers, or of the output of
one: ``torchaudio:<bundle>.<layer>``, the first as 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn

from moodfuse.cache.errors import UnknownNameError
from moodfuse.extract.networks.hubs.base import HubNetwork, sha256_of
from moodfuse.extract.networks.inputs import AudioPreprocessing
from moodfuse.extract.networks.registry import PRETRAINED, NetworkSpec
from moodfuse.extract.networks.weights.files import WeightsError, read_arrays
from moodfuse.extract.networks.weights.load import WeightsFacts, resolve_weights
from moodfuse.extract.networks.weights.published import FileCheck, KnownWeights

_URL = "https://download.pytorch.org/torchaudio/models"


@dataclass(frozen=True)
class Bundle:
    """A bundle of `torchaudio.pipelines`."""

    factory: str  # of `torchaudio.models`
    file: str
    width: int
    layers: int
    size_mb: float  # in 10**6 bytes, of float32 weights
    normalised: bool  # whether the waveform is normalised first


BUNDLES = {
    "WAV2VEC2_BASE": Bundle("wav2vec2_base", "wav2vec2_fairseq_base_ls960.pth", 768, 12, 378, False),
    "WAV2VEC2_LARGE": Bundle("wav2vec2_large", "wav2vec2_fairseq_large_ls960.pth", 1024, 24, 1262, False),
    "HUBERT_BASE": Bundle("hubert_base", "hubert_fairseq_base_ls960.pth", 768, 12, 378, False),
    "HUBERT_LARGE": Bundle("hubert_large", "hubert_fairseq_large_ll60k.pth", 1024, 24, 1262, True),
    "WAVLM_BASE": Bundle("wavlm_base", "wavlm_base.pth", 768, 12, 378, False),
    "WAVLM_BASE_PLUS": Bundle("wavlm_base", "wavlm_base_plus.pth", 768, 12, 378, False),
    "WAVLM_LARGE": Bundle("wavlm_large", "wavlm_large.pth", 1024, 24, 1262, True),
}


def find_bundle(name: str) -> Bundle:
    """The bundle of a network; `UnknownNameError` lists the known ones."""
    bundle = name.removeprefix("torchaudio:").partition(".")[0]
    if bundle not in BUNDLES:
        raise UnknownNameError("torchaudio bundle", bundle, BUNDLES)
    return BUNDLES[bundle]


def find_layer(name: str) -> int | None:
    """The number of the layer that a name asks for, from 1; `None` for the mean of all."""
    _, dot, layer = name.partition(".")
    if not dot:
        return None
    layers = [str(number + 1) for number in range(find_bundle(name).layers)]
    if layer not in layers:
        raise UnknownNameError(f"layer of {name.partition('.')[0]}", layer, layers)
    return int(layer)


def hub_spec(name: str, architecture: str = "") -> NetworkSpec:
    """The spec of a bundle."""
    width = find_bundle(name).width
    find_layer(name)
    return NetworkSpec(
        name=name,
        modality="audio",
        factory=f"{__name__}:TorchaudioSpeech",
        preprocessing=AudioPreprocessing(),
        embedding_width=width,
        default_depth="frozen",
        min_crop_s=1.0,
        weights=PRETRAINED,
    )


def known_weights(name: str) -> dict[str, KnownWeights]:
    """The weights of a bundle."""
    bundle = find_bundle(name)
    known = KnownWeights(
        name=bundle.file.removesuffix(".pth"),
        network=name,
        layout="torchaudio",
        file=bundle.file,
        url=f"{_URL}/{bundle.file}",
        size_mb=bundle.size_mb,
        check=FileCheck("none"),
        licence="see torchaudio.pipelines",
        trained_on="see torchaudio.pipelines",
        preprocessing=AudioPreprocessing(),
        drops=(),
    )
    return {known.name: known, PRETRAINED: known}


def checkpoint_facts(name: str, weights: str) -> WeightsFacts:
    """Facts of a bundle's weights or of a file."""
    path, known = resolve_weights(weights, name)
    return WeightsFacts(
        path, sha256_of(path), "torchaudio", AudioPreprocessing(), None, known.name if known else None
    )


class TorchaudioSpeech(HubNetwork):
    """A speech model of torchaudio."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        self.bundle, self.layer = find_bundle(spec.name), find_layer(spec.name)
        body: nn.Module = getattr(torchaudio.models, self.bundle.factory)()
        super().__init__(spec, num_classes, body)

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, activation_width]``, float32, of waveforms ``[N, samples]``."""
        if self.bundle.normalised:
            x = nn.functional.layer_norm(x, x.shape[1:])
        layers, _ = self.body.extract_features(x, num_layers=self.layer)  # type: ignore[operator]
        chosen = layers if self.layer is None else layers[-1:]
        return torch.stack(chosen).float().mean(dim=(0, 2))

    def load_checkpoint(self, path: Path) -> None:
        """Load a file of a bundle of torchaudio."""
        try:
            self.body.load_state_dict(read_arrays(path))
        except RuntimeError as error:
            raise WeightsError(f"{path}: not weights of {self.spec.name}: {str(error)[:500]}") from error
