"""Planted copies are found with their times, nothing else is, and silence, black and stills match nothing."""

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.dataset import fingerprints as likeness
from moodfuse.extract.dataset.check import CheckSettings, check
from moodfuse.extract.dataset.duplicates import Audited, audit_lines, find_duplicates
from moodfuse.extract.dataset.fingerprints import (
    NO_MARKS,
    Marks,
    Match,
    audio_marks,
    frame_marks,
    match_audio,
    match_frames,
)
from moodfuse.extract.dataset.scan import scan
from moodfuse.extract.media.decode import read_clip
from moodfuse.synthetic_corpus import ClipSettings, make_clip, make_corpus

RATE_HZ = 16_000
CLIPS = os.environ.get("MOODFUSE_CLIPS")
real = pytest.mark.skipif(not CLIPS, reason="MOODFUSE_CLIPS names no folder of real clips")


@functools.cache
def music(seed: int, seconds: float = 30.0) -> np.ndarray:
    """Notes of random pitch, time and length over noise, float32 at 16 kHz."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    sound = rng.normal(size=len(time_s)) * 0.01
    for start in np.cumsum(rng.uniform(0.05, 0.3, int(seconds * 5))):
        note = (time_s >= start) & (time_s < start + rng.uniform(0.1, 0.8))
        sound[note] += np.sin(2 * np.pi * rng.uniform(100, 4000) * time_s[note]) * rng.uniform(0.05, 0.2)
    return (sound / np.abs(sound).max() * 0.8).astype(np.float32)


def recoded(
    sound: np.ndarray, codec: str = "aac", container: str = "adts", bit_rate: int = 64_000
) -> np.ndarray:
    """The sound after a lossy codec."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE_HZ)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.sample_rate = RATE_HZ
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE_HZ, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(part):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    file.seek(0)
    with av.open(file) as media:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
        parts = [out.to_ndarray()[0] for item in media.decode(audio=0) for out in resampler.resample(item)]
    return np.concatenate(parts)


def clip(name: str, *, sound: np.ndarray | None = None, frames: Marks = NO_MARKS, sha: str = "") -> Audited:
    """A clip of its own group."""
    return Audited(name, name, sha or name, NO_MARKS if sound is None else audio_marks(sound), frames)


@functools.cache
def songs() -> tuple[Audited, ...]:
    """A song and four others."""
    return (clip("song", sound=music(0)), *(clip(f"other{seed}", sound=music(seed)) for seed in range(1, 5)))


CHANGES = {
    "aac at 64 kbit/s, 6 dB softer": (lambda sound: recoded(sound * 0.5), 0.0),
    "mp3 at 64 kbit/s": (lambda sound: recoded(sound, "libmp3lame", "mp3"), 0.0),
    "10 s later": (lambda sound: sound[10 * RATE_HZ + 77 :], 10.0),
    "12 s in common, recoded": (lambda sound: recoded(sound[18 * RATE_HZ :]), 18.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_of_a_sound_are_found(change: str) -> None:
    """A copy that was recoded, made softer, shifted or cut is found among others, at the right times."""
    make, shift_s = CHANGES[change]
    clips = [*songs(), clip("copy", sound=make(music(0)))]
    (found,) = find_duplicates(clips)
    assert (found.kind, found.first, found.second, found.grouped) == ("sound", "song", "copy", False)
    assert found.first_s - found.second_s == pytest.approx(shift_s, abs=0.5)
    assert found.score > 0.02 and found.length_s > 0.8 * (30 - shift_s)


def test_silence_noise_and_tones_match_nothing() -> None:
    """Silent clips, different noise and one steady tone are no copies of each other."""
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 440 * np.arange(30 * RATE_HZ) / RATE_HZ).astype(np.float32)
    sounds = [np.zeros(30 * RATE_HZ, np.float32)] * 3 + [
        rng.normal(size=30 * RATE_HZ).astype(np.float32) * 0.1
    ] * 0
    sounds += [rng.normal(size=30 * RATE_HZ).astype(np.float32) * 0.1 for _ in range(3)] + [
        np.zeros(0, np.float32)
    ]
    clips = [clip(str(number), sound=sound) for number, sound in enumerate([*sounds, tone])]
    assert find_duplicates(clips) == ()
    assert not len(audio_marks(np.zeros(100, np.float32)).hashes) and len(audio_marks(music(0, 1.0)).hashes)


def pictures(seed: int) -> np.ndarray:
    """32 smooth random frames."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (32, 6, 8, 3), dtype=np.uint8)
    return small.repeat(20, axis=1).repeat(20, axis=2)


def test_copies_of_frames_are_found() -> None:
    """Frames that were made darker, smaller and noisy are alike; black, plain and repeated ones match nothing."""
    rng = np.random.default_rng(1)
    times = np.arange(32) * 0.9375 + 0.47
    frames = pictures(0)
    changed = np.clip(
        frames[10:, ::2, ::2] * 0.7 + rng.normal(0, 4, frames[10:, ::2, ::2].shape), 0, 255
    ).astype(np.uint8)
    still = np.broadcast_to(pictures(9)[:1], frames.shape)
    black = np.zeros_like(frames)
    marks = {"video": frame_marks(frames, times), "copy": frame_marks(changed, times[:22])}
    marks |= {"other": frame_marks(pictures(1), times), "black": frame_marks(black, times)}
    marks |= {
        "black too": frame_marks(black, times),
        "still": frame_marks(still, times),
        "still too": frame_marks(still, times),
    }
    (found,) = find_duplicates([clip(name, frames=item) for name, item in marks.items()])
    assert (found.kind, found.first, found.second) == ("frames", "video", "copy")
    assert found.first_s - found.second_s == pytest.approx(10 * 0.9375, abs=0.5) and found.score > 0.4


def test_names_that_count_are_suggested() -> None:
    """Parts k of n of one name, and consecutive numbers in parentheses, are neighbours; anything else is not."""
    names = ["sad/song-1-of-3.mp4", "sad/song-2-of-3.mp4", "sad/song 3 of 3.mp4", "sad/other-1-of-2.mp4"]
    names += [
        "fear/song-1-of-4.mp4",
        "fear/a(4).mp4",
        "fear/a(5).mp4",
        "fear/a(9).mp4",
        "fear/68.mp4",
        "fear/69.mp4",
    ]
    found = [
        (item.first[-13:], item.second[-13:]) for item in find_duplicates([clip(name) for name in names])
    ]
    assert found == [
        ("fear/a(4).mp4", "fear/a(5).mp4"),
        ("ng-1-of-3.mp4", "ng-2-of-3.mp4"),
        ("ng-2-of-3.mp4", "ng 3 of 3.mp4"),
    ]
    assert find_duplicates([clip(f"x/img({number}).mp4") for number in range(40)]) == ()


def test_thousands_of_clips_are_compared_in_seconds() -> None:
    """Landmarks of 1000 clips, with one copy among them, are compared without comparing every two clips."""
    rng = np.random.default_rng(0)
    marks = [
        Marks(rng.integers(0, 1 << 25, 2900).astype(np.uint64), np.sort(rng.uniform(0, 30, 2900)))
        for _ in range(1000)
    ]
    marks.append(Marks(marks[3].hashes, marks[3].times_s - 5))
    (found,) = match_audio(marks, least=12)
    assert (found.first, found.second) == (3, 1000) and found.first_s - found.second_s == pytest.approx(5)


def test_check_lists_copies_and_how_to_group_them(tmp_path: Path) -> None:
    """Takes under other names in other groups are listed with a remedy; a pattern that groups them ends the warning."""
    for number in range(3):
        for label in ("sad", "excited"):
            (tmp_path / label).mkdir(exist_ok=True)
            settings = ClipSettings(4.0, 64, 48, seed=number)
            make_clip(tmp_path / label / f"{number}.mp4", mood=label, settings=settings)
    copy = tmp_path / "sad" / "copy-of-0.mp4"
    copy.write_bytes((tmp_path / "sad" / "0.mp4").read_bytes() + b"\0" * 8)
    text = "\n".join(check(CheckSettings(tmp_path, 2)).lines)
    assert "similar audio: sad/0.mp4 and sad/copy-of-0.mp4, from " in text and "--group-pattern" in text
    assert "similar audio" not in "\n".join(check(CheckSettings(tmp_path, 2, decode=False)).lines)
    grouped = "\n".join(check(CheckSettings(tmp_path, 2, group_pattern=r"sad/(?:copy-of-)?(0)")).lines)
    assert "are in one group already" in grouped and "1 groups hold more" in grouped


def test_songs_of_the_demo_corpus_are_told_apart(tmp_path: Path) -> None:
    """Of made songs only takes of one song are alike, and those are of one group."""
    from dataclasses import replace

    from moodfuse.synthetic_corpus import CorpusSettings

    settings = CorpusSettings(labels=("sad", "fear"), groups_per_label=3, clips_per_group=(2, 1))
    settings = replace(settings, clip=ClipSettings(10.0, 64, 48))
    table = make_corpus(tmp_path, settings=settings)
    assert "different groups may be one" not in "\n".join(check(CheckSettings(table, 2)).lines)


def test_group_pattern(tmp_path: Path) -> None:
    """What the pattern matches names the group; a declared group stands; what cannot be used is refused."""
    for name in ("a(1)", "a(2)", "b"):
        (tmp_path / "sad").mkdir(exist_ok=True)
        (tmp_path / "sad" / f"{name}.mp4").write_bytes(b"x")

    def groups(pattern: str) -> list[str | None]:
        return [item.group for item in scan(tmp_path, group_pattern=pattern)]

    assert groups(r"sad/(\w+)\(") == ["a", "a", None]
    assert groups(r"(?P<group>[ab])(\(|\.)") == ["a", "a", "b"]
    assert groups(r"a\(") == ["a(", "a(", None]
    with pytest.raises(InputError, match="not a regular expression"):
        groups("(")
    with pytest.raises(InputError, match=r"has 2 groups; name the one to use"):
        groups("(s)(a)")
    with pytest.raises(InputError, match=r"matches no clip; the first clip id is 'sad/a\(1\)\.mp4'"):
        groups("song")
    table = tmp_path / "clips.csv"
    table.write_text("path,label,group\nsad/a(1).mp4,sad,mine\nsad/b.mp4,sad,\n")
    assert [item.group for item in scan(table, group_pattern="sad/(.)")] == ["mine", "b"]


@real
def test_real_clips_of_one_video_are_found_and_no_others() -> None:
    """Of eight real clips the three of one music video similar audio; a recoded, shifted copy is found at its time."""
    assert CLIPS
    files = sorted(Path(CLIPS).rglob("*.mp4"))
    chosen = [file for file in files if "FEARR" in file.name or "SADD" in file.name] + files[:2]
    clips, sounds = [], {}
    for file in chosen:
        decoded = read_clip(file, short_side_px=64)
        sounds[file.stem] = decoded.waveform[: decoded.waveform_samples]
        frames = frame_marks(decoded.frames, decoded.frame_times_s)
        clips.append(Audited(file.stem, file.stem, file.stem, audio_marks(sounds[file.stem]), frames))
    clips.append(clip("copy", sound=recoded(sounds[files[0].stem][10 * RATE_HZ :] * 0.5)))
    found = find_duplicates(clips)
    pairs = {(item.first, item.second) for item in found if item.kind == "sound"}
    video = [f"DEAP_DB_FEARR({number})" for number in (4, 5, 6)]
    assert pairs == {
        (video[0], video[1]),
        (video[1], video[2]),
        (video[0], video[2]),
        (files[0].stem, "copy"),
    }
    assert {item.kind for item in found} == {"sound", "name"}
    (copy,) = (item for item in found if item.second == "copy")
    assert copy.first_s - copy.second_s == pytest.approx(10, abs=0.5)
    assert any("similar audio" in line for line in audit_lines_of(found))


def audit_lines_of(found) -> list[str]:
    """The findings in words."""
    from moodfuse.cache.audits import Audit

    return list(audit_lines(Audit("rules", tuple(found))))


@pytest.mark.parametrize("find", [match_audio, match_frames])
def test_pairs_are_the_same_however_many_are_held_at_once(
    find: Callable[..., list[Match]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of two recordings, some of them later, and others: taken clip by clip, or all at once."""
    draw = np.random.default_rng(0)
    first, second = (draw.integers(0, 1 << 63, 60).astype(np.uint64) for _ in range(2))
    times_s = np.arange(60) * 0.5
    marks = [Marks(hashes, times_s + late) for late in (0.0, 1.0, 2.0) for hashes in (first, second)]
    marks += [Marks(draw.integers(0, 1 << 63, 60).astype(np.uint64), times_s), NO_MARKS]
    whole = find(marks, least=12)
    assert {(match.first, match.second) for match in whole} == {
        (0, 2),
        (0, 4),
        (2, 4),
        (1, 3),
        (1, 5),
        (3, 5),
    }
    for held in (1, 100, 200):
        monkeypatch.setattr(likeness, "PAIRS_AT_ONCE", held)
        assert find(marks, least=12) == whole
    assert find([], least=12) == []
