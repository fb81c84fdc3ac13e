"""The video networks `c3d` and `i3d`.

`c3d`: Tran et al., "Learning spatiotemporal features with 3D convolutional networks" (ICCV 2015, arXiv
1412.0767).

`i3d`: Carreira and Zisserman, "Quo vadis, action recognition?" (CVPR 2017, arXiv 1705.07750): Inception-v1
with its kernels inflated to 3-D. Layers carry the names of the published TensorFlow model and pad as
TensorFlow's 'same' does: by an amount that depends on the input's size, with the extra element at the end
where the amount is odd.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moodfuse.extract.networks.base import Network, Triple, global_mean, max_pool
from moodfuse.extract.networks.registry import NetworkSpec

# (layer, input channels, output channels)
C3D_CONVOLUTIONS = (
    ("conv1", 3, 64),
    ("conv2", 64, 128),
    ("conv3a", 128, 256),
    ("conv3b", 256, 256),
    ("conv4a", 256, 512),
    ("conv4b", 512, 512),
    ("conv5a", 512, 512),
    ("conv5b", 512, 512),
)
# layer -> (kernel and stride, padding) of the max pooling after it, over time, height, width
C3D_POOLS = {
    "conv1": ((1, 2, 2), (0, 0, 0)),
    "conv2": ((2, 2, 2), (0, 0, 0)),
    "conv3b": ((2, 2, 2), (0, 0, 0)),
    "conv4b": ((2, 2, 2), (0, 0, 0)),
    "conv5b": ((2, 2, 2), (0, 1, 1)),
}
POOL5_SHAPE = (512, 4, 4)
# Typical standard deviation of the network's input, whose pixels keep the range of 0 to 255.
INPUT_STD = 64.0


class C3D(Network):
    """Eight 3 x 3 x 3 convolutions with five max poolings; the last two fully connected layers are replaced.

    The trunk ends in pool5 averaged over its time axis, so it takes any clip of 16 frames or more; for 16
    frames it gives the flattened pool5 of the paper, 512 x 4 x 4 = 8192 numbers. The replaced layers have
    1024 and 512 units.
    """

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.2)
        for name, channels_in, channels_out in C3D_CONVOLUTIONS:
            self.add_module(name, nn.Conv3d(channels_in, channels_out, kernel_size=3, padding=1))
        self.replaced = nn.Sequential(
            nn.Linear(self.spec.activation_width, 1024),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(1024, self.spec.embedding_width),
            nn.ReLU(),
        )
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights; those of conv1 also scale the range of pixels down to about one."""
        super().initialise()
        with torch.no_grad():
            self.get_parameter("conv1.weight").div_(INPUT_STD)

    def trunk(self, x: Tensor) -> Tensor:
        """Activations ``[N, 8192]``, float32, of frames ``[N, 3, T >= 16, 112, 112]``."""
        for name, _, _ in C3D_CONVOLUTIONS:
            x = self.get_submodule(name)(x)
            if name in C3D_POOLS:  # before the ReLU, which is then cheaper; the result is the same
                kernel, padding = C3D_POOLS[name]
                x = max_pool(x, kernel, kernel, padding)
            x = F.relu_(x)
        return x.mean(dim=2, dtype=torch.float32).flatten(1)

    def pool_frozen(self, activation: Tensor) -> Tensor:
        """Global average of pool5, ``[N, 512]``, from activations ``[N, 8192]``."""
        return activation.unflatten(1, POOL5_SHAPE).mean(dim=(2, 3))


I3D_CONVOLUTIONS: dict[str, tuple[int, Triple, Triple]] = {  # output channels, kernel, stride
    "Conv3d_1a_7x7": (64, (7, 7, 7), (2, 2, 2)),
    "Conv3d_2b_1x1": (64, (1, 1, 1), (1, 1, 1)),
    "Conv3d_2c_3x3": (192, (3, 3, 3), (1, 1, 1)),
}
I3D_POOLS: dict[str, tuple[Triple, Triple]] = {  # kernel, stride
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
I3D_BODY = (
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3",
    "Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f",
    "MaxPool3d_5a_2x2", "Mixed_5b", "Mixed_5c",
)  # fmt: skip
I3D_BN_EPS = 1e-3
"""Of the published model; weights of a port may set another."""


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> tuple[Tensor, Triple]:
    """Pad ``[N, C, T, H, W]`` for 'same', and return the padding that is left for the layer itself."""
    padding = []
    for size, length, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + length - size, 0)
        padding.append((total // 2, total - total // 2))
    # Only an odd amount needs a padded copy. Zeros are right for the poolings too, as they follow a ReLU.
    if all(before == after for before, after in padding):
        return x, (padding[0][0], padding[1][0], padding[2][0])
    return F.pad(x, [amount for pair in reversed(padding) for amount in pair]), (0, 0, 0)


class Unit3D(nn.Module):
    """Convolution without bias, BatchNorm, ReLU, with 'same' padding."""

    def __init__(
        self, channels_in: int, channels_out: int, *, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel_size=kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=I3D_BN_EPS)

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
        padded, padding = pad_same(x, self.kernel, self.stride)
        return max_pool(padded, self.kernel, self.stride, padding)


class Mixed(nn.Module):
    """One inception module: four parallel branches, concatenated over channels.

    `widths` are the output channels of b0, b1a, b1b, b2a, b2b and b3b.
    """

    def __init__(self, channels_in: int, widths: Widths) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        self.b0 = Unit3D(channels_in, widths[0], kernel=one)
        self.b1a = Unit3D(channels_in, widths[1], kernel=one)
        self.b1b = Unit3D(widths[1], widths[2], kernel=three)
        self.b2a = Unit3D(channels_in, widths[3], kernel=one)
        self.b2b = Unit3D(widths[3], widths[4], kernel=three)
        self.b3a = SamePool3d(kernel=three, stride=one)
        self.b3b = Unit3D(channels_in, widths[5], kernel=one)
        self.channels_out = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, T, H, W]`` -> ``[N, channels_out, T, H, W]``."""
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3D(Network):
    """Inception-v1 inflated; the embedding is the global average of Mixed_5c: 1024 numbers."""

    def __init__(self, spec: NetworkSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes, dropout=0.5)
        channels = 3
        for name in I3D_BODY:
            if name in I3D_POOLS:
                kernel, stride = I3D_POOLS[name]
                self.add_module(name, SamePool3d(kernel=kernel, stride=stride))
            elif name in MIXED:
                mixed = Mixed(channels, MIXED[name])
                self.add_module(name, mixed)
                channels = mixed.channels_out
            else:
                width, kernel, stride = I3D_CONVOLUTIONS[name]
                self.add_module(name, Unit3D(channels, width, kernel=kernel, stride=stride))
                channels = width
        self.initialise()

    def trunk(self, x: Tensor) -> Tensor:
        """Features ``[N, 1024]``, float32, of frames ``[N, 3, T, H, W]`` in [-1, 1]."""
        x = x.contiguous(memory_format=torch.channels_last_3d)  # twice as fast on CPU, in float32 too
        for name in I3D_BODY:
            x = self.get_submodule(name)(x)
        return global_mean(x)
