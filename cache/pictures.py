"""Frames of a clip as lossless WebP: about a quarter of their bytes, and the same pixels back.

Method 0 is the fastest that libwebp has; `docs/media-store.md` compares it with others.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moodfuse.cache.errors import CacheError, DamagedPartError

CODING = "lossless WebP"
MAX_FRAME_PIXELS = 4096 * 2304
"""Of a frame at most; a few bytes of WebP can hold 268 million of one colour."""
_THREADS = min(4, os.cpu_count() or 1)
T = TypeVar("T")
R = TypeVar("R")


def encode_frames(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames, uint8 [T, H, W, 3] in RGB, as one WebP file a frame.

    Returns
    -------
    data : ndarray of uint8, shape (B,)
        The files one after the other.
    ends : ndarray of int64, shape (T,)
        Where each ends in `data`.

    Raises
    ------
    CacheError
        If Pillow was built without WebP.
    """
    files = list(_threaded(_encode, frames))
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return np.frombuffer(b"".join(files), dtype=np.uint8), ends


def decode_frames(
    data: NDArray[np.uint8], ends: NDArray[np.int64], size_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """The frames, uint8 [T, H, W, 3], of what `encode_frames` gave; `size_hw` is their height and width in pixels.

    Raises
    ------
    DamagedPartError
        If they are no frames of this size.
    """
    starts = [0, *ends.tolist()]
    files = [data[start:end] for start, end in zip(starts, ends.tolist(), strict=False)]
    frames = np.empty((len(files), *size_hw, 3), dtype=np.uint8)
    for place, frame in enumerate(_threaded(decode_frame, files)):
        if frame.shape != frames.shape[1:]:
            raise DamagedPartError(
                f"frame {place} has shape {list(frame.shape)}, not {list(frames.shape[1:])}"
            )
        frames[place] = frame
    return frames


def _encode(frame: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(frame)).save(
            file, format="WEBP", lossless=True, quality=0, method=0
        )
    except KeyError as error:
        raise CacheError(
            "this Pillow was built without WebP, in which frames are kept; install its wheel (pip install --force-"
            "reinstall pillow), or run extract with --no-keep-media"
        ) from error
    return file.getvalue()


def decode_frame(file: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One frame, uint8 [H, W, 3], of the bytes of its WebP file, uint8 [b].

    Raises
    ------
    DamagedPartError
        If they are no such file.
    """
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=("WEBP",)) as picture:
            if picture.width * picture.height > MAX_FRAME_PIXELS:
                raise ValueError(
                    f"{picture.width} x {picture.height} pixels; expected {MAX_FRAME_PIXELS} at most"
                )
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, KeyError, Image.DecompressionBombError) as error:
        raise DamagedPartError(f"not a WebP file ({error})") from error


def _threaded(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` over a few threads; Pillow holds no lock while it codes."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(work, items)
