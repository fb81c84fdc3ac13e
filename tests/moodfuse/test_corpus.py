"""The synthetic corpus: its form, and that the same seed gives the same bytes."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.extract.media.decode import read_clip
from moodfuse.synthetic_corpus import (
    MOODS,
    ClipSettings,
    CorpusSettings,
    Mood,
    make_clip,
    make_corpus,
    render_waveform,
    vary,
)

SMALL = CorpusSettings(
    labels=("fear", "Happy"), groups_per_label=2, clips_per_group=(2, 1), clip=ClipSettings(2.0, 64, 48)
)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """A corpus is decided by its settings; another seed gives another."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_corpus(tmp_path / name, settings=replace(SMALL, clip=replace(SMALL.clip, seed=seed)))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["fear/song1-1.mp4"] != contents(tmp_path / "c")["fear/song1-1.mp4"]


def test_the_table_lists_every_clip_with_its_group(tmp_path: Path) -> None:
    """The CSV names each file once, under its label, and takes of one song share a group."""
    table = make_corpus(tmp_path, settings=SMALL)
    rows = list(csv.DictReader(table.open()))
    assert {row["path"] for row in rows} == {name for name in contents(tmp_path) if name.endswith(".mp4")}
    assert [row["group"] for row in rows][:3] == ["fear-song1", "fear-song1", "fear-song2"]
    assert all(row["path"].startswith(row["label"] + "/") for row in rows)


def test_takes_differ_and_decode(tmp_path: Path) -> None:
    """Two takes of one song are real media that are alike but not equal."""
    make_corpus(tmp_path, settings=SMALL)
    one, two = (read_clip(tmp_path / "fear" / f"song1-{take}.mp4") for take in (1, 2))
    assert one.waveform_samples == two.waveform_samples == 32_000
    assert not np.array_equal(one.frames, two.frames)
    assert abs(one.frames.mean() - two.frames.mean()) < 40


def test_the_default_corpus_is_large_enough_for_six_folds() -> None:
    """By default there are six songs and at least eight clips of each of six labels."""
    settings = CorpusSettings()
    songs = [
        settings.clips_per_group[i % len(settings.clips_per_group)] for i in range(settings.groups_per_label)
    ]
    assert (len(settings.labels), len(songs)) == (6, 6)
    assert len(settings.labels) * sum(songs) >= 48


def test_sound_follows_arousal() -> None:
    """An excited sound has more onsets and noise than a sad one."""
    settings = ClipSettings(duration_s=4.0)
    changes = [
        float(np.abs(np.diff(render_waveform(MOODS[name], settings))).mean()) for name in ("excited", "sad")
    ]
    assert changes[0] > 2 * changes[1]


def test_noise_stays_in_range() -> None:
    """However far a song strays, its values stay usable."""
    for seed in range(20):
        moved = vary(MOODS["excited"], np.random.default_rng(seed), 50.0)
        assert isinstance(moved, Mood)
        assert 45 <= moved.tempo_bpm <= 180 and 0.12 <= moved.light <= 0.88


@pytest.mark.parametrize("wrong", [{"width": 63}, {"height": 8}, {"duration_s": 0.0}, {"frames_per_s": 0}])
def test_unusable_settings_are_refused(wrong: dict[str, float]) -> None:
    """A clip that no encoder would take is refused before it is rendered."""
    with pytest.raises(ValueError, match="expected"):
        ClipSettings(**wrong)  # type: ignore[arg-type]


def test_repeated_labels_are_refused() -> None:
    """A label names one folder."""
    with pytest.raises(ValueError, match="labels repeat"):
        CorpusSettings(labels=("sad", "sad"))


def test_a_clip_may_lack_a_track(tmp_path: Path) -> None:
    """Sound or picture can be left out, and the file is smaller for it."""
    whole = make_clip(tmp_path / "whole.mp4").stat().st_size
    assert 0 < make_clip(tmp_path / "silent.mp4", sound=False).stat().st_size < whole
    assert 0 < make_clip(tmp_path / "blind.mp4", picture=False).stat().st_size < whole
