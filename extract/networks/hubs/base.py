"""Base classes of networks from hubs, whose own libraries build them and load their checkpoints."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from moodfuse.cache.digests import file_digest
from moodfuse.extract.networks.base import CLASSIFIER_STD, Network
from moodfuse.extract.networks.inputs import VideoPreprocessing
from moodfuse.extract.networks.registry import PRETRAINED, NetworkSpec
from moodfuse.extract.networks.weights.files import WeightsError, file_kind

SAFETENSORS = "model.safetensors"
"""Name of the weights file in a repository of Hugging Face."""


class HubNetwork(Network):
    """A network of another library, without its last layer: its `body` makes the embedding."""

    def __init__(self, spec: NetworkSpec, num_classes: int, body: nn.Module) -> None:
        super().__init__(spec, num_classes, dropout=0.5)
        self.body = body
        nn.init.normal_(self.classifier[1].weight, std=CLASSIFIER_STD)  # type: ignore[arg-type]


class FrameNetwork(HubNetwork):
    """An image network on each frame of a clip; its embeddings are averaged over time."""

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, activation_width]``, float32, of frames ``[N, 3, T, S, S]``."""
        frames = x.transpose(1, 2).flatten(0, 1)
        return self.image_features(frames).float().unflatten(0, (len(x), -1)).mean(dim=1)

    def image_features(self, images: Tensor) -> Tensor:
        """Features ``[N, activation_width]`` of images ``[N, 3, S, S]``."""
        features: Tensor = self.body(images)
        return features


def make_frame_spec(
    name: str, factory: str, preprocessing: VideoPreprocessing, body: nn.Module
) -> NetworkSpec:
    """The spec of an image model whose `body`, on the meta device, makes its embedding."""
    width = output_width(body, 1, 3, preprocessing.crop_px, preprocessing.crop_px)
    return NetworkSpec(
        name=name,
        modality="video",
        factory=factory,
        preprocessing=preprocessing,
        embedding_width=width,
        default_depth="frozen",
        weights=PRETRAINED,
    )


@torch.inference_mode()
def output_width(body: nn.Module, *shape: int) -> int:
    """Width of the output ``[N, width]`` of a body on the meta device, for an input of this shape."""
    return int(body.eval()(torch.empty(shape, device="meta")).shape[1])


def check_safetensors(path: Path) -> None:
    """Raise `WeightsError` unless a file is safetensors."""
    if file_kind(path) != "safetensors":
        raise WeightsError(f"{path}: not safetensors, the only format that is read here, as it holds no code")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, computed once while it does not change."""
    return _sha256(path, path.stat().st_mtime_ns)


@lru_cache(64)
def _sha256(path: Path, mtime_ns: int) -> str:
    return file_digest(path)
