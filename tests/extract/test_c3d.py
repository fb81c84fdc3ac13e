"""C3D against a reference of its own: plain functional calls after the paper's figure 3, in float64.

Tran et al. 2015 (arXiv 1412.0767): eight convolutions of 3 x 3 x 3 with padding 1, five max poolings, the first of them
over space only. The last pooling pads height and width, as the published Caffe model does, to give 4 x 4.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from extract.networks import create_network
from extract.networks.c3d import C3D
from extract.networks.registry import VideoPreprocessing
from extract.networks.weights import load_weights

TOLERANCE = 1e-5
Arrays = dict[str, Tensor]
WIDTHS = {"conv1": (3, 64), "conv2": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256)}
WIDTHS |= {"conv4a": (256, 512), "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512)}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Random convolutions, in the names of DavideA/c3d-pytorch."""
    generator = torch.Generator().manual_seed(5)
    found: Arrays = {}
    for name, (channels, width) in WIDTHS.items():
        scale = math.sqrt(2 / (27 * channels)) / (64 if name == "conv1" else 1)
        found[f"{name}.weight"] = torch.randn(width, channels, 3, 3, 3, generator=generator) * scale
        found[f"{name}.bias"] = torch.randn(width, generator=generator) * 0.1
    return found


def reference(x: Tensor, arrays: Arrays) -> Tensor:
    """pool5 of the published network, [N, 512, T / 16, 4, 4]."""
    x = x.double()
    for name in WIDTHS:
        x = F.conv3d(F.pad(x, (1,) * 6), arrays[f"{name}.weight"].double(), arrays[f"{name}.bias"].double())
        x = torch.clamp(x, min=0)
        if name == "conv1":
            x = F.max_pool3d(x, (1, 2, 2))
        elif name == "conv5b":
            x = F.max_pool3d(F.pad(x, (1, 1, 1, 1), value=-math.inf), 2)
        elif name in ("conv2", "conv3b", "conv4b"):
            x = F.max_pool3d(x, 2)
    return x


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def video(frames: int) -> Tensor:
    """Noise in the range of mean-subtracted pixels, [1, 3, frames, 112, 112]."""
    return torch.rand(1, 3, frames, 112, 112, generator=torch.Generator().manual_seed(frames)) * 255 - 100


def mmaction(arrays: Arrays, prefix: str) -> Arrays:
    """The same arrays in the names of mmaction2."""
    renamed = {"conv1": "conv1a", "conv2": "conv2a"}
    found = {}
    for name, value in arrays.items():
        layer, kind = name.split(".")
        found[f"{prefix}{renamed.get(layer, layer)}.conv.{kind}"] = value
    return found


@pytest.fixture(scope="module")
def files(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same convolutions in both ports' files, with the fully connected layers that each of them has."""
    folder = tmp_path_factory.mktemp("c3d")
    sizes = {"fc6": (4096, 8192), "fc7": (4096, 4096), "fc8": (487, 4096)}
    full = {f"{name}.weight": torch.zeros(size) for name, size in sizes.items()}
    full |= {f"{name}.bias": torch.zeros(size[0]) for name, size in sizes.items()}
    two = {name: value for name, value in full.items() if not name.startswith("fc8")}
    contents: dict[str, object] = {
        "davidea": {**arrays, **full},
        "mmaction2": {"state_dict": mmaction(arrays, "backbone.") | {f"backbone.{k}": v for k, v in two.items()}},
        "bare": mmaction(arrays, ""),
    }
    for name, content in contents.items():
        torch.save(content, folder / name, _use_new_zipfile_serialization=name != "davidea")
    return {name: folder / name for name in contents}


@pytest.mark.parametrize("frames", [16, 32])
def test_the_network_equals_the_reference(arrays: Arrays, frames: int) -> None:
    """The trunk is pool5 averaged over time and flattened, for 16 frames pool5 itself; frozen, its global average."""
    network = C3D(6).eval()
    network.load_state_dict({**network.state_dict(), **arrays})
    x = video(frames)
    expected = reference(x, arrays)
    assert expected.shape == (1, 512, frames // 16, 4, 4)
    with torch.inference_mode():
        activation = network.trunk(x)
        assert relative_error(activation, expected.mean(dim=2).flatten(1)) < TOLERANCE
        assert relative_error(network.pool_frozen(activation), expected.mean(dim=(2, 3, 4))) < TOLERANCE
    if frames == 16:
        assert relative_error(activation, expected.flatten(1)) < TOLERANCE


def test_every_port_gives_the_same_network(arrays: Arrays, files: dict[str, Path]) -> None:
    """Each port's file loads, whatever its name, and leaves the same trunk; each brings its own preprocessing."""
    states, inputs, dropped = {}, {}, {}
    for name, path in files.items():
        network = create_network("c3d", num_classes=6)
        facts = load_weights(network, path)
        states[name] = {key: network.state_dict()[key] for key in arrays}
        dropped[name] = facts.dropped
        assert isinstance(network.preprocessing, VideoPreprocessing) and network.preprocessing == facts.preprocessing
        inputs[name] = (network.preprocessing.channel_order, network.preprocessing.mean, network.preprocessing.scale)
    assert all(torch.equal(states[name][key], value) for name in files for key, value in arrays.items())
    assert inputs["davidea"] == ("BGR", (90.25, 97.66, 101.41), 1.0)
    assert inputs["mmaction2"] == inputs["bare"] == ("RGB", (104.0, 117.0, 128.0), 1.0)
    assert dropped == {"davidea": ("fc6", "fc7", "fc8"), "mmaction2": ("fc6", "fc7"), "bare": ()}


def test_both_ports_give_the_same_output(files: dict[str, Path]) -> None:
    """After loading, the same input gives the same numbers, bit for bit, from either port's file."""
    x = video(16)
    with torch.inference_mode():
        first, second = (create_network("c3d", num_classes=6, weights=files[n]).trunk(x) for n in ("davidea", "bare"))
    assert torch.equal(first, second)


def test_the_convolutions_have_the_published_size() -> None:
    """27.66 million parameters stand before the fully connected layers."""
    expected = sum(27 * channels * width + width for channels, width in WIDTHS.values())
    network = C3D(6)
    ours = sum(value.numel() for name, value in network.named_parameters() if name.startswith("conv"))
    assert ours == expected == 27_655_936
