"""Decode the streams of an open media file within a window: what all decoders share, and the waveform.

Sample 0 of the waveform is at the window's start; after its end there are zeros.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.audio.frame import format_dtypes
from av.audio.plane import AudioPlane

from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.container import MediaFile, check_audio_format
from moodfuse.extract.media.limits import COMPLETE, SLACK_S, MediaError
from moodfuse.extract.media.packets import seconds

PREROLL_S = 1.0
TAIL_S = 0.1
JUMP_S = 0.05


@dataclass(frozen=True)
class Extent:
    """Seconds of a stream that were decoded in a window, and that its headers declare.

    `damaged` counts packets that could not be decoded, and frames that came out damaged.
    """

    modality: str
    decoded_s: float
    declared_s: float
    damaged: int

    @property
    def complete(self) -> bool:
        """Whether 95 % was decoded; a tenth of a second is tolerated, as headers are not exact."""
        return self.decoded_s >= COMPLETE * self.declared_s - min(SLACK_S, self.declared_s / 2)

    def __str__(self) -> str:
        return f"{self.modality}: {max(self.decoded_s, 0.0):.2f} of {self.declared_s:.2f} s in the window"


class StreamDecoder:
    """Decodes the packets of one stream and passes the frames to `add`, which subclasses define.

    `failures` counts packets that could not be decoded and frames that came out damaged, `losses` the packets
    before which data of the file seem to be lost. `packets_end_s` is the end of the furthest packet by the
    file's own timestamps. A decoder is `done` if nothing more is needed, and `late` if its first frame is too
    late for the window.
    """

    def __init__(self, media: MediaFile, stream: Any) -> None:
        self.media, self.stream = media, stream
        self.failures = self.losses = 0
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
        for frame in frames:
            self.add(frame)

    def add(self, frame: Any) -> None:
        """Process the next decoded frame."""
        raise NotImplementedError

    def check_complete(self, extent: Extent, *, damage: bool = False, allow_partial: bool) -> None:
        """Raise `MediaError` if less than 95 % was decoded, because of damage or of a truncated file."""
        if not extent.complete and not allow_partial:
            raise MediaError("decode_failed" if damage else "truncated", self.media.path, str(extent))


def compute_preroll_s(start_s: float) -> float:
    """Return where decoding begins for a window: the whole second one to two seconds before it, or 0."""
    return max(0.0, math.floor(start_s) - PREROLL_S)


def decode_streams(decoders: Iterable[StreamDecoder], media: MediaFile, from_s: float) -> bool:
    """Decode from the last key frame at or before `from_s`; return False if seeking landed too late.

    After seeking in an Ogg, FFmpeg may guess the times of the first audio packets; a step back to the true
    times reveals it. With ``from_s=0`` the file is decoded from its start.
    """
    if from_s > 0.0 and not media.seek(from_s):
        return False
    by_stream = {decoder.stream.index: decoder for decoder in decoders}
    furthest = -math.inf
    for stream, packet, lost in media.read_packets() if by_stream else ():
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


class WaveformDecoder(StreamDecoder):
    """Places decoded mono audio on a sample grid that starts at a whole second before the window.

    A grid from a whole second has whole sample numbers at all rates, so the samples of a window do not
    depend on where decoding began. Where no packets were sent (silence suppression, DTX) there is silence,
    which counts as decoded; where packets are damaged or lost it does not. Before the file's first audio
    there is silence too, which does not count as part of the stream.
    """

    def __init__(self, media: MediaFile, window: tuple[float, float]) -> None:
        super().__init__(media, media.audio)
        self.start_s, self.end_s = window[0], min(window[1], window[0] + WINDOW_S)
        self.grid_start_s = compute_preroll_s(self.start_s)
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
            self.samples[low:high] = _average_channels(frame)[low - first : high - first]
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

    def result(
        self, rates_hz: Iterable[int], *, allow_partial: bool
    ) -> tuple[dict[int, tuple[np.ndarray, int]], Extent]:
        """Return the waveform at each rate, and how much was decoded.

        A waveform is float32 [30 s]; with it comes how many of its samples are from the file.
        """
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
        length_s = min(self.end_s, decoded_end_s) - self.start_s
        return {rate_hz: self._cut(rate_hz, length_s) for rate_hz in rates_hz}, extent

    def _cut(self, rate_hz: int, length_s: float) -> tuple[np.ndarray, int]:
        """Return the window's waveform at a rate, zeros after `length_s`, and its samples before that."""
        resampled = _resample(self.samples, self.rate_hz, rate_hz)
        offset = round((self.start_s - self.grid_start_s) * rate_hz)
        waveform = silence(rate_hz)
        real = max(0, min(len(waveform), round(length_s * rate_hz), len(resampled) - offset))
        waveform[:real] = np.clip(resampled[offset : offset + real], -1.0, 1.0)
        return waveform, real


def silence(rate_hz: int) -> np.ndarray:
    """Return 30 s of zeros at a rate, float32."""
    return np.zeros(int(rate_hz * WINDOW_S), np.float32)


def _average_channels(frame: Any) -> np.ndarray:
    """Return the mean over the channels of an audio frame, float32 [samples], full scale 1."""
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        values = frame.to_ndarray().reshape(-1, channels).T
    elif channels < 8:
        values = frame.to_ndarray()
    else:  # PyAV's `frame.planes` counts too many (18) or fails (19)
        dtype = format_dtypes[frame.format.name]
        planes: list[Any] = [AudioPlane(frame, channel) for channel in range(channels)]
        values = np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in planes])
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128.0) / 128.0
    elif values.dtype.kind == "i":
        values = values / np.float64(-int(np.iinfo(values.dtype).min))
    mono: np.ndarray = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mono


def _resample(samples: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    """Return mono audio at another rate, float32; the first sample keeps its time."""
    samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    if rate_hz == target_hz:
        return samples
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(format="flt", layout="mono", rate=target_hz)
    chunks = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([np.zeros(0, np.float32), *(chunk.to_ndarray()[0] for chunk in chunks)])
