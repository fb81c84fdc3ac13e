"""`timm:<name>`: image models of timm on the frames of a clip, with the preprocessing of their own weights.

The embedding is what enters a model's classifier.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.extract.networks.hubs.base import (
    SAFETENSORS,
    FrameNetwork,
    check_safetensors,
    make_frame_spec,
    sha256_of,
)
from moodfuse.extract.networks.hubs.huggingface_cache import find_file
from moodfuse.extract.networks.inputs import Interpolation, VideoPreprocessing
from moodfuse.extract.networks.registry import PRETRAINED, NetworkSpec
from moodfuse.extract.networks.weights.files import WeightsError
from moodfuse.extract.networks.weights.load import WeightsFacts
from moodfuse.extract.networks.weights.published import KnownWeights

_FILTERS: dict[str, Interpolation] = {"bilinear": "bilinear PIL", "bicubic": "bicubic PIL"}


@lru_cache(32)
def hub_spec(name: str, architecture: str = "") -> NetworkSpec:
    """The spec of a model, from timm's registry."""
    with torch.device("meta"):  # without memory for the weights
        body = build_body(name)
    preprocessing = _read_data_config(name, timm.data.resolve_model_data_config(body))
    return make_frame_spec(name, f"{__name__}:TimmImage", preprocessing, body)


def known_weights(name: str) -> dict[str, KnownWeights]:
    """None: timm's weights are found by the name of the model."""
    return {}


def checkpoint_facts(name: str, weights: str) -> WeightsFacts:
    """Facts of a file, of a folder that holds it, or of the weights that timm has for the model."""
    spec = hub_spec(name)
    if weights == PRETRAINED:
        with torch.device("meta"):
            repository = build_body(name).pretrained_cfg.get("hf_hub_id")  # type: ignore[operator, union-attr]
        if not repository:
            raise WeightsError(f"{name}: timm has no weights for it; give --weights {name}=FILE")
        path = find_file(repository, SAFETENSORS, name=name)
    else:
        path = Path(weights)
        path = path / SAFETENSORS if path.is_dir() else path
    check_safetensors(path)
    return WeightsFacts(path, sha256_of(path), "timm", spec.preprocessing)


def build_body(name: str, **options: Any) -> nn.Module:
    """A model of timm without its classifier."""
    model_name = name.removeprefix("timm:")
    if not timm.is_model(model_name):
        close = get_close_matches(model_name, timm.list_models(pretrained=True), n=6)
        raise UnknownNameError("timm model", model_name, close or ["see timm.list_models()"])
    try:
        body = timm.create_model(model_name, **options)
    except RuntimeError as error:
        raise InputError(f"{name}: timm cannot build it ({error})") from error
    body.reset_classifier(0)  # type: ignore[operator]
    return body


def _read_data_config(name: str, config: dict[str, Any]) -> VideoPreprocessing:
    """The preprocessing that `timm.data.create_transform` makes of a data config."""
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] == "border" or config["interpolation"] not in _FILTERS:
        raise InputError(
            f"{name}: cannot make its input: {config}; expected a square, crop_mode center or squash, "
            f"interpolation {' or '.join(_FILTERS)}"
        )
    resized = math.floor(height / config["crop_pct"])
    squash = config["crop_mode"] == "squash"
    return VideoPreprocessing(
        crop_px=height,
        resize_short_side_px=None if squash else resized,
        resize_hw=(resized, resized) if squash else None,
        interpolation=_FILTERS[config["interpolation"]],
        centre="even",
        scale=1 / 255,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


class TimmImage(FrameNetwork):
    """An image model of timm."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, build_body(spec.name))

    def load_checkpoint(self, path: Path) -> None:
        """Load a file in the layout of timm's weights, with the classifier that they were trained with."""
        overlay = {"file": str(path), "custom_load": False}
        try:
            body = build_body(self.spec.name, pretrained=True, pretrained_cfg_overlay=overlay)
        except (InputError, KeyError) as error:
            raise WeightsError(f"{path}: not weights of {self.spec.name}: {str(error)[:500]}") from error
        self.body.load_state_dict(body.state_dict())
