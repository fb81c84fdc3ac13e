"""The sliding windows of a video: where they are, and the clip of each while the file is decoded once.

Each clip has the very bits that `moodfuse.extract.media.decode.read_clip` gives for its window; `moodfuse.extract.media.single_pass` says how.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.collect import DecodedClip
from moodfuse.extract.media.container import MediaError, open_media
from moodfuse.extract.media.decode import coded_errors
from moodfuse.extract.media.single_pass import Sweep

MAX_WINDOWS = 100_000
CLOCK_S = 1e-6
"""What a container's clock resolves: windows that differ by less are one."""
LEAST_NEW_S = 1.0
"""A last window stands for what the others leave out; for less of the file than this there is none."""


@dataclass(frozen=True)
class Window:
    """One window of a file: its place among them, from 0, and its start and end in seconds."""

    number: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class WindowsWish:
    """Which windows of which file are wanted, and how.

    Attributes
    ----------
    path : Path
        A regular file.
    hop_s : float
        From one window's start to the next, seconds; see `window_starts`.
    short_side_px, threads, one_view, allow_partial
        As in `moodfuse.extract.media.decode.read_clip`.

    Raises
    ------
    InputError
        If `hop_s` cannot be used.
    """

    path: Path
    hop_s: float
    short_side_px: int | None = None
    threads: int = 1
    one_view: bool = False
    allow_partial: bool = False

    def __post_init__(self) -> None:
        _check_hop(self.hop_s)
        if self.short_side_px is not None and self.short_side_px < 2:
            raise ValueError(f"short_side_px is {self.short_side_px}, expected 2 or more")


def window_starts(duration_s: float, *, hop_s: float, length_s: float = WINDOW_S) -> np.ndarray:
    """Return where the windows of a file start.

    They start at 0, `hop_s`, twice that and so on, as far as they fit into the file; where the last of these ends a
    second or more before the file does, one more ends with it. A file that is shorter than a window has one, from 0
    to its end.

    Parameters
    ----------
    duration_s : float
        Length of the file, seconds.
    hop_s : float
        From one start to the next, seconds; more than 0.
    length_s : float
        Length of a window, seconds.

    Returns
    -------
    ndarray, float64 [windows]
        Seconds, increasing.

    Raises
    ------
    InputError
        If a value cannot be used, or there would be more than 100 000 windows.
    """
    _check_hop(hop_s)
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise InputError(f"duration_s is {duration_s}, expected 0 or more seconds")
    if not (math.isfinite(length_s) and length_s > 0):
        raise InputError(f"length_s is {length_s}, expected more than 0 seconds")
    if duration_s <= length_s:
        return np.zeros(1)
    last_s = duration_s - length_s
    if (last_s + CLOCK_S) / hop_s > MAX_WINDOWS - 2:
        least_s = last_s / (MAX_WINDOWS - 2)
        raise InputError(
            f"a hop of {hop_s:g} s gives about {last_s / hop_s:.0f} windows, expected at most {MAX_WINDOWS}; "
            f"use a hop of {least_s:.2g} s or more"
        )
    starts_s: np.ndarray = np.arange(int((last_s + CLOCK_S) / hop_s) + 1) * float(hop_s)
    if last_s - starts_s[-1] >= LEAST_NEW_S:
        return np.append(starts_s, last_s)
    starts_s[-1] = min(starts_s[-1], last_s)
    return starts_s


def _check_hop(hop_s: float) -> None:
    if not (math.isfinite(hop_s) and hop_s > 0):
        raise InputError(f"hop_s is {hop_s}, expected more than 0 seconds")


def read_windows(wish: WindowsWish) -> Iterator[tuple[Window, DecodedClip | MediaError]]:
    """Decode a media file once and give the clip of each of its windows, in order, as soon as it is complete.

    Parameters
    ----------
    wish : WindowsWish

    Yields
    ------
    (Window, DecodedClip or MediaError)
        What `read_clip` gives or raises for the window: one that is refused costs no other.

    Raises
    ------
    MediaError
        At once, if the file cannot be opened.
    """
    yield from read_planned(wish, plan_windows(wish))


def plan_windows(wish: WindowsWish) -> list[Window]:
    """Open a file and return its windows.

    Raises
    ------
    MediaError
        The file cannot be opened, or declares to be so long that there would be more than 100 000 windows.
    """
    with coded_errors(wish.path):
        opened = open_media(wish.path, one_view=wish.one_view)
        opened.media.close()
    duration_s = max(0.0, opened.duration_s)
    try:
        starts_s = window_starts(duration_s, hop_s=wish.hop_s).tolist()
    except InputError as error:  # what a file declares costs that file alone
        raise MediaError("too_much", wish.path, str(error)) from error
    ends_s = [min(start_s + WINDOW_S, duration_s) for start_s in starts_s]
    if ends_s[-1] > duration_s - CLOCK_S:
        ends_s[-1] = duration_s
    return [Window(*row) for row in zip(range(len(starts_s)), starts_s, ends_s, strict=True)]


def read_planned(
    wish: WindowsWish, windows: Sequence[Window]
) -> Iterator[tuple[Window, DecodedClip | MediaError]]:
    """Decode once from the first of some windows on, and give the clip of each, as `read_windows` does."""
    if not windows:
        return
    with coded_errors(wish.path):
        opened = open_media(wish.path, threads=wish.threads, one_view=wish.one_view)
    with opened.media, closing(Sweep(opened, wish, windows).results()) as clips:
        yield from zip(windows, clips, strict=True)
