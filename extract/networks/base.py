"""The base class of all networks: a trunk, optional replaced layers, and a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moodfuse.extract.networks.registry import NetworkSpec, Preprocessing, import_object, network_spec

CLASSIFIER_STD = 0.01
Triple = tuple[int, int, int]
"""Time, height and width."""


class Network(nn.Module):
    """A network that gives an embedding and the logits computed from it.

    A batch passes ``trunk`` -> ``embed`` -> ``classifier``. At depth ``head`` the trunk is not tuned, so its
    activations are computed once; at depth ``frozen`` ``pool_frozen`` makes the embedding from them.

    Attributes
    ----------
    preprocessing : VideoPreprocessing or AudioPreprocessing
        That of `spec`, unless loaded weights brought their own.
    pretrained : bool
        Whether the trunk holds pretrained weights.
    replaced : torch.nn.Module
        The layers between trunk and classifier; the identity for most networks.
    classifier : torch.nn.Sequential
        ``Dropout`` and ``Linear(embedding_width, num_classes)``.
    """

    def __init__(self, spec: NetworkSpec, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.spec = spec
        self.preprocessing: Preprocessing = spec.preprocessing
        self.pretrained = False
        self.replaced: nn.Module = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(spec.embedding_width, num_classes))

    def trunk(self, x: Tensor) -> Tensor:
        """Compute the activations ``[N, activation_width]``, float32; only depth ``full`` tunes these layers.

        The batch is ``[N, 3, T, H, W]`` for video, ``[N, samples]`` for audio.
        """
        raise NotImplementedError

    def pool_frozen(self, activation: Tensor) -> Tensor:
        """The embedding ``[N, frozen_width]`` at depth ``frozen``, from the activations."""
        return activation

    def embed(self, activation: Tensor) -> Tensor:
        """The embedding ``[N, embedding_width]`` at other depths, from the activations."""
        embedding: Tensor = self.replaced(activation).float()
        return embedding

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding ``[N, embedding_width]`` and logits ``[N, num_classes]``, float32, of a batch."""
        embedding = self.embed(self.trunk(x))
        return embedding, self.classifier(embedding).float()

    def load_checkpoint(self, path: Path) -> None:
        """Load pretrained weights into the trunk, for networks of hubs.

        Raises `WeightsError` unless the file or folder has all of them.
        """
        raise NotImplementedError

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters tuned at depth ``head``: those of the replaced layers and of the classifier."""
        yield from self.replaced.parameters()
        yield from self.classifier.parameters()

    def train(self, mode: bool = True) -> Network:
        """Set training mode; BatchNorm stays in eval mode where the network is pretrained."""
        super().train(mode)
        if mode and self.pretrained:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def set_bn_eps(self, eps: float) -> None:
        """Set the epsilon of every BatchNorm; ports of a model differ in it."""
        for norm in self._batch_norms():
            norm.eps = eps

    def _batch_norms(self) -> Iterator[_BatchNorm]:
        return (module for module in self.modules() if isinstance(module, _BatchNorm))

    @property
    def output_bias(self) -> nn.Parameter:
        """The bias of the classifier, ``[num_classes]``."""
        return self.get_parameter("classifier.1.bias")

    def reset_classifier(self, num_classes: int) -> None:
        """Draw a new classifier from torch's global generator; the other layers keep their weights."""
        linear = nn.Linear(self.spec.embedding_width, num_classes)
        nn.init.normal_(linear.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(linear.bias)
        self.classifier[1] = linear

    def initialise(self) -> None:
        """Draw new weights from torch's global generator; signals keep their variance through the trunk.

        Convolutions and the replaced layers follow He et al. (2015, arXiv 1502.01852), for rectified units,
        with zero biases. The classifier starts near zero, so that the first predictions are near uniform.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier[1].weight, std=CLASSIFIER_STD)  # type: ignore[arg-type]


def build_network(name: str, num_classes: int, architecture: str = "") -> Network:
    """Create a network in eval mode, initialised from torch's global random state."""
    spec = network_spec(name, architecture)
    network: Network = import_object(spec.factory)(spec, num_classes)
    return network.eval()


def global_mean(x: Tensor) -> Tensor:
    """Mean over all axes after the channels, ``[N, C, ...]`` -> ``[N, C]``, summed in float32."""
    # Not a pooling layer: average pooling in 3-D has no bfloat16 kernel for contiguous input on CPU.
    return x.flatten(2).mean(dim=2, dtype=torch.float32)


def max_pool(x: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
    """Max pooling of ``[N, C, T, H, W]`` in the dtype of its input."""
    # Autocast on CPU pools in float32: twice the bytes, for the same maxima. It is left on only where
    # gradients of overlapping windows add up.
    overlapping = any(size > step for size, step in zip(kernel, stride, strict=True))
    keep_autocast = torch.is_grad_enabled() and overlapping
    with nullcontext() if keep_autocast else torch.autocast(x.device.type, enabled=False):
        return F.max_pool3d(x, kernel, stride, padding)
