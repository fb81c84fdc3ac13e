"""A synthetic dataset of small music videos whose audio and video follow an emotion.

Audio shows arousal (tempo, onsets, noise) better than valence (mode, register), video shows valence (colour,
light) better than arousal (speed, texture), and songs vary around the values of their emotion. So each
modality alone confuses some emotions, and both together confuse fewer. The same settings give the same bytes.
"""

import csv
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer

SIX_LABELS = ("excited", "fear", "neutral", "relaxation", "sad", "tension")
MAJOR = ((0, 4, 7), (-3, 0, 4), (5, 9, 12), (7, 11, 14))
MINOR = ((0, 3, 7), (-4, 0, 3), (5, 8, 12), (7, 10, 14))
BEATS_PER_CHORD = 4
HARMONICS = 4
DISCS = 4
SONG_SPREAD = 1.0
TAKE_SPREAD = 0.25


class Mood(NamedTuple):
    """Audio and video of an emotion.

    `minor` above 0.5 selects minor chords on `register_hz`, `brightness` is the ratio of neighbouring
    harmonics, `sustain` the decay time in beats, `noise` the proportion of drums, `tremolo` the depth at 8
    Hz. Colours and `light` are in 0..1, `texture` is the period of the pattern relative to the height,
    `contrast` its strength, and `speed` the speed of the discs in heights per second.
    """

    tempo_bpm: float
    minor: float
    register_hz: float
    brightness: float
    sustain: float
    noise: float
    tremolo: float
    loudness: float
    red: float
    green: float
    blue: float
    light: float
    texture: float
    contrast: float
    speed: float


MOODS: dict[str, Mood] = {
    "excited": Mood(150, 0.15, 330, 0.65, 0.25, 0.60, 0.05, 0.80, 0.85, 0.60, 0.25, 0.70, 0.25, 0.25, 0.90),
    "fear": Mood(105, 0.80, 130, 0.50, 0.80, 0.45, 0.70, 0.55, 0.25, 0.30, 0.55, 0.25, 0.35, 0.30, 0.60),
    "neutral": Mood(100, 0.30, 260, 0.45, 0.50, 0.25, 0.15, 0.50, 0.50, 0.52, 0.50, 0.50, 0.50, 0.15, 0.40),
    "relaxation": Mood(64, 0.25, 280, 0.25, 1.50, 0.05, 0.10, 0.35, 0.50, 0.75, 0.35, 0.65, 0.80, 0.12, 0.20),
    "sad": Mood(60, 0.75, 220, 0.25, 1.60, 0.04, 0.20, 0.35, 0.28, 0.35, 0.60, 0.30, 0.75, 0.12, 0.18),
    "tension": Mood(142, 0.75, 260, 0.65, 0.30, 0.60, 0.25, 0.80, 0.60, 0.22, 0.22, 0.35, 0.28, 0.35, 0.65),
}
"""Mood of each emotion; any other label takes the one at its position among the sorted labels."""

SPREAD = Mood(9, 0.18, 30, 0.08, 0.12, 0.09, 0.08, 0.08, 0.09, 0.09, 0.09, 0.09, 0.10, 0.06, 0.12)
"""Standard deviation of each value over songs."""
LOWEST = Mood(45, 0, 90, 0.1, 0.15, 0, 0, 0.2, 0.05, 0.05, 0.05, 0.12, 0.12, 0.02, 0.05)
HIGHEST = Mood(180, 1, 440, 0.8, 2.0, 0.9, 0.9, 0.9, 0.95, 0.95, 0.95, 0.88, 1.2, 0.5, 1.4)


@dataclass(frozen=True)
class ClipSettings:
    """Format of a clip, with even sides; `seed` decides noise, the order of chords and where discs start."""

    duration_s: float = 30.0
    width: int = 160
    height: int = 120
    frames_per_s: int = 12
    sample_rate_hz: int = 22_050
    seed: int = 0


@dataclass(frozen=True)
class CorpusSettings:
    """Size of a dataset; song `i` of a label has `clips_per_group[i % len(clips_per_group)]` clips."""

    labels: tuple[str, ...] = SIX_LABELS
    groups_per_label: int = 6
    clips_per_group: tuple[int, ...] = (2, 2, 2, 1)
    clip: ClipSettings = ClipSettings()


def make_corpus(folder: Path | str, *, settings: CorpusSettings = CorpusSettings()) -> Path:
    """Write `<folder>/<label>/<song>-<take>.mp4` and return `<folder>/clips.csv` with path, label and group.

    Paths in the CSV are relative to its folder. Clips of one group are takes of one song and near duplicates.
    """
    folder, seed = Path(folder), settings.clip.seed
    rows: list[tuple[str, str, str]] = []
    for label in settings.labels:
        position = sorted(settings.labels).index(label)
        label_mood = MOODS.get(label.lower(), list(MOODS.values())[position % len(MOODS)])
        for song in range(settings.groups_per_label):
            identity = [seed, zlib.crc32(label.encode()), song]
            song_mood = vary(label_mood, np.random.default_rng(identity), SONG_SPREAD)
            for take in range(settings.clips_per_group[song % len(settings.clips_per_group)]):
                path = folder / label / f"song{song + 1}-{take + 1}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                mood = vary(song_mood, np.random.default_rng([*identity, take]), TAKE_SPREAD)
                make_clip(path, mood=mood, settings=replace(settings.clip, seed=seed * 100_003 + len(rows)))
                rows.append((path.relative_to(folder).as_posix(), label, f"{label}-song{song + 1}"))
    table = folder / "clips.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label", "group"), *rows])
    return table


def make_clip(
    path: Path | str,
    *,
    mood: Mood | str = "neutral",
    settings: ClipSettings = ClipSettings(duration_s=2.0, width=64, height=48),
    video: bool = True,
    audio: bool = True,
) -> Path:
    """Render a clip of an emotion (a key of `MOODS`, or a `Mood`), write it as MP4, and return its path."""
    mood = MOODS[mood] if isinstance(mood, str) else mood
    frames = render_frames(mood, settings) if video else None
    waveform = render_waveform(mood, settings) if audio else None
    return write_clip(
        path, frames, waveform, frames_per_s=settings.frames_per_s, sample_rate_hz=settings.sample_rate_hz
    )


def vary(mood: Mood, rng: np.random.Generator, spread: float) -> Mood:
    """Add normal noise of `spread` times `SPREAD` to every value of a mood, limited to its range."""
    noise = spread * np.array(SPREAD) * rng.standard_normal(len(mood))
    return Mood(*np.clip(np.array(mood) + noise, LOWEST, HIGHEST).tolist())


def render_waveform(mood: Mood, settings: ClipSettings) -> np.ndarray:
    """Return the audio of a mood, float32 [samples] in [-1, 1]: chords on a beat, drums and a tremolo."""
    rng = np.random.default_rng([settings.seed, 1])
    seconds = np.arange(round(settings.duration_s * settings.sample_rate_hz)) / settings.sample_rate_hz
    beats = seconds * (mood.tempo_bpm / 60.0) + rng.uniform(0, BEATS_PER_CHORD)
    since_beat = (beats % 1.0).astype(np.float32)
    chords = np.array(MINOR if mood.minor > 0.5 else MAJOR, float)[rng.permutation(4)]
    chord_at = (beats // BEATS_PER_CHORD).astype(int) % 4
    turns = mood.register_hz * 2.0 ** (chords / 12.0) / settings.sample_rate_hz
    tones = sum(_add_harmonics(np.cumsum(voice[chord_at]), mood.brightness) for voice in turns.T)
    decay = np.exp(-since_beat / np.float32(mood.sustain))
    tremolo = 1.0 + mood.tremolo * np.sin((2.0 * np.pi * 8.0 * seconds).astype(np.float32))
    drum = rng.standard_normal(len(seconds), dtype=np.float32) * np.exp(-since_beat * np.float32(14.0))
    mixed = (1.0 - mood.noise) * tones * decay * tremolo / 3.0 + mood.noise * drum
    mixed += rng.standard_normal(len(seconds), dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return np.asarray(mood.loudness * mixed / np.abs(mixed).max(), np.float32)


def _add_harmonics(turns: np.ndarray, brightness: float) -> np.ndarray:
    """Return the sum of harmonics of a phase in turns, each `brightness` times the one before, float32."""
    phase = (2.0 * np.pi * (turns % 1.0)).astype(np.float32)
    previous, current, twice_cos = np.zeros_like(phase), np.sin(phase), 2.0 * np.cos(phase)
    total = current.copy()
    for number in range(1, HARMONICS):  # sin((h + 1) x) = 2 cos(x) sin(h x) - sin((h - 1) x)
        previous, current = current, twice_cos * current - previous
        total += np.float32(brightness**number) * current
    return total


def render_frames(mood: Mood, settings: ClipSettings) -> Iterator[np.ndarray]:
    """Yield the frames of a mood as uint8 [H * 3 / 2, W] in yuv420p: a drifting pattern and moving discs."""
    rng = np.random.default_rng([settings.seed, 2])
    height, width = settings.height, settings.width
    background = _to_yuv(mood, mood.light)
    foreground = _to_yuv(mood, min(1.0, mood.light + 0.15 + 0.6 * mood.contrast), rotate=True)
    starts, angles = rng.uniform(0, 2, (2, DISCS)), rng.uniform(0, 2 * np.pi, DISCS)
    steps = mood.speed * np.stack([np.sin(angles), np.cos(angles)]) * rng.uniform(0.7, 1.3, DISCS)
    radii = height * rng.uniform(0.08, 0.16, DISCS)
    grain = rng.normal(0, 4, (height, width)).astype(np.float32)
    rows, columns = np.arange(height), np.arange(width)
    period = max(4.0, mood.texture * height)
    for number in range(max(1, round(settings.duration_s * settings.frames_per_s))):
        second = number / settings.frames_per_s
        drift = mood.speed * height * 0.3 * second
        wave_y = np.sin(2 * np.pi * (rows + drift) / period).astype(np.float32)
        wave_x = np.sin(2 * np.pi * (columns - drift) / period).astype(np.float32)
        luma = background[0] + np.outer(np.float32(mood.contrast * 160) * wave_y, wave_x) + grain
        chroma = np.broadcast_to(background[1:, None, None], (2, height // 2, width // 2)).copy()
        # Discs are reflected at the borders of a unit square.
        centres = np.abs((starts + steps * second + 1.0) % 2.0 - 1.0)
        for (y, x), radius in zip(centres.T, radii, strict=True):
            inside = np.add.outer((rows - y * height) ** 2, (columns - x * width) ** 2) < radius**2
            luma[inside] = foreground[0]
            chroma[:, inside[::2, ::2]] = foreground[1:, None]
        planes = np.concatenate([luma.ravel(), chroma.ravel()])
        yield np.clip(planes, 16, 235).astype(np.uint8).reshape(height * 3 // 2, width)


def write_clip(
    path: Path | str,
    frames: Iterable[np.ndarray] | None,
    waveform: np.ndarray | None,
    *,
    frames_per_s: int,
    sample_rate_hz: int,
    faststart: bool = True,
) -> Path:
    """Write yuv420p frames (uint8 [H * 3 / 2, W]), float32 audio [samples] or [2, samples], or both, as MP4.

    With `faststart` the index is before the media, without it after.
    """
    options = {"fflags": "+bitexact", "movflags": "+faststart" if faststart else "0"}
    with av.open(str(path), "w", format="mp4", options=options) as media:
        packets = [] if frames is None else _encode_video(media, frames, frames_per_s)
        packets += [] if waveform is None else _encode_audio(media, np.atleast_2d(waveform), sample_rate_hz)
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * (packet.time_base or 0))):
            media.mux(packet)
    return Path(path)


def _encode_video(media: OutputContainer, frames: Iterable[np.ndarray], frames_per_s: int) -> list[av.Packet]:
    """Return H.264 packets; the number of threads would change the bytes, so there is one."""
    options = {"preset": "superfast", "crf": "27", "threads": "1", "g": str(frames_per_s * 5)}
    stream: Any = media.add_stream("libx264", rate=frames_per_s, options=options)
    stream.codec_context.thread_count = 1
    stream.codec_context.flags |= Flags.bitexact
    packets = []
    for number, planes in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        if number == 0:
            stream.height, stream.width, stream.pix_fmt = frame.height, frame.width, "yuv420p"
        frame.pts = number
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _encode_audio(media: OutputContainer, waveform: np.ndarray, sample_rate_hz: int) -> list[av.Packet]:
    """Return AAC packets of audio [channels, samples]."""
    layout = "mono" if len(waveform) == 1 else "stereo"
    options = {"b": "64000", "aac_coder": "fast"}
    stream = media.add_stream("aac", rate=sample_rate_hz, layout=layout, options=options)
    stream.codec_context.flags |= Flags.bitexact
    samples = np.ascontiguousarray(waveform, np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate, frame.pts = sample_rate_hz, 0
    return stream.encode(frame) + stream.encode(None)


def _to_yuv(mood: Mood, light: float, *, rotate: bool = False) -> np.ndarray:
    """Return a mood's colour, optionally with rotated channels, as Y, U, V in video range (BT.601)."""
    rgb = np.array([mood.red, mood.green, mood.blue])
    red, green, blue = (np.roll(rgb, 1) if rotate else rgb) / rgb.max() * light
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.array([16 + 219 * luma, 128 + 126 * (blue - luma), 128 + 160 * (red - luma)], np.float32)
