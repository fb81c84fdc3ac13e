"""Collecting the pictures of a window: of 32 equal intervals, the one on screen at the middle of each.

That is the last picture with presentation time <= the middle, or the first of the file where there is none yet.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation

from moodfuse.extract.media.clock import seconds
from moodfuse.extract.media.container import COMPLETE, MediaError, Opened, check_size
from moodfuse.extract.media.stream_decoder import Extent, Taker, check_complete

FRAMES = 32


def middles_s(start_s: float, end_s: float) -> np.ndarray:
    """Return the middles of 32 equal intervals of a window, float64 [32], seconds."""
    return start_s + (np.arange(FRAMES) + 0.5) * ((end_s - start_s) / FRAMES)


def scaled_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Return the width and height in pixels after scaling down to a short side; the long side becomes even."""
    short, long = min(width, height), max(width, height)
    if short_side_px is None or short <= short_side_px:
        return width, height
    long = max(short_side_px, 2 * round(long * short_side_px / short / 2))
    return (long, short_side_px) if width >= height else (short_side_px, long)


@dataclass(frozen=True)
class Orientation:
    """How a coded picture is turned and mirrored to be shown: rows and columns are exchanged first, then flipped."""

    transposed: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return a view of an array [H, W, 3] in this orientation."""
        if self.transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def orientation(frame: Any) -> Orientation:
    """Return the orientation that the display matrix of a decoded frame asks for, to the nearest quarter turn.

    The matrix maps a pixel at column p and row q to column ``a p + c q`` and row ``b p + d q``. `frame.rotation` is
    derived from the same matrix, but does not express mirroring.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(found), np.int32, count=5).tolist()
    if abs(b) * math.hypot(a, c) > abs(a) * math.hypot(b, d):
        return Orientation(True, flip_columns=c < 0, flip_rows=b < 0)
    return Orientation(False, flip_columns=a < 0, flip_rows=d < 0)


class Picture:
    """A decoded picture, converted to RGB once however many windows show it.

    Attributes
    ----------
    time_s, end_s : float
        From when to when the file shows it, seconds on the clip clock.
    is_corrupt : bool
        The decoder marked it as damaged.
    """

    def __init__(self, frame: Any, time_s: float, length_s: float, *, pixel_aspect: float = 1.0) -> None:
        self.time_s, self.end_s, self.is_corrupt = time_s, time_s + length_s, bool(frame.is_corrupt)
        self._width = max(1, round(frame.width * pixel_aspect))
        self._frame, self._orientation = frame, orientation(frame)
        self._rgb: dict[tuple[int, int], np.ndarray] = {}

    def size_hw(self, short_side_px: int | None) -> tuple[int, int]:
        """Return height and width in square pixels, as shown, after scaling down to a short side."""
        width, height = scaled_size(self._width, self._frame.height, short_side_px)
        return (width, height) if self._orientation.transposed else (height, width)

    def rgb(self, size_hw: tuple[int, int]) -> np.ndarray:
        """Return it as it is shown, in a size, uint8 [H, W, 3]; not to be written to."""
        if size_hw not in self._rgb:
            self._rgb[size_hw] = self._converted(*size_hw)
        return self._rgb[size_hw]

    def _converted(self, height: int, width: int) -> np.ndarray:
        if self._orientation.transposed:
            height, width = width, height
        scaled = (width, height) != (self._frame.width, self._frame.height)
        how = Interpolation.BICUBIC if scaled else Interpolation.BILINEAR
        plain = self._frame.reformat(width=width, height=height, format="rgb24", interpolation=how, threads=1)
        return self._orientation.apply(plain.to_ndarray())


def picture_of(frame: Any, opened: Opened) -> Picture | None:
    """Return a decoded frame with its time, or None where it has none.

    Raises
    ------
    MediaError
        If it is too large.
    """
    check_size(opened.path, frame.width, frame.height)
    check_size(opened.path, round(frame.width * opened.pixel_aspect), frame.height)
    ticks = frame.pts if frame.pts is not None else frame.dts
    if ticks is None:
        return None
    base = frame.time_base or opened.video.time_base  # a drained decoder gives frames without one
    rate = opened.video.average_rate
    length_s = seconds(frame.duration, base) if frame.duration else (1.0 / float(rate) if rate else 0.0)
    return Picture(frame, seconds(ticks, base) - opened.origin_s, length_s, pixel_aspect=opened.pixel_aspect)


class Pictures(Taker):
    """Keeps the pictures that are on screen at the 32 middles; only those are converted to RGB."""

    def __init__(self, opened: Opened, window: tuple[float, float], short_side_px: int | None) -> None:
        super().__init__(opened.path)
        self.opened, self.window, self.short_side_px = opened, window, short_side_px
        self.targets_s = middles_s(*window)
        self.times_s = np.zeros(FRAMES)
        self.shown: list[np.ndarray] = []
        self.size_hw: tuple[int, int] | None = None
        self.held: Picture | None = None
        self.seen = 0

    def add(self, frame: Any) -> None:
        """Take the next decoded frame; one without a time is a failure."""
        picture = picture_of(frame, self.opened)
        if picture is None:
            self.failures += 1
        else:
            self.show(picture)

    def show(self, picture: Picture) -> None:
        """Take the next picture; the one before it stays on screen up to this one's time."""
        if self.held is not None and picture.time_s <= self.held.time_s:
            return
        self.late = self.held is None and picture.time_s > self.targets_s[0] + 1e-9
        self._show_until(picture.time_s)
        self.held = picture
        self.seen += picture.time_s >= self.window[0]
        self.failures += picture.is_corrupt and picture.time_s >= self.window[0]
        self.done = len(self.shown) == FRAMES

    def _show_until(self, time_s: float) -> None:
        """Store the held picture for every middle before `time_s`."""
        count = int(np.searchsorted(self.targets_s, time_s - 1e-9, side="left"))
        filled = len(self.shown)
        if self.held is not None and count > filled:
            self.size_hw = self.size_hw or self.held.size_hw(self.short_side_px)
            self.times_s[filled:count] = self.held.time_s
            self.shown += [self.held.rgb(self.size_hw)] * (count - filled)

    def extent(self) -> Extent:
        """Return how much was decoded; all that is declared where nothing more was wanted."""
        first_s, last_s = self.opened.span_s(self.opened.video)
        declared_s = min(last_s, self.window[1]) - max(first_s, self.window[0])
        rate = self.opened.video.average_rate
        declared = max(0, round(declared_s * float(rate))) if rate else 0
        if self.done:
            return Extent("picture", declared_s, declared_s, self.failures, declared, declared)
        decoded_s = 0.0 if self.held is None else self.held.end_s - max(first_s, self.window[0])
        return Extent("picture", decoded_s, declared_s, self.failures, self.seen, declared)

    def result(self, *, allow_partial: bool = False) -> tuple[np.ndarray, np.ndarray, Extent]:
        """Return frames, times and how much was decoded, or refuse what is too incomplete."""
        first_s, last_s = self.opened.span_s(self.opened.video)
        if last_s <= self.window[0] or first_s >= self.window[1]:
            raise MediaError(
                "no_video", self.opened.path, f"the picture lasts from {first_s:.2f} to {last_s:.2f} s"
            )
        if self.held is None:
            raise MediaError(
                "decode_failed" if self.failures else "truncated", self.opened.path, "no picture decoded"
            )
        extent = self.extent()
        check_complete(self.opened.path, extent, allow_partial=allow_partial)
        if self.failures > (1 - COMPLETE) * (self.seen + self.failures) + 1:
            found = f"{self.failures} of {self.seen + self.failures} pictures are damaged"
            raise MediaError("decode_failed", self.opened.path, found)
        self._show_until(math.inf)
        self.held = None
        return self._stacked(), self.times_s, extent

    def _stacked(self) -> np.ndarray:
        """Return the pictures in one array; each is let go as it is copied, so that they are not held twice."""
        assert self.size_hw is not None
        frames = np.empty((FRAMES, *self.size_hw, 3), np.uint8)
        for place in reversed(range(FRAMES)):
            frames[place] = self.shown.pop()
        return frames
