"""The media store: clips decoded once, so that every source and fold finds their frames and sound.

What is kept of a clip is a rendition: its sound, its picture as decoded, or its picture made smaller for some network.
Each rendition has a folder named after its rules, and a clip is one part in it. `docs/media-store.md` says why.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.cache.clip_parts import find_clip, read_clip_part, write_clip_part
from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import DamagedPartError, MissingBlockError
from moodfuse.cache.pictures import MAX_FRAME_PIXELS, decode_frame, decode_frames, encode_frames
from moodfuse.cache.recipe import View
from moodfuse.cache.storage.files import listing, set_aside
from moodfuse.cache.storage.parts import check_dtypes, read_part

log = logging.getLogger(__name__)
FORMAT = "moodfuse-media"
MAX_FRAMES = 32


@dataclass(frozen=True)
class Media:
    """What was decoded of a clip; a rendition leaves what it does not hold empty.

    Attributes
    ----------
    frames : ndarray of uint8, shape (32, H, W, 3)
        RGB frames at even times; (0, 0, 0, 3) where there are none.
    frame_times_s : ndarray of float64, shape (32,)
        Presentation time of each.
    waveform : ndarray of float32, shape (480000,)
        Mono sound at 16 kHz in [-1, 1], zero-padded.
    waveform_samples : int
        How many samples were in the file.
    shape_hw : tuple of int, optional
        Height and width in pixels of the frames as decoded, where a rendition holds them smaller.
    """

    frames: np.ndarray
    frame_times_s: np.ndarray
    waveform: np.ndarray
    waveform_samples: int
    shape_hw: tuple[int, int] | None = None


@dataclass(frozen=True)
class Rendition:
    """What of clips is kept, and how it was made.

    Attributes
    ----------
    view : str
        ``"sound"`` or ``"picture"``.
    rules : str
        All that decides its bytes: decoder, sizes, coding.
    """

    view: View
    rules: str

    @property
    def name(self) -> str:
        """Name of its folder, ``rules16``."""
        return digest16(self.rules)


class MediaStore:
    """Clips in a rendition; where it lacks one, further renditions are read that will do as well.

    Parameters
    ----------
    home : Path
        The folder of all renditions: ``<cache>/media``.
    own, others : Rendition
        What is written, and what is read too.
    """

    def __init__(self, home: Path, own: Rendition, *others: Rendition) -> None:
        self.home, self.own = home, own
        self.renditions = (own, *others)

    def find(self, digest: str) -> Path | None:
        """The file of a clip, its bytes checked, or `None`; damaged ones are set aside."""
        found = (find_clip(self.home / rendition.name, digest, form=FORMAT) for rendition in self.renditions)
        return next((file for file in found if file is not None), None)

    def write(self, digest: str, media: Media) -> Path:
        """Keep a clip; one that is kept stays."""
        folder = self.home / self.own.name
        if (kept := find_clip(folder, digest, form=FORMAT)) is not None:
            return kept
        attributes: dict[str, object] = {"view": self.own.view, "rules": self.own.rules}
        if self.own.view == "sound":
            arrays = {"waveform": media.waveform}
            attributes["waveform_samples"] = media.waveform_samples
            return write_clip_part(folder, digest, arrays, attributes, form=FORMAT, packed=("waveform",))
        data, ends = encode_frames(media.frames)
        frame_hw = media.frames.shape[1:3]
        attributes |= {"frame_hw": list(frame_hw), "shape_hw": list(media.shape_hw or frame_hw)}
        arrays = {"frames_webp": data, "frames_webp_ends": ends, "frame_times_s": media.frame_times_s}
        return write_clip_part(folder, digest, arrays, attributes, form=FORMAT)

    def read(self, digest: str) -> Media:
        """What is kept of a clip: its frames, or its sound.

        Raises
        ------
        MissingBlockError
            If it is not there, or was damaged and is now set aside.
        """
        while (file := self.find(digest)) is not None:
            try:
                arrays, attributes = read_part(file)
                check_media(file, arrays, attributes)
                return _media(arrays, attributes)
            except DamagedPartError as error:
                set_aside(file, str(error))
        raise MissingBlockError(
            f"{self.home}: clip {digest[:16]} has no {self.own.view} here; run extract again"
        )


def check_media(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Check that a part holds the sound or the frames of a clip; the frames themselves are not decoded.

    Raises
    ------
    DamagedPartError
    """
    if attributes.get("view") == "sound":
        check_dtypes(file, arrays, {"waveform": ("<f4", 1)})
        wanted = {"waveform_samples": isinstance(attributes.get("waveform_samples"), int)}
    else:
        check_dtypes(
            file,
            arrays,
            {"frames_webp": ("|u1", 1), "frames_webp_ends": ("<i8", 1), "frame_times_s": ("<f8", 1)},
        )
        ends = arrays["frames_webp_ends"]
        if len(ends) != len(arrays["frame_times_s"]) or len(ends) > MAX_FRAMES:
            raise DamagedPartError(
                f"{file}: has {len(ends)} frames; expected {MAX_FRAMES} at most, each with a time"
            )
        if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] != len(arrays["frames_webp"])):
            raise DamagedPartError(f"{file}: the ends of its frames do not fit their bytes")
        wanted = {name: _is_shape(attributes.get(name)) for name in ("frame_hw", "shape_hw")}
        wanted["view"] = attributes.get("view") == "picture"
    for name, good in wanted.items():
        if not good:
            raise DamagedPartError(f"{file}: its attribute {name} is {attributes.get(name)!r:.99}")


def _is_shape(value: object) -> bool:
    """Whether a value is the height and width of a frame in pixels, of no more than `MAX_FRAME_PIXELS`."""
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(type(side) is int and side >= 0 for side in value)
    ):
        return False
    return int(value[0] * value[1]) <= MAX_FRAME_PIXELS


def _media(arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> Media:
    if attributes["view"] == "sound":
        none = np.zeros((0, 0, 0, 3), np.uint8)
        return Media(none, np.zeros(0), arrays["waveform"], attributes["waveform_samples"])
    height, width = attributes["frame_hw"]
    frames = decode_frames(arrays["frames_webp"], arrays["frames_webp_ends"], (height, width))
    return Media(frames, arrays["frame_times_s"], np.zeros(0, np.float32), 0, tuple(attributes["shape_hw"]))


def kept_frame(home: Path, digest: str, number: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """One frame of a clip from the largest picture that is kept of it in any rendition.

    Parameters
    ----------
    home : Path
        ``<cache>/media``.
    digest : str
    number : int
        Of the frame; the last one stands for those behind it.

    Returns
    -------
    frame : ndarray of uint8, shape (H, W, 3)
    shape_hw : tuple of int
        Height and width in pixels that it was decoded at; a rendition may have another aspect ratio.
    """
    found: list[tuple[int, dict[str, np.ndarray], dict[str, Any]]] = []
    for folder in listing(home):
        part = read_clip_part(folder, digest, form=FORMAT, check=check_media)
        if part is not None and part[1]["view"] == "picture" and len(part[0]["frames_webp_ends"]):
            found.append((int(np.prod(part[1]["frame_hw"])), *part))
    if not found:
        return None
    _, arrays, attributes = max(found, key=lambda item: item[0])
    ends = arrays["frames_webp_ends"].tolist()
    place = min(number, len(ends) - 1)
    try:
        frame = decode_frame(arrays["frames_webp"][ends[place - 1] if place else 0 : ends[place]])
    except DamagedPartError as error:
        log.warning("%s: frame %d of clip %.16s cannot be shown: %s", home, place, digest, error)
        return None
    height, width = attributes["shape_hw"]
    return frame, (height, width)
