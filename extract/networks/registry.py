"""The table of networks, and the records that describe them. Imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from moodfuse.cache.errors import UnknownNameError

Depth = Literal["frozen", "head", "full"]
Modality = Literal["video", "audio"]
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's video models."""
TORCHVISION_FACTORY = "moodfuse.extract.networks.torchvision_video:torchvision_spec"
ENTRY_POINT_GROUP = "moodfuse.networks"
INTERPOLATION = "bilinear uint8"
# Mean of the Sports-1M training frames (the average of the mean cube published with C3D), here in RGB order.
SPORTS1M_MEAN_RGB = (101.41, 97.66, 90.25)


@dataclass(frozen=True, kw_only=True)
class VideoPreprocessing:
    """How decoded frames become the input of a video network.

    A pixel in [0, 255] becomes ``(pixel * scale - mean) / std``, channel by channel. Resizing is bilinear, on
    uint8, by exactly one of `resize_short_side_px`, which keeps the aspect ratio, and `resize_hw`.
    """

    crop_px: int  # side of the square crop, taken after resizing
    frames: int = 32  # at the middles of this many equal intervals of a clip
    resize_short_side_px: int | None = None
    resize_hw: tuple[int, int] | None = None
    antialias: bool = True  # whether a shrinking resize averages over the pixels that it merges
    centre: Literal["floor", "even"] = "floor"  # rounding of half a pixel in the margin of a centre crop
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # in `channel_order`, in the units after `scale`
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        if (self.resize_short_side_px is None) == (self.resize_hw is None):
            raise ValueError("give exactly one of resize_short_side_px and resize_hw")
        short_side_px = min(self.resize_hw or (self.resize_short_side_px or 0,))
        if not 0 < self.crop_px <= short_side_px:
            raise ValueError(
                f"crop_px {self.crop_px} does not fit into frames resized to a short side of {short_side_px}"
            )

    def as_record(self) -> dict[str, Any]:
        """All settings as a dict of JSON types; it enters the digest of a recipe."""
        return {"kind": "video", "interpolation": INTERPOLATION, **_json_fields(self)}

    def __str__(self) -> str:
        resize = f"short side {self.resize_short_side_px}"
        if self.resize_hw is not None:
            resize = "x".join(str(side) for side in self.resize_hw)
        mean, std = ("/".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return (
            f"{self.frames} frames, {resize} px{' antialiased' if self.antialias else ''}, crop "
            f"{self.crop_px}x{self.crop_px}, {self.channel_order} x {self.scale:.4g} - {mean}, / {std}"
        )


@dataclass(frozen=True, kw_only=True)
class AudioPreprocessing:
    """How a decoded waveform becomes the input of an audio network: mono, padded or cut to a fixed length."""

    sample_rate_hz: int = 16_000
    samples: int = 480_000  # 30 s at the default rate

    def as_record(self) -> dict[str, Any]:
        """All settings as a dict of JSON types; it enters the digest of a recipe."""
        return {"kind": "audio", **_json_fields(self)}

    def __str__(self) -> str:
        return f"{self.sample_rate_hz / 1000:g} kHz mono, {self.samples / self.sample_rate_hz:g} s"


Preprocessing = VideoPreprocessing | AudioPreprocessing


def _json_fields(record: Preprocessing) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(record).items()}


def input_size(preprocessing: Preprocessing) -> tuple[str, int, int]:
    """Modality and size of the input: frames and side in pixels, or sampling rate in Hz and samples."""
    if isinstance(preprocessing, VideoPreprocessing):
        return "video", preprocessing.frames, preprocessing.crop_px
    return "audio", preprocessing.sample_rate_hz, preprocessing.samples


def preprocessing_from_record(values: Mapping[str, Any]) -> Preprocessing:
    """Read preprocessing back from what `as_record` gave; `ValueError` for another kind or version."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    kind, interpolation = fields.pop("kind", None), fields.pop("interpolation", INTERPOLATION)
    kinds: dict[Any, type[Preprocessing]] = {"video": VideoPreprocessing, "audio": AudioPreprocessing}
    try:
        if interpolation != INTERPOLATION:
            raise KeyError(interpolation)
        return kinds[kind](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a preprocessing record of this version: {dict(values)}") from error


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """One network of the table."""

    name: str  # also of its source under the default recipe
    modality: Modality
    factory: str  # ``module:class`` of a `Network`, called as ``class(spec, num_classes)``
    preprocessing: Preprocessing  # unless pretrained weights bring their own
    embedding_width: int  # of the embedding that enters the classifier
    frozen_width: int  # of the embedding at depth ``frozen``
    activation_width: int  # of the trunk's output
    default_depth: Depth = "head"  # tuning depth unless a recipe sets it
    has_weights: bool = True  # whether the trunk has weights, which depth ``full`` tunes
    has_replaced_layers: bool = False  # whether new layers stand between the trunk and the classifier
    min_crop_s: float | None = None  # shortest waveform that an audio network takes
    version: int = 1  # raised with every change that changes numbers; it enters the digest of a recipe


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
        version=3,
    ),
    NetworkSpec(
        name="c3d",
        modality="video",
        factory="moodfuse.extract.networks.video:C3D",
        preprocessing=VideoPreprocessing(resize_hw=(128, 171), crop_px=112, mean=SPORTS1M_MEAN_RGB),
        embedding_width=512,
        frozen_width=512,
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
        frozen_width=1024,
        activation_width=1024,
        version=2,
    ),
    NetworkSpec(
        name="frame-stats",
        modality="video",
        factory="moodfuse.extract.networks.descriptors:FrameStats",
        preprocessing=VideoPreprocessing(resize_short_side_px=128, crop_px=128, scale=1 / 255),
        embedding_width=44,
        frozen_width=44,
        activation_width=44,
        default_depth="frozen",
        has_weights=False,
    ),
    NetworkSpec(
        name="audio-stats",
        modality="audio",
        factory="moodfuse.extract.networks.descriptors:AudioStats",
        preprocessing=AudioPreprocessing(),
        embedding_width=51,
        frozen_width=51,
        activation_width=51,
        default_depth="frozen",
        has_weights=False,
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
        torchvision_spec: NetworkSpec = import_object(TORCHVISION_FACTORY)(name)
        return torchvision_spec
    if name in NETWORKS:
        return NETWORKS[name]
    added = entry_points(group=ENTRY_POINT_GROUP)
    if name not in added.names:
        raise UnknownNameError("source", name, [*NETWORKS, *added.names, f"{TORCHVISION}<video model>"])
    spec: NetworkSpec = added[name].load()
    return spec


def import_object(path: str) -> Any:
    """The object that ``module:name`` stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
