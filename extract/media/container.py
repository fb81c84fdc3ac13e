"""Opening a media file safely, what its headers say, and why a file is refused.

Times are seconds on the clip clock. The clip clock is the file's own presentation clock, except where a file starts a
second or more late (MPEG-TS, a cut live stream), or before zero by more than a sound coder's lead-in (MPEG-TS whose
clock wraps): there it starts at the file's earliest packet.
"""

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.clock import JOINABLE, PacketClock
from moodfuse.extract.media.codecs import PICTURE_CODECS, SOUND_CODECS
from moodfuse.extract.media.framing import cut_wav_s, matroska_is_complete, mp3_was_longer, ogg_is_damaged
from moodfuse.extract.media.limits import (
    MAX_ASPECT,
    MAX_CHANNELS,
    MAX_CODED_PIXELS,
    MAX_FILE_BYTES,
    MAX_PACKETS,
    MAX_PIXELS,
    MAX_RATE_HZ,
)
from moodfuse.extract.media.reasons import REASONS

MAX_CLOCK_OFFSET_S = 1.0
MAX_LEAD_IN_S = 0.2
"""Sound that its coder put before time 0, and that nobody is to hear, is no longer than this."""
COMPLETE = 0.95
"""A window is taken if at least this share of its pictures and of its sound could be decoded."""
SLACK_S = 0.1
"""Tolerance of lengths in headers, in seconds."""
WHOLE_S = 0.5
"""A file of which some stream comes this near to its declared end was not cut."""
MAX_COUNTED_BYTES = 1 << 30
"""Packets of a larger file that declares over 30 s are not counted, since that takes too long."""
PROBE_BYTES = 12
TAG_ERRORS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Open files whose tags are not UTF-8. PyAV 19 always does, and has no such argument."""

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,nut,mxf,gxf,rm,dv,ivf,h264,hevc,m4v,"
    "mp3,wav,w64,flac,aac,ac3,eac3,amr,aiff,caf,au,mpc,wv,ape"
)
"""The demuxers that may open a file: none of them follows a reference to another file or host."""
ESTIMATED = JOINABLE - {"flac"} | {"mp3", "aac", "ac3", "eac3", "amr", "h264", "hevc", "m4v", "mpegvideo"}
"""Formats that declare no length: FFmpeg derives one from the bit rate or from the last time in the file."""
INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"
"""The format whose index lists every packet, so that its declared length cannot be too short."""
MATROSKA = "matroska,webm"
MKVMERGE_TAG = "_STATISTICS_TAGS"
"""A tag of the tracks in files from mkvmerge."""
SHARED_LENGTH = frozenset({"asf", "gxf"})
"""Formats of which FFmpeg gives the length of the file to every stream."""


class MediaError(InputError):
    """A clip is refused; `code` is a key of `REASONS`.

    Parameters
    ----------
    code : str
        A key of `REASONS`.
    path : Path or str
        The media file.
    detail : str
        What was found, where it helps: one clause without a full stop.
    """

    def __init__(self, code: str, path: Path | str, detail: str = "") -> None:
        self.code, self.path, self.detail = code, Path(path), detail
        super().__init__(f"{path}: {self.sentence}")

    @property
    def sentence(self) -> str:
        """Why, with the remedy, and what was found."""
        return REASONS[self.code] + (f" ({self.detail})" if self.detail else "")

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, Path, str]]:
        return type(self), (self.code, self.path, self.detail)


@dataclass(frozen=True)
class MediaFacts:
    """What a media file's headers say.

    `width` and `height` are those of the coded picture in pixels (a phone video may be shown turned by 90 degrees).
    """

    duration_s: float
    container: str
    width: int
    height: int
    frames_per_s: float
    video_codec: str
    pixel_format: str
    audio_codec: str
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True)
class PacketCount:
    """What counting a file's packets found.

    Attributes
    ----------
    ends_s : mapping from int to float
        The end of each stream by its index, seconds on the file's own clock, continued where that starts over (see
        `moodfuse.extract.media.clock`).
    restarted : bool
        Whether the file's own clock starts over.
    bytes : int
        Where in the file the last packet ends; 0 where the format does not tell.
    bad_pages : bool
        Whether pages of an Ogg are missing or damaged.
    """

    ends_s: Mapping[int, float]
    restarted: bool
    bytes: int = 0
    bad_pages: bool = False


@dataclass(frozen=True)
class Opened:
    """An open file, its picture and sound streams, and the clip clock's zero on the file's own clock in seconds.

    A stream is `None` where the file lacks it and was opened all the same. `counted` is `None` where the declared
    lengths were taken without counting the packets; `estimated` where they are no more than FFmpeg's estimate.
    """

    path: Path
    media: InputContainer
    video: Any
    audio: Any
    origin_s: float
    duration_s: float
    counted: PacketCount | None = None
    estimated: bool = False

    @property
    def restarted(self) -> bool:
        """Whether the file's own clock is known to start over, so seeking by time is impossible."""
        return self.counted is not None and self.counted.restarted

    @cached_property
    def pixel_aspect(self) -> float:
        """Width of the picture's pixels over their height."""
        found = self.video.sample_aspect_ratio if self.video is not None else None
        return float(found) if found else 1.0

    def span_s(self, stream: Any) -> tuple[float, float]:
        """Return the first and last second of a stream, on the clip clock.

        The last is what the headers declare for the stream, unless the packets go on after that or the declared length
        is an estimate. Where nothing is declared for the stream itself it is the end of its packets in a file that is
        whole, and the end of the file in one that was cut.
        """
        first_s = (
            float(stream.start_time * stream.time_base) - self.origin_s
            if stream.start_time is not None
            else 0.0
        )
        counted = self.counted
        declared_end_s = self._declared_end_s(stream, first_s)
        packets_end_s = None if counted is None else counted.ends_s.get(stream.index)
        if counted is None or packets_end_s is None:
            return first_s, (declared_end_s or self.duration_s)
        packets_end_s -= self.origin_s
        if declared_end_s:
            return first_s, _settled_end_s(declared_end_s, packets_end_s, estimated=self.estimated)
        whole = max(counted.ends_s.values()) - self.origin_s >= self.duration_s - WHOLE_S
        return first_s, packets_end_s if whole else self.duration_s

    def _declared_end_s(self, stream: Any, first_s: float) -> float:
        """Return the end that the headers declare for a stream itself, 0 if they declare none.

        The `DURATION` tag of Matroska is the end of the track if FFmpeg wrote it, and its length if mkvmerge did.
        mkvmerge also writes statistics tags, which FFmpeg keeps in a copy of the file: there the tag is a length only
        if the track then ends with the file or before.
        """
        if self.media.format.name == "wav":  # the header may declare more than FFmpeg takes from it
            return self.duration_s
        if stream.duration and self.media.format.name not in SHARED_LENGTH:
            return first_s + float(stream.duration * stream.time_base)
        tagged_s = _tagged_duration_s(stream.metadata.get("DURATION", ""))
        if tagged_s and MKVMERGE_TAG in stream.metadata and first_s + tagged_s <= self.duration_s + SLACK_S:
            return first_s + tagged_s
        return tagged_s


def _settled_end_s(declared_s: float, packets_s: float, *, estimated: bool) -> float:
    """Return the declared end where the packets agree with it, or were cut off before; otherwise theirs."""
    return (
        packets_s
        if packets_s > declared_s + SLACK_S or (estimated and packets_s < declared_s - SLACK_S)
        else declared_s
    )


def probe(path: Path | str, *, one_view: bool = False) -> MediaFacts:
    """Return what the headers of a media file say, without decoding it.

    Where the declared duration is missing or may be wrong, the packets are counted (still without decoding).

    Parameters
    ----------
    path : Path or str
    one_view : bool
        Take a file without sound, or without picture, too.

    Raises
    ------
    MediaError
        The file is missing, empty, no media, or lacks picture or sound.
    """
    opened = open_media(path, one_view=one_view)
    with opened.media:
        return read_facts(opened)


def open_media(path: Path | str, *, threads: int = 1, one_view: bool = False, count: bool = False) -> Opened:
    """Open a regular file with the allowed formats only; the caller closes `.media`.

    Parameters
    ----------
    path : Path or str
    threads : int
        Decoder threads.
    one_view : bool
        Take a file without sound, or without picture, too.
    count : bool
        Count the packets also where the declared lengths are usually right.

    Raises
    ------
    MediaError
        The file is missing, empty, no media, or lacks picture or sound; with `one_view`, both.
    """
    path = Path(path)
    _check_regular(path)
    media = _open_container(path)
    try:
        video, audio = _pick_streams(path, media, threads=threads, one_view=one_view)
        start_s = (media.start_time or 0) / av.time_base
        origin_s = 0.0 if -MAX_LEAD_IN_S <= start_s < MAX_CLOCK_OFFSET_S else start_s
        declared_s = (media.duration or 0) / av.time_base
        if media.format.name == "wav":
            declared_s = max(declared_s, cut_wav_s(path))
        estimated = not declared_s or media.format.name in ESTIMATED
        if media.format.name == "mp3" and mp3_was_longer(path):
            estimated = False
        end_s, counted, status = start_s + declared_s, None, path.stat()
        if _must_count(media, declared_s, status.st_size, count=count):
            counted = count_packets(path, status.st_mtime_ns)
            if media.format.name == MATROSKA and counted.bytes >= COMPLETE * status.st_size:
                estimated = estimated or matroska_is_complete(path)
            ends_s = [
                counted.ends_s.get(stream.index, 0.0) for stream in (video, audio) if stream is not None
            ]
            if any(ends_s):
                end_s = _settled_end_s(end_s, max(ends_s), estimated=estimated)
    except BaseException:
        media.close()
        raise
    return Opened(path, media, video, audio, origin_s, end_s - origin_s, counted, estimated)


def _must_count(media: InputContainer, declared_s: float, file_bytes: int, *, count: bool) -> bool:
    """Whether the packets have to be counted, since the declared length is not known to be right."""
    if not declared_s:
        return True
    if media.format.name == INDEXED:
        return False
    guessed = media.format.name in ESTIMATED | JOINABLE and file_bytes <= MAX_COUNTED_BYTES
    return count or guessed or declared_s < WINDOW_S


def timed_streams(media: InputContainer) -> list[Any]:
    """Return the streams whose packets tell how a file's clock goes: all of pictures and sound."""
    return [*media.streams.video, *media.streams.audio]


def read_facts(opened: Opened) -> MediaFacts:
    """Return the facts of an open file; of a stream that it lacks, zeros and empty names."""
    video, audio = opened.video, opened.audio
    return MediaFacts(
        duration_s=opened.duration_s,
        container=opened.media.format.name,
        width=video.width if video else 0,
        height=video.height if video else 0,
        frames_per_s=float(video.average_rate or video.guessed_rate or 0.0) if video else 0.0,
        video_codec=video.codec_context.name if video else "",
        pixel_format=(video.codec_context.pix_fmt or "unknown") if video else "",
        audio_codec=audio.codec_context.name if audio else "",
        sample_rate_hz=audio.codec_context.sample_rate if audio else 0,
        channels=audio.codec_context.layout.nb_channels if audio else 0,
    )


def _check_regular(path: Path) -> None:
    """Refuse what is not a regular file with content, without opening it: opening a FIFO would wait for a writer."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing", path) from error
    except (OSError, ValueError) as error:
        raise MediaError("unreadable", path, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("not_a_file", path)
    if not status.st_size:
        raise MediaError("empty", path)
    if status.st_size > MAX_FILE_BYTES:
        raise MediaError("too_much", path, f"{status.st_size} bytes")


def _open_container(path: Path) -> InputContainer:
    """Open a file by the `file:` protocol, so that no character of its name is taken for another protocol."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path.absolute()}", options=options, **TAG_ERRORS)
    except (av.error.MemoryError, MemoryError) as error:
        raise MediaError("memory", path) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if (
            getattr(error, "errno", 0) == errno.EACCES
        ):  # demuxers give the other error of permissions for damage
            raise MediaError("unreadable", path) from error
        _check_regular(path)  # it may have gone, or become something else, since it was looked at
        if _starts_as_mp4(path):
            raise MediaError("truncated", path, "the index of the MP4 is missing or cut") from error
        raise MediaError("not_media", path) from error


def _starts_as_mp4(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(PROBE_BYTES)[4:8] == b"ftyp"


def _pick_streams(path: Path, media: InputContainer, *, threads: int, one_view: bool) -> tuple[Any, Any]:
    """Return the best video and audio stream that can be decoded, `None` where there is no such stream.

    Cover art is not a video stream.
    """
    videos = [
        stream
        for stream in _by_preference(media, "video")
        if not Disposition.attached_pic & stream.disposition
    ]
    audios = _by_preference(media, "audio")
    if not videos and not audios:
        raise MediaError("not_media", path, "it has neither a video nor an audio stream")
    if not videos and not one_view:
        raise MediaError("no_video", path, "the file has no video track")
    if not audios and not one_view:
        raise MediaError("no_audio", path, "the file has no audio track")
    return _first_decodable(path, videos, threads), _first_decodable(path, audios, threads)


def _by_preference(media: InputContainer, kind: Literal["video", "audio"]) -> list[Any]:
    """Return the streams of a kind: FFmpeg's choice, then those marked as default, then those with more data."""
    streams: tuple[Any, ...] = getattr(media.streams, kind)
    best = media.streams.best(kind)
    if best is None:  # they have no size, or no sampling rate
        return []

    def rank(stream: Any) -> tuple[bool, bool, int]:
        context = stream.codec_context
        return (
            stream is not best,
            not Disposition.default & stream.disposition,
            -((context and context.bit_rate) or 0),
        )

    return sorted(streams, key=rank)


def _first_decodable(path: Path, streams: Sequence[Any], threads: int) -> Any:
    """Return the first stream whose decoder opens, `None` where there are no streams.

    Raises
    ------
    MediaError
        If none can be decoded: what is wrong with the first.
    """
    refusals = []
    for stream in streams:
        try:
            _open_decoder(path, stream, threads)
        except MediaError as refusal:
            refusals.append(refusal)
        else:
            return stream
    if refusals:
        raise refusals[0]
    return None


def _open_decoder(path: Path, stream: Any, threads: int) -> None:
    """Refuse a stream in a coding that is not read, or of a size that no recording has; then open its decoder."""
    context = stream.codec_context
    if context is None:
        raise MediaError("codec", path, "there is no decoder for it")
    if context.name not in (PICTURE_CODECS if stream.type == "video" else SOUND_CODECS):
        raise MediaError("codec", path, context.name)
    context.thread_count = threads
    if stream.type == "video":
        check_size(path, stream.width, stream.height)
        check_size(path, round(stream.width * (stream.sample_aspect_ratio or 1)), stream.height)
        context.options = {"max_pixels": str(MAX_CODED_PIXELS)}
    else:
        check_sound(path, context.sample_rate, context.layout.nb_channels)
    try:
        context.open(strict=False)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError("decode_failed", path, str(error)) from error


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a picture that is too large, or a strip, before anything is allocated for it."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * max(1, min(width, height)):
        raise MediaError("too_large", path, f"{width} x {height}")


def check_sound(path: Path, rate_hz: int, channels: int) -> None:
    """Refuse sound that no recording has, before anything is allocated for it."""
    if rate_hz > MAX_RATE_HZ or channels > MAX_CHANNELS:
        raise MediaError("too_much", path, f"{channels} channels of sound at {rate_hz} Hz")


@lru_cache(maxsize=4)
def count_packets(path: Path, changed_ns: int) -> PacketCount:
    """Return where the packets of each stream end, read without decoding them.

    It is remembered as long as the file does not change: a time line opens its file once for every window.
    """
    with _open_container(path) as media:
        clock, last_byte = PacketClock(media.format.name), 0
        try:
            for number, packet in enumerate(media.demux(*timed_streams(media))):
                if number > MAX_PACKETS:
                    raise MediaError("too_much", path, f"more than {MAX_PACKETS} packets")
                if packet.size:
                    clock.place(packet)
                    last_byte = max(last_byte, (packet.pos or 0) + packet.size)
        except (av.error.FFmpegError, IndexError) as error:
            if not clock.ends_s:
                raise MediaError("decode_failed", path, str(error)) from error
        bad_pages = media.format.name == "ogg" and ogg_is_damaged(path)
    return PacketCount(clock.ends_s, clock.restarted, last_byte, bad_pages)


def _tagged_duration_s(tag: str) -> float:
    """Return the seconds of a Matroska `DURATION` tag such as `00:00:29.970000000`, or 0 where it is none."""
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
