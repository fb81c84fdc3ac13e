"""Decoding one clip: 32 pictures at even times and 30 s of mono sound, cut from the same window.

The window is split in 32 equal intervals; for the middle `t` of each, the picture is the one on screen at `t`: the
last with presentation time <= `t`, or the first of the file where there is none yet. Sound is averaged over channels
and resampled to 16 kHz; its sample 0 is the window's start. The same file, window, size and decoder give the same bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av

from moodfuse.extract.media.collect import Collectors, DecodedClip, collect, decode_into, settle_window
from moodfuse.extract.media.container import MediaError, MediaFacts, open_media, probe
from moodfuse.extract.media.frames import Pictures
from moodfuse.extract.media.reasons import REASONS
from moodfuse.extract.media.stream_decoder import Taker, preroll_s
from moodfuse.extract.media.waveform import Sound

__all__ = ["DECODER", "REASONS", "DecodedClip", "MediaError", "MediaFacts", "probe", "read_clip"]

DECODER = f"pyav {av.__version__}, rules 2"
"""What decides the decoded bits; it enters the cache's identity. Raise the number whenever the rules here change.

Exceptions are rules for files that were refused before (see `REFUSAL_RULES` of `moodfuse.extract.dataset.ingest`), or shown wrongly:
changing them must not invalidate existing caches. So mirrored clips keep their old frames in existing caches.
"""
COUNTED_AGAIN = frozenset({"truncated", "window_outside"})
"""Refusals that follow from the declared length of a file, which the packets may tell better."""


def read_clip(
    path: Path | str,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    short_side_px: int | None = None,
    threads: int = 1,
    one_view: bool = False,
    allow_partial: bool = False,
) -> DecodedClip:
    """Decode the pictures and sound of a window of a media file.

    Parameters
    ----------
    path : Path or str
        A regular file.
    start_s, end_s : float
        The window in seconds; without `end_s`, 30 s or up to the end of the file.
    short_side_px : int, optional
        Scale pictures down to this short side, keeping their shape (the long side is made even). Never scales up.
    threads : int
        Decoder threads; they do not change the result.
    one_view : bool
        Read a clip without sound, or without picture, too.
    allow_partial : bool
        Take a window of which less than 95 % can be decoded; `partial` of the clip says so.

    Raises
    ------
    MediaError
        The file or window is refused; `code` says why (see `REASONS`).
    """
    if short_side_px is not None and short_side_px < 2:
        raise ValueError(f"short_side_px is {short_side_px}, expected 2 or more")
    with coded_errors(path):
        return _read(DecodeWish(Path(path), start_s, end_s, short_side_px, threads, one_view, allow_partial))


@contextmanager
def coded_errors(path: Path | str) -> Iterator[None]:
    """Turn what FFmpeg raises about a file into its refusal."""
    try:
        yield
    except (MemoryError, av.error.MemoryError) as error:
        raise MediaError("memory", path) from error
    except av.error.FFmpegError as error:
        raise MediaError("decode_failed", path, str(error)) from error


@dataclass(frozen=True)
class DecodeWish:
    """What `read_clip` was asked for."""

    path: Path
    start_s: float
    end_s: float | None
    short_side_px: int | None
    threads: int
    one_view: bool
    allow_partial: bool


def _read(wish: DecodeWish) -> DecodedClip:
    """Decode a clip; if its headers suggest missing data, count the packets and decode it again."""
    try:
        clip = _decoded(wish, count=False)
    except MediaError as error:
        if error.code not in COUNTED_AGAIN:
            raise
    else:
        if not clip.partial:
            return clip
    return _decoded(wish, count=True)


def _decoded(wish: DecodeWish, *, count: bool) -> DecodedClip:
    """Decode with a seek, or from the file's start where seeking lands too late. Streams live only while it is open."""
    for seeking in (True, False):
        opened = open_media(wish.path, threads=wish.threads, one_view=wish.one_view, count=count)
        with opened.media:
            window = settle_window(opened, wish.start_s, wish.end_s)
            pictures = Pictures(opened, window, wish.short_side_px) if opened.video is not None else None
            sound = Sound(opened, window) if opened.audio is not None else None
            takers: dict[int, Taker] = {}
            if pictures is not None:
                takers[opened.video.index] = pictures
            if sound is not None:
                takers[opened.audio.index] = sound
            if decode_into(takers, opened, preroll_s(window[0]) if seeking else 0.0):
                found = Collectors(opened, window, pictures, sound)
                return collect(found, one_view=wish.one_view, allow_partial=wish.allow_partial)
    raise MediaError("decode_failed", wish.path, "the window cannot be reached")
