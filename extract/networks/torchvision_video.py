"""`torchvision:<name>`: any video model that torchvision registers, with the transforms of its own weights.

The embedding is what enters the model's last linear layer. In `s3d` that layer is a convolution of 1 x 1 x 1 over
average-pooled features, followed by a mean; as both are linear, the embedding is the mean of what enters it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from moodfuse.cache.errors import MoodfuseError, UnknownNameError
from moodfuse.extract.networks.base import CLASSIFIER_STD, Network, check_video_batch, global_mean
from moodfuse.extract.networks.registry import TORCHVISION, NetworkSpec, VideoPreprocessing
from moodfuse.extract.networks.weights.known import FileCheck, KnownWeights

try:
    import torchvision
    from torchvision.models import get_model, get_model_weights, list_models
except (ImportError, OSError, RuntimeError) as error:
    raise MoodfuseError(
        f"torchvision {version('torchvision')} cannot be loaded with torch {torch.__version__} ({error}); install "
        "versions that belong together: pip install --upgrade --force-reinstall torch torchvision moodfuse"
    ) from error

LICENCE = "not stated beside the weights; torchvision itself is BSD-3-Clause"
DEFAULT_WEIGHTS = "DEFAULT"
FRAMES = 32


def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's video models."""
    return tuple(sorted(list_models(module=torchvision.models.video)))


def _model_name(network: str) -> str:
    name = network.removeprefix(TORCHVISION)
    if name not in torchvision_names():
        raise UnknownNameError("torchvision video model", name, list(torchvision_names()))
    return name


@lru_cache(32)
def torchvision_spec(network: str) -> NetworkSpec:
    """The spec of one of torchvision's video models, from its own registry and the transforms of its default weights.

    Raises
    ------
    UnknownNameError
        If torchvision has no video model of this name; the message lists them.
    """
    name = _model_name(network)
    body = _skeleton(name)
    width = body.get_parameter(f"{_head_name(body)}.weight").shape[1]
    return NetworkSpec(
        name=network,
        modality="video",
        factory="moodfuse.extract.networks.torchvision_video:TorchvisionVideo",
        preprocessing=_preprocessing(get_model_weights(name).DEFAULT),
        embedding_width=width,
        frozen_width=width,
        activation_width=width,
    )


def torchvision_weights(network: str) -> dict[str, KnownWeights]:
    """torchvision's weights of a model by name, such as ``KINETICS400_V1``; ``DEFAULT`` is the one it recommends.

    Raises
    ------
    UnknownNameError
        As for `torchvision_spec`.
    """
    weights = get_model_weights(_model_name(network))
    known = {item.name: _known(network, item) for item in weights}
    return {**known, DEFAULT_WEIGHTS: known[weights.DEFAULT.name]}


def _known(network: str, weights: Any) -> KnownWeights:
    file = weights.url.rsplit("/", 1)[-1]
    return KnownWeights(
        name=weights.name,
        network=network,
        layout="torchvision",
        file=file,
        url=weights.url,
        size_mb=float(weights.meta["_file_size"]),
        check=FileCheck("sha256-prefix", file.rsplit("-", 1)[-1].partition(".")[0]),
        licence=weights.meta.get("license", LICENCE),
        trained_on=_trained_on(weights.name),
        preprocessing=_preprocessing(weights),
        drops=(_head_name(_skeleton(network.removeprefix(TORCHVISION))),),
    )


def _trained_on(name: str) -> str:
    """``KINETICS400_IMAGENET22K_V1`` -> ``ImageNet-22K, then Kinetics-400``."""
    titles = {"IMAGENET22K": "ImageNet-22K", "KINETICS400": "Kinetics-400"}
    found = [title for part, title in titles.items() if part in name]
    return ", then ".join(found) or name


@lru_cache(32)
def _skeleton(name: str) -> nn.Module:
    """A model without memory for its weights."""
    with torch.device("meta"):
        model: nn.Module = get_model(name)
    return model


def _preprocessing(weights: Any) -> VideoPreprocessing:
    transforms = weights.transforms()
    size = list(transforms.resize_size)
    return VideoPreprocessing(
        frames=16 if weights.meta.get("min_temporal_size") == 16 else FRAMES,  # mvit takes exactly so many
        crop_px=transforms.crop_size[0],
        resize_short_side_px=size[0] if len(size) == 1 else None,
        resize_hw=(size[0], size[1]) if len(size) == 2 else None,
        antialias=False,
        centre="even",
        scale=1 / 255,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _head_name(model: nn.Module) -> str:
    """Name of the last linear layer; a convolution of 1 x 1 x 1 is one."""
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv3d))][-1]


class TorchvisionVideo(Network):
    """A video model of torchvision without its last linear layer.

    Parameters
    ----------
    spec : NetworkSpec
        As `torchvision_spec` gives it.
    num_classes : int
        Width of the classifier.

    Attributes
    ----------
    body : torch.nn.Module
        The model as torchvision builds it, the identity in place of its last linear layer; new weights are
        torchvision's own initial ones.
    """

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.5)
        name = _model_name(spec.name)
        self._input = _preprocessing(get_model_weights(name).DEFAULT)
        self.body: nn.Module = get_model(name)
        path, _, last = _head_name(self.body).rpartition(".")
        setattr(self.body.get_submodule(path), last, nn.Identity())
        nn.init.normal_(self.classifier[1].weight, std=CLASSIFIER_STD)  # type: ignore[arg-type]

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, activation_width]``, float32, of frames ``[N, 3, T, S, S]``, as the spec says them.

        Raises
        ------
        InputError
            If the batch has another shape.
        """
        check_video_batch(
            x, network=self.spec.name, min_frames=self._input.frames, side_px=self._input.crop_px
        )
        features: Tensor = self.body(x)
        return features.float() if features.ndim == 2 else global_mean(features)
