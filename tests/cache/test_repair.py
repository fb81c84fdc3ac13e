"""A cache that imports filled is repaired by imports, and its folds outlive its plan."""

import re
from pathlib import Path

import numpy as np
import pytest

import bringing
from bringing import Given, write
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.store import FeatureCache

IDS = tuple(f"clip {number}" for number in range(12))


def bring(folder: Path, labels: Path | None = None, count: int = len(IDS)) -> FeatureCache:
    """Import features of some clips, under a table of labels."""
    given = Given(IDS[:count], np.arange(2.0 * count).reshape(count, 2))
    bringing.bring(folder / "work", labels=labels, **write(folder, given, ".npz"))
    return FeatureCache(folder / "work")


def write_labels(folder: Path, count: int = len(IDS)) -> Path:
    """A table without folds."""
    return bringing.write_labels(folder / "labels.csv", IDS[:count], ("a", "b") * (count // 2))


def test_the_recipe_of_an_import_is_rewritten_by_a_repair_or_another_import(tmp_path: Path) -> None:
    cache = bring(tmp_path, write_labels(tmp_path))
    record = cache.source_folder("mine", cache.selection["mine"]) / "recipe.json"
    text = record.read_text()
    for harm in (lambda: record.write_text("{"), record.unlink):
        harm()
        done = repair(cache.path, verify(cache.path))
        assert done.rewritten == (str(record.relative_to(cache.path)),) and not done.remedies
        assert record.read_text() == text and not verify(cache.path).faults
        harm()
        assert bring(tmp_path).block("mine", "*").embedding.shape == (12, 2) and record.read_text() == text


@pytest.mark.parametrize(
    ("pattern", "remedy", "said"),
    [
        (
            "sources/*.json",
            "--source SOURCE --holdout HOLDOUT FILE  # puts the source in force",
            "cache import that made it",
        ),
        (
            "tables/*.h5",
            "--labels LABELS.csv --source SOURCE .* table of clips",
            "import --labels that made it",
        ),
        (
            "plans/*.h5",
            r"--labels \S*/clips\.csv --source SOURCE .* as clips.csv has them",
            "cache import that made it",
        ),
    ],
)
def test_the_remedies_of_a_cache_of_imports_are_imports(
    tmp_path: Path, pattern: str, remedy: str, said: str
) -> None:
    cache = bring(tmp_path, write_labels(tmp_path))
    (file,) = cache.path.glob(pattern)
    file.write_text("x")
    with pytest.raises(DamagedPartError, match=said):
        FeatureCache(cache.path).block("mine", "*")
    (found,) = repair(cache.path, verify(cache.path)).remedies
    assert found.startswith(f"moodfuse cache import --cache {cache.path} ") and "extract" not in found
    assert re.search(remedy, found)


def test_folds_outlive_their_plan_in_clips_csv(tmp_path: Path) -> None:
    bring(tmp_path, write_labels(tmp_path, 8), count=8)
    cache = bring(tmp_path, write_labels(tmp_path))
    before, view = cache.plan.assignment, (cache.path / "clips.csv").read_text()
    for file in (cache.path / "plans").iterdir():
        file.write_text("x")
    remedies = repair(cache.path, verify(cache.path)).remedies
    assert any("--labels" in remedy and "clips.csv" in remedy for remedy in remedies)
    again = bring(tmp_path, cache.path / "clips.csv")
    assert again.plan.assignment == before and (again.path / "clips.csv").read_text() == view
    assert again.block("mine", "*").embedding.shape == (12, 2)
