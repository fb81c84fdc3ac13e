"""A cache that imports filled is repaired by imports, and its folds outlive its plan."""

import re
from pathlib import Path

import numpy as np
import pytest

import bringing
from bringing import Given, write
from faults.looking import mend, relative_path
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.store import FeatureCache

IDS = tuple(f"clip {number}" for number in range(12))


def import_clips(folder: Path, labels: Path | None = None) -> FeatureCache:
    given = Given(IDS, np.arange(24.0).reshape(12, 2))
    bringing.bring(folder / "work", labels=labels, **write(folder, given, ".npz"))
    return FeatureCache(folder / "work")


@pytest.fixture
def imported(tmp_path: Path) -> FeatureCache:
    """A cache of imported features, its clips from a table without folds."""
    return import_clips(tmp_path, bringing.write_labels(tmp_path / "labels.csv", IDS, ("a", "b") * 6))


def test_the_recipe_of_an_import_is_rewritten_by_a_repair_or_another_import(imported: FeatureCache) -> None:
    record = imported.source_folder("mine", imported.selection["mine"]) / "recipe.json"
    text = record.read_text()
    for harm in (lambda: record.write_text("{"), record.unlink):
        harm()
        done = repair(imported.path, verify(imported.path))
        assert done.rewritten == (relative_path(imported, record),) and not done.remedies
        assert record.read_text() == text and not verify(imported.path).faults
        harm()
        assert import_clips(imported.path.parent).block("mine", "*").embedding.shape == (12, 2)
        assert record.read_text() == text


@pytest.mark.parametrize(
    ("pattern", "remedy", "message"),
    [
        ("sources/*.json", "--source SOURCE --holdout HOLDOUT FILE", "cache import that made it"),
        ("tables/*.h5", "--labels LABELS.csv --source SOURCE", "import --labels that made it"),
        ("plans/*.h5", r"--labels \S*/clips\.csv --source SOURCE", "cache import that made it"),
    ],
)
def test_the_remedies_of_a_cache_of_imports_are_imports(
    imported: FeatureCache, pattern: str, remedy: str, message: str
) -> None:
    (file,) = imported.path.glob(pattern)
    file.write_text("x")
    with pytest.raises(DamagedPartError, match=message):
        FeatureCache(imported.path).block("mine", "*")
    (command,) = repair(imported.path, verify(imported.path)).remedies
    assert command.startswith(f"moodfuse cache import --cache {imported.path} ") and "extract" not in command
    assert re.search(remedy, command)


def test_a_lost_plan_is_restored_from_clips_csv(imported: FeatureCache) -> None:
    before, view = imported.plan.assignment, (imported.path / "clips.csv").read_text()
    for file in (imported.path / "plans").iterdir():
        file.write_text("x")
    mend(imported)
    again = import_clips(imported.path.parent, imported.path / "clips.csv")
    assert again.plan.assignment == before and (again.path / "clips.csv").read_text() == view
