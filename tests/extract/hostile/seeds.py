"""Small files in eight containers, one second of 64 x 48 each, from which hostile ones are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from moodfuse.synthetic_corpus import MOODS, ClipSettings, render_frames, render_waveform

SETTINGS = ClipSettings(duration_s=1.0, width=64, height=48, frames_per_s=25, sample_rate_hz=48_000)
DETERMINISTIC = {"fflags": "+bitexact"}


@dataclass(frozen=True)
class Seed:
    """How one is written, and where in it a size stands.

    Attributes
    ----------
    suffix, container : str
        Of the file's name, and FFmpeg's muxer.
    video, audio : str
        FFmpeg's encoders.
    sizes : tuple of (bytes, int, int)
        A pattern that finds something with a size, how far behind its start the size stands, and its width in bytes.
    options : mapping
        Of the muxer.
    """

    suffix: str
    container: str
    video: str
    audio: str
    sizes: tuple[tuple[bytes, int, int], ...]
    options: Mapping[str, str] = field(default_factory=dict)


_BOXES = (
    (rb"ftyp|moo[vf]|trak|mdia|minf|st[bst][lsczod]|mdat|tra[fk]|trun|tfhd|udta|hdlr|edts|avcC|esds", -4, 4),
)
_COUNTS = ((rb"st[tsc][sczo]|elst|trun", 8, 4),)
_EBML = (
    (rb"\x18\x53\x80\x67|\x1f\x43\xb6\x75|\x16\x54\xae\x6b|\x15\x49\xa9\x66", 4, 2),
    (rb"[\xa3\xae\xe0\xe1]", 1, 1),
)
_CHUNKS = ((rb"RIFF|LIST|avih|str[hf]|idx1|JUNK|0[01](?:dc|wb)", 4, 4),)
_START_CODES = ((rb"\x00\x00\x01[\xba-\xef]", 4, 2),)

SEEDS: dict[str, Seed] = {
    "mp4": Seed("mp4", "mp4", "libx264", "aac", _BOXES + _COUNTS, {"movflags": "+faststart"}),
    "fragments": Seed(
        "mp4", "mp4", "libx264", "aac", _BOXES + _COUNTS, {"movflags": "+frag_keyframe+empty_moov"}
    ),
    "mkv": Seed("mkv", "matroska", "libx264", "flac", _EBML),
    "webm": Seed("webm", "webm", "libvpx", "libopus", _EBML),
    "avi": Seed("avi", "avi", "mpeg4", "libmp3lame", _CHUNKS),
    "ts": Seed("ts", "mpegts", "mpeg2video", "mp2", ((rb"\x47[\x40\x41]", 5, 2), *_START_CODES)),
    "flv": Seed(
        "flv", "flv", "libx264", "aac", ((rb"[\x08\x09\x12]\x00", 1, 3), (rb"duration|onMetaData", -2, 2))
    ),
    "mpeg": Seed("mpg", "vob", "mpeg2video", "ac3", _START_CODES),
}
"""Name -> how it is written."""


def make_seed(folder: Path, name: str, *, late_index: bool = False) -> Path:
    """Write one; the same name gives the same bytes. With `late_index` an MP4's index stands behind its media."""
    seed = SEEDS[name]
    path = folder / f"{name}.{seed.suffix}"
    options = DETERMINISTIC | ({} if late_index else dict(seed.options))
    with av.open(str(path), "w", format=seed.container, options=options) as media:
        packets = [*_pictures(media, seed.video), *_sound(media, seed.audio)]
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * (packet.time_base or 0))):
            media.mux(packet)
    return path


def remux(
    source: Path,
    target: Path,
    *,
    delay_s: float = 0.0,
    times: int = 1,
    pause_s: float = 0.0,
    leap: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Write the packets of a file to another, later, several times over, and one picture at a second so much later.

    Between the times a pause may be left.
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
                    late_s = (
                        leap[1]
                        if packet.stream.type == "video" and packet.pts * packet.time_base == leap[0]
                        else 0.0
                    )
                    shift = round(delay_s / packet.time_base)
                    packet.pts, packet.dts = (
                        packet.pts + shift + round(late_s / packet.time_base),
                        packet.dts + shift,
                    )
                    packet.stream = streams[packet.stream.type]
                    output.mux(packet)
                delay_s += media.duration / av.time_base + pause_s
    return target


def _pictures(media: av.container.OutputContainer, encoder: str) -> list[av.Packet]:
    options = {"g": "12", "threads": "1"} | ({"preset": "superfast"} if encoder == "libx264" else {})
    stream = media.add_stream(encoder, rate=SETTINGS.frames_per_s, options=options)
    stream.width, stream.height, stream.pix_fmt = SETTINGS.width, SETTINGS.height, "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.bitexact
    packets = []
    for number, planes in enumerate(render_frames(MOODS["excited"], SETTINGS)):
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, SETTINGS.frames_per_s)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sound(media: av.container.OutputContainer, encoder: str) -> list[av.Packet]:
    options = (
        {"aac_coder": "fast"} if encoder == "aac" else {}
    )  # the other coder's bytes differ from run to run
    stream = media.add_stream(encoder, rate=SETTINGS.sample_rate_hz, layout="mono", options=options)
    stream.codec_context.flags |= Flags.bitexact
    kept = stream.codec_context.format.name
    wave = render_waveform(MOODS["excited"], SETTINGS)[None].astype(np.float32)
    plain = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
    plain.sample_rate, plain.pts = SETTINGS.sample_rate_hz, 0
    fitting = av.AudioResampler(format=kept, layout="mono", rate=SETTINGS.sample_rate_hz)
    frames = [*fitting.resample(plain), *fitting.resample(None)]
    return [packet for frame in [*frames, None] for packet in stream.encode(frame)]
