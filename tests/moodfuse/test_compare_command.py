"""`moodfuse compare` prints a sentence and tables, or JSON, and names what it cannot find."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.cache.runs import write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.cli import main
from tests.evaluate.conftest import build_run

PAIR = ["c3d network logits", "c3d+i3d mean logits"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    cache = FeatureCache(tmp_path / "work", create=True)
    for name in ("one", "two"):
        write_run(cache, replace(build_run(), name=name))
    return cache.path


def run_compare(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *arguments])
    return int(stopped.value.code or 0)


def test_the_sentence_comes_first(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Tables follow, and JSON has the same sentence; the run of B is named if it is another."""
    assert run_compare("--cache", str(work), "--draws", "20", *PAIR) == 0
    first, *lines = capfd.readouterr().out.splitlines()
    assert first.startswith("No significant difference in accuracy (")
    assert any("B minus A [95 % CI]" in line for line in lines)
    assert "Test: corrected resampled t test over 18 groups, not corrected for other comparisons." in lines
    arguments = ["--cache", str(work), "--run", "one", "--against-run", "two", "--format", "json"]
    assert run_compare(*arguments, "--draws", "20", *PAIR) == 0
    values = json.loads(capfd.readouterr().out)
    assert values["second"] == "c3d+i3d mean logits (two)"
    assert values["sentence"].replace(" (one)", "").replace(" (two)", "") == first


def test_what_is_not_there_is_named(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A result, a run and a file."""
    for arguments, message in (
        ([PAIR[0], "i3d+c4d"], "run two has no result 'i3d+c4d'"),
        (["--against-run", "six", *PAIR], "has no run 'six'; it has: one, two"),
        ([PAIR[0], "other.csv"], "other.csv: cannot be read"),
    ):
        assert run_compare("--cache", str(work), *arguments) == 2
        assert message in capfd.readouterr().err
