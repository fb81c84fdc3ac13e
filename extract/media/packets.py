"""Read the packets of an open media file: decode its streams, and find where they end.

`PacketClock` continues the clock of joined files, whose parts each start a clock of their own.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.container import InputContainer

from moodfuse.extract.media.limits import COMPLETE, MAX_FRAMES, MAX_PACKETS, SLACK_S, MediaError

if TYPE_CHECKING:
    from moodfuse.extract.media.container import MediaFile

JOINABLE = frozenset({"mpegts", "mpeg", "ogg", "flac"})
"""Formats whose files may be joined byte by byte, each part with its own clock."""
RESTART_S = 1.0  # a key frame this much before an earlier packet of its stream begins another part
GAP_S = 0.5  # a longer gap in all streams is lost data
PREROLL_S = 1.0


def seconds(ticks: int, base: Fraction) -> float:
    """Return a time in seconds, rounded once."""
    return ticks * base.numerator / base.denominator


class PacketClock:
    """Moves the times of all packets of a file to one clock that never starts over.

    The first part of a joined file keeps its times. A later part begins where all streams of the previous one
    have ended.

    `ends_s` is the end of each stream so far, by its index. After seeking in an Ogg the first packets have
    guessed times, so a file that is known to have one part is not `joined`.
    """

    def __init__(self, container: str, *, joined: bool = True) -> None:
        self.ends_s: dict[int, float] = {}
        self._joined = joined and container in JOINABLE
        self._offsets_s = [0.0]  # of each part
        self._parts: dict[int, int] = {}  # the current part of each stream
        self._furthest_s: dict[int, float] = {}

    @property
    def restarted(self) -> bool:
        """Whether the file has several parts so far, so that seeking by its own times is impossible."""
        return len(self._offsets_s) > 1

    def adjust(self, packet: Any) -> bool:
        """Move the times of a packet to the continued clock; return whether data before it seem to be lost.

        Data are lost if the packet is marked as corrupt, or after a gap in all streams. A gap in one of
        several streams is not a loss: silence need not be sent.
        """
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None:
            return bool(packet.is_corrupt)
        index, base = packet.stream.index, packet.time_base
        time_s = seconds(ticks, base)
        offset_s = self._offset_s(packet, index, time_s) if self._joined else 0.0
        lost = bool(packet.is_corrupt) or self._follows_gap_in_all(index, time_s + offset_s)
        end_s = seconds(ticks + (packet.duration or 0), base) + offset_s
        self.ends_s[index] = max(self.ends_s.get(index, end_s), end_s)
        return lost

    def _follows_gap_in_all(self, index: int, time_s: float) -> bool:
        others_s = [end_s for other, end_s in self.ends_s.items() if other != index]
        if not others_s or index not in self.ends_s:
            return False
        middle_s = (self.ends_s[index] + time_s) / 2
        return time_s - self.ends_s[index] > GAP_S and max(others_s) < middle_s

    def _offset_s(self, packet: Any, index: int, time_s: float) -> float:
        """Move a packet's times to its part, and return by how much."""
        last = len(self._offsets_s) - 1
        part = self._parts.setdefault(index, last)
        if packet.is_keyframe and time_s < self._furthest_s.get(index, time_s) - RESTART_S:
            if part == last:
                self._offsets_s.append(max(self.ends_s.values()) - time_s)
            part = self._parts[index] = len(self._offsets_s) - 1
            self._furthest_s[index] = time_s
        self._furthest_s[index] = max(self._furthest_s.get(index, time_s), time_s)
        if offset_s := self._offsets_s[part]:
            shift = round(offset_s * packet.time_base.denominator / packet.time_base.numerator)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        return offset_s


def timed_streams(container: InputContainer) -> list[Any]:
    """Return the streams whose packets carry the file's clock: all of video and audio."""
    return [*container.streams.video, *container.streams.audio]


def count_packets(path: Path, container: InputContainer) -> PacketClock:
    """Return a clock that has seen all packets of a file; they are not decoded."""
    clock = PacketClock(container.format.name)
    try:
        for number, packet in enumerate(container.demux(*timed_streams(container))):
            if number > MAX_PACKETS:
                raise MediaError("too_much", path, f"more than {MAX_PACKETS} packets")
            if packet.size:
                clock.adjust(packet)
    except (av.error.FFmpegError, IndexError) as error:
        if not clock.ends_s:
            raise MediaError("decode_failed", path, str(error)) from error
    return clock


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

    def __init__(self, media: "MediaFile", stream: Any) -> None:
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


def decode_streams(decoders: Iterable[StreamDecoder], media: "MediaFile", from_s: float) -> bool:
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


def seek(media: "MediaFile", to_s: float) -> bool:
    """Go to the last key frame at or before a time in seconds; return False if that is impossible."""
    if media.restarted:
        return False
    try:
        media.container.seek(int((to_s + media.origin_s) * av.time_base), backward=True)
    except av.error.FFmpegError:
        return False
    return True


def packets(media: "MediaFile") -> Iterator[tuple[Any, Any, bool]]:
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
