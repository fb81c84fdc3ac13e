"""`torchvision:<name>`: any video model that torchvision registers, with the transforms of its own weights.

The embedding is what enters the model's last linear layer. In `s3d` that layer is a convolution of 1 x 1 x 1
over average-pooled features, followed by a mean; as both are linear, the embedding is the mean of what enters
it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from moodfuse.cache.errors import MoodfuseError, UnknownNameError
from moodfuse.extract.networks.base import CLASSIFIER_STD, Network, global_mean
from moodfuse.extract.networks.inputs import VideoPreprocessing
from moodfuse.extract.networks.registry import TORCHVISION, NetworkSpec

try:
    import torchvision
    from torchvision.models import get_model, get_model_weights, list_models
except (ImportError, OSError, RuntimeError) as error:
    raise MoodfuseError(
        f"torchvision {version('torchvision')} cannot be loaded with torch {torch.__version__} ({error}); "
        "install versions that belong together: "
        "pip install --upgrade --force-reinstall torch torchvision moodfuse"
    ) from error

FRAMES = 32


def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's video models."""
    return tuple(sorted(list_models(module=torchvision.models.video)))


def model_name(network: str) -> str:
    """The name of a network without ``torchvision:``; `UnknownNameError` lists the known names."""
    name = network.removeprefix(TORCHVISION)
    if name not in torchvision_names():
        raise UnknownNameError("torchvision video model", name, list(torchvision_names()))
    return name


@lru_cache(32)
def torchvision_spec(network: str) -> NetworkSpec:
    """The spec of a video model, from torchvision's registry and the transforms of its default weights."""
    _, width = last_layer(model_name(network))
    return NetworkSpec(
        name=network,
        modality="video",
        factory=f"{__name__}:TorchvisionVideo",
        preprocessing=transforms_of(published_weights(network).DEFAULT),
        embedding_width=width,
        frame_rate_hz=7.5 if network.startswith(f"{TORCHVISION}mvit") else 15.0,  # as torchvision documents
        version=2,
    )


def published_weights(network: str) -> Any:
    """torchvision's `WeightsEnum` of a network."""
    return get_model_weights(model_name(network))


def transforms_of(weights: Any) -> VideoPreprocessing:
    """The preprocessing of a member of a `WeightsEnum`."""
    transforms = weights.transforms()
    size = list(transforms.resize_size)
    return VideoPreprocessing(
        frames=16 if weights.meta.get("min_temporal_size") == 16 else FRAMES,  # mvit takes exactly 16
        crop_px=transforms.crop_size[0],
        resize_short_side_px=size[0] if len(size) == 1 else None,
        resize_hw=(size[0], size[1]) if len(size) == 2 else None,
        antialias=False,
        centre="even",
        scale=1 / 255,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


@lru_cache(32)
def last_layer(model: str) -> tuple[str, int]:
    """Name and input width of a model's last linear layer; a convolution of 1 x 1 x 1 counts as one."""
    with torch.device("meta"):  # without memory for the weights
        body: nn.Module = get_model(model)
    name = [name for name, layer in body.named_modules() if isinstance(layer, (nn.Linear, nn.Conv3d))][-1]
    return name, body.get_parameter(f"{name}.weight").shape[1]


class TorchvisionVideo(Network):
    """A video model of torchvision, with torchvision's initial weights, without its last linear layer."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.5)
        model = model_name(spec.name)
        self.body: nn.Module = get_model(model)
        path, _, last = last_layer(model)[0].rpartition(".")
        setattr(self.body.get_submodule(path), last, nn.Identity())
        nn.init.normal_(self.classifier[1].weight, std=CLASSIFIER_STD)  # type: ignore[arg-type]

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, activation_width]``, float32, of frames ``[N, 3, T, S, S]``."""
        features: Tensor = self.body(x)
        return features.float() if features.ndim == 2 else global_mean(features)
