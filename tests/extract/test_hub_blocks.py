"""Blocks of the networks of hubs, which depth last:N counts and gradient checkpointing computes again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_models import IMAGE, add_tiny_bundle, save_huggingface
from torch import Tensor

from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.extract.inference import prepare_tuning
from moodfuse.extract.networks import create_network
from moodfuse.extract.networks.base import Network, count_blocks
from moodfuse.extract.networks.inputs import VideoPreprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS: dict[str, Callable[[Any], int]] = {
    **{f"hf:{kind}": lambda body: body.config.num_hidden_layers for kind in (*IMAGE, "ast")},
    **{
        f"hf:{kind}": lambda body: len(body.config.conv_dim) + body.config.num_hidden_layers
        for kind in ("wav2vec2", "hubert", "wavlm")
    },
    "torchaudio:TINY": lambda body: 4 + 2,  # convolutions and layers, as `add_tiny_bundle` has them
    "torchvision:resnet18": lambda body: sum(len(layer) for layer in (body.layer1, body.layer2) * 2),
    "torchvision:efficientnet_b0": lambda body: 1 + 7 + 1,  # stages between two convolutions
    "torchvision:r3d_18": lambda body: 1 + 2 * 4,  # a convolution, and blocks
    "timm:test_resnet": lambda body: 3 + 4,
    "timm:test_vit": lambda body: len(body.blocks),
    "timm:regnety_002": lambda body: 1 + 4,  # stages that are no containers
}
"""Sources to the number of blocks that their library's config or model has."""


@pytest.mark.parametrize("source", BLOCKS)
def test_the_last_block_of_each_family_is_tuned(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number of blocks is right; the last block and what is after it have gradients, the same ones with
    gradient checkpointing.
    """
    weights = None
    if source.startswith("hf:"):
        save_huggingface(source[3:], tmp_path)
        weights = tmp_path
    elif source.startswith("torchaudio:"):
        add_tiny_bundle(monkeypatch)
    network = create_network(source, num_classes=2, weights=weights)
    count = BLOCKS[source](network.body)
    assert len(network.blocks()) == count_blocks(source, network.spec.architecture) == count
    tuning = Tuning("adamw", 1e-3, 1, spec_augment=0.2 if network.spec.modality == "audio" else 0.0)
    recipe = Recipe(source, source, 1, "random", "{}", "last:1", tuning, True)
    prepare_tuning(recipe, network)
    tuned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    last = {id(parameter) for parameter in network.blocks()[-1].parameters()}
    assert {name for name, parameter in network.named_parameters() if id(parameter) in last} < tuned
    expected = gradients(network, tuned)
    prepare_tuning(replace(recipe, tuning=replace(tuning, gradient_checkpointing=True)), network)
    for name, gradient in gradients(network, tuned).items():
        assert torch.equal(gradient, expected[name]), name


def gradients(network: Network, tuned: set[str]) -> dict[str, Tensor]:
    """The gradients of a step on two clips in training mode; only `tuned` parameters may have one."""
    network.pretrained = True
    network.train().zero_grad()
    torch.manual_seed(0)
    np.random.seed(0)
    if isinstance(network.preprocessing, VideoPreprocessing):
        frames = network.preprocessing.frames if network.preprocessing.frames < 32 else 2
        x = torch.rand(2, 3, frames, network.preprocessing.crop_px, network.preprocessing.crop_px)
    else:
        x = torch.randn(2, 16_000)
    torch.nn.functional.cross_entropy(network(x)[1], torch.tensor([0, 1])).backward()
    found = {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}
    assert "classifier.1.weight" in found and set(found) <= tuned and len(found) > 2
    return found
