"""Making small media files of odd kinds: smooth moving frames and a rising tone, in any container and
coding.

Everything is made by PyAV and by changing bytes; no other program is needed. `odd_files` has the table
of files.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition

Patch = Callable[[bytes], bytes]
FAST = {
    "libx264": {"preset": "ultrafast", "crf": "18"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=0"},
}
FAST["libvpx-vp9"] = {"deadline": "realtime", "cpu-used": "8"}
FAST["libsvtav1"] = {"preset": "12", "svtav1-params": "lp=1"}
AUDIO_OPTIONS = {
    "aac": {"b": "96000", "aac_coder": "fast"},
    "vorbis": {"strict": "-2"},
    "wmav2": {"b": "128000"},
}


@dataclass(frozen=True)
class VideoTrack:
    """A video track. Times are seconds on the file's clock; `times_s` overrules rate and length."""

    codec: str = "libx264"
    size_wh: tuple[int, int] = (96, 72)
    pix_fmt: str = "yuv420p"
    frames_per_s: Fraction | int = 12
    from_s: float = 0.0
    seconds: float = 2.0
    times_s: tuple[float, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    flat: bool = False

    def ticks(self) -> tuple[list[int], Fraction]:
        """When the frames are shown, and the unit of that in seconds."""
        if self.times_s:
            return [round(time_s * 1000) for time_s in self.times_s], Fraction(1, 1000)
        first = round(self.from_s * self.frames_per_s)
        return list(range(first, first + max(1, round(self.seconds * self.frames_per_s)))), 1 / Fraction(
            self.frames_per_s
        )


@dataclass(frozen=True)
class AudioTrack:
    """An audio track: a tone that rises from `hz` by 100 Hz a second, or stays, weaker in each further
    channel.
    """

    codec: str = "aac"
    rate_hz: int = 48_000
    layout: str = "mono"
    from_s: float = 0.0
    seconds: float = 2.0
    hz: float = 300.0
    loudness: float = 0.5
    default: bool = True
    broken: bool = False
    rising: bool = True

    def waveform(self) -> np.ndarray:
        """Return float32 [channels, samples]."""
        seconds = np.arange(round(self.seconds * self.rate_hz)) / self.rate_hz
        tone = self.loudness * np.sin(2 * np.pi * (self.hz * seconds + 50 * self.rising * seconds**2))
        channels = av.AudioLayout(self.layout).nb_channels
        wave: np.ndarray = np.stack([tone / (1 + channel) for channel in range(channels)]).astype(np.float32)
        if self.broken:
            middle = wave.shape[1] // 2
            wave[:, middle : middle + 30] = [np.nan, np.inf, -np.inf] * 10
        return wave


@dataclass(frozen=True)
class Making:
    """A file: its tracks, its container where the name does not tell it, and what is done to its bytes."""

    video: VideoTrack | None = VideoTrack()
    audio: tuple[AudioTrack, ...] = (AudioTrack(),)
    form: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    cover: bool = False
    patches: tuple[Patch, ...] = ()

    def __call__(self, path: Path) -> None:
        """Write the file."""
        options = {"fflags": "+bitexact", **self.options}
        with scheduled_as_before(), av.open(str(path), "w", format=self.form, options=options) as media:
            tracks = [encode_cover(media)] if self.cover else []
            tracks += [encode_video(media, self.video)] if self.video else []
            tracks += [encode_audio(media, track) for track in self.audio]
            mux(media, *tracks)
        for patch in self.patches:
            path.write_bytes(patch(path.read_bytes()))


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Undo what the encoder SVT-AV1 does to the thread that calls it.

    Run by root, it gives that thread real-time priority for good. Threads and processes that it starts
    inherit that: more of them than cores, waiting for each other, then hold every core for minutes.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def mux(media: av.container.OutputContainer, *tracks: list[av.Packet]) -> None:
    """Write the packets of all tracks in the order of their times."""
    packets = [packet for track in tracks for packet in track]
    for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
        media.mux(packet)


def scene(size_wh: tuple[int, int], time_s: float) -> np.ndarray:
    """Return smooth colours that drift and change their brightness, uint8 [H, W, 3]."""
    across, down = (np.linspace(0, 1, length, dtype=np.float32) for length in size_wh)
    shifts = np.array([0, 0.3, 0.6], np.float32)
    waves = np.cos(np.pi * (across[:, None] + time_s + shifts)) * np.cos(
        np.pi * (down[:, None, None] - shifts)
    )
    light = 115 + 30 * np.sin(2.4 * time_s)
    return (light + 60 * waves).astype(np.uint8)


def encode_video(
    media: av.container.OutputContainer, track: VideoTrack, *, into: Any = None
) -> list[av.Packet]:
    """Return the packets of a new track, or with `into` more packets of that one by an encoder of their
    own.
    """
    options = {"threads": "1", **FAST.get(track.codec, {}), **track.options}
    ticks, unit = track.ticks()
    if into is None:
        stream: Any = media.add_stream(track.codec, rate=track.frames_per_s, options=options)
        context = stream.codec_context
    else:
        stream, context = into, av.CodecContext.create(track.codec, "w")
        context.options, context.framerate = options, Fraction(track.frames_per_s)
    context.width, context.height = track.size_wh
    context.pix_fmt, context.time_base, context.thread_count = track.pix_fmt, unit, 1
    context.flags |= Flags.bitexact
    for name, value in track.tags.items():
        setattr(context, name, value)
    packets = []
    for frame in _frames(track, ticks, unit):
        packets += context.encode(frame)
    packets += context.encode(None)
    for packet in packets:
        packet.stream = stream
    return packets


def _frames(track: VideoTrack, ticks: list[int], unit: Fraction) -> Iterator[av.VideoFrame]:
    for tick in ticks:
        frame = flat_frame(track) if track.flat else scene_frame(track, float((tick - ticks[0]) * unit))
        frame.pts, frame.time_base = tick, unit
        yield frame


def scene_frame(track: VideoTrack, time_s: float) -> av.VideoFrame:
    """Return the scene in the coding's colours."""
    frame = av.VideoFrame.from_ndarray(scene(track.size_wh, time_s), format="rgb24")
    return frame.reformat(format=track.pix_fmt)


def flat_frame(track: VideoTrack) -> av.VideoFrame:
    """Return one colour, planes filled directly: converting a huge frame costs more than all other
    files.
    """
    frame = av.VideoFrame(*track.size_wh, track.pix_fmt)
    for plane, level in zip(frame.planes, (107, 102, 118), strict=True):
        plane.update(bytes([level]) * plane.buffer_size)
    return frame


def encode_cover(media: av.container.OutputContainer) -> list[av.Packet]:
    """Return the one packet of a cover."""
    packets = encode_video(media, VideoTrack("mjpeg", (64, 64), "yuvj420p", seconds=0))
    packets[0].stream.disposition = Disposition.attached_pic
    return packets


def encode_audio(media: av.container.OutputContainer, track: AudioTrack) -> list[av.Packet]:
    """Return the packets of a new audio track."""
    options = AUDIO_OPTIONS.get(track.codec, {})
    stream: Any = media.add_stream(track.codec, rate=track.rate_hz, layout=track.layout, options=options)
    stream.codec_context.flags |= Flags.bitexact
    if not track.default:
        stream.disposition = Disposition(0)
    elif len(media.streams.audio) > 1:
        stream.disposition = Disposition.default
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(track.waveform()), format="fltp", layout=track.layout
    )
    frame.sample_rate, frame.time_base = track.rate_hz, Fraction(1, track.rate_hz)
    frame.pts = round(track.from_s * track.rate_hz)
    return list(stream.encode(frame)) + list(stream.encode(None))


def encoded_image(codec: str, pix_fmt: str) -> bytes:
    """Return one image in a coding of single images."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = 96, 72, pix_fmt, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(scene((96, 72), 0.0), format="rgb24").reformat(format=pix_fmt)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def change(box: bytes, offset: int, form: str, *values: int, which: int = 0) -> Patch:
    """Return a patch that overwrites values `offset` bytes after a box's name, the first (0) or a later
    one.
    """

    def patch(data: bytes) -> bytes:
        at = data.index(box)
        for _ in range(which):
            at = data.index(box, at + 4)
        changed = bytearray(data)
        struct.pack_into(form, changed, at + 4 + offset, *values)
        return bytes(changed)

    return patch


def mirror(a: int, b: int, c: int, d: int) -> Patch:
    """Return a patch that declares in an MP4 that column p, row q of its frames are shown at column ap + cq,
    row bp + dq.
    """
    one = 1 << 16
    return change(b"tkhd", 40, ">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)


def cut(share: float) -> Patch:
    """Return a patch that keeps the first share of a file's bytes."""
    return lambda data: data[: int(len(data) * share)]


def fill_media(noise: bytes | None) -> Patch:
    """Return a patch that overwrites the media of an MP4 with noise, or with zeros."""

    def patch(data: bytes) -> bytes:
        at = data.index(b"mdat")
        size = struct.unpack_from(">I", data, at - 4)[0] - 8
        fill = (noise * (size // len(noise) + 1))[:size] if noise else bytes(size)
        return data[: at + 4] + fill + data[at + 4 + size :]

    return patch


def remux(
    source: Path,
    target: Path,
    *,
    delay_s: float = 0.0,
    times: int = 1,
    leap: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Write the packets of a file to another, later, several times over, and one frame at a second so much
    later.
    """
    with av.open(str(target), "w") as output:
        streams: dict[str, Any] = {}
        for _ in range(times):
            with av.open(str(source)) as media:
                tracks = [media.streams.video[0], media.streams.audio[0]]
                streams = streams or {track.type: output.add_stream_from_template(track) for track in tracks}
                for packet in media.demux(tracks):
                    if not packet.size:
                        continue
                    leaps = packet.stream.type == "video" and packet.pts * packet.time_base == leap[0]
                    shift = round(delay_s / packet.time_base)
                    packet.pts += shift + (round(leap[1] / packet.time_base) if leaps else 0)
                    packet.dts += shift
                    packet.stream = streams[packet.stream.type]
                    output.mux(packet)
                delay_s += media.duration / av.time_base
    return target


def damage_audio(path: Path, first: float, last: float) -> None:
    """Overwrite a share of the audio packets of a file with noise."""
    with av.open(str(path)) as media:
        packets = [(packet.pos, packet.size) for packet in media.demux(audio=0) if packet.size]
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(0)
    for at, size in packets[int(first * len(packets)) : int(last * len(packets))]:
        data[at : at + size] = noise.bytes(size)
    path.write_bytes(data)


def point_elsewhere(data: bytes, target: Path) -> bytes:
    """Return an MP4, its index last, whose tracks refer to another file."""
    name = str(target).encode()
    record = bytes(10) + bytes(28) + bytes(12) + bytes(64) + bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    alias = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    plain = struct.pack(">I4sI", 12, b"url ", 1)
    while (at := data.find(plain)) >= 0:
        changed = bytearray(data[:at] + alias + data[at + len(plain) :])
        for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
            size_at = data.rindex(box, 0, at) - 4
            size = struct.unpack_from(">I", data, size_at)[0]
            struct.pack_into(">I", changed, size_at, size + len(alias) - len(plain))
        data = bytes(changed)
    return data
