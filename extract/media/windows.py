"""The sliding windows of a media file, decoded in one pass, each with the bits that `read_clip` gives for it.

The frames of all windows are decoded once. The audio of a window is decoded when its frames are complete, by
a separate decoder that begins where `read_clip` would: the decoders of AAC, AC-3 and MP2 carry a noise
generator or a dither through the whole file, so their output depends on where they began.

Damage depends on where a decoder began as well, so the pass ends at the first damage, and `read_clip` reads
the remaining windows.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import av
import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import WINDOW_S, ExtraMedia
from moodfuse.extract.media.container import MediaFile, open_media
from moodfuse.extract.media.decode import (
    DecodedClip,
    DecodeRequest,
    assemble_clip,
    decode_request,
    ffmpeg_errors,
    settle_window,
)
from moodfuse.extract.media.decoders import (
    StreamDecoder,
    WaveformDecoder,
    compute_preroll_s,
    decode_streams,
)
from moodfuse.extract.media.frames import DecodedFrame, FrameDecoder, compute_middles_s, time_frame
from moodfuse.extract.media.limits import MediaError

MAX_WINDOWS = 100_000
TICK_S = 1e-6  # the resolution of a container's times: windows that differ by less are one
MIN_NEW_S = 1.0  # a last window is added only if it has this much that no other window has


@dataclass(frozen=True)
class Window:
    """One window of a file: its number, from 0, and its start and end in seconds."""

    number: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class WindowRequest:
    """Which windows of which file to read, and how.

    `hop_s` is the distance of two window starts in seconds; the other settings are those of `read_clip`.
    """

    path: Path
    hop_s: float
    short_side_px: int | None = None
    allow_missing: bool = False
    extra: ExtraMedia = field(default_factory=ExtraMedia)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.hop_s) and self.hop_s > 0):
            raise InputError(f"hop_s is {self.hop_s}, expected more than 0 seconds")

    def for_window(self, window: Window) -> DecodeRequest:
        """Return the request for the clip of one window."""
        return DecodeRequest(
            self.path,
            window.start_s,
            window.end_s,
            self.short_side_px,
            allow_missing=self.allow_missing,
            extra=self.extra,
        )


def compute_window_starts(duration_s: float, *, hop_s: float) -> np.ndarray:
    """Return where the windows of a file start, seconds, float64 [windows], increasing.

    They start at every multiple of `hop_s` from which a window of 30 s fits into the file; where the last of
    these ends a second or more before the file does, one more ends with it. A file that is shorter than a
    window has one.
    """
    last_s = duration_s - WINDOW_S
    if last_s <= 0:
        return np.zeros(1)
    starts_s: np.ndarray = np.arange(int((last_s + TICK_S) / hop_s) + 1) * float(hop_s)
    if last_s - starts_s[-1] >= MIN_NEW_S:
        return np.append(starts_s, last_s)
    starts_s[-1] = min(starts_s[-1], last_s)
    return starts_s


def plan_windows(request: WindowRequest) -> list[Window]:
    """Open a file and return its windows."""
    with ffmpeg_errors(request.path), open_media(request.path, allow_missing=request.allow_missing) as media:
        duration_s = max(0.0, media.duration_s)
    if duration_s / request.hop_s > MAX_WINDOWS:
        detail = f"a hop of {request.hop_s:g} s gives over {MAX_WINDOWS} windows; use a larger hop"
        raise MediaError("too_much", request.path, detail)
    starts_s = compute_window_starts(duration_s, hop_s=request.hop_s).tolist()
    ends_s = [min(start_s + WINDOW_S, duration_s) for start_s in starts_s]
    if ends_s[-1] > duration_s - TICK_S:
        ends_s[-1] = duration_s
    return [Window(*row) for row in zip(range(len(starts_s)), starts_s, ends_s, strict=True)]


def read_windows(
    request: WindowRequest, windows: Sequence[Window] | None = None
) -> Iterator[tuple[Window, DecodedClip | MediaError]]:
    """Decode a media file once and yield the clip of each window, in order, as soon as it is complete.

    `windows` are the windows to read, in order; all of the file by default. Each comes with what `read_clip`
    returns or raises for it, so a refused window costs no other. A `MediaError` is raised at once if the file
    cannot be opened.
    """
    windows = plan_windows(request) if windows is None else windows
    if not windows:
        return
    with ffmpeg_errors(request.path):
        media = open_media(request.path, allow_missing=request.allow_missing)
    with media:
        videos = SinglePassReader(media, request, windows).read_frames() if media.video is not None else ()
        for window, video in zip(windows, chain(videos, repeat(None)), strict=False):
            yield window, _read_window(request.for_window(window), video)


class SinglePassReader(StreamDecoder):
    """One pass through the video of a file, which shows each frame to all windows that need it."""

    def __init__(self, media: MediaFile, request: WindowRequest, windows: Sequence[Window]) -> None:
        super().__init__(media, media.video)
        self.request = request
        self.waiting = deque(windows)
        self.active: deque[FrameDecoder] = deque()  # windows that have begun
        self.last: DecodedFrame | None = None

    def read_frames(self) -> Iterator[FrameDecoder]:
        """Yield the frames of each window, in order, up to the first damage or the last frame."""
        from_s = compute_preroll_s(self.waiting[0].start_s)
        if from_s > 0.0:
            self.media.seek(from_s)
        with suppress(MediaError, MemoryError, av.error.FFmpegError):
            for stream, packet, _ in self.media.read_packets():
                if stream is not self.stream:
                    continue
                self.decode(packet)
                if self.failures:
                    return
                while self.active and self.active[0].done:
                    yield self.active.popleft()
            yield from self.active

    def add(self, frame: Any) -> None:
        """Show a frame to the active windows, including those that start before it."""
        decoded = time_frame(frame, self.media)
        last_s = -math.inf if self.last is None else self.last.time_s
        if decoded is None or decoded.is_corrupt or decoded.time_s < last_s:
            self.failures += 1
            return
        while self.waiting and self.waiting[0].start_s <= decoded.time_s:
            self._begin_window(self.waiting.popleft())
        if decoded.time_s > last_s:
            self.last = decoded
        for video in self.active:
            if not video.done:
                video.show(decoded)

    def _begin_window(self, window: Window) -> None:
        """Activate the next window, with the frame that is on screen as it starts."""
        borders = settle_window(self.media, window.start_s, window.end_s)
        video = FrameDecoder(self.media, borders, self.request.short_side_px, self.request.extra.frames)
        if self.last is not None:
            video.show(self.last)
        self.active.append(video)


def _read_window(request: DecodeRequest, video: FrameDecoder | None) -> DecodedClip | MediaError:
    """Return a window's clip, with frames from the pass if it has them, otherwise from `read_clip`."""
    clip = None
    if video is not None:
        with suppress(MediaError, MemoryError, av.error.FFmpegError):
            clip = _add_audio(request, video)
    if clip is not None and not clip.partial:
        return clip
    try:
        return decode_request(request)
    except MediaError as error:
        return MediaError(error.code, error.path, error.detail)  # a traceback keeps frames in memory


def _add_audio(request: DecodeRequest, video: FrameDecoder) -> DecodedClip | None:
    """Return a clip with the audio that `read_clip` would decode.

    As there, the file is decoded from its start where seeking lands too late for the first frame or audio.
    """
    for from_s in (compute_preroll_s(request.start_s), 0.0):
        with open_media(request.path, allow_missing=request.allow_missing) as media:
            audio = WaveformDecoder(media, video.window) if media.audio is not None else None
            first = _FirstFrameDecoder(media, video.window)
            if decode_streams([first] if audio is None else [first, audio], media, from_s):
                return assemble_clip(request, media, video.window, video, audio)
    return None


class _FirstFrameDecoder(StreamDecoder):
    """Decodes up to the first frame after a seek, with which `read_clip` would begin."""

    def __init__(self, media: MediaFile, window: tuple[float, float]) -> None:
        super().__init__(media, media.video)
        self.window = window

    def add(self, frame: Any) -> None:
        decoded = time_frame(frame, self.media)
        if decoded is not None and not self.done:
            self.done = True
            self.late = decoded.time_s > compute_middles_s(*self.window)[0] + 1e-9
