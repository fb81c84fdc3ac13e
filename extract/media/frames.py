"""Select the 32 frames of a window: of equal intervals, the frame on screen at the middle of each.

That is the last frame with presentation time <= the middle, or the first of the file where there is none yet.
"""

import math
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation

from moodfuse.extract.media.container import MediaFile, check_frame_size
from moodfuse.extract.media.limits import COMPLETE, MediaError
from moodfuse.extract.media.packet_clock import seconds
from moodfuse.extract.media.stream_decoder import Extent, StreamDecoder

FRAMES = 32


def middles_s(start_s: float, end_s: float) -> np.ndarray:
    """Return the middles of 32 equal intervals of a window, float64 [32], seconds."""
    return start_s + (np.arange(FRAMES) + 0.5) * ((end_s - start_s) / FRAMES)


def scaled_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Return width and height in pixels after scaling down to a short side; the long side becomes even."""
    short, long = min(width, height), max(width, height)
    if short_side_px is None or short <= short_side_px:
        return width, height
    long = max(short_side_px, 2 * round(long * short_side_px / short / 2))
    return (long, short_side_px) if width >= height else (short_side_px, long)


def read_orientation(frame: Any) -> tuple[bool, int, int]:
    """Return how the display matrix has a frame shown: whether transposed, then steps along rows and columns.

    The matrix maps a pixel at column p and row q to column ``a p + c q`` and row ``b p + d q``; it is rounded
    to the nearest quarter turn. `frame.rotation` is derived from the same matrix, but cannot express
    mirroring.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, 1, 1
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, count=5).tolist()
    transposed = abs(b) * math.hypot(a, c) > abs(a) * math.hypot(b, d)
    row, column = (b, c) if transposed else (d, a)
    return transposed, -1 if row < 0 else 1, -1 if column < 0 else 1


class DecodedFrame:
    """A decoded frame, converted to RGB once for all windows that show it.

    The file shows it from `time_s` to `end_s` on the clip clock.
    """

    def __init__(self, frame: Any, time_s: float, length_s: float, *, pixel_aspect: float = 1.0) -> None:
        self.time_s, self.end_s, self.is_corrupt = time_s, time_s + length_s, bool(frame.is_corrupt)
        self._width = max(1, round(frame.width * pixel_aspect))
        self._frame = frame
        self._transposed, self._row_step, self._column_step = read_orientation(frame)
        self._rgb: dict[tuple[int, int], np.ndarray] = {}

    def size_hw(self, short_side_px: int | None) -> tuple[int, int]:
        """Return height and width in square pixels, as shown, after scaling down to a short side."""
        width, height = scaled_size(self._width, self._frame.height, short_side_px)
        return (width, height) if self._transposed else (height, width)

    def rgb(self, size_hw: tuple[int, int]) -> np.ndarray:
        """Return the frame as it is shown, in a size, uint8 [H, W, 3]; shared, so not to be written to."""
        if size_hw not in self._rgb:
            self._rgb[size_hw] = self._convert(*size_hw)
        return self._rgb[size_hw]

    def _convert(self, height: int, width: int) -> np.ndarray:
        if self._transposed:
            height, width = width, height
        scaled = (width, height) != (self._frame.width, self._frame.height)
        how = Interpolation.BICUBIC if scaled else Interpolation.BILINEAR
        plain = self._frame.reformat(width=width, height=height, format="rgb24", interpolation=how, threads=1)
        pixels = plain.to_ndarray()
        if self._transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: self._row_step, :: self._column_step]


def decoded_frame(frame: Any, media: MediaFile) -> DecodedFrame | None:
    """Return a frame with its time, or None where it has none."""
    check_frame_size(media.path, frame.width, frame.height)
    check_frame_size(media.path, round(frame.width * media.pixel_aspect), frame.height)
    ticks = frame.pts if frame.pts is not None else frame.dts
    if ticks is None:
        return None
    base = frame.time_base or media.video.time_base  # a flushed decoder gives frames without a time base
    rate = media.video.average_rate
    length_s = seconds(frame.duration, base) if frame.duration else (1.0 / float(rate) if rate else 0.0)
    time_s = seconds(ticks, base) - media.origin_s
    return DecodedFrame(frame, time_s, length_s, pixel_aspect=media.pixel_aspect)


class FrameDecoder(StreamDecoder):
    """Keeps the frames that are on screen at the 32 middles of a window; only those are converted to RGB."""

    def __init__(self, media: MediaFile, window: tuple[float, float], short_side_px: int | None) -> None:
        super().__init__(media, media.video)
        self.window, self.short_side_px = window, short_side_px
        self.targets_s = middles_s(*window)
        self.times_s = np.zeros(FRAMES)
        self.selected: list[np.ndarray] = []
        self.size_hw: tuple[int, int] | None = None
        self.current: DecodedFrame | None = None
        self.in_window = 0

    def add(self, frame: Any) -> None:
        """Process the next frame; one without a time is a failure."""
        decoded = decoded_frame(frame, self.media)
        if decoded is None:
            self.failures += 1
        else:
            self.show(decoded)

    def show(self, frame: DecodedFrame) -> None:
        """Put the next frame on screen; the frame before it stays there up to this one's time."""
        if self.current is not None and frame.time_s <= self.current.time_s:
            return
        self.late = self.current is None and frame.time_s > self.targets_s[0] + 1e-9
        self._select_until(frame.time_s)
        self.current = frame
        self.in_window += frame.time_s >= self.window[0]
        self.failures += frame.is_corrupt and frame.time_s >= self.window[0]
        self.done = len(self.selected) == FRAMES

    def _select_until(self, time_s: float) -> None:
        """Select the current frame for every middle before `time_s`."""
        count = int(np.searchsorted(self.targets_s, time_s - 1e-9, side="left"))
        start = len(self.selected)
        if self.current is not None and count > start:
            self.size_hw = self.size_hw or self.current.size_hw(self.short_side_px)
            self.times_s[start:count] = self.current.time_s
            self.selected += [self.current.rgb(self.size_hw)] * (count - start)

    def _extent(self, first_s: float, last_s: float) -> Extent:
        declared_s = min(last_s, self.window[1]) - max(first_s, self.window[0])
        rate = self.stream.average_rate
        declared = max(0, round(declared_s * float(rate))) if rate else 0
        if self.done:  # decoding stopped early, and nothing is missing
            return Extent("video", declared_s, declared_s, self.failures, declared, declared)
        decoded_s = 0.0 if self.current is None else self.current.end_s - max(first_s, self.window[0])
        return Extent("video", decoded_s, declared_s, self.failures, self.in_window, declared)

    def result(self, *, allow_partial: bool) -> tuple[np.ndarray, np.ndarray, Extent]:
        """Return frames, times and how much was decoded."""
        path = self.media.path
        first_s, last_s = self.media.span_s(self.stream)
        if last_s <= self.window[0] or first_s >= self.window[1]:
            raise MediaError("no_video", path, f"the video lasts from {first_s:.2f} to {last_s:.2f} s")
        if self.current is None:
            raise MediaError("decode_failed" if self.failures else "truncated", path, "no frame decoded")
        extent = self._extent(first_s, last_s)
        self.check_complete(extent, allow_partial=allow_partial)
        total = self.in_window + self.failures
        if self.failures > (1 - COMPLETE) * total + 1:
            raise MediaError("decode_failed", path, f"{self.failures} of {total} frames are damaged")
        self._select_until(math.inf)
        return np.stack(self.selected), self.times_s, extent
