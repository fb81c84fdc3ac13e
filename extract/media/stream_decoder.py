"""Decode the streams of an open media file by packets, and measure how much of a window was decoded."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av

from moodfuse.extract.media.container import MediaFile
from moodfuse.extract.media.limits import COMPLETE, MAX_FRAMES, MAX_PACKETS, SLACK_S, MediaError
from moodfuse.extract.media.packet_clock import PacketClock, seconds, timed_streams

PREROLL_S = 1.0


@dataclass(frozen=True)
class Extent:
    """How much of a stream was decoded in a window, compared with what its headers declare.

    Times are seconds in the window; `damaged` counts packets that could not be decoded, and frames that came
    out damaged. Frames are counted for video only, and where the headers give a rate.
    """

    modality: str
    decoded_s: float
    declared_s: float
    damaged: int
    frames: int = 0
    declared_frames: int = 0

    @property
    def complete(self) -> bool:
        """Whether 95 % was decoded; a tenth of a second is tolerated, as headers are not exact."""
        return self.decoded_s >= COMPLETE * self.declared_s - min(SLACK_S, self.declared_s / 2)

    def __str__(self) -> str:
        frames = f", {self.frames} of {self.declared_frames} frames" if self.declared_frames else ""
        decoded_s = max(self.decoded_s, 0.0)
        return f"{self.modality}: {decoded_s:.2f} of {self.declared_s:.2f} s in the window{frames}"


class StreamDecoder:
    """Decodes the packets of one stream and passes the frames to `add`, which subclasses define.

    `failures` counts packets that could not be decoded and frames that came out damaged, `losses` the packets
    before which data of the file seem to be lost. `packets_end_s` is the end of the furthest packet on the
    file's own clock. A decoder is `done` if nothing more is needed, and `late` if its first frame is too late
    for the window.
    """

    def __init__(self, media: MediaFile, stream: Any) -> None:
        self.media, self.stream = media, stream
        self.failures = self.losses = self.decoded = 0
        self.packets_end_s = -math.inf
        self.done = self.late = False

    def decode(self, packet: Any) -> None:
        """Decode a packet, or with None what the decoder still holds, and add the frames."""
        if packet is not None and packet.pts is not None:
            end_s = seconds(packet.pts + (packet.duration or 0), packet.time_base)
            self.packets_end_s = max(self.packets_end_s, end_s)
        try:
            frames = packet.decode() if packet is not None else self.stream.decode(None)
        except (av.error.InvalidDataError, av.error.EOFError):
            self.failures += packet is not None
            return
        self.decoded += len(frames)
        if self.decoded > MAX_FRAMES:
            raise MediaError("too_much", self.media.path, f"more than {MAX_FRAMES} video or audio frames")
        for frame in frames:
            self.add(frame)

    def add(self, frame: Any) -> None:
        """Process the next decoded frame."""
        raise NotImplementedError

    def check_complete(self, extent: Extent, *, damage: bool = False, allow_partial: bool) -> None:
        """Raise `MediaError` if less than 95 % was decoded, because of damage or of a truncated file."""
        if not extent.complete and not allow_partial:
            raise MediaError("decode_failed" if damage else "truncated", self.media.path, str(extent))


def preroll_s(start_s: float) -> float:
    """Return where decoding begins for a window: the whole second one to two seconds before it, or 0."""
    return max(0.0, math.floor(start_s) - PREROLL_S)


def decode_streams(decoders: Iterable[StreamDecoder], media: MediaFile, from_s: float) -> bool:
    """Decode from the last key frame at or before `from_s`; return False if seeking landed too late.

    After seeking in an Ogg, FFmpeg may guess the times of the first audio packets; a step back to the true
    times reveals it. With ``from_s=0`` the file is decoded from its start.
    """
    if from_s > 0.0 and not seek(media, from_s):
        return False
    by_stream = {decoder.stream.index: decoder for decoder in decoders}
    furthest = -math.inf
    for stream, packet, lost in packets(media) if by_stream else ():
        decoder = by_stream.get(stream.index)
        if decoder is None or decoder.done:
            continue
        if from_s > 0.0 and stream is media.audio and packet is not None and packet.pts is not None:
            if packet.pts < furthest:
                return False
            furthest = packet.pts
        decoder.losses += lost
        decoder.decode(packet)
        if from_s > 0.0 and decoder.late:
            return False
        if all(decoder.done for decoder in by_stream.values()):
            break
    return True


def seek(media: MediaFile, to_s: float) -> bool:
    """Go to the last key frame at or before a time in seconds; return False if that is impossible."""
    if media.restarted:
        return False
    try:
        media.container.seek(int((to_s + media.origin_s) * av.time_base), backward=True)
    except av.error.FFmpegError:
        return False
    return True


def packets(media: MediaFile) -> Iterator[tuple[Any, Any, bool]]:
    """Yield (stream, packet, lost) to the end of the file, then (stream, None, False) for each stream.

    `lost` is that of `PacketClock.adjust`. The last ones flush the decoders.
    """
    streams = [stream for stream in (media.video, media.audio) if stream is not None]
    clock = PacketClock(media.container.format.name, joined=media.counted is None or media.restarted)
    try:
        for number, packet in enumerate(media.container.demux(*timed_streams(media.container))):
            if number > MAX_PACKETS:
                detail = f"more than {MAX_PACKETS} packets before the window ends"
                raise MediaError("too_much", media.path, detail)
            if packet.size:
                lost = clock.adjust(packet)
                if packet.stream in streams:
                    yield packet.stream, packet, lost
    except (
        av.error.InvalidDataError,
        av.error.EOFError,
        IndexError,
    ):  # IndexError: a track appeared on the way
        pass
    for stream in streams:
        yield stream, None, False
