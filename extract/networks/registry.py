"""The table of networks, and functions that find a network by name and create it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from moodfuse.cache.errors import UnknownNameError
from moodfuse.extract.networks.specs import TORCHVISION, AudioPreprocessing, NetworkSpec, VideoPreprocessing

if TYPE_CHECKING:
    from moodfuse.extract.networks.base import Network

# Mean of the Sports-1M training frames (the average of the mean cube published with C3D), here in RGB order.
SPORTS1M_MEAN_RGB = (101.41, 97.66, 90.25)
ENTRY_POINT_GROUP = "moodfuse.networks"

_TABLE = (
    NetworkSpec(
        name="onedmcnn",
        modality="audio",
        factory="moodfuse.extract.networks.audio:OneDMCNN",
        preprocessing=AudioPreprocessing(),
        embedding_width=256,
        frozen_width=256,
        activation_width=256,
        default_depth="full",
        min_crop_s=2.0,
    ),
    NetworkSpec(
        name="twodmcnn",
        modality="audio",
        factory="moodfuse.extract.networks.audio:TwoDMCNN",
        preprocessing=AudioPreprocessing(),
        embedding_width=160,
        frozen_width=160,
        activation_width=160,
        min_crop_s=7.0,
        version=2,
    ),
    NetworkSpec(
        name="c3d",
        modality="video",
        factory="moodfuse.extract.networks.c3d:C3D",
        preprocessing=VideoPreprocessing(resize_hw=(128, 171), crop_px=112, mean=SPORTS1M_MEAN_RGB),
        embedding_width=512,
        frozen_width=512,
        activation_width=8192,
        has_replaced_layers=True,
    ),
    NetworkSpec(
        name="i3d",
        modality="video",
        factory="moodfuse.extract.networks.i3d:I3D",
        preprocessing=VideoPreprocessing(
            resize_short_side_px=256, crop_px=224, scale=1 / 127.5, mean=(1.0, 1.0, 1.0)
        ),
        embedding_width=1024,
        frozen_width=1024,
        activation_width=1024,
    ),
)
NETWORKS: dict[str, NetworkSpec] = {spec.name: spec for spec in _TABLE}


def network_spec(name: str) -> NetworkSpec:
    """The spec of a network.

    Parameters
    ----------
    name : str
        A name of `NETWORKS`, ``torchvision:`` and the name of a video model of torchvision, or the name of an
        entry point in the group ``moodfuse.networks`` that refers to a `NetworkSpec`.

    Raises
    ------
    UnknownNameError
        If no network has this name; the message lists the known ones.
    """
    if name.startswith(TORCHVISION):
        # Imports torch, which only a user of these models waits for.
        from moodfuse.extract.networks.torchvision_video import torchvision_spec

        return torchvision_spec(name)
    if name in NETWORKS:
        return NETWORKS[name]
    from importlib.metadata import entry_points

    added = entry_points(group=ENTRY_POINT_GROUP)
    if name not in added.names:
        raise UnknownNameError("source", name, [*NETWORKS, *added.names, f"{TORCHVISION}<video model>"])
    spec: NetworkSpec = added[name].load()
    return spec


def build_network(name: str, num_classes: int) -> Network:
    """Create a network in eval mode, initialised from torch's global random state."""
    spec = network_spec(name)
    module, _, attribute = spec.factory.partition(":")
    network: Network = getattr(importlib.import_module(module), attribute)(spec, num_classes)
    return network.eval()
