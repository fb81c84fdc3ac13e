"""What describes a network: the input it reads, the widths it gives, the class that implements it.

Nothing here imports torch, so that the command line, recipes and decoding workers can read the table of
networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Depth = Literal["frozen", "head", "full"]
Modality = Literal["video", "audio"]
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's video models."""
MAX_SIDE_PX = 4096
INTERPOLATION = "bilinear uint8"


@dataclass(frozen=True, kw_only=True)
class VideoPreprocessing:
    """How decoded frames become the input of a video network.

    A pixel in [0, 255] becomes ``(pixel * scale - mean) / std``, channel by channel. Resizing is bilinear, on
    uint8.

    Parameters
    ----------
    frames : int
        Frames of a clip, sampled at the middles of this many equal intervals.
    crop_px : int
        Side of the square crop, in pixels, taken after resizing.
    resize_short_side_px : int, optional
        Resize so that the shorter side has this many pixels; the aspect ratio is kept.
    resize_hw : tuple of int, optional
        Resize to this height and width in pixels; the aspect ratio is not kept. Exactly one of the two is
        given.
    antialias : bool
        Whether a shrinking resize averages over the pixels that it merges.
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
        sides = self.resize_hw or (self.resize_short_side_px or 0,)
        if not 0 < self.crop_px <= min(sides):
            raise ValueError(
                f"crop_px {self.crop_px} does not fit into frames resized to a short side of {min(sides)}"
            )
        if max(sides) > MAX_SIDE_PX:
            raise ValueError(f"frames resized to more than {MAX_SIDE_PX} pixels")
        if self.frames < 1 or min(self.std) <= 0:
            raise ValueError(f"frames and std must be positive, got {self.frames} and {self.std}")
        numbers = (self.scale, *self.mean, *self.std)
        if not all(math.isfinite(value) for value in numbers) or (len(self.mean), len(self.std)) != (3, 3):
            raise ValueError(f"scale, mean and std must be finite, of three channels, got {numbers}")

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
    """How a decoded waveform becomes the input of an audio network: mono, padded or cut to a fixed length.

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
        raise ValueError(f"not a preprocessing record: {dict(values)}") from error


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
        ``module:class`` of its implementation, a `Network` called as ``class(spec, num_classes)``.
    preprocessing : VideoPreprocessing or AudioPreprocessing
        How its input is prepared, unless pretrained weights bring their own.
    embedding_width : int
        Width of the embedding that enters the classifier.
    frozen_width : int
        Width of the embedding at depth ``frozen``.
    activation_width : int
        Width of what the trunk gives.
    default_depth : {"frozen", "head", "full"}
        Tuning depth unless a recipe sets it.
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
        is_audio = isinstance(self.preprocessing, AudioPreprocessing)
        if is_audio != (self.modality == "audio") or is_audio != (self.min_crop_s is not None):
            raise ValueError(
                f"{self.name}: audio networks, and no others, have AudioPreprocessing and min_crop_s"
            )

    @property
    def min_samples(self) -> int:
        """Shortest waveform that an audio network takes, in samples."""
        assert self.min_crop_s is not None and isinstance(self.preprocessing, AudioPreprocessing)
        return int(self.min_crop_s * self.preprocessing.sample_rate_hz)
