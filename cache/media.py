"""The media store: clips decoded once, so that every source and fold finds their frames and audio.

A rendition is what is stored of clips: their audio, their video as decoded, or their video made smaller for a
network. Each rendition has a folder named after its rules, with one part per clip in it. Frames are lossless
WebP: about a quarter of their bytes, and the same pixels back; `docs/media-store.md` gives the reasons.

Parts of one clip each (media here, marks in `cache.audits`) are named
``<folder>/<xx>/<clip32>-<digest16>.h5``: `xx` and `clip32` are the first 2 and 32 digits of the clip's
digest, so that no listing grows with the dataset.
"""

import io
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import DamagedPartError, InputError, MissingBlockError
from moodfuse.cache.recipe import MODALITY_NAMES, Modality
from moodfuse.cache.records import SAMPLE_RATE_HZ, FrameWindows
from moodfuse.cache.storage.files import listing, quarantine
from moodfuse.cache.storage.parts import SCHEMA, check_dtypes, read_part, write_part

FORMAT = "moodfuse-media"
CODING = "lossless WebP"
MAX_FRAME_PIXELS = 4096 * 2304
"""Maximum size of a frame; a few bytes of WebP can hold 268 million pixels of one colour."""
_THREADS = min(4, os.cpu_count() or 1)
Arrays = Mapping[str, np.ndarray]
Attributes = Mapping[str, Any]
T = TypeVar("T")


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
    other_waveforms : mapping of int to (ndarray, int)
        `waveform` and `waveform_samples` at other sampling rates, by rate in Hz.
    other_frames : mapping of FrameWindows to (ndarray, ndarray)
        `frames` and `frame_times_s` in short windows.
    """

    frames: np.ndarray
    frame_times_s: np.ndarray
    waveform: np.ndarray
    waveform_samples: int
    shape_hw: tuple[int, int] | None = None
    other_waveforms: Mapping[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    other_frames: Mapping[FrameWindows, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def waveform_at(self, rate_hz: int) -> tuple[np.ndarray, int]:
        """The waveform at a sampling rate, and its number of samples that were in the file."""
        if rate_hz == SAMPLE_RATE_HZ:
            return self.waveform, self.waveform_samples
        if rate_hz not in self.other_waveforms:
            raise InputError(f"the clip was not decoded at {rate_hz} Hz; add that to other_rates_hz")
        return self.other_waveforms[rate_hz]

    def frames_in(self, windows: FrameWindows | None) -> tuple[np.ndarray, np.ndarray]:
        """The frames in short windows, or for `None` those at even times, and their presentation times."""
        if windows is None:
            return self.frames, self.frame_times_s
        if windows not in self.other_frames:
            raise InputError(f"the clip was decoded without {windows}; add that to other_frames")
        return self.other_frames[windows]


@dataclass(frozen=True)
class Rendition:
    """What is stored of clips, and how it is made.

    `modality` is ``"sound"`` or ``"picture"``; `rules` is everything that decides the bytes: decoder, sizes,
    coding. `sample_rate_hz` is that of the audio; `windows` are those of the frames, `None` for even times.
    """

    modality: Modality
    rules: str
    sample_rate_hz: int = SAMPLE_RATE_HZ
    windows: FrameWindows | None = None

    @cached_property
    def name(self) -> str:
        """Name of its folder, ``rules16``."""
        return digest16(self.rules)


class MediaStore:
    """Clips in a rendition; a clip that is missing in it is read from the other renditions.

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
        """The file of a clip, its bytes checked, or `None`; damaged ones are quarantined."""
        files = (find_clip(self.home / rendition.name, digest, form=FORMAT) for rendition in self.renditions)
        return next((file for file in files if file is not None), None)

    def write(self, digest: str, media: Media) -> Path:
        """Store a clip; one that is stored already stays."""
        folder = self.home / self.own.name
        if (stored := find_clip(folder, digest, form=FORMAT)) is not None:
            return stored
        attributes: dict[str, object] = {"view": self.own.modality, "rules": self.own.rules}
        if self.own.modality == "sound":
            waveform, samples = media.waveform_at(self.own.sample_rate_hz)
            arrays, attributes["waveform_samples"] = {"waveform": waveform}, samples
            if self.own.sample_rate_hz != SAMPLE_RATE_HZ:
                attributes["sample_rate_hz"] = self.own.sample_rate_hz
            return write_clip_part(folder, digest, arrays, attributes, form=FORMAT, packed=("waveform",))
        frames, times_s = media.frames_in(self.own.windows)
        data, ends = encode_frames(frames)
        frame_hw = frames.shape[1:3]
        attributes |= {"frame_hw": list(frame_hw), "shape_hw": list(media.shape_hw or frame_hw)}
        if self.own.windows is not None:
            attributes["frame_windows"] = list(astuple(self.own.windows))
        arrays = {"frames_webp": data, "frames_webp_ends": ends, "frame_times_s": times_s}
        return write_clip_part(folder, digest, arrays, attributes, form=FORMAT)

    def read(self, digest: str) -> Media:
        """The frames or the audio of a clip; `MissingBlockError` if they are not stored, or damaged."""
        for rendition in self.renditions:
            media = read_clip_part(self.home / rendition.name, digest, form=FORMAT, read=_media_of)
            if media is not None:
                return media
        name = MODALITY_NAMES[self.own.modality]
        raise MissingBlockError(f"{self.home}: clip {digest[:16]} has no {name} here; run extract again")


def check_media(file: Path, arrays: Arrays, attributes: Attributes) -> None:
    """Check that a part has the audio or the (coded) frames of a clip; `DamagedPartError` if not."""
    if attributes.get("view") == "sound":
        check_dtypes(file, arrays, {"waveform": ("<f4", 1)})
        types: dict[str, type] = {"waveform_samples": int}
        if "sample_rate_hz" in attributes:
            types["sample_rate_hz"] = int
    else:
        dtypes = {"frames_webp": ("|u1", 1), "frames_webp_ends": ("<i8", 1), "frame_times_s": ("<f8", 1)}
        check_dtypes(file, arrays, dtypes)
        types = {"frame_hw": list, "shape_hw": list}
        if "frame_windows" in attributes:
            types["frame_windows"] = list
        edges = [0, *arrays["frames_webp_ends"].tolist()]
        is_complete = edges == sorted(edges) and edges[-1] == len(arrays["frames_webp"])
        if not is_complete or len(edges) != len(arrays["frame_times_s"]) + 1:
            raise DamagedPartError(f"{file}: the ends of its frames do not fit their bytes, or their times")
    if attributes.get("view") not in MODALITY_NAMES or any(
        not isinstance(attributes.get(name), kind) for name, kind in types.items()
    ):
        raise DamagedPartError(f"{file}: its attributes are not those of media")


def _media_of(file: Path, arrays: Arrays, attributes: Attributes) -> Media:
    check_media(file, arrays, attributes)
    if attributes["view"] == "sound":
        no_frames, waveform = np.zeros((0, 0, 0, 3), np.uint8), arrays["waveform"]
        samples, rate_hz = attributes["waveform_samples"], attributes.get("sample_rate_hz", SAMPLE_RATE_HZ)
        if rate_hz == SAMPLE_RATE_HZ:
            return Media(no_frames, np.zeros(0), waveform, samples)
        others = {rate_hz: (waveform, samples)}
        return Media(no_frames, np.zeros(0), np.zeros(0, np.float32), 0, other_waveforms=others)
    frames = decode_frames(arrays["frames_webp"], arrays["frames_webp_ends"], attributes["frame_hw"])
    no_audio, shape_hw = np.zeros(0, np.float32), tuple(attributes["shape_hw"])
    if "frame_windows" not in attributes:
        return Media(frames, arrays["frame_times_s"], no_audio, 0, shape_hw)
    try:
        windows = FrameWindows(*attributes["frame_windows"])
    except (TypeError, InputError) as error:
        raise DamagedPartError(f"{file}: its frame_windows are not those of media ({error})") from error
    others = {windows: (frames, arrays["frame_times_s"])}
    return Media(frames[:0], np.zeros(0), no_audio, 0, shape_hw, other_frames=others)


def read_frame(home: Path, digest: str, number: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Frame `number` of a clip, or its last one, uint8 [H, W, 3], from its largest rendition; `None` if none.

    The height and width at which it was decoded are returned too, since a rendition may have another aspect
    ratio. `home` is ``<cache>/media``.
    """
    renditions = (read_clip_part(folder, digest, form=FORMAT, read=_media_of) for folder in listing(home))
    videos = [
        (frames, media.shape_hw)
        for media in renditions
        if media is not None
        for frames in (media.frames, *(frames for frames, _ in media.other_frames.values()))
        if len(frames)
    ]
    if not videos:
        return None
    frames, shape_hw = max(videos, key=lambda video: video[0][0].size)
    height, width = shape_hw or frames.shape[1:3]
    return frames[min(number, len(frames) - 1)], (height, width)


# Frames as WebP; Pillow releases the interpreter lock while it codes


def encode_frames(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames, uint8 [T, H, W, 3] in RGB, as one WebP file per frame.

    Returns the bytes of the files one after the other, uint8 [B], and where each ends, int64 [T].
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        files = list(pool.map(_encode, frames))
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return np.frombuffer(b"".join(files), dtype=np.uint8), ends


def decode_frames(
    data: NDArray[np.uint8], ends: NDArray[np.int64], size_hw: Sequence[int]
) -> NDArray[np.uint8]:
    """The frames, uint8 [T, H, W, 3], that `encode_frames` coded; `DamagedPartError` for another size."""
    files = np.split(data, ends[:-1]) if len(ends) else []
    with ThreadPoolExecutor(_THREADS) as pool:
        frames = list(pool.map(decode_frame, files))
    if other := {frame.shape for frame in frames} - {(*size_hw, 3)}:
        raise DamagedPartError(f"has a frame of shape {list(other.pop())}, not {[*size_hw, 3]}")
    return np.stack(frames) if frames else np.zeros((0, *size_hw, 3), np.uint8)


def _encode(frame: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(frame))
    image.save(file, format="WEBP", lossless=True, quality=0, method=0)  # the fastest method of libwebp
    return file.getvalue()


def decode_frame(file: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One frame, uint8 [H, W, 3], from the bytes of a WebP file, uint8 [b]; `DamagedPartError` for others."""
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=("WEBP",)) as image:
            if image.width * image.height > MAX_FRAME_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels; expected {MAX_FRAME_PIXELS} at most"
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, KeyError, Image.DecompressionBombError) as error:
        raise DamagedPartError(f"not a WebP file ({error})") from error


# Parts of one clip


def check_clip_part(file: Path, attributes: Attributes, *, form: str) -> None:
    """Check that a part has the format, clip and rules of its path; `DamagedPartError` if not."""
    clip = str(attributes.get("clip"))
    if attributes.get("format") != form:
        raise DamagedPartError(f"{file}: is of format {attributes.get('format')!r}, not {form!r}")
    if (file.parent.name, file.name.rpartition("-")[0]) != (clip[:2], clip[:32]):
        raise DamagedPartError(f"{file}: its clip does not match the file name")
    if digest16(attributes.get("rules")) != file.parent.parent.name:
        raise DamagedPartError(f"{file}: its rules do not match its folder")


def find_clip(folder: Path, digest: str, *, form: str) -> Path | None:
    """The first valid part of a clip, of the format `form`, or `None`; damaged ones are quarantined."""
    return read_clip_part(folder, digest, form=form, read=lambda file, *_: file, names=())


def read_clip_part(
    folder: Path,
    digest: str,
    *,
    form: str,
    read: Callable[[Path, Arrays, Attributes], T],
    names: tuple[str, ...] | None = None,
) -> T | None:
    """What `read` makes of file, arrays and attributes of the first valid part of a clip, or `None`.

    Damaged parts are quarantined; `read` may raise `DamagedPartError`. `names` as for `read_part`.
    """
    for file in sorted((folder / digest[:2]).glob(f"{digest[:32]}-*.h5")):
        try:
            arrays, attributes = read_part(file, names=names)
            check_clip_part(file, attributes, form=form)
            return read(file, arrays, attributes)
        except DamagedPartError as error:
            quarantine(file, str(error))
    return None


def write_clip_part(
    folder: Path,
    digest: str,
    arrays: Arrays,
    attributes: Mapping[str, object],
    *,
    form: str,
    packed: Collection[str] = (),
) -> Path:
    """Write the part of a clip; `packed` as for `write_part`."""
    values = {"format": form, "schema": SCHEMA, "clip": digest, **attributes}
    return write_part(folder / digest[:2], digest[:32], arrays, values, packed=packed)
