"""How the input of a network is made from a decoded clip, as records. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from moodfuse.cache.records import FRAMES, SAMPLE_RATE_HZ, WINDOW_S, FrameWindows

MAX_SAMPLE_RATE_HZ = 192_000
Interpolation = Literal["bilinear uint8", "bicubic uint8", "bilinear PIL", "bicubic PIL"]
"""Filter of resizing: torchvision's for uint8 tensors, or Pillow's."""


@dataclass(frozen=True, kw_only=True)
class VideoPreprocessing:
    """How decoded frames become the input of a video network.

    A pixel in [0, 255] becomes ``(pixel * scale - mean) / std``, channel by channel. Resizing gives uint8, by
    exactly one of `resize_short_side_px`, which keeps the aspect ratio, and `resize_hw`.
    """

    crop_px: int  # side of the square crop, taken after resizing
    frames: int = FRAMES  # at the middles of this many equal intervals of a clip, or of each window
    windows: int = 0  # number of short windows, which are embedded separately and averaged; 0: none
    frame_rate_hz: float = 0.0  # of the frames of a window
    crops: int = 1  # in the centre, or 3 along the longer side, embedded separately and averaged
    resize_short_side_px: int | None = None
    resize_hw: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear uint8"
    antialias: bool = True  # whether a shrinking resize averages over the pixels that it merges
    centre: Literal["floor", "even"] = "floor"  # rounding of half a pixel in the margin of a centre crop
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # in `channel_order`, in the units after `scale`
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        if (self.resize_short_side_px is None) == (self.resize_hw is None):
            raise ValueError("give exactly one of resize_short_side_px and resize_hw")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"interpolation {self.interpolation!r}; expected one of: {', '.join(get_args(Interpolation))}"
            )
        if not self.antialias and self.interpolation != "bilinear uint8":
            raise ValueError(f"interpolation {self.interpolation!r} needs antialias")
        short_side_px = min(self.resize_hw or (self.resize_short_side_px or 0,))
        if not 0 < self.crop_px <= short_side_px:
            raise ValueError(
                f"crop_px {self.crop_px} does not fit into frames resized to a short side of {short_side_px}"
            )
        if self.windows:
            FrameWindows(self.windows, self.frames, self.frame_rate_hz)
        if self.crops not in (1, 3):
            raise ValueError(f"crops is {self.crops}, expected 1 or 3")

    @property
    def frame_windows(self) -> FrameWindows | None:
        """The short windows whose frames the network reads; `None` if it reads frames at even times."""
        return FrameWindows(self.windows, self.frames, self.frame_rate_hz) if self.windows else None

    @property
    def view_frames(self) -> int:
        """Number of frames that the network reads at once, in each of the views of a clip."""
        return self.frames if self.windows else min(self.frames, FRAMES)

    def as_record(self) -> dict[str, Any]:
        """All settings as a dict of JSON types; it enters the digest of a recipe."""
        record = {"kind": "video", **_json_fields(self)}
        if not self.windows:  # digests are older than these settings
            del record["windows"], record["frame_rate_hz"]
        if self.crops == 1:
            del record["crops"]
        return record

    def __str__(self) -> str:
        resize = f"short side {self.resize_short_side_px}"
        if self.resize_hw is not None:
            resize = "x".join(str(side) for side in self.resize_hw)
        mean, std = ("/".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        filter_name = "" if self.interpolation == "bilinear uint8" else f" {self.interpolation}"
        frames = self.frame_windows or f"{self.frames} frames"
        crop = "crop" if self.crops == 1 else f"{self.crops} crops"
        return (
            f"{frames}, {resize} px{filter_name}{' antialiased' if self.antialias else ''}, {crop} "
            f"{self.crop_px}x{self.crop_px}, {self.channel_order} x {self.scale:.4g} - {mean}, / {std}"
        )


@dataclass(frozen=True, kw_only=True)
class AudioPreprocessing:
    """How a decoded waveform becomes the input of an audio network: mono, zero-padded to 30 s.

    A clip is decoded at the network's own rate.
    """

    sample_rate_hz: int = SAMPLE_RATE_HZ
    samples: int = 0  # 0 is replaced by 30 s at `sample_rate_hz`

    def __post_init__(self) -> None:
        rate_hz = self.sample_rate_hz
        if type(rate_hz) is not int or not 0 < rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise ValueError(f"sample_rate_hz is {rate_hz!r}, expected 1 to {MAX_SAMPLE_RATE_HZ}")
        if not self.samples:
            object.__setattr__(self, "samples", round(rate_hz * WINDOW_S))

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
    kind = fields.pop("kind", None)
    kinds: dict[Any, type[Preprocessing]] = {"video": VideoPreprocessing, "audio": AudioPreprocessing}
    try:
        return kinds[kind](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a preprocessing record of this version: {dict(values)}") from error
