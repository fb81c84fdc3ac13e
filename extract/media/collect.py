"""Decoding a window of an open file into its collectors, and what they make of it together."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.clock import PacketClock
from moodfuse.extract.media.container import (
    COMPLETE,
    MediaError,
    MediaFacts,
    Opened,
    read_facts,
    timed_streams,
)
from moodfuse.extract.media.frames import Pictures
from moodfuse.extract.media.limits import MAX_PACKETS
from moodfuse.extract.media.stream_decoder import Extent, Taker
from moodfuse.extract.media.waveform import SAMPLES, Sound


@dataclass(frozen=True)
class DecodedClip:
    """The decoded pictures and sound of one window.

    Attributes
    ----------
    frames : ndarray, uint8 [32, H, W, 3]
        RGB pictures.
    frame_times_s : ndarray, float64 [32]
        Their presentation times in the file (not in the window), seconds.
    waveform : ndarray, float32 [480000]
        Mono sound at 16 kHz in [-1, 1] from the window's start, zeros after its end.
    waveform_samples : int
        How many samples of `waveform` come from the file.
    start_s, end_s : float
        The window that was read, seconds.
    facts : MediaFacts
        What the file's headers say.
    missing : str
        The view that is not there, ``"sound"`` (`waveform` is zeros) or ``"picture"`` (`frames` is [0, 0, 0, 3]);
        empty where both are. Only `one_view` lets a clip lack one.
    extents : tuple of Extent
        How much of its picture and of its sound was decoded, beside what the headers declare. Only `allow_partial` lets
        that be under 95 %.
    """

    frames: np.ndarray
    frame_times_s: np.ndarray
    waveform: np.ndarray
    waveform_samples: int
    start_s: float
    end_s: float
    facts: MediaFacts
    missing: str = ""
    extents: tuple[Extent, ...] = ()

    @property
    def partial(self) -> str:
        """What of the window could not be decoded, in words; empty where 95 % could."""
        return "; ".join(str(extent) for extent in self.extents if not extent.complete)

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded, and pictures that came out damaged."""
        return sum(extent.damaged for extent in self.extents)


def settle_window(opened: Opened, start_s: float, end_s: float | None) -> tuple[float, float]:
    """Return the window in seconds, cut at the end of a file that holds at least 95 % of it."""
    if opened.duration_s <= 0.0:
        raise MediaError("truncated", opened.path, "it is 0 s long")
    asked = min(start_s + WINDOW_S, opened.duration_s) if end_s is None else end_s
    end = min(asked, opened.duration_s)
    if not (0.0 <= start_s < end and end - start_s >= COMPLETE * (asked - start_s) - 1e-9):
        found = f"window {start_s:g} to {asked:g} s, file {opened.duration_s:.3f} s"
        raise MediaError("window_outside", opened.path, found)
    return float(start_s), float(end)


def decode_into(takers: Mapping[int, Taker], opened: Opened, from_s: float) -> bool:
    """Feed takers from the last key frame at or before `from_s`; False where seeking landed too late or in doubt.

    After seeking in an Ogg, FFmpeg may guess the times of the first audio packets; the step back to true times tells.

    Parameters
    ----------
    takers : mapping from int to Taker
        By the index of their stream.
    opened : Opened
    from_s : float
        Seconds; from 0 the file is decoded from its start.
    """
    if from_s > 0.0 and not seek(opened, from_s):
        return False
    if not takers:
        return True
    furthest = -math.inf
    for stream, packet, lost in packets(opened):
        taker = takers.get(stream.index)
        if taker is None or taker.done:
            continue
        if from_s > 0.0 and stream is opened.audio and packet is not None and packet.pts is not None:
            if packet.pts < furthest:
                return False
            furthest = packet.pts
        taker.losses += lost
        taker.take(stream, packet)
        if from_s > 0.0 and taker.late:
            return False
        if all(taker.done for taker in takers.values()):
            break
    return True


def seek(opened: Opened, to_s: float) -> bool:
    """Go to the last key frame at or before a time in seconds; False where the file cannot be searched by time."""
    if opened.restarted:
        return False
    try:
        opened.media.seek(int((to_s + opened.origin_s) * av.time_base), backward=True)
    except av.error.FFmpegError:
        return False
    return True


def packets(opened: Opened) -> Iterator[tuple[Any, Any, bool]]:
    """Yield (stream, packet, lost) to the end or to where the file breaks off, then (stream, None, False) for each.

    `lost` says that something seems to be lost before the packet (see `PacketClock.place`). The last ones drain the
    decoders. Where the clock of the file starts over, the packets have the times of a clock that goes on.

    Raises
    ------
    MediaError
        If there are more than any clip has.
    """
    streams = [stream for stream in (opened.video, opened.audio) if stream is not None]
    clock = PacketClock(opened.media.format.name, joined=opened.counted is None or opened.restarted)
    lossy = opened.counted is not None and opened.counted.bad_pages
    try:
        for number, packet in enumerate(opened.media.demux(*timed_streams(opened.media))):
            if number > MAX_PACKETS:
                raise MediaError(
                    "too_much", opened.path, f"more than {MAX_PACKETS} packets before the window ends"
                )
            if packet.size:
                lost = clock.place(packet) or lossy
                if packet.stream in streams:
                    yield packet.stream, packet, lost
    except (
        av.error.InvalidDataError,
        av.error.EOFError,
        IndexError,
    ):  # the last: a track turned up on the way
        pass
    for stream in streams:
        yield stream, None, False


@dataclass(frozen=True)
class Collectors:
    """What collects a window of an open file; `None` for a stream that it lacks."""

    opened: Opened
    window: tuple[float, float]
    pictures: Pictures | None
    sound: Sound | None


def collect(collectors: Collectors, *, one_view: bool, allow_partial: bool) -> DecodedClip:
    """What both collectors hold.

    Parameters
    ----------
    collectors : Collectors
    one_view : bool
        Whether one of them may hold nothing.
    allow_partial : bool
        Whether they may hold less than 95 % of what is declared.

    Raises
    ------
    MediaError
        If they hold less than that.
    """
    opened, pictures, sound = collectors.opened, collectors.pictures, collectors.sound
    extents = []
    frames, times_s = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    waveform, real = np.zeros(SAMPLES, np.float32), 0
    missing = []
    try:
        if pictures is None:
            raise MediaError("no_video", opened.path)
        frames, times_s, extent = pictures.result(allow_partial=allow_partial)
        extents.append(extent)
    except MediaError as error:
        if not one_view or error.code != "no_video":
            raise
        missing.append("picture")
    try:
        if sound is None:
            raise MediaError("no_audio", opened.path)
        waveform, real, extent = sound.result(allow_partial=allow_partial)
        extents.append(extent)
    except MediaError as error:
        if not one_view or error.code != "no_audio" or missing:
            raise
        missing.append("sound")
    facts, lacking = read_facts(opened), "".join(missing)
    return DecodedClip(frames, times_s, waveform, real, *collectors.window, facts, lacking, tuple(extents))
