"""The base class of all networks: a trunk, optional replaced layers, and a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from moodfuse.extract.networks.inputs import Preprocessing, VideoPreprocessing
from moodfuse.extract.networks.registry import NetworkSpec, import_object, network_spec

CLASSIFIER_STD = 0.01
CONTAINERS = (nn.Sequential, nn.ModuleList)
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
    spec_augment : float
        Longest mask of audio in training mode, as a fraction of the time and of the frequencies.
    replaced : torch.nn.Module
        The layers between trunk and classifier; the identity for most networks.
    classifier : torch.nn.Sequential
        ``Dropout`` and ``Linear(embedding_width, num_classes)``.
    """

    has_spectrogram = False
    """Whether the trunk passes a spectrogram to `mask`; the waveform is masked otherwise."""

    def __init__(self, spec: NetworkSpec, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.spec = spec
        self.preprocessing: Preprocessing = spec.preprocessing
        self.pretrained = False
        self.spec_augment = 0.0
        self.replaced: nn.Module = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(spec.embedding_width, num_classes))

    def trunk(self, x: Tensor) -> Tensor:
        """Compute the activations ``[N, activation_width]``, float32.

        Only depths ``full`` and ``last:N`` tune these layers.

        The batch is ``[N, 3, T, H, W]`` for video, ``[N, samples]`` for audio.
        """
        raise NotImplementedError

    def activations(self, x: Tensor) -> Tensor:
        """The activations of the trunk, averaged over the views (windows and crops) of each clip.

        A batch of videos with several views is ``[N, 3, views * T, H, W]``.
        """
        preprocessing = self.preprocessing
        views = (
            x.shape[2] // preprocessing.view_frames if isinstance(preprocessing, VideoPreprocessing) else 1
        )
        if views <= 1:
            return self.trunk(x)
        return torch.stack([self.trunk(view) for view in x.chunk(views, dim=2)]).mean(dim=0)

    def pool_frozen(self, activation: Tensor) -> Tensor:
        """The embedding ``[N, frozen_width]`` at depth ``frozen``, from the activations."""
        return activation

    def embed(self, activation: Tensor) -> Tensor:
        """The embedding ``[N, embedding_width]`` at other depths, from the activations."""
        embedding: Tensor = self.replaced(activation).float()
        return embedding

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding ``[N, embedding_width]`` and logits ``[N, num_classes]``, float32, of a batch."""
        if self.spec.modality == "audio" and not self.has_spectrogram:
            x = self.mask(x.unsqueeze(1), axes=1).squeeze(1)
        embedding = self.embed(self.activations(x))
        return embedding, self.classifier(embedding).float()

    def mask(self, x: Tensor, *, axes: int = 2) -> Tensor:
        """Set a random stretch of each of the last axes of ``[N, ..., A, B]`` to 0 in tuning with masks.

        SpecAugment (Park et al. 2019, arXiv 1904.08779) with one mask an axis, which the mean of a
        standardised spectrogram fills.
        """
        if not (self.training and self.spec_augment):
            return x
        from torchaudio.functional import mask_along_axis_iid  # takes seconds to import

        for axis in range(x.ndim - axes, x.ndim):
            x = mask_along_axis_iid(x, round(self.spec_augment * x.shape[axis]), 0.0, axis)
        return x

    def load_checkpoint(self, path: Path) -> None:
        """Load pretrained weights into the trunk, for networks of hubs.

        Raises `WeightsError` unless the file or folder has all of them.
        """
        raise NotImplementedError

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters tuned at depth ``head``: those of the replaced layers and of the classifier."""
        yield from self.replaced.parameters()
        yield from self.classifier.parameters()

    def blocks(self) -> list[nn.Module]:
        """The blocks of the trunk from its input to its output, which depth ``last:N`` counts from the end.

        They are the elements of its outermost `torch.nn.Sequential` and `torch.nn.ModuleList` that have
        weights, in the order of their definition: layers of a transformer, blocks of a ResNet, stages of an
        EfficientNet. Norms and biases alone do not count as weights. The blocks of a trunk without such
        containers are its direct parts.
        """
        parts = [part for name, part in self.named_children() if name not in ("replaced", "classifier")]
        if len(parts) == 1 and not isinstance(parts[0], CONTAINERS):  # a model of another library
            parts = list(parts[0].children()) or parts
        elements = [element for part in parts for element in _elements(part)]
        return _with_weights(elements) or _with_weights(parts)

    def number_parameters(self) -> list[tuple[nn.Parameter, int]]:
        """All parameters, each with the number of its block from the end: 0 for the replaced layers and the
        classifier, 1 for the last block.

        A parameter outside all blocks belongs to the block that is defined before it; those before the first
        block have the highest number.
        """
        blocks = self.blocks()
        numbers = {
            id(parameter): len(blocks) - index
            for index, block in enumerate(blocks)
            for parameter in block.parameters()
        }
        numbers |= dict.fromkeys(map(id, self.head_parameters()), 0)
        numbered, block_number = [], len(blocks) + 1
        for parameter in self.parameters():
            number = numbers.get(id(parameter), block_number)
            block_number = number or block_number
            numbered.append((parameter, number))
        return numbered

    def checkpoint_blocks(self) -> None:
        """From now on, compute the activations inside blocks again in the backward pass (gradient
        checkpointing), which takes less memory and more time for the same gradients.
        """
        for block in self.blocks():
            block.forward = partial(_checkpointed, block.forward)

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


def count_blocks(name: str, architecture: str = "") -> int:
    """Number of blocks of a network."""
    with torch.device("meta"):  # without memory for the weights
        return len(build_network(name, 2, architecture).blocks())


def _elements(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost containers in a module."""
    for child in module.children():
        if isinstance(module, CONTAINERS):
            yield child
        else:
            yield from _elements(child)


def _with_weights(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that have a parameter of two or more axes."""
    return [module for module in modules if any(value.ndim > 1 for value in module.parameters())]


def _checkpointed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)


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
