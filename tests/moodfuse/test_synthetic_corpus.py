"""The synthetic dataset: its format, and that the same seed gives the same bytes."""

import csv
from dataclasses import replace
from pathlib import Path

from moodfuse.extract.media.decode import read_clip
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_clip, make_corpus

SMALL = CorpusSettings(
    labels=("fear", "Happy"), groups_per_label=2, clips_per_group=(2, 1), clip=ClipSettings(1.0, 64, 48)
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.mp4")}


def test_a_corpus_is_decided_by_its_seed_and_lists_its_clips(tmp_path: Path) -> None:
    """The same seed gives the same bytes. The table has each file with its label; a group has one song."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        table = make_corpus(tmp_path / name, settings=replace(SMALL, clip=replace(SMALL.clip, seed=seed)))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["fear/song1-1.mp4"] != contents(tmp_path / "c")["fear/song1-1.mp4"]
    rows = list(csv.DictReader(table.open()))
    assert {row["path"] for row in rows} == set(contents(tmp_path / "c"))
    assert [row["group"] for row in rows][:3] == ["fear-song1", "fear-song1", "fear-song2"]
    assert all(row["path"].startswith(row["label"] + "/") for row in rows)
    one, two = (read_clip(tmp_path / "a" / "fear" / f"song1-{take}.mp4") for take in (1, 2))
    assert one.waveform_samples == two.waveform_samples == 16_000
    assert 0 < abs(one.frames.mean() - two.frames.mean()) < 40, "takes are similar but not equal"


def test_a_clip_may_have_one_modality(tmp_path: Path) -> None:
    """Audio or video can be left out, and the file is smaller without it."""
    whole = make_clip(tmp_path / "whole.mp4").stat().st_size
    assert 0 < make_clip(tmp_path / "silent.mp4", audio=False).stat().st_size < whole
    assert 0 < make_clip(tmp_path / "audio.mp4", video=False).stat().st_size < whole
