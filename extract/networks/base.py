"""What every network of stage one has in common: a trunk, perhaps replaced layers, and a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moodfuse.cache.errors import InputError
from moodfuse.extract.networks.registry import NetworkSpec, Preprocessing

CLASSIFIER_STD = 0.01
Triple = tuple[int, int, int]
"""Time, height and width."""


class Network(nn.Module):
    """A network that gives an embedding and the logits made from it.

    The way of a batch is ``trunk`` -> ``embed`` -> ``classifier``. Under head tuning the trunk stays as it is, so its
    activations can be computed once; under frozen depth ``pool_frozen`` makes the embedding from them.

    Parameters
    ----------
    spec : NetworkSpec
        The network's entry in the table.
    num_classes : int
        Width of the classifier.
    dropout : float
        Probability of the dropout before the classifier's linear layer.

    Attributes
    ----------
    spec : NetworkSpec
        The network's entry in the table.
    preprocessing : VideoPreprocessing or AudioPreprocessing
        How its input is prepared: that of `spec`, unless loaded weights brought their own.
    pretrained : bool
        Whether the trunk holds pretrained weights. If so, BatchNorm keeps its running statistics in training mode.
    replaced : torch.nn.Module
        The layers between trunk and classifier; the identity for most networks.
    classifier : torch.nn.Sequential
        ``Dropout`` and ``Linear(embedding_width, num_classes)``.

    Raises
    ------
    InputError
        If `num_classes` is not positive.
    """

    def __init__(self, spec: NetworkSpec, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        if num_classes < 1:
            raise InputError(f"{spec.name}: num_classes must be at least 1, got {num_classes}")
        self.spec = spec
        self.preprocessing: Preprocessing = spec.preprocessing
        self.pretrained = False
        self.replaced: nn.Module = nn.Identity()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(spec.embedding_width, num_classes))

    def trunk(self, x: Tensor) -> Tensor:
        """The part that stays fixed unless the whole network is tuned.

        Parameters
        ----------
        x : Tensor
            Prepared batch, ``[N, 3, T, H, W]`` for video, ``[N, samples]`` for audio.

        Returns
        -------
        Tensor
            ``[N, activation_width]``, float32, under autocast too.

        Raises
        ------
        InputError
            If the batch does not have a shape that the network takes.
        """
        raise NotImplementedError

    def pool_frozen(self, activation: Tensor) -> Tensor:
        """The embedding under frozen depth, ``[N, frozen_width]``, from activations ``[N, activation_width]``."""
        return activation

    def embed(self, activation: Tensor) -> Tensor:
        """The embedding under other depths, ``[N, embedding_width]``, from activations ``[N, activation_width]``."""
        embedding: Tensor = self.replaced(activation).float()
        return embedding

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding ``[N, embedding_width]`` and logits ``[N, num_classes]``, float32, of a prepared batch."""
        embedding = self.embed(self.trunk(x))
        return embedding, self.classifier(embedding).float()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters tuned at depth ``head``: those of the replaced layers and of the classifier."""
        yield from self.replaced.parameters()
        yield from self.classifier.parameters()

    def train(self, mode: bool = True) -> Network:
        """Set training mode; BatchNorm stays in eval mode where the network is pretrained."""
        super().train(mode)
        if mode and self.pretrained:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def set_bn_eps(self, eps: float) -> None:
        """Set what every BatchNorm adds to its variance; ports of a model differ in it."""
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps = eps

    def reset_classifier(self, num_classes: int) -> None:
        """Draw a new classifier for `num_classes` labels from torch's global generator; the rest stays as it is."""
        linear = nn.Linear(self.spec.embedding_width, num_classes)
        nn.init.normal_(linear.weight, std=CLASSIFIER_STD)
        nn.init.zeros_(linear.bias)
        self.classifier[1] = linear

    def initialise(self) -> None:
        """Draw new weights from torch's global generator, so that signals keep their variance through the trunk.

        Convolutions and the replaced layers follow He et al. (2015, arXiv 1502.01852), for rectified units, with zero
        biases. The classifier starts near zero, so that the first predictions are near uniform.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier[1].weight, std=CLASSIFIER_STD)  # type: ignore[arg-type]


def check_video_batch(x: Tensor, *, network: str, min_frames: int, side_px: int | None = None) -> None:
    """Refuse a batch that is not ``[N, 3, T, H, W]`` with enough frames and, if given, sides of `side_px` pixels.

    Raises
    ------
    InputError
        If the shape is another.
    """
    fits = x.ndim == 5 and x.shape[1] == 3 and x.shape[2] >= min_frames
    if not fits or (side_px is not None and tuple(x.shape[3:]) != (side_px, side_px)):
        side = "H, W" if side_px is None else f"{side_px}, {side_px}"
        raise InputError(
            f"{network}: got a batch of shape {list(x.shape)}, expected [N, 3, T >= {min_frames}, {side}]; "
            "prepare frames with extract.media.preprocess.video_input"
        )


def check_audio_batch(x: Tensor, *, network: str, min_samples: int) -> None:
    """Refuse a batch that is not ``[N, samples]`` with enough samples.

    Raises
    ------
    InputError
        If the shape is another.
    """
    if x.ndim != 2 or x.shape[1] < min_samples:
        raise InputError(
            f"{network}: got a batch of shape {list(x.shape)}, expected [N, samples >= {min_samples}] "
            "of mono sound at 16 kHz"
        )


def min_samples(spec: NetworkSpec) -> int:
    """The shortest waveform that an audio network takes, in samples at the rate of its preprocessing.

    Raises
    ------
    InputError
        If the network does not read sound.
    """
    rate_hz = getattr(spec.preprocessing, "sample_rate_hz", None)
    if spec.min_crop_s is None or rate_hz is None:
        raise InputError(f"{spec.name} is a network for {spec.modality}, which has no shortest waveform")
    return int(spec.min_crop_s * rate_hz)


def global_mean(x: Tensor) -> Tensor:
    """Mean over all axes behind the channels, ``[N, C, ...]`` -> ``[N, C]``, summed in float32.

    A mean rather than a pooling layer: average pooling in 3-D has no bfloat16 kernel for contiguous input on CPU.
    """
    return x.flatten(2).mean(dim=2, dtype=torch.float32)


def max_pool(
    x: Tensor, kernel: Triple, stride: Triple, *, padding: Triple = (0, 0, 0), ceil_mode: bool = False
) -> Tensor:
    """Max pooling of ``[N, C, T, H, W]`` in the type of its input.

    Autocast on CPU would do it in float32: twice the bytes, for the same maxima. It still does where gradients of
    windows that overlap add up.
    """
    overlapping = any(size > step for size, step in zip(kernel, stride, strict=True))
    kept = torch.is_grad_enabled() and overlapping
    with nullcontext() if kept else torch.autocast(x.device.type, enabled=False):
        return F.max_pool3d(x, kernel, stride, padding=padding, ceil_mode=ceil_mode)
