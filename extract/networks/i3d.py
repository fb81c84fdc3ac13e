"""`i3d`: Carreira and Zisserman, "Quo vadis, action recognition?" (CVPR 2017, arXiv 1705.07750).

Inception-v1 with its kernels inflated to 3-D, on RGB frames in [-1, 1]. Layers carry the names of the
published TensorFlow model and pad as TensorFlow's 'same' does: by an amount that depends on the input's size,
with the extra element at the end where the amount is odd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moodfuse.extract.networks.base import Network, Triple, check_video_batch, global_mean, max_pool
from moodfuse.extract.networks.specs import NetworkSpec

CONVOLUTIONS: dict[str, tuple[int, Triple, Triple]] = {  # output channels, kernel, stride
    "Conv3d_1a_7x7": (64, (7, 7, 7), (2, 2, 2)),
    "Conv3d_2b_1x1": (64, (1, 1, 1), (1, 1, 1)),
    "Conv3d_2c_3x3": (192, (3, 3, 3), (1, 1, 1)),
}
POOLS: dict[str, tuple[Triple, Triple]] = {  # kernel, stride
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
Widths = tuple[int, int, int, int, int, int]
MIXED: dict[str, Widths] = {  # output channels of b0, b1a, b1b, b2a, b2b, b3b
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
BODY = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3",
    "Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f",
    "MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c",
)  # fmt: skip
MIN_FRAMES = 2


def same_paddings(x: Tensor, kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    """TensorFlow's 'same' padding, before and after, of time, height and width of ``[N, C, T, H, W]``."""
    paddings = []
    for size, length, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        paddings.append((total // 2, total - total // 2))
    return paddings


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> tuple[Tensor, Triple]:
    """Pad ``[N, C, T, H, W]`` for 'same', and return the padding that is left for the layer itself."""
    # Only an odd amount needs a padded copy. Zeros are right for the poolings too, as they follow a ReLU.
    padding = same_paddings(x, kernel, stride)
    if all(before == after for before, after in padding):
        return x, (padding[0][0], padding[1][0], padding[2][0])
    return F.pad(x, [amount for pair in reversed(padding) for amount in pair]), (0, 0, 0)


class Unit3D(nn.Module):
    """Convolution without bias, BatchNorm, ReLU, with 'same' padding."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        bn_eps: float,
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel_size=kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, T, H, W]`` -> ``[N, channels_out, T', H', W']``."""
        padded, padding = pad_same(x, self.kernel, self.stride)
        return F.relu_(self.bn(F.conv3d(padded, self.conv3d.weight, stride=self.stride, padding=padding)))


class SamePool3d(nn.Module):
    """Max pooling with 'same' padding, of input without negative values."""

    def __init__(self, *, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, T, H, W]`` -> ``[N, C, T', H', W']``."""
        padding = same_paddings(x, self.kernel, self.stride)
        if all(before == 0 for before, _ in padding):  # to cut windows at the end equals padding with zeros
            return max_pool(x, self.kernel, self.stride, ceil_mode=True)
        padded, symmetric = pad_same(x, self.kernel, self.stride)
        return max_pool(padded, self.kernel, self.stride, padding=symmetric)


class Mixed(nn.Module):
    """One inception module: four parallel branches, concatenated over channels.

    `widths` are the output channels of b0, b1a, b1b, b2a, b2b and b3b.
    """

    def __init__(self, channels_in: int, widths: Widths, *, bn_eps: float) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        self.b0 = Unit3D(channels_in, widths[0], kernel=one, bn_eps=bn_eps)
        self.b1a = Unit3D(channels_in, widths[1], kernel=one, bn_eps=bn_eps)
        self.b1b = Unit3D(widths[1], widths[2], kernel=three, bn_eps=bn_eps)
        self.b2a = Unit3D(channels_in, widths[3], kernel=one, bn_eps=bn_eps)
        self.b2b = Unit3D(widths[3], widths[4], kernel=three, bn_eps=bn_eps)
        self.b3a = SamePool3d(kernel=three, stride=one)
        self.b3b = Unit3D(channels_in, widths[5], kernel=one, bn_eps=bn_eps)
        self.channels_out = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, T, H, W]`` -> ``[N, channels_out, T, H, W]``."""
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3D(Network):
    """Inception-v1 inflated; the embedding is the global average of Mixed_5c: 1024 numbers.

    Parameters
    ----------
    bn_eps : float
        Added to BatchNorm's variance: 1e-3 in the published model; some ports use 1e-5.
    """

    def __init__(self, spec: NetworkSpec, num_classes: int, *, bn_eps: float = 1e-3) -> None:
        super().__init__(spec, num_classes, dropout=0.5)
        channels = 3
        for name in BODY:
            if name in POOLS:
                kernel, stride = POOLS[name]
                self.add_module(name, SamePool3d(kernel=kernel, stride=stride))
            elif name in MIXED:
                mixed = Mixed(channels, MIXED[name], bn_eps=bn_eps)
                self.add_module(name, mixed)
                channels = mixed.channels_out
            else:
                width, kernel, stride = CONVOLUTIONS[name]
                self.add_module(name, Unit3D(channels, width, kernel=kernel, stride=stride, bn_eps=bn_eps))
                channels = width
        self.initialise()

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, 1024]``, float32, of frames ``[N, 3, T, H, W]`` in [-1, 1]."""
        check_video_batch(x, network=self.spec.name, min_frames=MIN_FRAMES)
        x = x.contiguous(memory_format=torch.channels_last_3d)  # twice as fast on CPU, in float32 too
        for name in BODY:
            x = self.get_submodule(name)(x)
        return global_mean(x)
