"""Records that describe a network: its input, its widths, the class that implements it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Depth = Literal["frozen", "head", "full"]
Modality = Literal["video", "audio"]
TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's video models."""
INTERPOLATION = "bilinear uint8"


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
    """Read preprocessing back from what `as_record` gave.

    Raises
    ------
    ValueError
        If the record is of another kind or version.
    """
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
    has_replaced_layers: bool = False  # whether new layers stand between the trunk and the classifier
    min_crop_s: float | None = None  # shortest waveform that an audio network takes
    version: int = 1  # raised with every change that changes numbers; it enters the digest of a recipe

    @property
    def min_samples(self) -> int:
        """Shortest waveform that an audio network takes, in samples."""
        assert self.min_crop_s is not None and isinstance(self.preprocessing, AudioPreprocessing)
        return int(self.min_crop_s * self.preprocessing.sample_rate_hz)
