"""Open media files safely, and read what their headers declare.

Times are seconds of the clip. These are the file's own presentation timestamps, except where a file
starts a second or more late (MPEG-TS, a cut live stream), or before zero by more than the lead-in of an audio
encoder (MPEG-TS whose timestamps wrap): there time 0 is the file's earliest packet.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer
from av.stream import Disposition

from moodfuse.extract.media.limits import (
    AUDIO_CODECS,
    MAX_ASPECT,
    MAX_CHANNELS,
    MAX_CODED_PIXELS,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    MAX_RATE_HZ,
    SLACK_S,
    VIDEO_CODECS,
    MediaError,
)
from moodfuse.extract.media.packets import PacketTimes, count_packets, demux

MAX_START_S = 1.0
MAX_LEAD_IN_S = 0.2  # inaudible samples that an encoder puts before time 0
WHOLE_S = 0.5  # a file with a stream that ends this near to the declared end was not cut
TAG_ERRORS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Options to open files whose tags are not UTF-8. PyAV 19 always does, and has no such argument."""

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,nut,mxf,gxf,rm,dv,ivf,h264,hevc,m4v,"
    "mp3,wav,w64,flac,aac,ac3,eac3,amr,aiff,caf,au,mpc,wv,ape"
)
"""The demuxers that may open a file: none of them follows a reference to another file or host."""
ESTIMATED = frozenset(
    ("mpegts", "mpeg", "ogg", "mp3", "aac", "ac3", "eac3", "amr", "h264", "hevc", "m4v", "mpegvideo")
)
"""Formats without a declared length: FFmpeg estimates it from the bit rate or from the last time in the file.
"""
INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"
"""The format whose index lists every packet, so that its declared length is right."""
SHARED_LENGTH = frozenset({"asf", "gxf"})
"""Formats in which FFmpeg reports the length of the file for every stream."""


@dataclass(frozen=True)
class MediaFacts:
    """What the headers of a media file declare; zeros and empty names for a stream that it does not have.

    `width` and `height` are those of the coded frame in pixels (a phone video may be shown rotated by 90
    degrees).
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
class MediaFile:
    """An open media file, to be closed by the caller or used in a `with` statement.

    `video` and `audio` are the streams to decode, `None` where the file has none; `origin_s` is time 0 of
    the clip in the file's timestamps. `counted` has the times of all packets, and is `None` where the
    declared lengths were accepted without counting them; these are `estimated` if FFmpeg could only guess.
    """

    path: Path
    container: InputContainer
    video: Any
    audio: Any
    origin_s: float
    duration_s: float
    counted: PacketTimes | None = None
    estimated: bool = False

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its streams cannot be decoded any more."""
        self.container.close()

    @property
    def restarted(self) -> bool:
        """Whether the file's timestamps are known to start over, so that seeking by time is impossible."""
        return self.counted is not None and self.counted.restarted

    @cached_property
    def pixel_aspect(self) -> float:
        """Width of the pixels over their height."""
        aspect = self.video.sample_aspect_ratio if self.video is not None else None
        return float(aspect) if aspect else 1.0

    def facts(self) -> MediaFacts:
        """Return what the headers declare."""
        video, audio = self.video, self.audio
        return MediaFacts(
            duration_s=self.duration_s,
            container=self.container.format.name,
            width=video.width if video else 0,
            height=video.height if video else 0,
            frames_per_s=float(video.average_rate or video.guessed_rate or 0.0) if video else 0.0,
            video_codec=video.codec_context.name if video else "",
            pixel_format=(video.codec_context.pix_fmt or "unknown") if video else "",
            audio_codec=audio.codec_context.name if audio else "",
            sample_rate_hz=audio.codec_context.sample_rate if audio else 0,
            channels=audio.codec_context.layout.nb_channels if audio else 0,
        )

    def span_s(self, stream: Any) -> tuple[float, float]:
        """Return the first and last second of a stream.

        The last is the end that the headers declare for the stream, unless that must be wrong. Without a
        declaration it is the end of its packets, or the declared end of the file if that was cut.
        """
        start, declared_s = stream.start_time, 0.0
        first_s = 0.0 if start is None else float(start * stream.time_base) - self.origin_s
        if stream.duration and self.container.format.name not in SHARED_LENGTH:
            declared_s = first_s + float(stream.duration * stream.time_base)
        ends_s = {} if self.counted is None else self.counted.ends_s
        if stream.index not in ends_s:
            return first_s, declared_s or self.duration_s
        packets_end_s = ends_s[stream.index] - self.origin_s
        if declared_s:
            return first_s, _choose_end_s(declared_s, packets_end_s, estimated=self.estimated)
        whole = max(ends_s.values()) - self.origin_s >= self.duration_s - WHOLE_S
        return first_s, packets_end_s if whole else self.duration_s

    def seek(self, to_s: float) -> bool:
        """Go to the last key frame at or before a time in seconds; return False if that is impossible."""
        if self.restarted:
            return False
        try:
            self.container.seek(int((to_s + self.origin_s) * av.time_base), backward=True)
        except av.error.FFmpegError:
            return False
        return True

    def read_packets(self) -> Iterator[tuple[Any, Any, bool]]:
        """Yield (stream, packet, lost) to the end of the file, then (stream, None, False) for each stream.

        `lost` is that of `PacketTimes.adjust`. The last ones flush the decoders.
        """
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        times = PacketTimes(self.container.format.name, joined=self.restarted)
        try:
            for packet in demux(self.path, self.container):
                lost = times.adjust(packet)
                if packet.stream in streams:
                    yield packet.stream, packet, lost
        except (av.error.InvalidDataError, av.error.EOFError, IndexError):  # IndexError: a new track
            pass
        for stream in streams:
            yield stream, None, False


def open_media(path: Path | str, *, threads: int = 1, allow_missing: bool = False) -> MediaFile:
    """Open a regular file, with the allowed formats and codecs only.

    With `allow_missing`, a file may lack an audio or a video stream. Raises `MediaError`.
    """
    path = Path(path)
    _check_regular(path)
    container = _open_container(path)
    try:
        video, audio = _pick_streams(path, container, threads=threads, allow_missing=allow_missing)
        start_s = (container.start_time or 0) / av.time_base
        origin_s = 0.0 if -MAX_LEAD_IN_S <= start_s < MAX_START_S else start_s
        declared_s = (container.duration or 0) / av.time_base
        estimated = not declared_s or container.format.name in ESTIMATED
        end_s, counted = start_s + declared_s, None
        if not declared_s or container.format.name != INDEXED:
            counted = _count(path, path.stat().st_mtime_ns)
            ends_s = [
                counted.ends_s.get(stream.index, 0.0) for stream in (video, audio) if stream is not None
            ]
            end_s = _choose_end_s(end_s, max(ends_s), estimated=estimated)
    except BaseException:
        container.close()
        raise
    return MediaFile(path, container, video, audio, origin_s, end_s - origin_s, counted, estimated)


def _choose_end_s(declared_s: float, packets_s: float, *, estimated: bool) -> float:
    """Return the declared end, or that of the packets if it must be wrong; a cut file ends early."""
    too_short = packets_s > declared_s + SLACK_S
    too_long = estimated and 0.0 < packets_s < declared_s - SLACK_S
    return packets_s if too_short or too_long else declared_s


@lru_cache(maxsize=4)  # a timeline opens its file once for every window
def _count(path: Path, changed_ns: int) -> PacketTimes:
    """Count the packets of a file; `changed_ns` is its time of change."""
    with _open_container(path) as container:
        return count_packets(path, container)


def _check_regular(path: Path) -> None:
    """Check for a regular file with content, without opening it: opening a FIFO would wait for a writer."""
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
    """Open a file by the `file:` protocol, so that no part of its name is read as another protocol."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(f"file:{path.absolute()}", options=options, **TAG_ERRORS)
    except (av.error.MemoryError, MemoryError) as error:
        raise MediaError("memory", path) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if getattr(error, "errno", 0) == errno.EACCES:  # EPERM is what demuxers return for damage
            raise MediaError("unreadable", path) from error
        with path.open("rb") as file:
            if file.read(8)[4:] == b"ftyp":
                raise MediaError("truncated", path, "the index of the MP4 is missing or cut") from error
        raise MediaError("not_media", path) from error


def _pick_streams(
    path: Path, container: InputContainer, *, threads: int, allow_missing: bool
) -> tuple[Any, Any]:
    """Return the best video and audio stream that can be decoded, `None` without a stream of the kind."""
    cover = Disposition.attached_pic
    videos = [stream for stream in _by_preference(container, "video") if not cover & stream.disposition]
    audios = _by_preference(container, "audio")
    if not videos and not audios:
        raise MediaError("not_media", path, "it has neither a video nor an audio stream")
    if not videos and not allow_missing:
        raise MediaError("no_video", path, "the file has no video track")
    if not audios and not allow_missing:
        raise MediaError("no_audio", path, "the file has no audio track")
    return _first_decodable(path, videos, threads), _first_decodable(path, audios, threads)


def _by_preference(container: InputContainer, kind: Literal["video", "audio"]) -> list[Any]:
    """Return the streams of a kind: FFmpeg's choice, then the default ones, then those with more data."""
    best = container.streams.best(kind)
    if best is None:  # the streams have no frame size, or no sampling rate
        return []

    def rank(stream: Any) -> tuple[bool, bool, int]:
        bit_rate = stream.codec_context and stream.codec_context.bit_rate
        return stream is not best, not Disposition.default & stream.disposition, -(bit_rate or 0)

    return sorted(getattr(container.streams, kind), key=rank)


def _first_decodable(path: Path, streams: list[Any], threads: int) -> Any:
    """Return the first stream whose decoder opens; if none does, raise the error of the first stream."""
    errors = []
    for stream in streams:
        try:
            _open_decoder(path, stream, threads)
            return stream
        except MediaError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def _open_decoder(path: Path, stream: Any, threads: int) -> None:
    """Check the codec and the size of a stream, and open its decoder."""
    context = stream.codec_context
    if context is None:
        raise MediaError("codec", path, "there is no decoder for it")
    if context.name not in (VIDEO_CODECS if stream.type == "video" else AUDIO_CODECS):
        raise MediaError("codec", path, context.name)
    context.thread_count = threads
    if stream.type == "video":
        check_frame_size(path, stream.width, stream.height)
        check_frame_size(path, round(stream.width * (stream.sample_aspect_ratio or 1)), stream.height)
        context.options = {"max_pixels": str(MAX_CODED_PIXELS)}
    else:
        check_audio_format(path, context.sample_rate, context.layout.nb_channels)
    try:
        context.open(strict=False)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError("decode_failed", path, str(error)) from error


def check_frame_size(path: Path, width: int, height: int) -> None:
    """Raise `MediaError` if a frame is too large or too narrow, before anything is allocated for it."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * max(1, min(width, height)):
        raise MediaError("too_large", path, f"{width} x {height}")


def check_audio_format(path: Path, rate_hz: int, channels: int) -> None:
    """Raise `MediaError` if the rate or the channels are too many, before anything is allocated for them."""
    if rate_hz > MAX_RATE_HZ or channels > MAX_CHANNELS:
        raise MediaError("too_much", path, f"{channels} channels of audio at {rate_hz} Hz")
