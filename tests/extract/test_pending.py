"""Work that several `extract` processes share on one cache, and estimates of its cost."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.files import temporaries
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.pending import LEAST_CLIPS, Work, measure, shared_order
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from tests.extract.conftest import moodfuse_command

FROZEN = build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu"))
CLIPS = tuple(f"{number:064d}" for number in range(LEAST_CLIPS))


def test_two_processes_write_what_one_writes(all_depths, tmp_path: Path) -> None:
    """Features and clips.csv are those of a single process; no temporary and no bad file is left."""
    runner, one, shared = all_depths.runner, all_depths.runner.cache, tmp_path / "shared"
    words = [*moodfuse_command(tmp_path), "extract", str(runner.data), "--source", "twodmcnn", "--folds", "2"]
    words += ["--recipe", str(runner.recipe), "--jobs", "1", "--cache", str(shared)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(words, env=environment) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for fold in range(2):
        alone, together = (FeatureCache(folder).block("twodmcnn", fold) for folder in (one, shared))
        assert np.array_equal(alone.embedding, together.embedding)
        assert np.array_equal(alone.logits, together.logits)
    assert (one / "clips.csv").read_bytes() == (shared / "clips.csv").read_bytes()
    assert not list(temporaries(shared)) and not list(shared.rglob("*.bad"))


def test_processes_begin_with_different_work() -> None:
    """Each process has an order of its own, which contains every item."""
    items = list(range(20))
    firsts = Counter(shared_order(items)[0] for _ in range(200))
    assert len(firsts) > 10 and sorted(shared_order(items)) == items


def test_only_long_work_is_measured() -> None:
    """Many clips, networks to tune and a network to store are long; a few clips are not."""
    assert not Work(FROZEN, CLIPS[:-1], (), 0, 52).is_long and Work(FROZEN, CLIPS, (), 0, 52).is_long
    assert Work(FROZEN, CLIPS[:1], (), 0, 52, body=True).is_long and Work(FROZEN, (), ((),), 1, 52).is_long


def test_an_estimate_grows_with_the_work() -> None:
    """Twice the clips take twice the disk; a stored body has the network's own size."""
    one, two = (measure(Work(FROZEN, CLIPS * times, (), 0, 52), None, classes=("a", "b")) for times in (1, 2))
    assert one.seconds > 0 and two.megabytes == 2 * one.megabytes > 0
    body = measure(Work(FROZEN, (), (), 0, 52, body=True), None, classes=("a", "b"))
    size = 4 * 32 + 3 * (32 * 32 * 3 + 32) + 257 * 2
    assert body.seconds == 0 and body.megabytes == pytest.approx(4e-6 * size)
