"""A synthetic corpus of small music videos whose sound and picture follow an emotion.

Sound tells arousal (tempo, onsets, noise) better than valence (mode, register), picture tells valence (colour, light)
better than arousal (speed, texture scale), and every song strays from its emotion's table. So each view alone
confuses some pairs of emotions, and both together confuse fewer. The same settings give the same bytes.
"""

import csv
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

SIX_LABELS = ("excited", "fear", "neutral", "relaxation", "sad", "tension")
MAJOR = ((0, 4, 7), (-3, 0, 4), (5, 9, 12), (7, 11, 14))
MINOR = ((0, 3, 7), (-4, 0, 3), (5, 8, 12), (7, 10, 14))
BEATS_PER_CHORD = 4
HARMONICS = 4
DISCS = 4
FRAMES_AT_ONCE = 48
SONG_SPREAD = 1.0
TAKE_SPREAD = 0.25


@dataclass(frozen=True)
class Mood:
    """What an emotion sounds and looks like.

    `minor` above 0.5 picks minor chords; `register_hz` is the chords' root; `brightness` is the strength ratio of
    neighbouring harmonics; `sustain` is how long a beat rings (beats); `noise` the drum's share; `tremolo` the depth of
    an 8 Hz wobble. `red`, `green`, `blue` and `light` lie in 0..1; `texture` is the pattern's period as a share of the
    height, `contrast` its strength, `speed` the discs' heights per second.
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
"""Emotion -> its sound and look; another label takes the row at its place among the sorted labels."""

SPREAD = Mood(9, 0.18, 30, 0.08, 0.12, 0.09, 0.08, 0.08, 0.09, 0.09, 0.09, 0.09, 0.10, 0.06, 0.12)
"""Standard deviation of each value over songs."""

LOWEST = Mood(45, 0, 90, 0.1, 0.15, 0, 0, 0.2, 0.05, 0.05, 0.05, 0.12, 0.12, 0.02, 0.05)
HIGHEST = Mood(180, 1, 440, 0.8, 2.0, 0.9, 0.9, 0.9, 0.95, 0.95, 0.95, 0.88, 1.2, 0.5, 1.4)


@dataclass(frozen=True)
class ClipSettings:
    """The form of one clip; `seed` decides noise, chord order and where discs start. Sides are even."""

    duration_s: float = 30.0
    width: int = 160
    height: int = 120
    frames_per_s: int = 12
    sample_rate_hz: int = 22_050
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 16:
            raise ValueError(f"picture is {self.width} x {self.height}, expected even sides of 16 or more")
        if self.duration_s <= 0 or self.frames_per_s < 1:
            raise ValueError(
                f"{self.duration_s} s at {self.frames_per_s} frames/s, expected more than nothing"
            )


@dataclass(frozen=True)
class CorpusSettings:
    """The form of a corpus; song number `i` of a label has `clips_per_group[i % len(clips_per_group)]` clips."""

    labels: tuple[str, ...] = SIX_LABELS
    groups_per_label: int = 6
    clips_per_group: tuple[int, ...] = (2, 2, 2, 1)
    clip: ClipSettings = ClipSettings()

    def __post_init__(self) -> None:
        if (
            not self.labels
            or self.groups_per_label < 1
            or not self.clips_per_group
            or min(self.clips_per_group) < 1
        ):
            raise ValueError(f"labels, groups_per_label and clips_per_group must not be empty: {self}")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels repeat: {self.labels}")


def make_corpus(folder: Path | str, *, settings: CorpusSettings = CorpusSettings()) -> Path:
    """Write `<folder>/<label>/<song>-<take>.mp4` and return `<folder>/clips.csv` with path, label and group.

    Paths in the CSV are relative to its folder. Clips of one group are takes of one song and near duplicates.
    """
    folder = Path(folder)
    rows = []
    for row, (label, song, take) in enumerate(_plan(settings)):
        path = folder / label / f"song{song + 1}-{take + 1}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = settings.clip.seed
        key = zlib.crc32(label.encode())
        mood = vary(_mood_of(label, settings.labels), np.random.default_rng([seed, key, song]), SONG_SPREAD)
        mood = vary(mood, np.random.default_rng([seed, key, song, take]), TAKE_SPREAD)
        make_clip(path, mood=mood, settings=replace(settings.clip, seed=seed * 100_003 + row))
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
    picture: bool = True,
    sound: bool = True,
) -> Path:
    """Render one clip of an emotion (a name of `MOODS` or a `Mood`), write it as MP4, and return its path."""
    mood = MOODS[mood] if isinstance(mood, str) else mood
    frames = render_frames(mood, settings) if picture else None
    waveform = render_waveform(mood, settings) if sound else None
    return write_clip(
        path, frames, waveform, frames_per_s=settings.frames_per_s, sample_rate_hz=settings.sample_rate_hz
    )


def vary(mood: Mood, rng: np.random.Generator, spread: float) -> Mood:
    """Return a mood with every value moved by normal noise of `spread` times its `SPREAD`, kept in range."""
    moved = {}
    for name in (field.name for field in fields(Mood)):
        value = getattr(mood, name) + spread * getattr(SPREAD, name) * float(rng.standard_normal())
        moved[name] = min(max(value, getattr(LOWEST, name)), getattr(HIGHEST, name))
    return Mood(**moved)


def render_waveform(mood: Mood, settings: ClipSettings) -> np.ndarray:
    """Return the sound of a mood, float32 [samples] in [-1, 1]: chords on a beat, a noise drum and a wobble."""
    rng = np.random.default_rng([settings.seed, 1])
    samples = round(settings.duration_s * settings.sample_rate_hz)
    seconds = np.arange(samples) / settings.sample_rate_hz
    beats = seconds * (mood.tempo_bpm / 60.0) + rng.uniform(0, BEATS_PER_CHORD)
    since_beat = (beats % 1.0).astype(np.float32)
    chords = np.array(MINOR if mood.minor > 0.5 else MAJOR, float)[rng.permutation(4)]
    chord_at = (beats // BEATS_PER_CHORD).astype(int) % 4
    hertz = mood.register_hz * 2.0 ** (chords / 12.0) / settings.sample_rate_hz
    tones = sum(_voice(np.cumsum(voice[chord_at]), mood.brightness) for voice in hertz.T)
    ring = np.exp(-since_beat / np.float32(mood.sustain))
    wobble = 1.0 + mood.tremolo * np.sin((2.0 * np.pi * 8.0 * seconds).astype(np.float32))
    drum = rng.standard_normal(samples, dtype=np.float32) * np.exp(-since_beat * np.float32(14.0))
    mixed = (1.0 - mood.noise) * tones * ring * wobble / 3.0 + mood.noise * drum
    hiss = rng.standard_normal(samples, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    mixed = mixed + hiss
    loudest: np.ndarray = np.float32(mood.loudness) * mixed / np.abs(mixed).max()
    return loudest.astype(np.float32)


def _voice(turns: np.ndarray, brightness: float) -> np.ndarray:
    """Return harmonics 1 to `HARMONICS` of a phase in turns, each `brightness` times the one before, float32.

    sin((h + 1) x) = 2 cos(x) sin(h x) - sin((h - 1) x) saves all sines but one.
    """
    phase = (2.0 * np.pi * (turns % 1.0)).astype(np.float32)
    before, now, twice_cos = np.zeros_like(phase), np.sin(phase), 2.0 * np.cos(phase)
    total = now.copy()
    for harmonic in range(1, HARMONICS):
        before, now = now, twice_cos * now - before
        total += np.float32(brightness**harmonic) * now
    return total


def render_frames(mood: Mood, settings: ClipSettings) -> Iterator[np.ndarray]:
    """Yield the pictures of a mood as uint8 [H * 3 / 2, W] in yuv420p: a drifting pattern and moving discs."""
    rng = np.random.default_rng([settings.seed, 2])
    height, width = settings.height, settings.width
    count = max(1, round(settings.duration_s * settings.frames_per_s))
    back, disc = (
        _yuv(mood, mood.light),
        _yuv(mood, min(1.0, mood.light + 0.15 + 0.6 * mood.contrast), turned=True),
    )
    starts, angles = rng.uniform(0, 2, (2, DISCS)), rng.uniform(0, 2 * np.pi, DISCS)
    steps = mood.speed * np.stack([np.sin(angles), np.cos(angles)]) * rng.uniform(0.7, 1.3, DISCS)
    radius = height * rng.uniform(0.08, 0.16, DISCS)
    grain = rng.normal(0, 4, (height, width)).astype(np.float32)
    rows, columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    period = max(4.0, mood.texture * height)
    for first in range(0, count, FRAMES_AT_ONCE):
        seconds = np.arange(first, min(count, first + FRAMES_AT_ONCE)) / settings.frames_per_s
        drift = (mood.speed * height * 0.3 * seconds)[:, None]
        wave_y = np.sin(2 * np.pi * (rows + drift) / period).astype(np.float32)
        wave_x = np.sin(2 * np.pi * (columns - drift) / period).astype(np.float32)
        luma = back[0] + np.float32(mood.contrast * 160) * wave_y[:, :, None] * wave_x[:, None, :] + grain
        chroma = np.broadcast_to(back[1:, None, None], (len(seconds), 2, height // 2, width // 2)).copy()
        for one in range(DISCS):
            at = np.abs((starts[:, one] + steps[:, one] * seconds[:, None] + 1.0) % 2.0 - 1.0)
            dy, dx = rows - at[:, :1] * height, columns - at[:, 1:] * width
            inside = (dy**2)[:, :, None] + (dx**2)[:, None, :] < radius[one] ** 2
            luma[inside] = disc[0]
            chroma = np.where(inside[:, None, ::2, ::2], disc[1:, None, None], chroma)
        planes = [luma.reshape(len(seconds), -1), chroma.reshape(len(seconds), -1)]
        yield from (
            np.clip(np.concatenate(planes, axis=1), 16, 235)
            .astype(np.uint8)
            .reshape(-1, height * 3 // 2, width)
        )


def write_clip(
    path: Path | str,
    frames: Iterator[np.ndarray] | None,
    waveform: np.ndarray | None,
    *,
    frames_per_s: int,
    sample_rate_hz: int,
    faststart: bool = True,
) -> Path:
    """Write yuv420p pictures (uint8 [H * 3 / 2, W] each) and float32 sound [samples] or [2, samples] as an MP4.

    Either may be None. With `faststart` the index stands before the media, without it after. Same input, same bytes.
    """
    path = Path(path)
    options = {"fflags": "+bitexact", "movflags": "+faststart" if faststart else "0"}
    with av.open(str(path), "w", format="mp4", options=options) as media:
        packets = _encode_picture(media, frames, frames_per_s) if frames is not None else []
        packets += (
            _encode_sound(media, np.atleast_2d(waveform), sample_rate_hz) if waveform is not None else []
        )
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * (packet.time_base or 0))):
            media.mux(packet)
    return path


def _encode_picture(
    media: av.container.OutputContainer, frames: Iterator[np.ndarray], frames_per_s: int
) -> list[av.Packet]:
    """Return H.264 packets; one thread, since threads would change bytes."""
    options = {"preset": "superfast", "crf": "27", "threads": "1", "g": str(frames_per_s * 5)}
    stream, packets = None, []
    for number, planes in enumerate(frames):
        if stream is None:
            stream = media.add_stream("libx264", rate=frames_per_s, options=options)
            stream.height, stream.width, stream.pix_fmt = planes.shape[0] * 2 // 3, planes.shape[1], "yuv420p"
            stream.codec_context.thread_count = 1
            stream.codec_context.flags |= Flags.bitexact
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = number
        packets += stream.encode(frame)
    return packets + (stream.encode(None) if stream is not None else [])


def _encode_sound(
    media: av.container.OutputContainer, waveform: np.ndarray, sample_rate_hz: int
) -> list[av.Packet]:
    """Return AAC packets of float32 [channels, samples]."""
    layout = "mono" if len(waveform) == 1 else "stereo"
    stream = media.add_stream(
        "aac", rate=sample_rate_hz, layout=layout, options={"b": "64000", "aac_coder": "fast"}
    )
    stream.codec_context.flags |= Flags.bitexact
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(waveform, np.float32), format="fltp", layout=layout
    )
    frame.sample_rate, frame.pts = sample_rate_hz, 0
    return stream.encode(frame) + stream.encode(None)


def _plan(settings: CorpusSettings) -> Iterator[tuple[str, int, int]]:
    """Yield (label, song, take) of every clip."""
    for label in settings.labels:
        for song in range(settings.groups_per_label):
            for take in range(settings.clips_per_group[song % len(settings.clips_per_group)]):
                yield label, song, take


def _mood_of(label: str, labels: tuple[str, ...]) -> Mood:
    """Return the label's row of `MOODS`, or the row at its place where it has none."""
    return MOODS.get(label.lower()) or list(MOODS.values())[sorted(labels).index(label) % len(MOODS)]


def _yuv(mood: Mood, light: float, *, turned: bool = False) -> np.ndarray:
    """Return a mood's colour (or its channels turned round) at a light, as Y, U, V in video range (BT.601)."""
    rgb = np.array([mood.red, mood.green, mood.blue])
    rgb = (np.roll(rgb, 1) if turned else rgb) / rgb.max()
    red, green, blue = rgb * light
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.array([16 + 219 * luma, 128 + 126 * (blue - luma), 128 + 160 * (red - luma)], np.float32)
