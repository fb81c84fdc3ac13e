"""Collecting the sound of a window: mono, 16 kHz, sample 0 at the window's start, zeros after its end."""

import math
from typing import Any

import av
import numpy as np
from av.audio.frame import format_dtypes
from av.audio.plane import AudioPlane

from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.clock import seconds
from moodfuse.extract.media.container import SLACK_S, MediaError, Opened, check_sound
from moodfuse.extract.media.stream_decoder import Extent, Taker, check_complete, preroll_s

SAMPLE_RATE_HZ = 16_000
SAMPLES = int(SAMPLE_RATE_HZ * WINDOW_S)
TAIL_S = 0.1
JUMP_S = 0.05
SLOW_HZ = 1_000
"""Of slower sound the few samples of a short window may be too few for the resampler."""


class Sound(Taker):
    """Places decoded sound, averaged over channels, on a sample grid that starts at a whole second before the window.

    A grid from a whole second has whole sample numbers at both rates, so a window's samples do not depend on where
    decoding began. Where no packets were sent (silence suppression, DTX) there is silence, which counts as decoded;
    where packets are damaged or lost it does not. Before the file's first sound there is silence too, which does not
    count as part of the stream.
    """

    def __init__(self, opened: Opened, window: tuple[float, float]) -> None:
        super().__init__(opened.path)
        self.opened = opened
        self.start_s, self.end_s = window[0], min(window[1], window[0] + WINDOW_S)
        self.base_s = preroll_s(self.start_s)
        self.samples = np.zeros(0, np.float32)
        self.edges = [0, 0]
        self.rate_hz = self.cursor = self.covered = 0
        self.timed = False
        self.begins_s = -math.inf
        self.damage_before = (0, 0)

    def add(self, frame: Any) -> None:
        """Take the next decoded stretch of sound, placed by its time where that is after the end of the one before.

        One with an earlier time continues the one before: no sound is overwritten.
        """
        if not self.rate_hz:
            self._begin(frame.sample_rate)
        if frame.sample_rate != self.rate_hz:
            raise MediaError("decode_failed", self.opened.path, "its sampling rate changes")
        first = self.cursor
        if frame.pts is not None:
            base = frame.time_base or self.opened.audio.time_base
            time_s = seconds(frame.pts, base) - self.opened.origin_s
            at = round((time_s - self.base_s) * self.rate_hz)
            if not self.timed:
                self.late, first = time_s > self.start_s, at
                if (self.failures, self.losses) == self.damage_before:
                    self.begins_s = time_s
            elif at - self.cursor > JUMP_S * self.rate_hz:
                self._cover_gap(at)
                first = at
            self.timed = True
        self.cursor = first + frame.samples
        self.damage_before = (self.failures, self.losses)
        low, high = max(first, 0), min(self.cursor, len(self.samples))
        if high > low:
            self.samples[low:high] = _mono(frame)[low - first : high - first]
            self._cover(low, high)
        self.done = self.cursor >= len(self.samples)

    def _cover(self, low: int, high: int) -> None:
        """Count what lies inside the window of a stretch of the grid."""
        self.covered += max(0, min(high, self.edges[1]) - max(low, self.edges[0]))

    def _cover_gap(self, until: int) -> None:
        """Count the silence up to a sample as decoded, unless packets were damaged or lost since the last sound."""
        if (self.failures, self.losses) == self.damage_before:
            self._cover(self.cursor, until)

    def _begin(self, rate_hz: int) -> None:
        """Lay out the grid at the sound's own rate."""
        check_sound(self.opened.path, rate_hz, 1)
        self.rate_hz = rate_hz
        self.samples = np.zeros(round((self.end_s + TAIL_S - self.base_s) * rate_hz), np.float32)
        self.edges = [round((edge_s - self.base_s) * rate_hz) for edge_s in (self.start_s, self.end_s)]

    def result(self, *, allow_partial: bool = False) -> tuple[np.ndarray, int, Extent]:
        """Return float32 [480000], how many samples are real, and how much was decoded, or refuse too little."""
        first_s, last_s = self.opened.span_s(self.opened.audio)
        if (
            self.begins_s > first_s + JUMP_S
        ):  # FFmpeg gives a stream whose start it did not find the start of the file
            first_s = self.begins_s
        declared_s = min(last_s, self.end_s) - max(first_s, self.start_s)
        if declared_s <= 0:
            raise MediaError(
                "no_audio", self.opened.path, f"the sound lasts from {first_s:.2f} to {last_s:.2f} s"
            )
        if self.rate_hz and self.packets_end_s > -math.inf:  # the last packet may stand for silence after it
            end = round((self.packets_end_s - self.opened.origin_s - self.base_s) * self.rate_hz)
            if end - self.cursor > JUMP_S * self.rate_hz:
                self._cover_gap(end)
        if not self.covered:
            raise MediaError(
                "decode_failed" if self.failures else "truncated", self.opened.path, "no sound decoded"
            )
        extent = Extent("sound", self.covered / self.rate_hz, declared_s, self.failures)
        reached = (
            self.base_s + self.cursor / self.rate_hz >= min(last_s, self.end_s) - SLACK_S
        )  # what lacks is a gap
        damage = self.failures > 1 or reached
        check_complete(self.opened.path, extent, damage=damage, allow_partial=allow_partial)
        resampled = self._resampled()
        offset = round((self.start_s - self.base_s) * SAMPLE_RATE_HZ)
        last_s = min(self.end_s, self.base_s + self.cursor / self.rate_hz)
        real = max(0, min(SAMPLES, round((last_s - self.start_s) * SAMPLE_RATE_HZ), len(resampled) - offset))
        waveform = np.zeros(SAMPLES, np.float32)
        waveform[:real] = np.clip(resampled[offset : offset + real], -1.0, 1.0)
        return waveform, real, extent

    def _resampled(self) -> np.ndarray:
        """Return the grid at 16 kHz; less than all of it is no result, and the resampler says nothing of its own."""
        resampled = _resample(self.samples, self.rate_hz)
        if len(resampled) < len(self.samples) * SAMPLE_RATE_HZ // self.rate_hz - 1:
            if self.rate_hz >= SLOW_HZ:
                raise MediaError("memory", self.opened.path, "the sound could not be resampled")
            raise MediaError(
                "decode_failed", self.opened.path, f"{self.rate_hz} samples of sound in a second"
            )
        return resampled


def _mono(frame: Any) -> np.ndarray:
    """Return the mean over channels of a stretch of sound, float32 [samples], full scale 1."""
    values = _values(frame)
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128.0) / 128.0
    elif values.dtype.kind == "i":
        values = values / np.float64(-int(np.iinfo(values.dtype).min))
    mono: np.ndarray = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mono


def _values(frame: Any) -> np.ndarray:
    """Return samples as they were decoded, [channels, samples], or [1, samples * channels] where they are interleaved.

    Of eight planes and more `frame.planes` of PyAV counts too many (18), or fails at that (19).
    """
    channels = frame.layout.nb_channels
    if not frame.format.is_planar or channels < 8:
        values: np.ndarray = frame.to_ndarray()
        return values
    kind = format_dtypes[frame.format.name]
    planes: list[Any] = [AudioPlane(frame, channel) for channel in range(channels)]
    return np.stack([np.frombuffer(plane, kind, frame.samples) for plane in planes])


def _resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return mono sound at 16 kHz, float32; the first sample keeps its time."""
    samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([np.zeros(0, np.float32), *(piece.to_ndarray()[0] for piece in pieces)])
