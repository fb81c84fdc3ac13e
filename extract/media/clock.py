"""The clock of a file's packets, continued where the file's own clock starts over or leaps, as in joined files."""

from fractions import Fraction
from typing import Any

RESTART_S = 0.1
"""A packet that lies this much before an earlier one of its stream begins another part."""
NEAR_START_S = 1.0
"""In formats that are rarely joined, another part begins within this time of the first packet."""
GAP_S = 0.5
"""A longer gap in all streams is taken for lost data."""
LEAP_S = 10.0
"""A packet that lies this much after all streams begins another part; FFmpeg has the same threshold."""
LEAPING = frozenset({"mpegts", "mpeg"})
"""Formats of broadcasts, whose clock may leap where a recording was cut."""
JOINABLE = LEAPING | {"ogg", "flac"}
"""Formats whose files may be joined byte by byte, each part with a clock of its own."""


def seconds(ticks: int, base: Fraction) -> float:
    """Return a time in seconds, rounded once; many times faster than a product of fractions."""
    return ticks * base.numerator / base.denominator


class PacketClock:
    """Gives the packets of all streams the times of one clock that goes on.

    The first part of a file keeps its times. A later one begins where all streams of the part before have ended. A
    stream begins another part with a key frame that lies before an earlier frame. Outside of the joinable formats it
    also has to lie near the first packet, since a damaged time is likelier there.

    Parameters
    ----------
    container : str
        FFmpeg's name of the container format.
    joined : bool
        Whether the file may have several parts. After seeking in an Ogg the first packets have guessed times, so a file
        that is known to have one part must not be searched for more.

    Attributes
    ----------
    ends_s : dict from int to float
        The end of each stream so far, by its index, seconds.
    """

    def __init__(self, container: str, *, joined: bool = True) -> None:
        self.ends_s: dict[int, float] = {}
        self._joined = joined
        self._joinable, self._leaping = container in JOINABLE, container in LEAPING
        self._offsets_s = [0.0]
        self._parts: dict[int, int] = {}
        self._first_s: dict[tuple[int, bool], float] = {}
        self._furthest_s: dict[tuple[int, bool], float] = {}

    @property
    def restarted(self) -> bool:
        """Whether the file has more than one part so far, so that its own times do not tell where to seek."""
        return len(self._offsets_s) > 1

    def place(self, packet: Any) -> bool:
        """Move the times of the next packet of the file to the continued clock.

        Returns
        -------
        bool
            Whether something seems to be lost before it: the packet is marked as incomplete, or there is a gap in all
            streams. A gap in one of several streams is no loss: silence need not be sent.
        """
        without_pts = packet.pts is None
        ticks = packet.dts if without_pts else packet.pts
        if ticks is None:
            return bool(packet.is_corrupt)
        index, base = packet.stream.index, packet.time_base
        time_s, kind = seconds(ticks, base), (index, without_pts)
        part = self._parts.setdefault(index, len(self._offsets_s) - 1)
        if packet.is_keyframe and self._begins_part(kind, time_s):
            if part == len(self._offsets_s) - 1:
                self._offsets_s.append(max(self.ends_s.values()) - time_s)
            part = self._parts[index] = len(self._offsets_s) - 1
            self._furthest_s.pop((index, not without_pts), None)
            self._furthest_s[kind] = time_s
        self._first_s.setdefault(kind, time_s)
        self._furthest_s[kind] = max(self._furthest_s.get(kind, time_s), time_s)
        offset_s = self._offsets_s[part]
        if offset_s:
            shift = round(offset_s * base.denominator / base.numerator)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        lost = packet.is_corrupt or self._after_gap_in_all(index, time_s + offset_s)
        end_s = seconds(ticks + (packet.duration or 0), base) + offset_s
        self.ends_s[index] = max(self.ends_s.get(index, end_s), end_s)
        return lost

    def _after_gap_in_all(self, index: int, time_s: float) -> bool:
        others_s = [end_s for other, end_s in self.ends_s.items() if other != index]
        if not others_s or index not in self.ends_s:
            return False
        middle_s = (self.ends_s[index] + time_s) / 2
        return time_s - self.ends_s[index] > GAP_S and max(others_s) < middle_s

    def _begins_part(self, kind: tuple[int, bool], time_s: float) -> bool:
        furthest_s = self._furthest_s.get(kind)
        if furthest_s is None or not self._joined:
            return False
        if time_s < furthest_s - RESTART_S:
            near_start = time_s < self._first_s[kind] + NEAR_START_S < furthest_s
            return self._joinable or near_start
        placed_s = time_s + self._offsets_s[self._parts[kind[0]]]
        return self._leaping and placed_s > max(self.ends_s.values()) + LEAP_S
