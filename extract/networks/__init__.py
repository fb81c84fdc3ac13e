"""The networks of stage one: the table of what there is, and one function that makes any of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from moodfuse.extract.networks.registry import (
    NETWORKS,
    TORCHVISION,
    AudioPreprocessing,
    NetworkSpec,
    VideoPreprocessing,
    network_spec,
)

if TYPE_CHECKING:
    from moodfuse.extract.networks.base import Network

__all__ = [
    "NETWORKS",
    "AudioPreprocessing",
    "NetworkSpec",
    "VideoPreprocessing",
    "create_network",
    "network_spec",
]


def create_network(name: str, *, num_classes: int, weights: str | Path | None = None) -> Network:
    """Make a network in eval mode; without `weights` it is initialised from torch's global random state.

    Parameters
    ----------
    name : str
        A name of `NETWORKS`: ``onedmcnn``, ``twodmcnn``, ``c3d`` or ``i3d``; or ``torchvision:`` and the name of a
        video model of torchvision.
    num_classes : int
        Width of the classifier, which is always new.
    weights : str or Path, optional
        Known pretrained weights by name, or a file of weights.

    Returns
    -------
    Network
        A `torch.nn.Module`; called on a batch prepared as its `preprocessing` says, ``[N, 3, 32, H, W]`` or
        ``[N, 480000]`` float32, it returns ``(embedding [N, D], logits [N, num_classes])``, float32.

    Raises
    ------
    UnknownNameError
        If no network has this name.
    WeightsError
        If the weights are unknown, unreadable or those of another network.
    """
    spec = network_spec(name)
    module, _, attribute = spec.factory.partition(":")
    make = getattr(importlib.import_module(module), attribute)
    network: Network = make(spec, num_classes) if name.startswith(TORCHVISION) else make(num_classes)
    if weights is not None:
        from moodfuse.extract.networks.weights.load import load_weights

        load_weights(network, weights)
    return network.eval()
