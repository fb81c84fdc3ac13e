"""C3D equals the published network, written here once more in plain calls from the paper's layer table.

Tran et al., "Learning spatiotemporal features with 3D convolutional networks" (arXiv 1412.0767, figure 3):
eight convolutions of 3 x 3 x 3 with padding 1, each followed by a ReLU; max pooling of 1 x 2 x 2, then four
times 2 x 2 x 2. The reference sums the 27 taps of each convolution in float64, on arrays named as in
DavideA/c3d-pytorch.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moodfuse.extract.networks import NETWORKS, VideoPreprocessing, create_network
from moodfuse.extract.networks.c3d import C3D
from moodfuse.extract.networks.weights.load import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")
Arrays = dict[str, Tensor]

BAR = 1e-5
CONVOLUTIONS = {
    "conv1": (3, 64),
    "conv2": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLS = {"conv1": (1, 2, 2), "conv2": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2)}
FULLY_CONNECTED = ("fc6", "fc7", "fc8")
META = {
    "epoch": 45,
    "iter": 59_850,
    "mmaction_version": "0.6.0",
    "config": "model = dict(type='Recognizer3D')",
}


@pytest.fixture(scope="module")
def convolutions() -> Arrays:
    """Random convolutions that keep the variance; those of conv1 expect the range of pixels."""
    generator = torch.Generator().manual_seed(17)
    arrays: Arrays = {}
    for name, (channels_in, channels_out) in CONVOLUTIONS.items():
        scale = math.sqrt(2 / (27 * channels_in)) / (64 if name == "conv1" else 1)
        arrays[f"{name}.weight"] = (
            torch.randn(channels_out, channels_in, 3, 3, 3, generator=generator) * scale
        )
        arrays[f"{name}.bias"] = torch.rand(channels_out, generator=generator) - 0.5
    return arrays


@pytest.fixture(scope="module")
def fully_connected() -> Arrays:
    """The layers of the old task; neither what is in them nor their shape is used."""
    return {f"{name}.{kind}": torch.zeros(1) for name in FULLY_CONNECTED for kind in ("weight", "bias")}


def davidea(convolutions: Arrays, fully_connected: Arrays) -> Arrays:
    return convolutions | fully_connected


def mmaction2(convolutions: Arrays, fully_connected: Arrays, prefix: str) -> Arrays:
    """The same arrays as mmaction2 names them; its backbone ends in fc7."""
    renamed: Arrays = {}
    for name, value in convolutions.items():
        layer, kind = name.split(".")
        renamed[f"{prefix}{layer + 'a' if layer in ('conv1', 'conv2') else layer}.conv.{kind}"] = value
    return renamed | {f"{prefix}{k}": v for k, v in fully_connected.items() if not k.startswith("fc8")}


def reference_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sum over the 27 taps of a kernel, of input [C, T, H, W] with a border of one zero."""
    size = time, height, width = x.shape[1:]
    padded = F.pad(x, (1,) * 6)
    total = bias.double()[:, None].repeat(1, math.prod(size))
    tap = torch.empty_like(x)  # one for all taps: new memory costs more than the sums
    for i, j, k in itertools.product(range(3), repeat=3):
        tap.copy_(padded[:, i : i + time, j : j + height, k : k + width])
        total.addmm_(weight[:, :, i, j, k].double(), tap.flatten(1))
    return total.unflatten(1, size)


def reference_conv5b(frames: Tensor, arrays: Arrays) -> Tensor:
    """The last feature map, float64 [512, T / 8, 7, 7], of frames [3, T, 112, 112]."""
    x = frames.double()
    for name in CONVOLUTIONS:
        x = reference_convolution(x, arrays[f"{name}.weight"], arrays[f"{name}.bias"]).clamp_(min=0)
        if name in POOLS:
            x = F.max_pool3d(x, POOLS[name])
    return x


def pool5(feature_map: Tensor) -> Tensor:
    """2 x 2 x 2 with a border of one around height and width, as in both ports: 7 x 7 to 4 x 4."""
    return F.max_pool3d(F.pad(feature_map, (1, 1, 1, 1), value=-math.inf), 2)


def error(ours: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert ours.shape == expected.shape
    return float((ours.double() - expected.double()).abs().max() / expected.abs().max())


def video(frames: int) -> Tensor:
    """Noise in the range of pixels less their mean, [1, 3, frames, 112, 112]."""
    return torch.rand(1, 3, frames, 112, 112, generator=torch.Generator().manual_seed(frames)) * 255 - 97


@pytest.fixture(scope="module")
def feature_map(convolutions: Arrays) -> Tensor:
    """The reference's conv5b for a clip of 16 frames."""
    with torch.inference_mode():
        return reference_conv5b(video(16)[0], convolutions)


@pytest.fixture(scope="module")
def network(convolutions: Arrays) -> C3D:
    """Our network with the random convolutions, put in by hand."""
    network = C3D(NETWORKS["c3d"], 6).eval()
    network.load_state_dict({**network.state_dict(), **convolutions})
    return network


@pytest.fixture(scope="module")
def activation(network: C3D) -> Tensor:
    """Our trunk's output for a clip of 16 frames."""
    with torch.inference_mode():
        return network.trunk(video(16))


def test_trunk(activation: Tensor, feature_map: Tensor) -> None:
    """The trunk is the reference's pool5, flattened to 8192 numbers: channel, row, column.

    That it is averaged over time for more frames: test_networks.py.
    """
    expected = pool5(feature_map)
    assert expected.shape == (512, 1, 4, 4)
    assert error(activation, expected.reshape(1, 8192)) < BAR


def test_frozen_embedding(network: C3D, activation: Tensor, feature_map: Tensor) -> None:
    """Frozen, the embedding is the reference's pool5 averaged over time, height and width."""
    expected = pool5(feature_map).flatten(1).mean(dim=1)
    assert error(network.pool_frozen(activation)[0], expected) < BAR


@pytest.mark.parametrize(
    ("port", "file_name"),
    [
        ("davidea legacy", "c3d_sports1m_pretrain.pth"),  # each under the name of another's file, or of none
        ("mmaction2 wrapped", "rgb_imagenet.pt"),
        ("mmaction2 without prefix", "weights.safetensors"),
    ],
)
def test_either_port_loads(
    convolutions: Arrays,
    fully_connected: Arrays,
    network: C3D,
    tmp_path: Path,
    *,
    port: str,
    file_name: str,
) -> None:
    """Either port's file, under any name, gives the same convolutions, and that port's preprocessing."""
    content: dict[str, Any]
    if port.startswith("davidea"):
        content = davidea(convolutions, fully_connected)
    else:
        content = mmaction2(
            convolutions, fully_connected, prefix="" if "without prefix" in port else "backbone."
        )
    if "wrapped" in port:
        content = {"state_dict": content, "meta": META}
    path = tmp_path / file_name
    torch.save(content, path, _use_new_zipfile_serialization="legacy" not in port)
    loaded = create_network("c3d", num_classes=6)
    assert load_weights(loaded, path).dropped == (
        ("fc6", "fc7", "fc8") if "davidea" in port else ("fc6", "fc7")
    )
    path.unlink()
    for name in CONVOLUTIONS:
        ours, expected = (one.get_submodule(name).state_dict() for one in (loaded, network))
        assert ours.keys() == expected.keys() and all(
            torch.equal(ours[kind], expected[kind]) for kind in ours
        )
    assert loaded.pretrained and not loaded.training

    preprocessing = loaded.preprocessing
    assert isinstance(preprocessing, VideoPreprocessing)
    found = (preprocessing.channel_order, preprocessing.mean)
    caffe, mmaction = ("BGR", (90.25, 97.66, 101.41)), ("RGB", (104.0, 117.0, 128.0))
    assert found == (caffe if port.startswith("davidea") else mmaction)
    assert (preprocessing.scale, preprocessing.std, preprocessing.crop_px) == (1.0, (1.0, 1.0, 1.0), 112)
    assert preprocessing.resize_hw or preprocessing.resize_short_side_px
