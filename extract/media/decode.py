"""Decode one clip: 32 frames at even times and 30 s of mono audio, cut from the same window.

The same file, window, size and decoder give the same bits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from moodfuse.cache.records import SAMPLE_RATE_HZ, WINDOW_S, ExtraMedia, FrameWindows
from moodfuse.extract.media.container import MediaFacts, MediaFile, open_media
from moodfuse.extract.media.decoders import (
    Extent,
    WaveformDecoder,
    compute_preroll_s,
    decode_streams,
    silence,
)
from moodfuse.extract.media.frames import FrameDecoder, Frames
from moodfuse.extract.media.limits import COMPLETE, MediaError

if TYPE_CHECKING:
    from moodfuse.cache.media import Media

DECODER = f"pyav {av.__version__}, rules 3"
"""What decides the decoded bits; part of the cache's identity. Raise the number when these rules change.

Exceptions are rules for files that were refused before (`REFUSAL_RULES` of
`moodfuse.extract.dataset.ingest`), or that were shown wrongly: changing them must not invalidate existing
caches. So mirrored clips keep their old frames in existing caches.
"""
SHORT_SIDE_PX = 256
"""Short side of the frames of every clip as decoded."""
MEDIA_RULES = f"{DECODER}, short side {SHORT_SIDE_PX} px"


@dataclass(frozen=True)
class DecodedClip:
    """The decoded frames and waveform of one window.

    Attributes
    ----------
    frames : ndarray, uint8 [32, H, W, 3]
        RGB.
    frame_times_s : ndarray, float64 [32]
        Their presentation times in the file (not in the window), seconds.
    waveform : ndarray, float32 [480000]
        Mono audio at 16 kHz in [-1, 1] from the window's start, zeros after its end.
    waveform_samples : int
        How many samples of `waveform` come from the file.
    start_s, end_s : float
        The window that was read, seconds.
    facts : MediaFacts
        What the file's headers declare.
    missing : str
        ``"sound"`` where the clip has no audio (`waveform` is zeros), ``"picture"`` where it has no video
        (`frames` is [0, 0, 0, 3]), or empty. Only `allow_missing` accepts a clip without one of them.
    extents : tuple of Extent
        How much of its video and audio was decoded. Only `allow_partial` accepts less than 95 %.
    other_waveforms : mapping of int to (ndarray, int)
        `waveform` and `waveform_samples` at the other sampling rates that were requested, by rate in Hz.
    other_frames : mapping of FrameWindows to (ndarray, ndarray)
        `frames` and `frame_times_s` in the short windows that were requested.
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
    other_waveforms: Mapping[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    other_frames: Mapping[FrameWindows, Frames] = field(default_factory=dict)

    @property
    def partial(self) -> str:
        """What of the window could not be decoded; empty where at least 95 % could."""
        return "; ".join(str(extent) for extent in self.extents if not extent.complete)

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded, and frames that came out damaged."""
        return sum(extent.damaged for extent in self.extents)


def make_media(decoded: DecodedClip) -> "Media":
    """Return all that was decoded of a clip."""
    from moodfuse.cache.media import Media  # imports h5py, which workers do not need

    return Media(
        decoded.frames,
        decoded.frame_times_s,
        decoded.waveform,
        decoded.waveform_samples,
        other_waveforms=decoded.other_waveforms,
        other_frames=decoded.other_frames,
    )


@dataclass(frozen=True)
class DecodeRequest:
    """One clip to decode; the fields are the parameters of `read_clip`."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    short_side_px: int | None = None
    allow_missing: bool = False
    allow_partial: bool = False
    threads: int = 1
    extra: ExtraMedia = field(default_factory=ExtraMedia)

    def __post_init__(self) -> None:
        if self.short_side_px is not None and self.short_side_px < 2:
            raise ValueError(f"short_side_px is {self.short_side_px}, expected 2 or more")

    @property
    def window_s(self) -> float:
        """Seconds of the requested window."""
        return WINDOW_S if self.end_s is None else max(0.0, self.end_s - self.start_s)


def read_clip(
    path: Path | str,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    short_side_px: int | None = None,
    threads: int = 1,
    allow_missing: bool = False,
    allow_partial: bool = False,
    other_rates_hz: Sequence[int] = (),
    other_frames: Sequence[FrameWindows] = (),
) -> DecodedClip:
    """Decode the frames and the waveform of a window of a media file.

    Parameters
    ----------
    path : Path or str
        A regular file.
    start_s, end_s : float
        The window in seconds; without `end_s`, 30 s or up to the end of the file.
    short_side_px : int, optional
        Scale frames down to this short side, keeping their shape (the long side is rounded down). Never
        scales up.
    threads : int
        Decoder threads; they do not change the result.
    allow_missing : bool
        Accept a clip without audio, or without video.
    allow_partial : bool
        Accept a window if less than 95 % of it can be decoded; `partial` of the clip describes it.
    other_rates_hz : sequence of int
        Sampling rates in Hz at which to return the audio too, each resampled from the rate of the file.
    other_frames : sequence of FrameWindows
        Frames to return too, in short windows.

    Raises
    ------
    MediaError
        The file or window is refused; `code` is the reason (see `REASONS`).
    """
    request = DecodeRequest(
        Path(path),
        start_s,
        end_s,
        short_side_px,
        allow_missing,
        allow_partial,
        threads,
        ExtraMedia(tuple(other_rates_hz), tuple(other_frames)),
    )
    return decode_request(request)


def decode_request(request: DecodeRequest) -> DecodedClip:
    """Decode a clip after a seek, or from the file's start where seeking lands too late."""
    with ffmpeg_errors(request.path):
        for from_start in (False, True):
            with open_media(
                request.path, threads=request.threads, allow_missing=request.allow_missing
            ) as media:
                window = settle_window(media, request.start_s, request.end_s)
                video = None
                if media.video is not None:
                    video = FrameDecoder(media, window, request.short_side_px, request.extra.frames)
                audio = WaveformDecoder(media, window) if media.audio is not None else None
                decoders = [decoder for decoder in (video, audio) if decoder is not None]
                if decode_streams(decoders, media, 0.0 if from_start else compute_preroll_s(window[0])):
                    return assemble_clip(request, media, window, video, audio)
        raise MediaError("decode_failed", request.path, "the window cannot be reached")


@contextmanager
def ffmpeg_errors(path: Path) -> Iterator[None]:
    """Convert errors of FFmpeg and of memory into the refusal of a file."""
    try:
        yield
    except (MemoryError, av.error.MemoryError) as error:
        raise MediaError("memory", path) from error
    except av.error.FFmpegError as error:
        raise MediaError("decode_failed", path, str(error)) from error


def settle_window(media: MediaFile, start_s: float, end_s: float | None) -> tuple[float, float]:
    """Return the window in seconds, cut at the end of a file that holds at least 95 % of it.

    Raises `MediaError` if the file holds less of it.
    """
    if media.duration_s <= 0.0:
        raise MediaError("truncated", media.path, "it is 0 s long")
    requested = min(start_s + WINDOW_S, media.duration_s) if end_s is None else end_s
    end = min(requested, media.duration_s)
    if not (0.0 <= start_s < end and end - start_s >= COMPLETE * (requested - start_s) - 1e-9):
        detail = f"window {start_s:g} to {requested:g} s, file {media.duration_s:.3f} s"
        raise MediaError("window_outside", media.path, detail)
    return float(start_s), float(end)


def assemble_clip(
    request: DecodeRequest,
    media: MediaFile,
    window: tuple[float, float],
    video: FrameDecoder | None,
    audio: WaveformDecoder | None,
) -> DecodedClip:
    """Return what both decoders hold; `None` stands for a stream that the file does not have."""
    frames, times_s = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    rates_hz = (SAMPLE_RATE_HZ, *request.extra.rates_hz)
    other_frames: Mapping[FrameWindows, Frames] = {}
    missing, extents = "", []
    try:
        if video is None:
            raise MediaError("no_video", media.path)
        (frames, times_s), other_frames, extent = video.result(allow_partial=request.allow_partial)
        extents.append(extent)
    except MediaError as error:
        if not (request.allow_missing and error.code == "no_video"):
            raise
        missing = "picture"
    try:
        if audio is None:
            raise MediaError("no_audio", media.path)
        waveforms, extent = audio.result(rates_hz, allow_partial=request.allow_partial)
        extents.append(extent)
    except MediaError as error:
        if missing or not (request.allow_missing and error.code == "no_audio"):
            raise
        missing, waveforms = "sound", {rate_hz: (silence(rate_hz), 0) for rate_hz in rates_hz}
    waveform, samples = waveforms.pop(SAMPLE_RATE_HZ)
    return DecodedClip(
        frames,
        times_s,
        waveform,
        samples,
        *window,
        media.facts(),
        missing,
        tuple(extents),
        waveforms,
        other_frames,
    )
