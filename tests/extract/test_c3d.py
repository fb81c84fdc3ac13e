"""C3D equals the published network, written here once more from the paper's layer table.

Tran et al., "Learning spatiotemporal features with 3D convolutional networks" (arXiv 1412.0767, figure 3):
eight convolutions of 3 x 3 x 3 with padding 1, each followed by a ReLU; max pooling of 1 x 2 x 2, then four
times 2 x 2 x 2. Channels are few here; docs/networks.md has the full widths, which test_docs.py checks.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moodfuse.extract.networks import VideoPreprocessing, create_network, load_weights
from moodfuse.extract.networks.base import Network

pytestmark = pytest.mark.usefixtures("narrow", "one_thread")
LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
POOLS = {"conv1": (1, 2, 2), "conv2": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2)}


@pytest.fixture
def network() -> Network:
    """C3D with random biases, too, which a new network does not have."""
    network = create_network("c3d", num_classes=6)
    for name in LAYERS:
        torch.nn.init.uniform_(network.get_parameter(f"{name}.bias"), -0.5, 0.5)
    return network


def reference_pool5(frames: Tensor, network: Network) -> Tensor:
    """The output of pool5, float64 [N, 512, T / 16, 4, 4], of frames [N, 3, T, 112, 112]."""
    x = frames.double()
    for name in LAYERS:
        weight, bias = (network.get_parameter(f"{name}.{kind}").double() for kind in ("weight", "bias"))
        x = F.relu(F.conv3d(x, weight, bias, padding=1))
        if name in POOLS:
            x = F.max_pool3d(x, POOLS[name])
    # As in both ports, a border of one around height and width: 7 x 7 becomes 4 x 4.
    return F.max_pool3d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 2)


@pytest.mark.parametrize("frames", [16, 32])
def test_trunk_and_frozen_embedding(network: Network, frames: int) -> None:
    """The trunk is pool5 averaged over time: channel, row, column; frozen, over height and width as well."""
    video = torch.rand(1, 3, frames, 112, 112, generator=torch.Generator().manual_seed(frames)) * 255 - 97
    with torch.inference_mode():
        activation = network.trunk(video)
        expected = reference_pool5(video, network).mean(dim=2)
        frozen = network.pool_frozen(activation)
    torch.testing.assert_close(activation.double(), expected.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frozen.double(), expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


def davidea(arrays: dict[str, Tensor]) -> dict[str, Any]:
    return {**arrays, **dict.fromkeys(("fc6.weight", "fc7.bias", "fc8.weight"), torch.zeros(1))}


def mmaction2(arrays: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """The same arrays as mmaction2 names them; its backbone ends in fc7."""
    renamed = {f"{prefix}fc6.weight": torch.zeros(1), f"{prefix}fc7.bias": torch.zeros(1)}
    for name, value in arrays.items():
        layer, kind = name.split(".")
        renamed[f"{prefix}{layer + 'a' if layer in ('conv1', 'conv2') else layer}.conv.{kind}"] = value
    return renamed


@pytest.mark.parametrize("port", ["davidea", "mmaction2", "mmaction2 wrapped"])
def test_either_port_loads(network: Network, tmp_path: Path, port: str) -> None:
    """Either port's file gives the same convolutions, and that port's preprocessing."""
    arrays = {
        f"{name}.{kind}": network.state_dict()[f"{name}.{kind}"]
        for name in LAYERS
        for kind in ("weight", "bias")
    }
    content = {
        "davidea": davidea(arrays),
        "mmaction2": mmaction2(arrays),
        "mmaction2 wrapped": {"state_dict": mmaction2(arrays, "backbone."), "meta": {"epoch": 45}},
    }[port]
    torch.save(content, tmp_path / "x", _use_new_zipfile_serialization=port != "davidea")
    loaded = create_network("c3d", num_classes=6)
    facts = load_weights(loaded, tmp_path / "x")
    assert facts.dropped == (("fc6", "fc7", "fc8") if port == "davidea" else ("fc6", "fc7"))
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in arrays.items())
    assert loaded.pretrained and not loaded.training
    assert isinstance(loaded.preprocessing, VideoPreprocessing)
    caffe, mmaction = ("BGR", (90.25, 97.66, 101.41)), ("RGB", (104.0, 117.0, 128.0))
    expected = caffe if port == "davidea" else mmaction
    assert (loaded.preprocessing.channel_order, loaded.preprocessing.mean) == expected
