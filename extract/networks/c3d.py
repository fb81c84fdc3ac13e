"""`c3d`: Tran et al., "Learning spatiotemporal features with 3D convolutional networks".

ICCV 2015, arXiv 1412.0767.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moodfuse.extract.networks.base import Network, check_video_batch, max_pool
from moodfuse.extract.networks.specs import NetworkSpec

# (layer, input channels, output channels)
CONVOLUTIONS = (
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
POOLS = {
    "conv1": ((1, 2, 2), (0, 0, 0)),
    "conv2": ((2, 2, 2), (0, 0, 0)),
    "conv3b": ((2, 2, 2), (0, 0, 0)),
    "conv4b": ((2, 2, 2), (0, 0, 0)),
    "conv5b": ((2, 2, 2), (0, 1, 1)),
}
MIN_FRAMES = 16
SIDE_PX = 112
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
        for name, channels_in, channels_out in CONVOLUTIONS:
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
        check_video_batch(x, network=self.spec.name, min_frames=MIN_FRAMES, side_px=SIDE_PX)
        for name, _, _ in CONVOLUTIONS:
            x = self.get_submodule(name)(x)
            if name in POOLS:  # before the ReLU, which is then cheaper; the result is the same
                kernel, padding = POOLS[name]
                x = max_pool(x, kernel, kernel, padding=padding)
            x = F.relu_(x)
        return x.mean(dim=2, dtype=torch.float32).flatten(1)

    def pool_frozen(self, activation: Tensor) -> Tensor:
        """Global average of pool5, ``[N, 512]``, from activations ``[N, 8192]``."""
        return activation.unflatten(1, POOL5_SHAPE).mean(dim=(2, 3))
