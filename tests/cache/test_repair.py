"""A cache that imports made is mended by imports, and its folds outlive its plan."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.planning import PlanChoice
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.importing import ImportSettings, import_features

IDS = tuple(f"clip {number}" for number in range(12))


def bring(
    folder: Path, labels: Path | None = None, source: str = "mine", count: int = len(IDS)
) -> FeatureCache:
    """Import features of some clips, under a table of labels."""
    np.savez(
        folder / "mine.npz", id=np.array(IDS[:count]), embedding=np.arange(2.0 * count).reshape(count, 2)
    )
    plan = PlanChoice(2) if labels else PlanChoice()
    wanted = ImportSettings(folder / "work", folder / "mine.npz", source, Holdout.frozen(), labels, plan=plan)
    import_features(wanted)
    return FeatureCache(folder / "work")


def write_labels(folder: Path, count: int = len(IDS)) -> Path:
    """A table without folds."""
    with (folder / "labels.csv").open("w", newline="") as stream:
        rows = [(name, "ab"[number % 2]) for number, name in enumerate(IDS[:count])]
        csv.writer(stream).writerows([("id", "label"), *rows])
    return folder / "labels.csv"


def harmed(cache: FeatureCache, pattern: str) -> Path:
    """A file of the cache, its bytes lost."""
    (file,) = cache.path.glob(pattern)
    file.write_text("x")
    return file


def test_the_record_of_an_import_is_written_anew(tmp_path: Path) -> None:
    """By a repair, damaged or gone; and by the import that made it, without one. Nothing else is needed."""
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
def test_remedies_are_those_of_imports(tmp_path: Path, pattern: str, remedy: str, said: str) -> None:
    """Nothing asks for media that never were: the errors and the remedies name `moodfuse cache import`."""
    cache = bring(tmp_path, write_labels(tmp_path))
    harmed(cache, pattern)
    with pytest.raises(DamagedPartError, match=said):
        FeatureCache(cache.path).block("mine", "*")
    (found,) = repair(cache.path, verify(cache.path)).remedies
    assert found.startswith(f"moodfuse cache import --cache {cache.path} ") and "extract" not in found
    assert re.search(remedy, found)


def test_folds_outlive_their_plan(tmp_path: Path) -> None:
    """Where the only plan that knows the latest clips is lost, the list of the clips deals them as they were."""
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
