"""Decoding one clip: 32 pictures at even times and 30 s of mono sound, cut from the same window.

The window is split in 32 equal intervals; for the middle `t` of each, the picture is the one on screen at `t`: the
last with presentation time <= `t`, or the first of the file where there is none yet. Sound is averaged over channels
and resampled to 16 kHz; its sample 0 is the window's start. The same file, window, size and decoder give the same bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from cache.records import WINDOW_S
from extract.media.container import REASONS, MediaError, MediaFacts, Opened, open_media, probe, read_facts

__all__ = ["DECODER", "REASONS", "DecodedClip", "MediaError", "MediaFacts", "probe", "read_clip"]

DECODER = f"pyav {av.__version__}, rules 1"
"""What decides the decoded bits; it enters the cache's identity. Raise the number whenever the rules here change."""

FRAMES = 32
SAMPLE_RATE_HZ = 16_000
SAMPLES = int(SAMPLE_RATE_HZ * WINDOW_S)
COMPLETE = 0.95
SLACK_S = 0.1
PREROLL_S = 1.0
TAIL_S = 0.1
JUMP_S = 0.05


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
        empty where both are. Only `partial` lets a clip lack one.
    """

    frames: np.ndarray
    frame_times_s: np.ndarray
    waveform: np.ndarray
    waveform_samples: int
    start_s: float
    end_s: float
    facts: MediaFacts
    missing: str = ""


def read_clip(
    path: Path | str,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    short_side_px: int | None = None,
    threads: int = 1,
    partial: bool = False,
) -> DecodedClip:
    """Decode the pictures and sound of a window of a media file.

    Parameters
    ----------
    path : Path or str
        A regular file.
    start_s, end_s : float
        The window in seconds; without `end_s`, 30 s or up to the end of the file.
    short_side_px : int, optional
        Scale pictures down to this short side, keeping their shape (the long side is made even). Never scales up.
    threads : int
        Decoder threads; they do not change the result.
    partial : bool
        Read a clip without sound, or without picture, too.

    Raises
    ------
    MediaError
        The file or window is refused; `code` says why (see `REASONS`).
    """
    if short_side_px is not None and short_side_px < 2:
        raise ValueError(f"short_side_px is {short_side_px}, expected 2 or more")
    try:
        return _read(DecodeWish(Path(path), start_s, end_s, short_side_px, threads, partial))
    except (MemoryError, av.error.MemoryError) as error:
        raise MediaError("memory", path) from error
    except av.error.FFmpegError as error:
        raise MediaError("decode_failed", path, str(error)) from error


@dataclass(frozen=True)
class DecodeWish:
    """What `read_clip` was asked for."""

    path: Path
    start_s: float
    end_s: float | None
    short_side_px: int | None
    threads: int
    partial: bool


def _read(wish: DecodeWish) -> DecodedClip:
    """Decode with a seek, or from the file's start where seeking lands too late. Streams live only while it is open."""
    for seek in (True, False):
        opened = open_media(wish.path, threads=wish.threads, partial=wish.partial)
        with opened.media:
            window = _settle_window(opened, wish.start_s, wish.end_s)
            pictures = _Pictures(opened, window, wish.short_side_px) if opened.video is not None else None
            sound = _Sound(opened, window) if opened.audio is not None else None
            from_s = max(0.0, math.floor(window[0]) - PREROLL_S) if seek else 0.0
            if _decode(opened, pictures, sound, from_s):
                return _collect(opened, window, pictures, sound, partial=wish.partial)
    raise MediaError("decode_failed", wish.path, "the window cannot be reached")


def _collect(
    opened: Opened, window: tuple[float, float], pictures: "_Pictures | None", sound: "_Sound | None", *, partial: bool
) -> DecodedClip:
    """What both collectors hold; under `partial`, one of them may hold nothing."""
    frames, times_s = np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0)
    waveform, real = np.zeros(SAMPLES, np.float32), 0
    missing = []
    try:
        if pictures is None:
            raise MediaError("no_video", opened.path)
        frames, times_s = pictures.result()
    except MediaError as error:
        if not partial or error.code != "no_video":
            raise
        missing.append("picture")
    try:
        if sound is None:
            raise MediaError("no_audio", opened.path)
        waveform, real = sound.result()
    except MediaError as error:
        if not partial or error.code != "no_audio" or missing:
            raise
        missing.append("sound")
    return DecodedClip(frames, times_s, waveform, real, *window, read_facts(opened), "".join(missing))


def middles_s(start_s: float, end_s: float) -> np.ndarray:
    """Return the middles of 32 equal intervals of a window, float64 [32], seconds."""
    return start_s + (np.arange(FRAMES) + 0.5) * ((end_s - start_s) / FRAMES)


def scaled_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Return the width and height in pixels after scaling down to a short side; the long side becomes even."""
    short, long = min(width, height), max(width, height)
    if short_side_px is None or short <= short_side_px:
        return width, height
    long = max(short_side_px, 2 * round(long * short_side_px / short / 2))
    return (long, short_side_px) if width >= height else (short_side_px, long)


def _settle_window(opened: Opened, start_s: float, end_s: float | None) -> tuple[float, float]:
    """Return the window in seconds, cut at the end of a file that holds at least 95 % of it."""
    asked = min(start_s + WINDOW_S, opened.duration_s) if end_s is None else end_s
    end = min(asked, opened.duration_s)
    if not (0.0 <= start_s < end and end - start_s >= COMPLETE * (asked - start_s) - 1e-9):
        found = f"window {start_s:g} to {asked:g} s, file {opened.duration_s:.3f} s"
        raise MediaError("window_outside", opened.path, found)
    return float(start_s), float(end)


def _decode(opened: Opened, pictures: "_Pictures | None", sound: "_Sound | None", from_s: float) -> bool:
    """Feed both collectors from the last key frame at or before `from_s`; False where seeking landed too late."""
    if from_s > 0.0:
        try:
            opened.media.seek(int((from_s + opened.origin_s) * av.time_base), backward=True)
        except av.error.FFmpegError:
            return False
    takers: dict[int, _Pictures | _Sound] = {}
    if pictures is not None:
        takers[opened.video.index] = pictures
    if sound is not None:
        takers[opened.audio.index] = sound
    for stream, packet in _packets(opened):
        taker = takers[stream.index]
        if taker.done:
            continue
        try:
            frames = packet.decode() if packet is not None else stream.decode(None)
        except (av.error.InvalidDataError, av.error.EOFError):
            taker.failures += packet is not None
            continue
        for frame in frames:
            taker.add(frame)
        if from_s > 0.0 and taker.late:
            return False
        if all(taker.done for taker in takers.values()):
            break
    return True


def _packets(opened: Opened) -> Iterator[tuple[Any, Any]]:
    """Yield (stream, packet) to the end or to where the file breaks off, then (stream, None) to drain each decoder."""
    streams = [stream for stream in (opened.video, opened.audio) if stream is not None]
    try:
        for packet in opened.media.demux(*streams):
            if packet.size:
                yield packet.stream, packet
    except (av.error.InvalidDataError, av.error.EOFError):
        pass
    for stream in streams:
        yield stream, None


class _Pictures:
    """Keeps the pictures that are on screen at the 32 middles; only those are converted to RGB."""

    def __init__(self, opened: Opened, window: tuple[float, float], short_side_px: int | None) -> None:
        self.opened, self.window, self.short_side_px = opened, window, short_side_px
        self.targets_s = middles_s(*window)
        self.times_s = np.zeros(FRAMES)
        self.frames: np.ndarray | None = None
        self.held: Any = None
        self.held_s = self.end_s = -math.inf
        self.filled = self.seen = self.failures = 0
        self.done = self.late = False

    def add(self, frame: Any) -> None:
        """Take the next decoded picture; the one before it stays on screen up to this one's time."""
        ticks = frame.pts if frame.pts is not None else frame.dts
        if ticks is None:
            self.failures += 1
            return
        base = frame.time_base or self.opened.video.time_base  # a drained decoder gives frames without one
        time_s = float(ticks * base) - self.opened.origin_s
        if time_s <= self.held_s:
            return
        self.late = self.held is None and time_s > self.targets_s[0] + 1e-9
        if self.held is not None:
            self._show_until(time_s)
        self.held, self.held_s = frame, time_s
        rate = self.opened.video.average_rate
        length_s = float(frame.duration * base) if frame.duration else (1.0 / float(rate) if rate else 0.0)
        self.end_s = time_s + length_s
        self.seen += time_s >= self.window[0]
        self.failures += bool(frame.is_corrupt) and time_s >= self.window[0]
        self.done = self.filled == FRAMES

    def _show_until(self, time_s: float) -> None:
        """Store the held picture for every middle before `time_s`."""
        count = int(np.searchsorted(self.targets_s, time_s - 1e-9, side="left"))
        if count > self.filled:
            picture = self._convert(self.held)
            if self.frames is None:
                self.frames = np.empty((FRAMES, *picture.shape), np.uint8)
            self.frames[self.filled : count] = picture
            self.times_s[self.filled : count] = self.held_s
            self.filled = count

    def _convert(self, frame: Any) -> np.ndarray:
        """Return a picture as uint8 [H, W, 3], upright; every picture gets the size of the first."""
        turns = round(frame.rotation / 90) % 4
        if self.frames is None:
            width, height = scaled_size(frame.width, frame.height, self.short_side_px)
        else:
            height, width = self.frames.shape[1:3] if turns % 2 == 0 else self.frames.shape[2:0:-1]
        scaled = (width, height) != (frame.width, frame.height)
        how = Interpolation.BICUBIC if scaled else Interpolation.BILINEAR
        picture = frame.reformat(width=width, height=height, format="rgb24", interpolation=how, threads=1).to_ndarray()
        return np.rot90(picture, turns) if turns else picture

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return frames and times, or refuse what is too incomplete."""
        first_s, last_s = self.opened.span_s(self.opened.video)
        declared_s = min(last_s, self.window[1]) - max(first_s, self.window[0])
        if last_s <= self.window[0] or first_s >= self.window[1]:
            raise MediaError("no_video", self.opened.path, f"the picture lasts from {first_s:.2f} to {last_s:.2f} s")
        if self.held is None:
            raise MediaError("decode_failed" if self.failures else "truncated", self.opened.path, "no picture decoded")
        decoded_s = declared_s if self.done else self.end_s - max(first_s, self.window[0])
        _check_complete(self.opened.path, "picture", decoded_s, declared_s)
        if self.failures > (1 - COMPLETE) * (self.seen + self.failures) + 1:
            found = f"{self.failures} of {self.seen + self.failures} pictures are damaged"
            raise MediaError("decode_failed", self.opened.path, found)
        self._show_until(math.inf)
        self.held = None
        assert self.frames is not None
        return self.frames, self.times_s


class _Sound:
    """Places decoded sound, averaged over channels, on a sample grid that starts at a whole second before the window.

    A grid from a whole second has whole sample numbers at both rates, so a window's samples do not depend on where
    decoding began.
    """

    def __init__(self, opened: Opened, window: tuple[float, float]) -> None:
        self.opened = opened
        self.start_s, self.end_s = window[0], min(window[1], window[0] + WINDOW_S)
        self.base_s = max(0.0, math.floor(self.start_s) - PREROLL_S)
        self.samples = np.zeros(0, np.float32)
        self.rate_hz = self.cursor = self.covered = self.failures = 0
        self.done = self.late = False

    def add(self, frame: Any) -> None:
        """Take the next decoded stretch of sound, placed by its time where it does not continue the one before."""
        if not self.rate_hz:
            self.rate_hz = frame.sample_rate
            self.samples = np.zeros(round((self.end_s + TAIL_S - self.base_s) * self.rate_hz), np.float32)
        if frame.sample_rate != self.rate_hz:
            raise MediaError("decode_failed", self.opened.path, "its sampling rate changes")
        first = self.cursor
        if frame.pts is not None:
            base = frame.time_base or self.opened.audio.time_base
            time_s = float(frame.pts * base) - self.opened.origin_s
            at = round((time_s - self.base_s) * self.rate_hz)
            self.late = not self.covered and self.cursor == 0 and time_s > self.start_s
            first = at if self.cursor == 0 or abs(at - self.cursor) > JUMP_S * self.rate_hz else self.cursor
        mono = _mono(frame)
        self.cursor = first + len(mono)
        low, high = max(first, 0), min(self.cursor, len(self.samples))
        if high > low:
            self.samples[low:high] = mono[low - first : high - first]
            edges = [round((edge_s - self.base_s) * self.rate_hz) for edge_s in (self.start_s, self.end_s)]
            self.covered += max(0, min(high, edges[1]) - max(low, edges[0]))
        self.done = self.cursor >= len(self.samples)

    def result(self) -> tuple[np.ndarray, int]:
        """Return float32 [480000] and how many samples are real, or refuse what is too incomplete."""
        first_s, last_s = self.opened.span_s(self.opened.audio)
        declared_s = min(last_s, self.end_s) - max(first_s, self.start_s)
        if declared_s <= 0:
            raise MediaError("no_audio", self.opened.path, f"the sound lasts from {first_s:.2f} to {last_s:.2f} s")
        if not self.covered:
            raise MediaError("decode_failed" if self.failures else "truncated", self.opened.path, "no sound decoded")
        covered_s = self.covered / self.rate_hz
        _check_complete(self.opened.path, "sound", covered_s, declared_s, failures=self.failures)
        resampled = _resample(self.samples, self.rate_hz)
        offset = round((self.start_s - self.base_s) * SAMPLE_RATE_HZ)
        last_s = min(self.end_s, self.base_s + self.cursor / self.rate_hz)
        real = max(0, min(SAMPLES, round((last_s - self.start_s) * SAMPLE_RATE_HZ), len(resampled) - offset))
        waveform = np.zeros(SAMPLES, np.float32)
        waveform[:real] = np.clip(resampled[offset : offset + real], -1.0, 1.0)
        return waveform, real


def _check_complete(path: Path, what: str, decoded_s: float, declared_s: float, *, failures: int = 0) -> None:
    """Refuse a window of which less than 95 % could be decoded."""
    if decoded_s < COMPLETE * declared_s - min(SLACK_S, declared_s / 2):
        code = "decode_failed" if failures > 1 else "truncated"
        raise MediaError(code, path, f"{what}: {max(decoded_s, 0.0):.2f} of {declared_s:.2f} s in the window")


def _mono(frame: Any) -> np.ndarray:
    """Return the mean over channels of a stretch of sound, float32 [samples], full scale 1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128.0) / 128.0
    elif values.dtype.kind == "i":
        values = values / np.float64(-int(np.iinfo(values.dtype).min))
    mono: np.ndarray = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mono


def _resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return mono sound at 16 kHz, float32; the first sample keeps its time."""
    samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])
