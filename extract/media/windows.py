"""The sliding windows of a media file, all decoded in one pass, each with the bits that `read_clip` gives for it.

The frames of all windows are decoded once, and only those of unfinished windows are kept. The audio of a window is
decoded when its frames are complete, by a separate decoder that begins where `read_clip` would: the decoders of AAC,
AC-3 and MP2 carry a noise generator or a dither through the whole file, so their output depends on where they began.
Audio costs a few hundredths of what video does.

`read_clip` itself reads what the pass could not decode, and every window with damage, because concealed damage depends
on where a decoder began as well. So every refusal is that of `read_clip`, and damage in one place costs no window
elsewhere. One thing is assumed: undamaged packets give the same frames after a seek as in one pass.
"""

import math
from array import array
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
from moodfuse.extract.media.stream_decoder import StreamDecoder, decode_streams, packets, preroll_s, seek
from moodfuse.extract.media.waveform import WaveformDecoder

MAX_WINDOWS = 100_000
CLOCK_S = 1e-6  # the resolution of a container's clock: windows that differ by less are one
MIN_NEW_S = 1.0  # a last window is added only if it has this much that no other window has
MAX_TRIES_AFTER_END = 16  # windows after the last frame that are tried one by one; a file may declare weeks


@dataclass(frozen=True)
class Window:
    """One window of a file: its number, from 0, and its start and end in seconds."""

    number: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class WindowRequest:
    """Which windows of which file to read, and how.

    Attributes
    ----------
    path : Path
        A regular file.
    hop_s : float
        From one window's start to the next, seconds; see `window_starts`.
    short_side_px, threads, allow_missing, allow_partial
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
    allow_missing: bool = False
    allow_partial: bool = False

    def __post_init__(self) -> None:
        _check_hop(self.hop_s)

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


def _check_hop(hop_s: float) -> None:
    if not (math.isfinite(hop_s) and hop_s > 0):
        raise InputError(f"hop_s is {hop_s}, expected more than 0 seconds")


def window_starts(duration_s: float, *, hop_s: float, length_s: float = WINDOW_S) -> np.ndarray:
    """Return where the windows of a file start.

    They start at every multiple of `hop_s` from which a window fits into the file; where the last of these ends a
    second or more before the file does, one more ends with it. A file that is shorter than a window has one, from 0
    to its end. All values are seconds; float64 [windows], increasing.

    Raises
    ------
    InputError
        If there would be more than 100 000 windows.
    """
    _check_hop(hop_s)
    if duration_s <= length_s:
        return np.zeros(1)
    last_s = duration_s - length_s
    if (last_s + CLOCK_S) / hop_s > MAX_WINDOWS - 2:
        min_hop_s = last_s / (MAX_WINDOWS - 2)
        raise InputError(
            f"a hop of {hop_s:g} s gives about {last_s / hop_s:.0f} windows, expected at most {MAX_WINDOWS}; "
            f"use a hop of {min_hop_s:.2g} s or more"
        )
    starts_s: np.ndarray = np.arange(int((last_s + CLOCK_S) / hop_s) + 1) * float(hop_s)
    if last_s - starts_s[-1] >= MIN_NEW_S:
        return np.append(starts_s, last_s)
    starts_s[-1] = min(starts_s[-1], last_s)
    return starts_s


def plan_windows(request: WindowRequest) -> list[Window]:
    """Open a file and return its windows.

    Raises
    ------
    MediaError
        The file cannot be opened, or declares a length of more than 100 000 windows.
    """
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

    Parameters
    ----------
    request : WindowRequest
    windows : sequence of Window, optional
        Some of the file's windows, in order; all of them by default.

    Yields
    ------
    (Window, DecodedClip or MediaError)
        What `read_clip` returns or raises for the window: one that is refused costs no other.

    Raises
    ------
    MediaError
        At once, if the file cannot be opened.
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
    """One pass through the video of a file, which shows each frame to all windows that need it.

    Parameters
    ----------
    media : MediaFile
        Nothing of it read yet.
    request : WindowRequest
    windows : sequence of Window
        At least one, in order; the pass begins at the first.
    """

    def __init__(self, media: MediaFile, request: WindowRequest, windows: Sequence[Window]) -> None:
        super().__init__(media, media.video)
        self.request = request
        self.waiting = deque(windows)
        self.active: deque[_ActiveWindow] = deque()
        self.receiving: list[_ActiveWindow] = []
        self.last: DecodedFrame | None = None
        self.packet_ids = array("q")
        self.damaged_at = 0  # how many packets had been decoded at the last damage
        self.from_start = True
        self.ended = False

    def results(self) -> Generator[DecodedClip | MediaError, None, None]:
        """Yield the clip or the refusal of each window, in order."""
        if self.stream is not None:
            yield from self._results_of_pass()
        tries = 0
        while self.active or self.waiting:
            if not self.active:
                self._begin_window()
            item = self.active.popleft()
            result = self._finish(item)
            yield result
            last_s = -math.inf if self.last is None else self.last.time_s
            after_end = self.ended and item.window.start_s > last_s
            tries = tries + 1 if isinstance(result, MediaError) and after_end else 0
            if isinstance(result, MediaError) and tries >= MAX_TRIES_AFTER_END:
                rest = len(self.active) + len(self.waiting)
                for _ in range(rest):
                    yield MediaError(result.code, result.path, "the file has ended before")
                return

    def _results_of_pass(self) -> Iterator[DecodedClip | MediaError]:
        """Decode, and yield the result of each window whose frames are complete."""
        from_s = preroll_s(self.waiting[0].start_s)
        self.from_start = not (from_s > 0.0 and seek(self.media, from_s))
        try:
            for stream, packet, _ in packets(self.media):
                if stream.index == self.stream.index:
                    self.decode(packet)
                while self.active and self.active[0].done:
                    yield self._finish(self.active.popleft())
            self.ended = True
        except (MemoryError, av.error.FFmpegError):  # each remaining window is read alone
            self._fail_active()
            self.active += [_ActiveWindow(window, failed=True) for window in self.waiting]
            self.waiting.clear()

    def decode(self, packet: Any) -> None:
        """Decode a packet, and show its frames to the windows that were incomplete before it."""
        self.receiving = [item for item in self.active if not item.done]
        failures = self.failures
        if packet is not None:
            self.packet_ids.append(_packet_id(packet))
        try:
            super().decode(packet)
        except (MemoryError, av.error.FFmpegError):
            self.failures += 1
            self._fail_active()
        if self.failures > failures:
            self.damaged_at = len(self.packet_ids)

    def add(self, frame: Any) -> None:
        """Show a frame to the active windows, including those that start before it."""
        decoded = decoded_frame(frame, self.media)
        self.failures += decoded is None or decoded.is_corrupt
        if decoded is None:
            return
        if self.last is not None and decoded.time_s < self.last.time_s:
            self._restart()
        while self.waiting and self.waiting[0].start_s <= decoded.time_s:
            self._begin_window()
        if self.last is None or decoded.time_s > self.last.time_s:
            self.last = decoded
        for item in self.receiving:
            if item.video is not None:
                item.video.show(decoded)

    def _begin_window(self) -> None:
        """Activate the next window, with the frame that is on screen as it starts."""
        item = _ActiveWindow(self.waiting.popleft())
        try:
            window = settle_window(self.media, item.window.start_s, item.window.end_s)
            if self.stream is not None:
                item.video = FrameDecoder(self.media, window, self.request.short_side_px)
                if self.last is not None:
                    item.video.show(self.last)
        except MediaError:
            item.failed = True
        self.active.append(item)
        self.receiving.append(item)

    def _restart(self) -> None:
        """Forget the past where times go back, as in a damaged file: `read_clip` may not reach any of it."""
        self._fail_active()
        self.receiving.clear()
        self.last, self.from_start = None, False
        self.damaged_at = 0
        del self.packet_ids[:]

    def _fail_active(self) -> None:
        """Give up the active windows whose frames are not complete."""
        for item in self.active:
            if not item.done:
                item.failed, item.video = True, None

    def _finish(self, item: _ActiveWindow) -> DecodedClip | MediaError:
        """Return a window's clip, from the pass where that has it whole, otherwise from `read_clip`."""
        request = self.request.for_window(item.window)
        clip = None
        with suppress(MediaError, MemoryError, av.error.FFmpegError):
            clip = None if item.failed else self._clip_from_pass(item.video, request)
        return clip if clip is not None and not clip.partial else _read_alone(request)

    def _clip_from_pass(self, video: FrameDecoder | None, request: DecodeRequest) -> DecodedClip | None:
        """Return a clip with the audio that `read_clip` would decode, or None where the pass missed something.

        As there, the file is decoded from its start where seeking lands too late for the first frame or audio.
        """
        for from_s in (preroll_s(request.start_s), 0.0):
            with open_media(request.path, allow_missing=request.allow_missing) as media:
                window = settle_window(media, request.start_s, request.end_s)
                first = _FirstFrameDecoder(media, window)
                audio = WaveformDecoder(media, window) if media.audio is not None else None
                decoders: list[StreamDecoder] = [] if audio is None else [audio]
                if media.video is not None and from_s > 0.0:
                    decoders.append(first)
                if not decode_streams(decoders, media, from_s):
                    continue
                if video is not None and not self._has_decoded(first, from_s):
                    return None
                return assemble_clip(request, media, window, video, audio)
        return None

    def _has_decoded(self, first: "_FirstFrameDecoder", from_s: float) -> bool:
        """Return whether the pass decoded the packet that `read_clip` begins with, and since then nothing damaged."""
        if from_s <= 0.0:
            return self.from_start and not self.damaged_at
        if not first.done or first.last_id is None or first.last_id not in self.packet_ids:
            return False
        return self.damaged_at <= self.packet_ids.index(first.last_id) + 1 - first.packets


class _FirstFrameDecoder(StreamDecoder):
    """Decodes up to the first frame after a seek, with which `read_clip` would begin.

    It counts the packets up to that frame and keeps the id of the last one: the first may be the rest of a packet
    that the seek cut in two.
    """

    def __init__(self, media: MediaFile, window: tuple[float, float]) -> None:
        super().__init__(media, media.video)
        self.window = window
        self.last_id: int | None = None
        self.packets = 0

    def decode(self, packet: Any) -> None:
        if packet is not None:
            self.last_id = _packet_id(packet)
            self.packets += 1
        super().decode(packet)

    def add(self, frame: Any) -> None:
        decoded = decoded_frame(frame, self.media)
        if decoded is not None:
            self.late = not self.done and decoded.time_s > middles_s(*self.window)[0] + 1e-9
            self.done = True


def _packet_id(packet: Any) -> int:
    """Return a number that distinguishes a packet from the others of its file."""
    return hash((packet.pts, packet.pos, packet.size))


def _read_alone(request: DecodeRequest) -> DecodedClip | MediaError:
    """Return what `read_clip` returns or raises, without the objects that a traceback keeps alive."""
    try:
        return decode_request(request)
    except MediaError as error:
        return MediaError(error.code, error.path, error.detail)
