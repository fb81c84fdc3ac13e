"""The sliding windows of a media file, decoded in one pass, each with the bits that `read_clip` gives for it.

The frames of all windows are decoded once, and only those of unfinished windows are kept. The audio of a
window is decoded when its frames are complete, by a separate decoder that begins where `read_clip` would: the
decoders of AAC, AC-3 and MP2 carry a noise generator or a dither through the whole file, so their output
depends on where they began. Audio costs a few hundredths of what video does.

Damage depends on where a decoder began as well, so `read_clip` itself reads the windows around damage, and
those that the pass could not decode. So every refusal is that of `read_clip`, and damage in one place costs
no window elsewhere. One thing is assumed: undamaged packets give the same frames after a seek as in one pass.
"""

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.container import MediaFile, open_media
from moodfuse.extract.media.decode import (
    DecodedClip,
    DecodeRequest,
    assemble_clip,
    decode_request,
    ffmpeg_errors,
    settle_window,
)
from moodfuse.extract.media.frames import DecodedFrame, FrameDecoder, decoded_frame, middles_s
from moodfuse.extract.media.limits import MediaError
from moodfuse.extract.media.stream_decoder import (
    StreamDecoder,
    decode_streams,
    packets,
    preroll_s,
    seek,
)
from moodfuse.extract.media.waveform import WaveformDecoder

MAX_WINDOWS = 100_000
CLOCK_S = 1e-6  # the resolution of a container's clock: windows that differ by less are one
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
    threads: int = 1
    allow_missing: bool = False
    allow_partial: bool = False

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
            self.allow_missing,
            self.allow_partial,
            self.threads,
        )


def window_starts(duration_s: float, *, hop_s: float) -> np.ndarray:
    """Return where the windows of a file start.

    They start at every multiple of `hop_s` from which a window of 30 s fits into the file; where the last of
    these ends a second or more before the file does, one more ends with it. A file that is shorter than a
    window has one, from 0 to its end. All values are seconds; float64 [windows], increasing.

    Raises
    ------
    InputError
        If there would be more than 100 000 windows.
    """
    last_s = duration_s - WINDOW_S
    if last_s <= 0:
        return np.zeros(1)
    if (last_s + CLOCK_S) / hop_s > MAX_WINDOWS - 2:
        raise InputError(
            f"a hop of {hop_s:g} s gives about {last_s / hop_s:.0f} windows, expected at most {MAX_WINDOWS}; "
            f"use a hop of {last_s / (MAX_WINDOWS - 2):.2g} s or more"
        )
    starts_s: np.ndarray = np.arange(int((last_s + CLOCK_S) / hop_s) + 1) * float(hop_s)
    if last_s - starts_s[-1] >= MIN_NEW_S:
        return np.append(starts_s, last_s)
    starts_s[-1] = min(starts_s[-1], last_s)
    return starts_s


def plan_windows(request: WindowRequest) -> list[Window]:
    """Open a file and return its windows."""
    with ffmpeg_errors(request.path), open_media(request.path, allow_missing=request.allow_missing) as media:
        duration_s = max(0.0, media.duration_s)
    try:
        starts_s = window_starts(duration_s, hop_s=request.hop_s).tolist()
    except InputError as error:  # a declared length costs only the file that declares it
        raise MediaError("too_much", request.path, str(error)) from error
    ends_s = [min(start_s + WINDOW_S, duration_s) for start_s in starts_s]
    if ends_s[-1] > duration_s - CLOCK_S:
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
        media = open_media(request.path, threads=request.threads, allow_missing=request.allow_missing)
    with media, closing(SinglePassReader(media, request, windows).results()) as clips:
        yield from zip(windows, clips, strict=True)


@dataclass
class _ActiveWindow:
    """A window that has begun; `failed` where the pass cannot give its frames."""

    window: Window
    video: FrameDecoder | None = None
    failed: bool = False

    @property
    def done(self) -> bool:
        return self.failed or self.video is None or self.video.done


class SinglePassReader(StreamDecoder):
    """One pass through the video of a file, which shows each frame to all windows that need it."""

    def __init__(self, media: MediaFile, request: WindowRequest, windows: Sequence[Window]) -> None:
        super().__init__(media, media.video)
        self.request = request
        self.waiting = deque(windows)
        self.active: deque[_ActiveWindow] = deque()
        self.last: DecodedFrame | None = None
        self.undamaged_s: set[float] = set()  # times of the frames since the last damage
        self.ended = False

    def results(self) -> Generator[DecodedClip | MediaError, None, None]:
        """Yield the clip or the refusal of each window, in order."""
        if self.stream is not None:
            yield from self._results_of_pass()
        while self.active or self.waiting:
            if not self.active:
                self._begin_window()
            active = self.active.popleft()
            result = self._finish(active)
            yield result
            after_end = self.ended and self.last is not None and active.window.start_s > self.last.time_s
            if after_end and isinstance(result, MediaError):  # the file may declare weeks
                for _ in range(len(self.active) + len(self.waiting)):
                    yield MediaError(result.code, result.path, result.detail)
                return

    def _results_of_pass(self) -> Iterator[DecodedClip | MediaError]:
        """Decode, and yield the result of each window whose frames are complete."""
        from_s = preroll_s(self.waiting[0].start_s)
        if from_s > 0.0:
            seek(self.media, from_s)
        try:
            for stream, packet, _ in packets(self.media):
                if stream.index == self.stream.index:
                    self.decode(packet)
                while self.active and self.active[0].done:
                    yield self._finish(self.active.popleft())
            self.ended = True
        except (MemoryError, av.error.FFmpegError):  # each remaining window is read alone
            self._forget_past()

    def decode(self, packet: Any) -> None:
        """Decode a packet, and show its frames to the active windows."""
        failures_before = self.failures
        try:
            super().decode(packet)
        except (MemoryError, av.error.FFmpegError):
            self._forget_past()
        if self.failures > failures_before:
            self.undamaged_s.clear()

    def add(self, frame: Any) -> None:
        """Show a frame to the active windows, including those that start before it."""
        decoded = decoded_frame(frame, self.media)
        self.failures += decoded is None or decoded.is_corrupt
        if decoded is None:
            return
        if self.last is not None and decoded.time_s < self.last.time_s:
            self._forget_past()
        self.undamaged_s.add(decoded.time_s)
        while self.waiting and self.waiting[0].start_s <= decoded.time_s:
            self._begin_window()
        if self.last is None or decoded.time_s > self.last.time_s:
            self.last = decoded
        for active in self.active:
            if active.video is not None and not active.done:
                active.video.show(decoded)

    def _begin_window(self) -> None:
        """Activate the next window, with the frame that is on screen as it starts."""
        active = _ActiveWindow(self.waiting.popleft())
        try:
            window = settle_window(self.media, active.window.start_s, active.window.end_s)
            if self.stream is not None:
                active.video = FrameDecoder(self.media, window, self.request.short_side_px)
                if self.last is not None:
                    active.video.show(self.last)
        except MediaError:
            active.failed = True
        self.active.append(active)

    def _forget_past(self) -> None:
        """Give up the incomplete windows after an error, or where times go back, as in a damaged file."""
        for active in self.active:
            if not active.done:
                active.failed, active.video = True, None
        self.last = None
        self.undamaged_s.clear()

    def _finish(self, active: _ActiveWindow) -> DecodedClip | MediaError:
        """Return a window's clip, from the pass if it is complete there, otherwise from `read_clip`."""
        request = self.request.for_window(active.window)
        clip = None
        with suppress(MediaError, MemoryError, av.error.FFmpegError):
            clip = None if active.failed else self._clip_from_pass(active.video, request)
        return clip if clip is not None and not clip.partial else _read_alone(request)

    def _clip_from_pass(self, video: FrameDecoder | None, request: DecodeRequest) -> DecodedClip | None:
        """Return a clip with the audio that `read_clip` would decode, or None if the pass missed something.

        As there, the file is decoded from its start where seeking lands too late for the first frame or
        audio.
        """
        for from_s in (preroll_s(request.start_s), 0.0):
            with open_media(request.path, allow_missing=request.allow_missing) as media:
                window = settle_window(media, request.start_s, request.end_s)
                audio = WaveformDecoder(media, window) if media.audio is not None else None
                first = _FirstFrameDecoder(media, window) if video is not None else None
                decoders = [decoder for decoder in (audio, first) if decoder is not None]
                if not decode_streams(decoders, media, from_s):
                    continue
                if first is not None and first.time_s not in self.undamaged_s:
                    return None
                return assemble_clip(request, media, window, video, audio)
        return None


class _FirstFrameDecoder(StreamDecoder):
    """Decodes up to the first frame after a seek, with which `read_clip` would begin."""

    def __init__(self, media: MediaFile, window: tuple[float, float]) -> None:
        super().__init__(media, media.video)
        self.window = window
        self.time_s = math.nan

    def add(self, frame: Any) -> None:
        decoded = decoded_frame(frame, self.media)
        if decoded is not None and not self.done:
            self.time_s, self.done = decoded.time_s, True
            self.late = decoded.time_s > middles_s(*self.window)[0] + 1e-9


def _read_alone(request: DecodeRequest) -> DecodedClip | MediaError:
    """Return what `read_clip` returns or raises, without the objects that a traceback keeps alive."""
    try:
        return decode_request(request)
    except MediaError as error:
        return MediaError(error.code, error.path, error.detail)
