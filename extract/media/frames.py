"""Decode the frames of a window of an open media file.

They are those on screen at the middles of 32 equal intervals of the window, and at other times that are
requested: the last frame with presentation time <= that time, or the first of the file where there is none
yet.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image

from moodfuse.cache.records import FRAMES, FrameWindows
from moodfuse.extract.media.container import MediaFile, check_frame_size
from moodfuse.extract.media.decoders import Extent, StreamDecoder
from moodfuse.extract.media.limits import COMPLETE, MediaError
from moodfuse.extract.media.packets import seconds

Frames = tuple[np.ndarray, np.ndarray]
"""Frames, uint8 [T, H, W, 3], and their presentation times in seconds, float64 [T]."""


def compute_middles_s(start_s: float, end_s: float) -> np.ndarray:
    """Return the middles of 32 equal intervals of a window, float64 [32], seconds."""
    return start_s + (np.arange(FRAMES) + 0.5) * ((end_s - start_s) / FRAMES)


def scale_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Return width and height in pixels after scaling down to a short side; the long side is rounded down."""
    short, long = min(width, height), max(width, height)
    if short_side_px is None or short <= short_side_px:
        return width, height
    long = long * short_side_px // short
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
    """A decoded frame, shown from `time_s` to `end_s`, and converted to RGB once for all windows."""

    def __init__(self, frame: Any, time_s: float, length_s: float, pixel_aspect: float) -> None:
        self.time_s, self.end_s, self.is_corrupt = time_s, time_s + length_s, bool(frame.is_corrupt)
        self._width = max(1, round(frame.width * pixel_aspect))
        self._frame = frame
        self._transposed, self._row_step, self._column_step = read_orientation(frame)
        self._rgb: dict[tuple[int, int], np.ndarray] = {}

    def size_hw(self, short_side_px: int | None) -> tuple[int, int]:
        """Return height and width in square pixels, as shown, after scaling down to a short side."""
        width, height = scale_size(self._width, self._frame.height, short_side_px)
        return (width, height) if self._transposed else (height, width)

    def to_rgb(self, size_hw: tuple[int, int]) -> np.ndarray:
        """Return the frame as it is shown, in a size, uint8 [H, W, 3]; shared, so not to be written to."""
        if size_hw not in self._rgb:
            self._rgb[size_hw] = self._convert(*size_hw)
        return self._rgb[size_hw]

    def _convert(self, height: int, width: int) -> np.ndarray:
        if self._transposed:
            height, width = width, height
        plain = self._frame.reformat(format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
        pixels = plain.to_ndarray()
        if (width, height) != (self._frame.width, self._frame.height):
            # The resize of I3D's ports; FFmpeg's filters on YUV move its features by 2.5 % and more.
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        if self._transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: self._row_step, :: self._column_step]


def time_frame(frame: Any, media: MediaFile) -> DecodedFrame | None:
    """Return a frame with its time, or None where it has none."""
    check_frame_size(media.path, frame.width, frame.height)
    check_frame_size(media.path, round(frame.width * media.pixel_aspect), frame.height)
    ticks = frame.pts if frame.pts is not None else frame.dts
    if ticks is None:
        return None
    base = frame.time_base or media.video.time_base  # a flushed decoder gives frames without a time base
    rate = media.video.average_rate
    length_s = seconds(frame.duration, base) if frame.duration else (1.0 / float(rate) if rate else 0.0)
    return DecodedFrame(frame, seconds(ticks, base) - media.origin_s, length_s, media.pixel_aspect)


class FrameDecoder(StreamDecoder):
    """Keeps the frames on screen at the 32 middles of a window and at the times of `others`.

    Only those are converted to RGB.
    """

    def __init__(
        self,
        media: MediaFile,
        window: tuple[float, float],
        short_side_px: int | None,
        others: Sequence[FrameWindows] = (),
    ) -> None:
        super().__init__(media, media.video)
        self.window, self.short_side_px = window, short_side_px
        self.middles_s = compute_middles_s(*window)
        self.others_s = {other: other.times_s(*window) for other in others}
        self.targets_s = np.unique(np.concatenate([self.middles_s, *self.others_s.values()]))
        self.times_s = np.zeros(len(self.targets_s))
        self.selected: list[np.ndarray] = []
        self.size_hw: tuple[int, int] | None = None
        self.current: DecodedFrame | None = None
        self.in_window = 0

    def add(self, frame: Any) -> None:
        """Process the next frame; one without a time is a failure."""
        decoded = time_frame(frame, self.media)
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
        self.done = len(self.selected) == len(self.targets_s)

    def _select_until(self, time_s: float) -> None:
        """Select the current frame for every target before `time_s`."""
        count = int(np.searchsorted(self.targets_s, time_s - 1e-9, side="left"))
        start = len(self.selected)
        if self.current is not None and count > start:
            self.size_hw = self.size_hw or self.current.size_hw(self.short_side_px)
            self.times_s[start:count] = self.current.time_s
            self.selected += [self.current.to_rgb(self.size_hw)] * (count - start)

    def result(self, *, allow_partial: bool) -> tuple[Frames, dict[FrameWindows, Frames], Extent]:
        """Return the frames at the middles, those of `others`, and how much was decoded."""
        path = self.media.path
        first_s, last_s = self.media.span_s(self.stream)
        if last_s <= self.window[0] or first_s >= self.window[1]:
            raise MediaError("no_video", path, f"the video lasts from {first_s:.2f} to {last_s:.2f} s")
        if self.current is None:
            raise MediaError("decode_failed" if self.failures else "truncated", path, "no frame decoded")
        begin_s = max(first_s, self.window[0])
        declared_s = min(last_s, self.window[1]) - begin_s
        decoded_s = declared_s if self.done else self.current.end_s - begin_s
        extent = Extent("video", decoded_s, declared_s, self.failures)
        self.check_complete(extent, allow_partial=allow_partial)
        total = self.in_window + self.failures
        if self.failures > (1 - COMPLETE) * total + 1:
            raise MediaError("decode_failed", path, f"{self.failures} of {total} frames are damaged")
        self._select_until(math.inf)
        others = {other: self._frames_at(times_s) for other, times_s in self.others_s.items()}
        return self._frames_at(self.middles_s), others, extent

    def _frames_at(self, targets_s: np.ndarray) -> Frames:
        """Return the frames selected for some of the targets."""
        numbers = np.searchsorted(self.targets_s, targets_s)
        return np.stack([self.selected[number] for number in numbers]), self.times_s[numbers]
