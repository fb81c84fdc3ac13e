"""The demo: labels are permuted between groups, never within one."""

import csv
from pathlib import Path

from moodfuse.demo import shuffle_table
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

TINY = CorpusSettings(
    labels=("sad", "excited"),
    groups_per_label=2,
    clips_per_group=(2, 1),
    clip=ClipSettings(duration_s=1.0, width=64, height=48),
)


def rows(table: Path) -> list[dict[str, str]]:
    """Rows of a clip table."""
    with table.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_shuffling_permutes_labels_between_groups(tmp_path: Path) -> None:
    """A group keeps one label, labels keep their number of groups, and nothing else changes."""
    table = make_corpus(tmp_path / "a", settings=TINY)
    before = rows(table)
    found = [rows(shuffle_table(table, seed=seed)) for seed in range(4)]
    for after in found:
        assert [(row["path"], row["group"]) for row in after] == [
            (row["path"], row["group"]) for row in before
        ]
        labels = {
            row["group"]: {other["label"] for other in after if other["group"] == row["group"]}
            for row in after
        }
        assert all(len(names) == 1 for names in labels.values())
        assert sorted(min(names) for names in labels.values()) == ["excited", "excited", "sad", "sad"]
    assert any(after != before for after in found)
