"""C3D and I3D equal the published networks, written here once more from the papers' layer tables.

C3D: Tran et al., "Learning spatiotemporal features with 3D convolutional networks" (arXiv 1412.0767, figure
3): eight convolutions of 3 x 3 x 3 with padding 1, each followed by a ReLU; max pooling of 1 x 2 x 2, then
four times 2 x 2 x 2.

I3D: Carreira and Zisserman, "Quo vadis, action recognition?" (arXiv 1705.07750, figure 3), which inflates
table 1 of Szegedy et al., "Going deeper with convolutions" (arXiv 1409.4842); what is 5 x 5 there is 3 x 3 x
3 in the published model. Padding is TensorFlow's 'same'.

Channels are few here; docs/networks.md has the full widths, which test_docs.py checks.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moodfuse.extract.networks import VideoPreprocessing, create_network, load_weights, trunk_names
from moodfuse.extract.networks.base import Network
from moodfuse.extract.networks.video import SamePool3d, Unit3D

pytestmark = pytest.mark.usefixtures("narrow", "one_thread")
Arrays = dict[str, Tensor]
Triple = tuple[int, int, int]

LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
POOLS = {"conv1": (1, 2, 2), "conv2": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2)}


@pytest.fixture
def c3d() -> Network:
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
def test_c3d_trunk_and_frozen_embedding(c3d: Network, frames: int) -> None:
    """The trunk is pool5 averaged over time: channel, row, column; frozen, over height and width as well."""
    video = torch.rand(1, 3, frames, 112, 112, generator=torch.Generator().manual_seed(frames)) * 255 - 97
    with torch.inference_mode():
        activation = c3d.trunk(video)
        expected = reference_pool5(video, c3d).mean(dim=2)
        frozen = c3d.pool_frozen(activation)
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
def test_ports_of_c3d_load(c3d: Network, tmp_path: Path, port: str) -> None:
    """Either port's file gives the same convolutions, and that port's preprocessing."""
    arrays = {
        f"{name}.{kind}": c3d.state_dict()[f"{name}.{kind}"] for name in LAYERS for kind in ("weight", "bias")
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


BAR = 1e-5
PUBLISHED_EPS, PORTED_EPS = 1e-3, 1e-5  # some ports keep the default of PyTorch
NORM = ("weight", "bias", "running_mean", "running_var")
# What follows the stem: an inception module by name, or a pooling by its kernel and stride.
BODY = (
    "Mixed_3b", "Mixed_3c", ((3, 3, 3), (2, 2, 2)), "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e",
    "Mixed_4f", ((2, 2, 2), (2, 2, 2)), "Mixed_5b", "Mixed_5c",
)  # fmt: skip
# (length, kernel, stride): padding before and after, worked out by hand from the definition of 'same'
PADDINGS = {
    (5, 7, 2): (3, 3), (8, 7, 2): (2, 3), (5, 3, 2): (1, 1), (8, 3, 2): (0, 1), (5, 2, 2): (0, 1),
    (8, 2, 2): (0, 0), (5, 3, 1): (1, 1), (5, 1, 1): (0, 0), (8, 1, 2): (0, 0), (1, 2, 2): (0, 1),
}  # fmt: skip


def random_unit(channels_in: int, channels_out: int, kernel: int, generator: torch.Generator) -> Arrays:
    """A convolution and a BatchNorm, with variances from the size of the epsilons up, so that both matter."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(channels_out, generator=generator) * (high - low) + low

    shape = (channels_out, channels_in, kernel, kernel, kernel)
    variance = 10 ** uniform(-3, 0.3)
    return {
        "conv3d.weight": torch.randn(shape, generator=generator) * math.sqrt(2 / (channels_in * kernel**3)),
        "bn.weight": uniform(0.5, 1.5) * variance.sqrt(),
        "bn.bias": uniform(-0.3, 0.3),
        "bn.running_mean": uniform(-0.3, 0.3),
        "bn.running_var": variance,
    }


def under(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}.{key}": value for key, value in arrays.items()}


def random_i3d(eps: float) -> Network:
    """I3D with random normalisations in every unit."""
    network = create_network("i3d", num_classes=6)
    network.set_bn_eps(eps)
    generator = torch.Generator().manual_seed(11)
    for unit in network.modules():
        if isinstance(unit, Unit3D):
            channels_out, channels_in, kernel = unit.conv3d.weight.shape[:3]
            unit.load_state_dict(random_unit(channels_in, channels_out, kernel, generator), strict=False)
    return network


def hassony(arrays: Arrays) -> Arrays:
    """The same arrays under the names of hassony2/kinetics_i3d_pytorch."""
    branches = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"}
    branches |= {"b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}
    renamed: Arrays = {}
    for name, value in arrays.items():
        parts = name.replace("logits.", "conv3d_0c_1x1.").split(".")
        parts = [parts[0].replace("Conv", "conv").replace("Mixed", "mixed"), *parts[1:]]
        renamed[".".join("batch3d" if part == "bn" else branches.get(part, part) for part in parts)] = value
    return renamed


def same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's 'same': ceil(length / stride) windows; an odd padding has one more at the end."""
    total = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def pad(x: Tensor, kernel: Triple, stride: Triple, value: float = 0.0) -> Tensor:
    time, height, width = (same(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))
    return F.pad(x, (*width, *height, *time), value=value)


def reference_unit(x: Tensor, arrays: Arrays, name: str, stride: int = 1, *, eps: float) -> Tensor:
    weight = arrays[f"{name}.conv3d.weight"].double()
    size = weight.shape[-1]
    x = F.conv3d(pad(x, (size,) * 3, (stride,) * 3), weight, stride=stride)
    scale, shift, mean, variance = (
        arrays[f"{name}.bn.{part}"].double()[:, None, None, None] for part in NORM
    )
    return torch.clamp((x - mean) / (variance + eps) ** 0.5 * scale + shift, min=0)


def reference_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    return F.max_pool3d(pad(x, kernel, stride, -math.inf), kernel, stride)


def reference_inception(x: Tensor, arrays: Arrays, name: str, *, eps: float) -> Tensor:
    one = reference_unit(x, arrays, f"{name}.b0", eps=eps)
    three = reference_unit(x, arrays, f"{name}.b1a", eps=eps)
    three = reference_unit(three, arrays, f"{name}.b1b", eps=eps)
    five = reference_unit(x, arrays, f"{name}.b2a", eps=eps)
    five = reference_unit(five, arrays, f"{name}.b2b", eps=eps)
    pooled = reference_unit(reference_pool(x, (3, 3, 3), (1, 1, 1)), arrays, f"{name}.b3b", eps=eps)
    return torch.cat([one, three, five, pooled], dim=1)


def reference_i3d(frames: Tensor, arrays: Arrays, *, eps: float) -> Tensor:
    """Global average of Mixed_5c, float64 [N, 1024], of frames [N, 3, T, H, W]."""
    x = reference_unit(frames.double(), arrays, "Conv3d_1a_7x7", 2, eps=eps)
    x = reference_pool(x, (1, 3, 3), (1, 2, 2))
    x = reference_unit(x, arrays, "Conv3d_2b_1x1", eps=eps)
    x = reference_unit(x, arrays, "Conv3d_2c_3x3", eps=eps)
    x = reference_pool(x, (1, 3, 3), (1, 2, 2))
    for step in BODY:
        inception = isinstance(step, str)
        x = reference_inception(x, arrays, step, eps=eps) if inception else reference_pool(x, *step)
    return x.mean(dim=(2, 3, 4))


def error(ours: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert ours.shape == expected.shape
    return float((ours.double() - expected.double()).abs().max() / expected.abs().max())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_reference_pads_as_worked_out_by_hand() -> None:
    """The reference's padding is that of 'same', odd amounts at the end."""
    assert {case: same(*case) for case in PADDINGS} == PADDINGS


@pytest.mark.parametrize("size", [(5, 14, 17), (8, 9, 12)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_unit(kernel: int, stride: int, size: Triple) -> None:
    """Convolution, BatchNorm and ReLU equal the reference on odd and even lengths; the epsilons matter."""
    arrays = random_unit(5, 9, kernel, torch.Generator().manual_seed(kernel))
    unit = Unit3D(5, 9, kernel=(kernel,) * 3, stride=(stride,) * 3).eval()
    unit.bn.eps = PORTED_EPS
    unit.load_state_dict(arrays, strict=False)
    x = noise(2, 5, *size)
    with torch.inference_mode():
        ours = unit(x)
        expected, other = (
            reference_unit(x.double(), under("unit", arrays), "unit", stride, eps=eps)
            for eps in (PORTED_EPS, PUBLISHED_EPS)
        )
    assert error(ours, expected) < BAR
    assert error(ours, other) > 100 * BAR


@pytest.mark.parametrize("size", [(5, 14, 17), (8, 9, 12)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_pool(kernel: Triple, stride: Triple, size: Triple) -> None:
    """Each pooling of the network gives exactly the reference's maxima of the output of a ReLU."""
    x = noise(2, 5, *size).clamp(min=0)
    with torch.inference_mode():
        assert torch.equal(SamePool3d(kernel=kernel, stride=stride)(x), reference_pool(x, kernel, stride))


@pytest.mark.parametrize("size", [(9, 33, 40), (16, 32, 32)])
def test_i3d_trunk(size: Triple) -> None:
    """The whole trunk equals the reference on sizes where 'same' pads one side more."""
    network = random_i3d(PORTED_EPS)
    x = noise(2, 3, *size, seed=sum(size))
    with torch.inference_mode():
        ours, expected = network.trunk(x), reference_i3d(x, network.state_dict(), eps=PORTED_EPS)
    assert ours.shape == (2, 1024)
    assert error(ours, expected) < BAR


def test_ports_of_i3d_load(tmp_path: Path) -> None:
    """Either port's state dict, with or without counters, gives the published output."""
    network = random_i3d(PORTED_EPS)  # the ports in files need the published epsilon
    counted = {name: network.state_dict()[name] for name in trunk_names(network)}
    counted["logits.conv3d.bias"] = torch.zeros(400)
    plain = {name: value for name, value in counted.items() if not name.endswith("num_batches_tracked")}
    x = noise(2, 3, 9, 33, 40, seed=5)
    outputs = []
    for arrays in (counted, hassony(plain), hassony(counted)):
        torch.save(arrays, tmp_path / "i3d.bin", _use_new_zipfile_serialization=False)
        loaded = create_network("i3d", num_classes=6, weights=tmp_path / "i3d.bin")
        with torch.inference_mode():
            outputs.append(loaded.trunk(x))
    assert error(outputs[0], reference_i3d(x, network.state_dict(), eps=PUBLISHED_EPS)) < BAR
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
