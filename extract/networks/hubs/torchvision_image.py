"""`torchvision:<name>`: image models of torchvision on the frames of a clip.

Frames are prepared by the transforms of the weights. The embedding is what enters a model's last linear
layer; a convolution in its place counts as one.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.transforms import InterpolationMode

from moodfuse.cache.errors import UnknownNameError
from moodfuse.extract.networks.hubs.base import FrameNetwork, make_frame_spec, sha256_of
from moodfuse.extract.networks.inputs import Interpolation, VideoPreprocessing
from moodfuse.extract.networks.registry import PRETRAINED, TORCHVISION, NetworkSpec
from moodfuse.extract.networks.torchvision_video import torchvision_names
from moodfuse.extract.networks.weights.files import WeightsError, read_arrays
from moodfuse.extract.networks.weights.load import WeightsFacts, resolve_weights
from moodfuse.extract.networks.weights.published import KnownWeights, describe_torchvision_weights

_FILTERS: dict[InterpolationMode, Interpolation] = {
    InterpolationMode.BILINEAR: "bilinear PIL",
    InterpolationMode.BICUBIC: "bicubic PIL",
}
_WITHOUT = ("googlenet", "inception_v3")
"""Models with a second classifier, whose weights do not fit the model as torchvision builds it by name."""


def image_names() -> tuple[str, ...]:
    """Names of the image models."""
    names = set(list_models(module=torchvision.models)) - set(_WITHOUT)
    # RegNets compute their widths with tensors, which the meta device cannot give; timm has them too.
    return tuple(sorted(name for name in names if not name.startswith("regnet")))


def model_name(network: str) -> str:
    """The name of a network without ``torchvision:``; `UnknownNameError` lists the known names."""
    name = network.removeprefix(TORCHVISION)
    if name not in image_names():
        raise UnknownNameError("torchvision model", name, (*torchvision_names(), *image_names()))
    return name


@lru_cache(32)
def hub_spec(name: str, architecture: str = "") -> NetworkSpec:
    """The spec of an image model, from torchvision's registry and the transforms of its default weights."""
    preprocessing = transforms_of(get_model_weights(model_name(name)).DEFAULT)
    with torch.device("meta"):  # without memory for the weights
        body = build_body(name)
    return make_frame_spec(name, f"{__name__}:TorchvisionImage", preprocessing, body)


def transforms_of(weights: Any) -> VideoPreprocessing:
    """The preprocessing of a member of a `WeightsEnum`, as its transforms treat Pillow's images."""
    transforms = weights.transforms()
    return VideoPreprocessing(
        crop_px=transforms.crop_size[0],
        resize_short_side_px=transforms.resize_size[0],
        interpolation=_FILTERS[transforms.interpolation],
        centre="even",
        scale=1 / 255,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def known_weights(name: str) -> dict[str, KnownWeights]:
    """torchvision's weights of a model by name, and ``DEFAULT``."""
    model = model_name(name)
    published = get_model_weights(model)
    known = {
        entry.name: describe_torchvision_weights(name, entry, transforms_of(entry), drops=_last_layer(model))
        for entry in published
    }
    return {**known, PRETRAINED: known[published.DEFAULT.name]}


def checkpoint_facts(name: str, weights: str) -> WeightsFacts:
    """Facts of published weights or of a file, whose preprocessing is that of the default weights."""
    path, known = resolve_weights(weights, name)
    preprocessing = known.preprocessing if known else hub_spec(name).preprocessing
    return WeightsFacts(
        path, sha256_of(path), "torchvision", preprocessing, None, known.name if known else None
    )


@lru_cache(64)
def _last_layer(model: str) -> str:
    with torch.device("meta"):
        body: nn.Module = get_model(model)
    return [name for name, layer in body.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]


def build_body(name: str, path: Path | None = None) -> nn.Module:
    """A model without its last layer; `path` is a file of the weights of the whole model."""
    model = model_name(name)
    body: nn.Module = get_model(model)
    if path is not None:
        body.load_state_dict(read_arrays(path))
    parent, _, last = _last_layer(model).rpartition(".")
    setattr(body.get_submodule(parent), last, nn.Identity())
    return body


class TorchvisionImage(FrameNetwork):
    """An image model of torchvision."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, build_body(spec.name))

    def load_checkpoint(self, path: Path) -> None:
        """Load a file of torchvision's weights, with the last layer that they were trained with."""
        try:
            body = build_body(self.spec.name, path)
        except RuntimeError as error:
            raise WeightsError(f"{path}: not weights of {self.spec.name}: {str(error)[:500]}") from error
        self.body.load_state_dict(body.state_dict())
