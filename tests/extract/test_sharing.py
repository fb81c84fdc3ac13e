"""Several `extract` processes at one cache share the work, without locks and without a coordinator."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np

from moodfuse.cache.files import temporaries
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.sharing import shared_order
from tests.extract.conftest import moodfuse_command


def features(folder: Path) -> dict[tuple[int, str], np.ndarray]:
    """Every array of every block of a source."""
    cache = FeatureCache(folder)
    found = {}
    for fold in range(cache.plan.folds):
        block = cache.block("twodmcnn", {fold})
        found |= {(fold, "embedding"): block.embedding, (fold, "logits"): block.logits}
    return found


def test_two_processes_leave_what_one_leaves(all_depths, tmp_path: Path) -> None:
    """Features, plan and clips.csv are those of a single process; no temporary and no bad file is left."""
    runner, one = all_depths.runner, all_depths.runner.cache
    words = [*moodfuse_command(tmp_path), "extract", str(runner.data), "--source", "twodmcnn", "--folds", "2"]
    words += ["--recipe", str(runner.recipe), "--jobs", "1", "--cache", str(tmp_path / "shared")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    workers = [subprocess.Popen(words, env=environment) for _ in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    alone, shared = features(one), features(tmp_path / "shared")
    assert alone.keys() == shared.keys()
    assert all(np.array_equal(alone[name], shared[name]) for name in alone)
    assert (one / "clips.csv").read_bytes() == (tmp_path / "shared" / "clips.csv").read_bytes()
    assert not list(temporaries(tmp_path / "shared")) and not list((tmp_path / "shared").rglob("*.bad"))


def test_processes_begin_with_different_work() -> None:
    """The order of a process is its own, and leaves nothing out."""
    items = list(range(20))
    firsts = Counter(shared_order(items)[0] for _ in range(200))
    assert len(firsts) > 10 and sorted(shared_order(items)) == items
