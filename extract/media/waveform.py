"""Decode the waveform of a window: mono, 16 kHz, sample 0 at the window's start, zeros after its end."""

import math
from typing import Any

import av
import numpy as np
from av.audio.frame import format_dtypes
from av.audio.plane import AudioPlane

from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.container import MediaFile, check_audio_format
from moodfuse.extract.media.limits import SLACK_S, MediaError
from moodfuse.extract.media.packet_clock import seconds
from moodfuse.extract.media.stream_decoder import Extent, StreamDecoder, preroll_s

SAMPLE_RATE_HZ = 16_000
SAMPLES = int(SAMPLE_RATE_HZ * WINDOW_S)
TAIL_S = 0.1
JUMP_S = 0.05


class WaveformDecoder(StreamDecoder):
    """Places decoded mono audio on a sample grid that starts at a whole second before the window.

    A grid from a whole second has whole sample numbers at both rates, so the samples of a window do not
    depend on where decoding began. Where no packets were sent (silence suppression, DTX) there is silence,
    which counts as decoded; where packets are damaged or lost it does not. Before the file's first audio
    there is silence too, which does not count as part of the stream.
    """

    def __init__(self, media: MediaFile, window: tuple[float, float]) -> None:
        super().__init__(media, media.audio)
        self.start_s, self.end_s = window[0], min(window[1], window[0] + WINDOW_S)
        self.grid_start_s = preroll_s(self.start_s)
        self.samples = np.zeros(0, np.float32)
        self.edges = [0, 0]
        self.rate_hz = self.cursor = self.covered = 0
        self.timed = False
        self.begins_s = -math.inf
        self.damage_before = (0, 0)

    def add(self, frame: Any) -> None:
        """Place the next audio frame by its time where that is after the end of the frame before.

        One with an earlier time is appended to the frame before: no audio is overwritten.
        """
        if not self.rate_hz:
            self._begin(frame.sample_rate)
        if frame.sample_rate != self.rate_hz:
            raise MediaError("decode_failed", self.media.path, "its sampling rate changes")
        first = self.cursor
        if frame.pts is not None:
            time_s = seconds(frame.pts, frame.time_base or self.stream.time_base) - self.media.origin_s
            at = round((time_s - self.grid_start_s) * self.rate_hz)
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

    def _begin(self, rate_hz: int) -> None:
        """Allocate the grid at the rate of the stream."""
        check_audio_format(self.media.path, rate_hz, 1)
        self.rate_hz = rate_hz
        self.samples = np.zeros(round((self.end_s + TAIL_S - self.grid_start_s) * rate_hz), np.float32)
        self.edges = [round((edge_s - self.grid_start_s) * rate_hz) for edge_s in (self.start_s, self.end_s)]

    def _cover(self, low: int, high: int) -> None:
        """Count the samples of a part of the grid that lie inside the window."""
        self.covered += max(0, min(high, self.edges[1]) - max(low, self.edges[0]))

    def _cover_gap(self, until: int) -> None:
        """Count silence up to a sample as decoded if no packets were damaged or lost in between."""
        if (self.failures, self.losses) == self.damage_before:
            self._cover(self.cursor, until)

    def result(self, *, allow_partial: bool) -> tuple[np.ndarray, int, Extent]:
        """Return float32 [480000], how many samples come from the file, and how much was decoded."""
        path = self.media.path
        first_s, last_s = self.media.span_s(self.stream)
        if self.begins_s > first_s + JUMP_S:  # FFmpeg reports the file's start where it found no other
            first_s = self.begins_s
        declared_s = min(last_s, self.end_s) - max(first_s, self.start_s)
        if declared_s <= 0:
            raise MediaError("no_audio", path, f"the audio lasts from {first_s:.2f} to {last_s:.2f} s")
        if self.rate_hz and self.packets_end_s > -math.inf:  # the last packet may stand for silence after it
            end = round((self.packets_end_s - self.media.origin_s - self.grid_start_s) * self.rate_hz)
            if end - self.cursor > JUMP_S * self.rate_hz:
                self._cover_gap(end)
        if not self.covered:
            raise MediaError("decode_failed" if self.failures else "truncated", path, "no audio decoded")
        extent = Extent("audio", self.covered / self.rate_hz, declared_s, self.failures)
        decoded_end_s = self.grid_start_s + self.cursor / self.rate_hz
        reached_end = decoded_end_s >= min(last_s, self.end_s) - SLACK_S  # what is missing is a gap
        self.check_complete(extent, damage=self.failures > 1 or reached_end, allow_partial=allow_partial)
        resampled = _resample(self.samples, self.rate_hz)
        if (
            len(resampled) < len(self.samples) * SAMPLE_RATE_HZ // self.rate_hz - 1
        ):  # the resampler ran out of memory
            raise MediaError("memory", path, f"audio at {self.rate_hz} Hz could not be resampled")
        offset = round((self.start_s - self.grid_start_s) * SAMPLE_RATE_HZ)
        length_s = min(self.end_s, decoded_end_s) - self.start_s
        real = max(0, min(SAMPLES, round(length_s * SAMPLE_RATE_HZ), len(resampled) - offset))
        waveform = np.zeros(SAMPLES, np.float32)
        waveform[:real] = np.clip(resampled[offset : offset + real], -1.0, 1.0)
        return waveform, real, extent


def _mono(frame: Any) -> np.ndarray:
    """Return the mean over the channels of an audio frame, float32 [samples], full scale 1."""
    values = _channels(frame)
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128.0) / 128.0
    elif values.dtype.kind == "i":
        values = values / np.float64(-int(np.iinfo(values.dtype).min))
    mono: np.ndarray = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mono


def _channels(frame: Any) -> np.ndarray:
    """Return the decoded samples, [channels, samples], or [1, samples * channels] where they are interleaved.

    With eight planes or more, PyAV's `frame.planes` counts too many (18) or fails (19), so they are read one
    by one.
    """
    channels = frame.layout.nb_channels
    if not frame.format.is_planar or channels < 8:
        values: np.ndarray = frame.to_ndarray()
        return values
    dtype = format_dtypes[frame.format.name]
    planes: list[Any] = [AudioPlane(frame, channel) for channel in range(channels)]
    return np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes])


def _resample(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return mono audio at 16 kHz, float32; the first sample keeps its time."""
    samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    chunks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([np.zeros(0, np.float32), *(chunk.to_ndarray()[0] for chunk in chunks)])
