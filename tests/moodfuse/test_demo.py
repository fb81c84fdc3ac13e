"""The demo: labels are permuted between groups, never within one."""

import csv
from pathlib import Path

from moodfuse.demo import shuffle_table


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_shuffling_permutes_labels_between_groups(tmp_path: Path) -> None:
    """A group keeps one label, labels keep their number of groups, and nothing else changes."""
    table = tmp_path / "clips.csv"
    labels = {"a": "sad", "b": "sad", "c": "excited", "d": "excited"}
    clips = [(f"{group}{take}.mp4", label, group) for group, label in labels.items() for take in (1, 2)]
    table.write_text("path,label,group\n" + "".join(",".join(clip) + "\n" for clip in clips))
    shuffled = [rows_of(shuffle_table(table, seed=seed)) for seed in range(4)]
    for rows in shuffled:
        assert [(row["path"], row["group"]) for row in rows] == [(path, group) for path, _, group in clips]
        pairs = {(row["group"], row["label"]) for row in rows}
        assert sorted(label for _, label in pairs) == ["excited", "excited", "sad", "sad"]
    assert any(rows != rows_of(table) for rows in shuffled)
