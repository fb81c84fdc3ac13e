"""The times and the length of a media file, where FFmpeg does not report them correctly.

`PacketClock` continues the clock of files whose packets start again at 0, as in joined files, and `count_packets` finds
where the streams end. The other functions read from a file's own headers whether bytes of it were lost.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from moodfuse.extract.media.limits import MAX_PACKETS, MediaError

RESTART_S = 0.1  # a packet this much before an earlier one of its stream begins another part
NEAR_START_S = 1.0  # outside the joinable formats, a part also begins within this time of the first packet
GAP_S = 0.5  # a longer gap in all streams is lost data
LEAP_S = 10.0  # a packet this much after all streams begins another part; FFmpeg's own threshold
LEAPING = frozenset({"mpegts", "mpeg"})
"""Broadcast formats, whose clock may leap where a recording was cut."""
JOINABLE = LEAPING | {"ogg", "flac"}
"""Formats whose files may be joined byte by byte, each part with its own clock."""

XING_BYTES = 256  # the Xing header lies in the first bytes of the first frame
EBML_BYTES = 4096  # the segment follows a short header
WAV_PCM = (1, 3, 0xFFFE)  # format tags of PCM, float PCM, and the extensible form
WAV_PLACEHOLDER = 0x7FFF_F000  # programs that write to a pipe declare this size or more
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def seconds(ticks: int, base: Fraction) -> float:
    """Return a time in seconds, rounded once; many times faster than a product of fractions."""
    return ticks * base.numerator / base.denominator


class PacketClock:
    """Moves the times of all packets of a file to one clock that never starts over.

    The first part of a file keeps its times. A later part begins where all streams of the previous one have ended. A
    key frame that lies before an earlier frame of its stream begins a part. Outside the joinable formats it must also
    lie near the first packet, because there a damaged time is more likely.

    Parameters
    ----------
    container : str
        FFmpeg's name of the container format.
    joined : bool
        Whether the file may have several parts. After seeking in an Ogg the first packets have guessed times, so a
        file that is known to have one part must not be searched for more.

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
        """Whether the file has several parts so far, so that seeking by its own times is impossible."""
        return len(self._offsets_s) > 1

    def adjust(self, packet: Any) -> bool:
        """Move the times of the next packet to the continued clock; return whether data before it seem to be lost.

        Data are lost if the packet is marked as corrupt, or after a gap in all streams. A gap in one of several
        streams is not a loss: silence need not be sent.
        """
        without_pts = packet.pts is None
        ticks = packet.dts if without_pts else packet.pts
        if ticks is None:
            return bool(packet.is_corrupt)
        index, base = packet.stream.index, packet.time_base
        time_s, key = seconds(ticks, base), (index, without_pts)
        part = self._parts.setdefault(index, len(self._offsets_s) - 1)
        if packet.is_keyframe and self._begins_part(key, time_s):
            if part == len(self._offsets_s) - 1:
                self._offsets_s.append(max(self.ends_s.values()) - time_s)
            part = self._parts[index] = len(self._offsets_s) - 1
            self._furthest_s.pop((index, not without_pts), None)
            self._furthest_s[key] = time_s
        self._first_s.setdefault(key, time_s)
        self._furthest_s[key] = max(self._furthest_s.get(key, time_s), time_s)
        offset_s = self._offsets_s[part]
        if offset_s:
            shift = round(offset_s * base.denominator / base.numerator)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        lost = packet.is_corrupt or self._follows_gap_in_all(index, time_s + offset_s)
        end_s = seconds(ticks + (packet.duration or 0), base) + offset_s
        self.ends_s[index] = max(self.ends_s.get(index, end_s), end_s)
        return lost

    def _follows_gap_in_all(self, index: int, time_s: float) -> bool:
        others_s = [end_s for other, end_s in self.ends_s.items() if other != index]
        if not others_s or index not in self.ends_s:
            return False
        middle_s = (self.ends_s[index] + time_s) / 2
        return time_s - self.ends_s[index] > GAP_S and max(others_s) < middle_s

    def _begins_part(self, key: tuple[int, bool], time_s: float) -> bool:
        furthest_s = self._furthest_s.get(key)
        if furthest_s is None or not self._joined:
            return False
        if time_s < furthest_s - RESTART_S:
            near_start = time_s < self._first_s[key] + NEAR_START_S < furthest_s
            return self._joinable or near_start
        adjusted_s = time_s + self._offsets_s[self._parts[key[0]]]
        return self._leaping and adjusted_s > max(self.ends_s.values()) + LEAP_S


@dataclass(frozen=True)
class PacketCount:
    """The result of reading all packets of a file without decoding them.

    Attributes
    ----------
    ends_s : mapping from int to float
        The end of each stream by its index, seconds on the file's own clock, continued where that starts over.
    restarted : bool
        Whether the file's own clock starts over.
    bytes : int
        Where in the file the last packet ends; 0 where the format does not report it.
    bad_pages : bool
        Whether pages of an Ogg are missing or damaged.
    """

    ends_s: Mapping[int, float]
    restarted: bool
    bytes: int = 0
    bad_pages: bool = False


def timed_streams(container: InputContainer) -> list[Any]:
    """Return the streams whose packets carry the file's clock: all of video and audio."""
    return [*container.streams.video, *container.streams.audio]


def count_packets(path: Path, container: InputContainer) -> PacketCount:
    """Return where the packets of each stream end, without decoding them."""
    clock, last_byte = PacketClock(container.format.name), 0
    try:
        for number, packet in enumerate(container.demux(*timed_streams(container))):
            if number > MAX_PACKETS:
                raise MediaError("too_much", path, f"more than {MAX_PACKETS} packets")
            if packet.size:
                clock.adjust(packet)
                last_byte = max(last_byte, (packet.pos or 0) + packet.size)
    except (av.error.FFmpegError, IndexError) as error:
        if not clock.ends_s:
            raise MediaError("decode_failed", path, str(error)) from error
    bad_pages = container.format.name == "ogg" and ogg_is_damaged(path)
    return PacketCount(clock.ends_s, clock.restarted, last_byte, bad_pages)


def tagged_duration_s(tag: str) -> float:
    """Return the seconds of a Matroska `DURATION` tag such as `00:00:29.970000000`; 0 where it is not one."""
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def mp3_was_longer(path: Path) -> bool:
    """Return whether the Xing or Info header of an MP3 declares more bytes than the file has."""
    with path.open("rb") as file:
        head = file.read(10)
        size = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        start = 10 + size if head.startswith(b"ID3") else 0
        file.seek(start)
        first_frame = file.read(XING_BYTES)
    at = max(first_frame.find(b"Xing"), first_frame.find(b"Info"))
    fields = first_frame[at + 4 : at + 16]
    if at < 0 or len(fields) < 12 or fields[3] & 3 != 3:
        return False
    return start + int.from_bytes(fields[8:12], "big") > path.stat().st_size


def cut_wav_s(path: Path) -> float:
    """Return the seconds that the header of a truncated PCM WAV declares; 0 for a whole file or without a length."""
    size, bytes_per_s = path.stat().st_size, 0
    with path.open("rb") as file:
        at = 12
        while at < size and file.seek(at) == at and len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"fmt ":
                fields = file.read(12)
                is_pcm = int.from_bytes(fields[:2], "little") in WAV_PCM
                bytes_per_s = int.from_bytes(fields[8:12], "little") if is_pcm else 0
            elif header[:4] == b"data":
                is_cut = size < at + 8 + length < WAV_PLACEHOLDER
                return length / bytes_per_s if is_cut and bytes_per_s else 0.0
            at += 8 + length + length % 2
    return 0.0


def matroska_is_complete(path: Path) -> bool:
    """Return whether a Matroska file has all bytes that its segment declares (RFC 8794); False without a size."""
    with path.open("rb") as file:
        head = file.read(EBML_BYTES)
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or not head[at : at + 1]:
        return False
    length = 9 - head[at].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[at : at + length], "big") & unknown
    return size != unknown and at + length + size <= path.stat().st_size


def ogg_is_damaged(path: Path) -> bool:
    """Return whether an Ogg has missing pages, by their numbers, or damaged ones, by their checksums (RFC 3533)."""
    numbers: dict[bytes, int] = {}
    with path.open("rb") as file:
        while len(header := file.read(27)) == 27:
            sizes = file.read(header[26])
            page = header[:22] + bytes(4) + header[26:] + sizes + file.read(sum(sizes))
            begins, stream, number = header[5] & 2, header[14:18], int.from_bytes(header[18:22], "little")
            if not begins and number != numbers.get(stream, number - 1) + 1:
                return True
            if int.from_bytes(header[22:26], "little") != _ogg_checksum(page):
                return True
            numbers[stream] = number
    return False


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC of a page: that of zlib with the bits of each byte reversed, from and to 0."""
    reversed_crc = zlib.crc32(page.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)
