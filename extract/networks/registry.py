"""The networks of stage one as a table: what each takes in, what it gives, how its input is prepared.

Nothing here imports torch, so that the command line, recipes and decoding workers can read the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moodfuse.cache.errors import UnknownNameError

Depth = Literal["frozen", "head", "full"]
Modality = Literal["video", "audio"]
MOST_PIXELS = 4096
INTERPOLATION = "bilinear uint8"


@dataclass(frozen=True, kw_only=True)
class VideoPreprocessing:
    """How decoded frames become the input of a video network.

    A pixel in [0, 255] becomes ``(pixel * scale - mean) / std``, channel by channel. Resizing is bilinear, on uint8.

    Parameters
    ----------
    frames : int
        Frames of a clip: of those decoded, the ones at the middles of so many equal intervals.
    crop_px : int
        Side of the square crop, in pixels, taken after resizing.
    resize_short_side_px : int, optional
        Resize so that the shorter side has this many pixels; the aspect ratio is kept.
    resize_hw : tuple of int, optional
        Resize to this height and width in pixels; the aspect ratio is not kept. Exactly one of the two is given.
    antialias : bool
        Whether pixels are averaged over the area that they come from when a frame shrinks.
    centre : {"floor", "even"}
        How half a pixel is rounded where a centre crop leaves an odd margin: down, or to the even number.
    scale : float
        Factor on the pixel values.
    mean, std : tuple of float
        Per channel, in `channel_order`, in the units after `scale`.
    channel_order : {"RGB", "BGR"}
        Order of the channels that the network reads.

    Raises
    ------
    ValueError
        If the settings cannot be used together.
    """

    crop_px: int
    frames: int = 32
    resize_short_side_px: int | None = None
    resize_hw: tuple[int, int] | None = None
    antialias: bool = True
    centre: Literal["floor", "even"] = "floor"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        if (self.resize_short_side_px is None) == (self.resize_hw is None):
            raise ValueError("give exactly one of resize_short_side_px and resize_hw")
        shortest = self.resize_short_side_px if self.resize_hw is None else min(self.resize_hw)
        if shortest is not None and not 0 < self.crop_px <= shortest:
            raise ValueError(
                f"crop_px {self.crop_px} does not fit into frames resized to a short side of {shortest}"
            )
        if self.frames < 1 or min(self.std) <= 0:
            raise ValueError(f"frames and std must be positive, got {self.frames} and {self.std}")
        numbers = (self.scale, *self.mean, *self.std)
        if not all(math.isfinite(value) for value in numbers) or (len(self.mean), len(self.std)) != (3, 3):
            raise ValueError(f"scale, mean and std must be finite, of three channels, got {numbers}")
        if shortest is not None and max(self.resize_hw or (shortest,)) > MOST_PIXELS:
            raise ValueError(f"frames resized to more than {MOST_PIXELS} pixels")

    def as_record(self) -> dict[str, Any]:
        """All that decides the numbers, as a dict of JSON types; it enters the digest of a recipe."""
        return {"kind": "video", "interpolation": INTERPOLATION, **_json_fields(self)}


@dataclass(frozen=True, kw_only=True)
class AudioPreprocessing:
    """How a decoded waveform becomes the input of an audio network: mono, zero-padded or cut to a fixed length.

    Parameters
    ----------
    sample_rate_hz : int
        Sampling rate of the waveform.
    samples : int
        Length of the waveform: 30 s at the default rate.
    """

    sample_rate_hz: int = 16_000
    samples: int = 480_000

    def as_record(self) -> dict[str, Any]:
        """All that decides the numbers, as a dict of JSON types; it enters the digest of a recipe."""
        return {"kind": "audio", **_json_fields(self)}


Preprocessing = VideoPreprocessing | AudioPreprocessing


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """One network of the table.

    Parameters
    ----------
    name : str
        Name of the network, and of its source under the default recipe.
    modality : {"video", "audio"}
        What it reads.
    factory : str
        ``module:class`` of its implementation, imported only when a network is made.
    preprocessing : VideoPreprocessing or AudioPreprocessing
        How its input is prepared, unless loaded weights bring their own.
    embedding_width : int
        Numbers entering the classifier.
    frozen_width : int
        Numbers of the embedding at depth ``frozen``.
    activation_width : int
        Numbers leaving the trunk, which stays fixed at depths ``frozen`` and ``head``.
    default_depth : {"frozen", "head", "full"}
        What is tuned unless a recipe says otherwise.
    has_replaced_layers : bool
        Whether new layers stand between the trunk and the classifier.
    min_crop_s : float, optional
        Shortest waveform that an audio network takes, in seconds.
    version : int
        Raised with every change to the implementation that changes numbers; it enters the digest of a recipe.
    """

    name: str
    modality: Modality
    factory: str
    preprocessing: Preprocessing
    embedding_width: int
    frozen_width: int
    activation_width: int
    default_depth: Depth = "head"
    has_replaced_layers: bool = False
    min_crop_s: float | None = None
    version: int = 1

    def __post_init__(self) -> None:
        if (self.modality == "audio") != isinstance(self.preprocessing, AudioPreprocessing):
            raise ValueError(f"{self.name}: the preprocessing does not fit a network for {self.modality}")
        if (self.modality == "audio") != (self.min_crop_s is not None):
            raise ValueError(
                f"{self.name}: min_crop_s belongs to audio networks, and every one of them has it"
            )


# Mean of the Sports-1M training frames (the average of the mean cube published with C3D), here in RGB order.
SPORTS1M_MEAN_RGB = (101.41, 97.66, 90.25)
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's video models; their specs are made by `moodfuse.extract.networks.torchvision_video`."""

_TABLE = (
    NetworkSpec(
        name="onedmcnn",
        modality="audio",
        factory="moodfuse.extract.networks.onedmcnn:OneDMCNN",
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
        factory="moodfuse.extract.networks.twodmcnn:TwoDMCNN",
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

NETWORKS: dict[str, NetworkSpec] = {}
for _spec in _TABLE:
    if _spec.name in NETWORKS:
        raise ValueError(f"network {_spec.name!r} is registered twice")
    NETWORKS[_spec.name] = _spec


def network_spec(name: str) -> NetworkSpec:
    """The table's entry for a network.

    Parameters
    ----------
    name : str
        Name of the network, such as ``"c3d"``.

    Raises
    ------
    UnknownNameError
        If no network has this name; the message lists the known ones.
    """
    if name.startswith(TORCHVISION):
        from moodfuse.extract.networks.torchvision_video import (
            torchvision_spec,  # imports torch, which only a user of these models waits for
        )

        return torchvision_spec(name)
    try:
        return NETWORKS[name]
    except KeyError as error:
        raise UnknownNameError("source", name, [*NETWORKS, f"{TORCHVISION}<video model>"]) from error


def input_size(preprocessing: Preprocessing) -> tuple[object, ...]:
    """Kind and size of what preprocessing gives: frames and side in pixels, or rate in Hz and samples."""
    if isinstance(preprocessing, VideoPreprocessing):
        return "video", preprocessing.frames, preprocessing.crop_px
    return "audio", preprocessing.sample_rate_hz, preprocessing.samples


def preprocessing_from_record(values: Mapping[str, Any]) -> Preprocessing:
    """Read preprocessing back from what `as_record` gave.

    Raises
    ------
    ValueError
        If the record is of another kind or version.
    """
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    kind = str(fields.pop("kind", None))
    if kind == "video" and fields.pop("interpolation", None) != INTERPOLATION:
        raise ValueError(f"frames resized in another way than {INTERPOLATION!r}")
    kinds: dict[str, type[Preprocessing]] = {"video": VideoPreprocessing, "audio": AudioPreprocessing}
    try:
        return kinds[kind](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no preprocessing record: {dict(values)}") from error


def _json_fields(record: VideoPreprocessing | AudioPreprocessing) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(record).items()}
