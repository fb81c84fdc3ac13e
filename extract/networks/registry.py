"""The table of networks and of hubs, and how a name is resolved to a network. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import entry_points, packages_distributions
from typing import Any, Literal

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.extract.networks.inputs import AudioPreprocessing, Preprocessing, VideoPreprocessing

Modality = Literal["video", "audio"]
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's models."""
TORCHVISION_VIDEO = "moodfuse.extract.networks.torchvision_video"
PRETRAINED = "DEFAULT"
"""Weights of a hub source unless the user names others: those that the hub has for it."""
ENTRY_POINT_GROUP = "moodfuse.networks"
# Mean of the Sports-1M training frames (the average of the mean cube published with C3D), here in RGB order.
SPORTS1M_MEAN_RGB = (101.41, 97.66, 90.25)


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network: what it reads, and the class that implements it.

    Attributes
    ----------
    name : str
        Also the name of its source under the default recipe.
    modality : str
        ``"video"`` or ``"audio"``.
    factory : str
        ``module:class`` of a `Network`, called as ``class(spec, num_classes)``.
    preprocessing : VideoPreprocessing or AudioPreprocessing
        How its input is made, unless pretrained weights bring their own.
    embedding_width : int
        Width of the embedding that enters the classifier.
    frozen_width : int
        Width of the embedding at depth ``frozen``; `embedding_width` unless given.
    activation_width : int
        Width of what `Network.trunk` returns; `embedding_width` unless given.
    default_depth : str
        Tuning depth unless a recipe sets it.
    frame_rate_hz : float, optional
        Frames per second at which a video network was trained, where one is known.
    has_weights : bool
        Whether the trunk has weights, which depth ``full`` tunes.
    has_replaced_layers : bool
        Whether new layers stand between the trunk and the classifier.
    min_crop_s : float, optional
        Shortest waveform in seconds that an audio network takes.
    architecture : str
        As `Recipe.architecture`.
    weights : str, optional
        Name or file of the pretrained weights, unless the user names others.
    version : int
        Raised with every change that changes numbers; it enters the digest of a recipe.
    """

    name: str
    modality: Modality
    factory: str
    preprocessing: Preprocessing
    embedding_width: int
    frozen_width: int = 0
    activation_width: int = 0
    default_depth: str = "head"
    frame_rate_hz: float | None = None
    has_weights: bool = True
    has_replaced_layers: bool = False
    min_crop_s: float | None = None
    architecture: str = ""
    weights: str | None = None
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("frozen_width", "activation_width"):
            object.__setattr__(self, name, getattr(self, name) or self.embedding_width)


_TABLE = (
    NetworkSpec(
        name="onedmcnn",
        modality="audio",
        factory="moodfuse.extract.networks.audio:OneDMCNN",
        preprocessing=AudioPreprocessing(),
        embedding_width=256,
        default_depth="full",
        min_crop_s=2.0,
    ),
    NetworkSpec(
        name="twodmcnn",
        modality="audio",
        factory="moodfuse.extract.networks.audio:TwoDMCNN",
        preprocessing=AudioPreprocessing(),
        embedding_width=160,
        min_crop_s=7.0,
        version=3,
    ),
    NetworkSpec(
        name="musicnn",
        modality="audio",
        factory="moodfuse.extract.networks.musicnn:Musicnn",
        preprocessing=AudioPreprocessing(),
        embedding_width=200,
        default_depth="frozen",
        min_crop_s=3.0,
    ),
    NetworkSpec(
        name="c3d",
        modality="video",
        factory="moodfuse.extract.networks.video:C3D",
        preprocessing=VideoPreprocessing(resize_hw=(128, 171), crop_px=112, mean=SPORTS1M_MEAN_RGB),
        embedding_width=512,
        activation_width=8192,
        has_replaced_layers=True,
        version=2,
    ),
    NetworkSpec(
        name="i3d",
        modality="video",
        factory="moodfuse.extract.networks.video:I3D",
        preprocessing=VideoPreprocessing(
            resize_short_side_px=256, crop_px=224, scale=1 / 127.5, mean=(1.0, 1.0, 1.0)
        ),
        embedding_width=1024,
        frame_rate_hz=25.0,  # Carreira and Zisserman 2017, arXiv 1705.07750
        version=2,
    ),
    NetworkSpec(
        name="frame-stats",
        modality="video",
        factory="moodfuse.extract.networks.descriptors:FrameStats",
        preprocessing=VideoPreprocessing(resize_short_side_px=128, crop_px=128, scale=1 / 255),
        embedding_width=44,
        default_depth="frozen",
        has_weights=False,
    ),
    NetworkSpec(
        name="audio-stats",
        modality="audio",
        factory="moodfuse.extract.networks.descriptors:AudioStats",
        preprocessing=AudioPreprocessing(),
        embedding_width=51,
        default_depth="frozen",
        has_weights=False,
    ),
)
NETWORKS: dict[str, NetworkSpec] = {spec.name: spec for spec in _TABLE}


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A library of pretrained networks.

    `module` has the functions ``hub_spec(name, architecture)``, which returns a `NetworkSpec`,
    ``checkpoint_facts(name, weights)``, which returns the `WeightsFacts` of a name, file or folder, and
    ``known_weights(name)``, which returns the `KnownWeights` by name.
    """

    module: str
    library: str  # that has to be installed
    example: str
    contents: str
    extra: str | None = None  # of moodfuse, that installs the library; None if moodfuse always does


_HUBS = "moodfuse.extract.networks.hubs"
HUBS: dict[str, Hub] = {
    "torchvision": Hub(
        module=f"{_HUBS}.torchvision_image",
        library="torchvision",
        example="torchvision:efficientnet_b0",
        contents="image models",
    ),
    "timm": Hub(
        module=f"{_HUBS}.timm_image",
        library="timm",
        extra="timm",
        example="timm:vit_base_patch16_224.augreg2_in21k_ft_in1k",
        contents="image models",
    ),
    "hf": Hub(
        module=f"{_HUBS}.huggingface",
        library="transformers",
        extra="transformers",
        example="hf:facebook/dinov2-base",
        contents="image, video and audio encoders of Hugging Face",
    ),
    "torchaudio": Hub(
        module=f"{_HUBS}.torchaudio_speech",
        library="torchaudio",
        example="torchaudio:WAVLM_BASE",
        contents="wav2vec 2.0, HuBERT and WavLM",
    ),
}
"""Prefix of the names of sources to the library that has their networks."""


def is_torchvision_video(name: str) -> bool:
    """Whether a name is that of one of torchvision's video models."""
    if not name.startswith(TORCHVISION):
        return False
    names: tuple[str, ...] = import_object(f"{TORCHVISION_VIDEO}:torchvision_names")()
    return name.removeprefix(TORCHVISION) in names


def is_installed(hub: Hub) -> bool:
    """Whether the library of a hub is installed."""
    try:
        return importlib.util.find_spec(hub.library) is not None
    except ValueError:  # its entry of sys.modules is None
        return False


def find_hub(name: str) -> Hub | None:
    """The hub of a network; `None` for other networks.

    Raises `InputError` if its library is not installed.
    """
    prefix, colon, _ = name.partition(":")
    if not colon or prefix not in HUBS or is_torchvision_video(name):
        return None
    hub = HUBS[prefix]
    if not is_installed(hub):
        raise InputError(f"{name}: {hub.library} is not installed; pip install 'moodfuse[{hub.extra}]'")
    return hub


def is_registered(name: str) -> bool:
    """Whether a name is in the table, has the prefix of a hub, or is an entry point.

    A model folder may only name such networks: ``package.module:NAME`` would let it choose what is imported.
    """
    is_known = name in NETWORKS or name.partition(":")[0] in HUBS
    return is_known or name in entry_points(group=ENTRY_POINT_GROUP).names


def registered_names() -> list[str]:
    """The names for which `is_registered` is true, those of a hub as ``prefix:MODEL``."""
    added = entry_points(group=ENTRY_POINT_GROUP).names
    return [*NETWORKS, *added, *(f"{prefix}:MODEL" for prefix in HUBS)]


def default_weights(name: str) -> str | None:
    """Weights of a network unless the user names others; `None` if it then starts from random values."""
    return PRETRAINED if name.startswith("hf:") else network_spec(name).weights


def network_spec(name: str, architecture: str = "") -> NetworkSpec:
    """The spec of a network.

    Parameters
    ----------
    name : str
        A name of `NETWORKS`; a prefix of `HUBS` and the name of a model, such as ``torchvision:r3d_18``; the
        name of an entry point in the group ``moodfuse.networks`` that refers to a `NetworkSpec`; or
        ``package.module:NAME`` of a `NetworkSpec`.
    architecture : str
        As `Recipe.architecture`.

    Raises
    ------
    UnknownNameError
        If no network has this name; the message lists the known ones.
    InputError
        If the library of a hub is not installed.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    spec: NetworkSpec
    # Hubs import torch, so they are imported only when one of their networks is used.
    if is_torchvision_video(name):
        spec = import_object(f"{TORCHVISION_VIDEO}:torchvision_spec")(name)
        return spec
    if hub := find_hub(name):
        spec = import_object(f"{hub.module}:hub_spec")(name, architecture)
        return spec
    return _added_spec(name)


def _added_spec(name: str) -> NetworkSpec:
    """The `NetworkSpec` of another package, under the name by which it was asked for."""
    added = entry_points(group=ENTRY_POINT_GROUP)
    if name not in added.names and ":" not in name:
        raise UnknownNameError("source", name, [*registered_names(), "package.module:NAME"])
    if name not in added.names and name.split(".")[0].split(":")[0] not in packages_distributions():
        raise InputError(
            f"unknown source {name!r}: no installed package has this module; install it, or write "
            f"{', '.join(f'{prefix}:MODEL' for prefix in HUBS)} for a model of a hub"
        )
    try:
        spec = added[name].load() if name in added.names else import_object(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name}: this network cannot be imported ({error})") from error
    if not isinstance(spec, NetworkSpec):
        raise InputError(f"{name}: is {type(spec).__name__}, expected a NetworkSpec")
    return replace(spec, name=name)


def list_networks() -> Iterator[str]:
    """Lines for the user: the networks of the table, of other packages and of hubs, and what is missing."""
    for spec in NETWORKS.values():
        yield f"{spec.name}: {spec.modality}, embedding {spec.embedding_width}"
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        facts = ""
        with suppress(Exception):  # code of others, whose errors matter only where the network is a source
            spec = _added_spec(entry.name)
            facts = f"{spec.modality}, embedding {spec.embedding_width}, "
        yield f"{entry.name}: {facts}of the package {entry.dist.name if entry.dist else entry.value}"
    yield f"{TORCHVISION}NAME, such as {TORCHVISION}r3d_18: video models"
    for prefix, hub in HUBS.items():
        state = "" if is_installed(hub) else f"; not installed: pip install 'moodfuse[{hub.extra}]'"
        yield f"{prefix}:NAME, such as {hub.example}: {hub.contents}{state}"
    yield "package.module:NAME: a NetworkSpec of your own (docs/networks.md)"


def import_object(path: str) -> Any:
    """The object that ``module:name`` stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
