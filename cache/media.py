"""The media store: clips decoded once, so that every source and fold finds their frames and audio.

A rendition is what is stored of clips: their audio, their video as decoded, or their video made smaller for a
network. Each rendition has a folder named after its rules, with one part per clip in it. Frames are lossless
WebP: about a quarter of their bytes, and the same pixels back; `docs/media-store.md` gives the reasons.

Parts of one clip each (media here, marks in `cache.audits`) are named
``<folder>/<xx>/<clip32>-<digest16>.h5``: `xx` and `clip32` are the first 2 and 32 digits of the clip's
digest, so that no listing grows with the data set.
"""

import io
import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, MissingBlockError
from moodfuse.cache.recipe import MODALITY_NAMES, Modality
from moodfuse.cache.storage.files import each_valid, listing
from moodfuse.cache.storage.parts import (
    SCHEMA,
    FileState,
    check_dtypes,
    check_part,
    file_state,
    read_part,
    write_part,
)

log = logging.getLogger(__name__)
FORMAT = "moodfuse-media"
CODING = "lossless WebP"
MAX_FRAMES = 32
MAX_FRAME_PIXELS = 4096 * 2304
"""Maximum size of a frame; a few bytes of WebP can hold 268 million pixels of one colour."""
_THREADS = min(4, os.cpu_count() or 1)
Arrays = dict[str, np.ndarray]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Media:
    """A decoded clip; a rendition leaves empty what it does not hold.

    Attributes
    ----------
    frames : ndarray of uint8, shape (32, H, W, 3)
        RGB frames at even times; (0, 0, 0, 3) where there are none.
    frame_times_s : ndarray of float64, shape (32,)
        Presentation time of each.
    waveform : ndarray of float32, shape (480000,)
        Mono audio at 16 kHz in [-1, 1], zero-padded.
    waveform_samples : int
        Number of samples that were in the file.
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
    """What is stored of clips, and how it is made.

    `modality` is ``"sound"`` or ``"picture"``; `rules` is everything that decides the bytes: decoder, sizes,
    coding.
    """

    modality: Modality
    rules: str

    @property
    def name(self) -> str:
        """Name of its folder, ``rules16``."""
        return digest16(self.rules)


class MediaStore:
    """Clips in a rendition; where a clip is missing in it, other renditions that serve as well are read.

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
        """Store a clip; one that is stored already stays."""
        folder = self.home / self.own.name
        if (stored := find_clip(folder, digest, form=FORMAT)) is not None:
            return stored
        attributes: dict[str, object] = {"view": self.own.modality, "rules": self.own.rules}
        if self.own.modality == "sound":
            arrays = {"waveform": media.waveform}
            attributes["waveform_samples"] = media.waveform_samples
            return write_clip_part(folder, digest, arrays, attributes, form=FORMAT, packed=("waveform",))
        data, ends = encode_frames(media.frames)
        frame_hw = media.frames.shape[1:3]
        attributes |= {"frame_hw": list(frame_hw), "shape_hw": list(media.shape_hw or frame_hw)}
        arrays = {"frames_webp": data, "frames_webp_ends": ends, "frame_times_s": media.frame_times_s}
        return write_clip_part(folder, digest, arrays, attributes, form=FORMAT)

    def read(self, digest: str) -> Media:
        """The frames or the audio of a clip; `MissingBlockError` if it is not stored, or damaged and now set aside."""
        for rendition in self.renditions:
            media = read_clip_part(self.home / rendition.name, digest, form=FORMAT, read=_media_of)
            if media is not None:
                return media
        raise MissingBlockError(
            f"{self.home}: clip {digest[:16]} has no {MODALITY_NAMES[self.own.modality]} here; run extract again"
        )


def check_media(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    """Refuse a part without the audio or the frames of a clip (`DamagedPartError`); frames are not decoded."""
    if attributes.get("view") == "sound":
        check_dtypes(file, arrays, {"waveform": ("<f4", 1)})
        valid = {"waveform_samples": isinstance(attributes.get("waveform_samples"), int)}
    else:
        dtypes = {"frames_webp": ("|u1", 1), "frames_webp_ends": ("<i8", 1), "frame_times_s": ("<f8", 1)}
        check_dtypes(file, arrays, dtypes)
        ends = arrays["frames_webp_ends"]
        if len(ends) != len(arrays["frame_times_s"]) or len(ends) > MAX_FRAMES:
            raise DamagedPartError(
                f"{file}: has {len(ends)} frames; expected {MAX_FRAMES} at most, each with a time"
            )
        if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] != len(arrays["frames_webp"])):
            raise DamagedPartError(f"{file}: the ends of its frames do not fit their bytes")
        valid = {name: _is_frame_size(attributes.get(name)) for name in ("frame_hw", "shape_hw")}
        valid["view"] = attributes.get("view") == "picture"
    for name, is_valid in valid.items():
        if not is_valid:
            raise DamagedPartError(f"{file}: its attribute {name} is {attributes.get(name)!r:.99}")


def _is_frame_size(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    integers = all(type(side) is int and side >= 0 for side in value)
    return integers and int(value[0] * value[1]) <= MAX_FRAME_PIXELS


def _media_of(file: Path, arrays: Arrays, attributes: Mapping[str, Any]) -> Media:
    check_media(file, arrays, attributes)
    if attributes["view"] == "sound":
        no_frames = np.zeros((0, 0, 0, 3), np.uint8)
        return Media(no_frames, np.zeros(0), arrays["waveform"], attributes["waveform_samples"])
    height, width = attributes["frame_hw"]
    frames = decode_frames(arrays["frames_webp"], arrays["frames_webp_ends"], (height, width))
    return Media(frames, arrays["frame_times_s"], np.zeros(0, np.float32), 0, tuple(attributes["shape_hw"]))


def kept_frame(home: Path, digest: str, number: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """One frame of a clip from its largest stored video, in any rendition; `None` where there is none.

    Parameters
    ----------
    home : Path
        ``<cache>/media``.
    digest : str
    number : int
        Of the frame; beyond the last one, the last one.

    Returns
    -------
    frame : ndarray of uint8, shape (H, W, 3)
    shape_hw : tuple of int
        Height and width in pixels that it was decoded at; a rendition may have another aspect ratio.
    """
    found: list[tuple[int, Arrays, Mapping[str, Any]]] = []
    for folder in listing(home):
        part = read_clip_part(folder, digest, form=FORMAT, read=_checked)
        if part is not None and part[1]["view"] == "picture" and len(part[0]["frames_webp_ends"]):
            found.append((int(np.prod(part[1]["frame_hw"])), *part))
    if not found:
        return None
    _, arrays, attributes = max(found, key=lambda item: item[0])
    edges = [0, *arrays["frames_webp_ends"].tolist()]
    number = min(number, len(edges) - 2)
    try:
        frame = decode_frame(arrays["frames_webp"][edges[number] : edges[number + 1]])
    except DamagedPartError as error:
        log.warning("%s: frame %d of clip %.16s cannot be shown: %s", home, number, digest, error)
        return None
    height, width = attributes["shape_hw"]
    return frame, (height, width)


def _checked(file: Path, arrays: Arrays, attributes: Mapping[str, Any]) -> tuple[Arrays, Mapping[str, Any]]:
    check_media(file, arrays, attributes)
    return arrays, attributes


# Frames as WebP


def encode_frames(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames, uint8 [T, H, W, 3] in RGB, as one WebP file per frame.

    Returns the bytes of the files one after the other, uint8 [B], and where each ends, int64 [T].
    """
    files = list(_map_threads(_encode, frames))
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return np.frombuffer(b"".join(files), dtype=np.uint8), ends


def decode_frames(
    data: NDArray[np.uint8], ends: NDArray[np.int64], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """The frames, uint8 [T, H, W, 3], that `encode_frames` coded; `DamagedPartError` if they are not of this size."""
    edges = [0, *ends.tolist()]
    files = [data[start:end] for start, end in itertools.pairwise(edges)]
    frames = np.empty((len(files), *size_hw, 3), dtype=np.uint8)
    for number, frame in enumerate(_map_threads(decode_frame, files)):
        if frame.shape != frames.shape[1:]:
            raise DamagedPartError(
                f"frame {number} has shape {list(frame.shape)}, not {list(frames.shape[1:])}"
            )
        frames[number] = frame
    return frames


def _encode(frame: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    try:  # method 0 is the fastest of libwebp
        image = Image.fromarray(np.ascontiguousarray(frame))
        image.save(file, format="WEBP", lossless=True, quality=0, method=0)
    except KeyError as error:
        raise CacheError(
            "this Pillow was built without WebP, in which frames are stored; install its wheel (pip install --force-"
            "reinstall pillow), or run extract with --no-keep-media"
        ) from error
    return file.getvalue()


def decode_frame(file: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One frame, uint8 [H, W, 3], from the bytes of its WebP file, uint8 [b]; `DamagedPartError` if it is none."""
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=("WEBP",)) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels; expected {MAX_FRAME_PIXELS} at most"
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, KeyError, Image.DecompressionBombError) as error:
        raise DamagedPartError(f"not a WebP file ({error})") from error


def _map_threads(work: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
    """`map` over a few threads; Pillow releases the interpreter lock while it codes."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(work, values)


# Parts of one clip


def check_place(file: Path, attributes: Mapping[str, Any], *, form: str) -> None:
    """Refuse a part of another format, clip or rules than those of its place (`DamagedPartError`)."""
    found, clip = attributes.get("format"), str(attributes.get("clip"))
    if found != form:
        raise DamagedPartError(f"{file}: is of format {found!r}, not {form!r}")
    if (file.parent.name, file.name.rpartition("-")[0]) != (clip[:2], clip[:32]):
        raise DamagedPartError(f"{file}: is of another clip than the one in its name")
    if digest16(attributes.get("rules")) != file.parent.parent.name:
        raise DamagedPartError(f"{file}: was made by other rules than those of its folder")


@lru_cache(maxsize=1 << 16)
def _check_place_once(state: FileState, form: str) -> None:
    """`check_place`, once per process and file: opening HDF5 for each look takes longer than everything else."""
    check_place(Path(state[0]), read_part(Path(state[0]), names=())[1], form=form)


def _clip_files(folder: Path, digest: str) -> list[Path]:
    return listing(folder / digest[:2], prefix=f"{digest[:32]}-", suffix=".h5")


def find_clip(folder: Path, digest: str, *, form: str) -> Path | None:
    """The first valid part of a clip, of the format `form`, or `None`; damaged ones are set aside."""

    def check(file: Path) -> None:
        check_part(file)
        _check_place_once(file_state(file), form)

    return next((file for file, _ in each_valid(_clip_files(folder, digest), check)), None)


def read_clip_part(
    folder: Path, digest: str, *, form: str, read: Callable[[Path, Arrays, Mapping[str, Any]], T]
) -> T | None:
    """What `read` makes of file, arrays and attributes of the first valid part of a clip, or `None`.

    Damaged parts are set aside; `read` may raise `DamagedPartError`.
    """

    def read_file(file: Path) -> T:
        arrays, attributes = read_part(file)
        check_place(file, attributes, form=form)
        return read(file, arrays, attributes)

    return next((value for _, value in each_valid(_clip_files(folder, digest), read_file)), None)


def write_clip_part(
    folder: Path,
    digest: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
    *,
    form: str,
    packed: Collection[str] = (),
) -> Path:
    """Write the part of a clip; `packed` as for `write_part`."""
    values = {"format": form, "schema": SCHEMA, "clip": digest, **attributes}
    return write_part(folder / digest[:2], digest[:32], arrays, values, packed=packed)
