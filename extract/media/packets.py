"""The times of the packets of a file, and where its streams end, also in joined files."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from moodfuse.extract.media.limits import MAX_PACKETS, MediaError

JOINABLE = frozenset({"mpegts", "mpeg", "ogg", "flac"})
"""Formats whose files may be joined byte by byte, each part with its own timestamps."""
RESTART_S = 1.0  # a key frame this much before an earlier packet of its stream begins another part
GAP_S = 0.5  # a longer gap in all streams is lost data


def seconds(ticks: int, base: Fraction) -> float:
    """Return a time in seconds, rounded once."""
    return ticks * base.numerator / base.denominator


class PacketTimes:
    """Moves the times of all packets of a file to one time axis that never starts over.

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
        """Move the times of a packet to the continued axis; return whether data before it seem to be lost.

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


def demux(path: Path, container: InputContainer) -> Iterator[Any]:
    """Yield the packets of all video and audio streams, which carry the file's timestamps."""
    streams = [*container.streams.video, *container.streams.audio]
    for number, packet in enumerate(container.demux(*streams)):
        if number > MAX_PACKETS:
            raise MediaError("too_much", path, f"more than {MAX_PACKETS} packets")
        if packet.size:
            yield packet


def count_packets(path: Path, container: InputContainer) -> PacketTimes:
    """Return the times of all packets of a file; they are not decoded."""
    times = PacketTimes(container.format.name)
    try:
        for packet in demux(path, container):
            times.adjust(packet)
    except (av.error.FFmpegError, IndexError) as error:
        if not times.ends_s:
            raise MediaError("decode_failed", path, str(error)) from error
    return times
