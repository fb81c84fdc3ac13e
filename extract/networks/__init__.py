"""The networks of stage one: their table, one function that creates any of them, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moodfuse.extract.networks.inputs import (
    AudioPreprocessing,
    Preprocessing,
    VideoPreprocessing,
    input_size,
    preprocessing_from_record,
)
from moodfuse.extract.networks.registry import (
    NETWORKS,
    NetworkSpec,
    default_weights,
    find_hub,
    is_registered,
    list_networks,
    network_spec,
    registered_names,
)
from moodfuse.extract.networks.weights.fetch import fetch_weights, print_weights
from moodfuse.extract.networks.weights.files import WeightsError, load_weights_file, save_weights
from moodfuse.extract.networks.weights.load import (
    WeightsFacts,
    bn_eps_of,
    convert_weights,
    load_weights,
    trunk_names,
    weights_facts,
)
from moodfuse.extract.networks.weights.published import named_weights

if TYPE_CHECKING:
    from moodfuse.extract.networks.base import Network

__all__ = [
    "NETWORKS",
    "AudioPreprocessing",
    "NetworkSpec",
    "Preprocessing",
    "VideoPreprocessing",
    "WeightsError",
    "WeightsFacts",
    "bn_eps_of",
    "convert_weights",
    "create_network",
    "default_weights",
    "fetch_weights",
    "find_hub",
    "input_size",
    "is_registered",
    "list_networks",
    "load_weights",
    "load_weights_file",
    "named_weights",
    "network_spec",
    "preprocessing_from_record",
    "print_weights",
    "registered_names",
    "save_weights",
    "trunk_names",
    "weights_facts",
]


def create_network(
    name: str, *, num_classes: int, weights: str | Path | None = None, architecture: str = ""
) -> Network:
    """Create a network in eval mode; without `weights` it is initialised from torch's global random state.

    Parameters
    ----------
    name : str
        As for `network_spec`, such as ``"c3d"`` or ``"torchvision:r3d_18"``.
    num_classes : int
        Width of the classifier, which is always new.
    weights : str or Path, optional
        Published pretrained weights by name, or a weights file; for a hub's network also ``"DEFAULT"``, those
        that the hub has for it, and for ``hf:`` networks a folder or a repository.
    architecture : str
        As `Recipe.architecture`; by default that of the weights.

    Returns
    -------
    Network
        A `torch.nn.Module`; called on a batch prepared as its `preprocessing` describes, ``[N, 3, 32, H, W]``
        or ``[N, 480000]`` float32, it returns ``(embedding [N, D], logits [N, num_classes])``, float32.

    Raises
    ------
    UnknownNameError
        If no network has this name.
    WeightsError
        If the weights are unknown, unreadable or those of another network.
    """
    from moodfuse.extract.networks.base import build_network  # imports torch

    if weights is not None and not architecture and find_hub(name):
        architecture = weights_facts(weights, name).architecture
    network = build_network(name, num_classes, architecture)
    if weights is not None:
        load_weights(network, weights)
    return network
