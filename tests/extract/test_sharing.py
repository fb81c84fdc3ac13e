"""Several `extract` processes at one cache share the work, without locks and without a coordinator."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from cache.files import temporaries
from cache.planning import PlanChoice
from cache.store import FeatureCache
from extract.sharing import shared_order


def features(folder: Path) -> dict[tuple[str, int, str], np.ndarray]:
    """Every array of every block."""
    cache = FeatureCache(folder)
    found = {}
    for source in cache.sources():
        for fold in range(cache.plan.folds):
            block = cache.block(source, {fold})
            found |= {(source, fold, "embedding"): block.embedding, (source, fold, "logits"): block.logits}
    return found


def test_two_processes_leave_what_one_leaves(runner, tmp_path: Path) -> None:
    """Features, plan and clips.csv are those of a single process; no temporary and no bad file is left."""
    runner.keep(4)
    runner(cache=tmp_path / "alone", plan=PlanChoice(folds=2), jobs=1)
    words = [sys.executable, "-m", "moodfuse", "extract", str(runner.data), "--source", "twodmcnn", "--folds", "2"]
    words += ["--recipe", str(runner.recipe), "--jobs", "1", "--cache", str(tmp_path / "shared")]
    workers = [subprocess.Popen(words) for _ in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    alone, shared = features(tmp_path / "alone"), features(tmp_path / "shared")
    assert alone.keys() == shared.keys()
    assert all(np.array_equal(alone[name], shared[name]) for name in alone)
    assert (tmp_path / "alone" / "clips.csv").read_bytes() == (tmp_path / "shared" / "clips.csv").read_bytes()
    assert not list(temporaries(tmp_path / "shared")) and not list((tmp_path / "shared").rglob("*.bad"))


def test_processes_begin_with_different_work() -> None:
    """The order of a process is its own, and leaves nothing out."""
    items = list(range(20))
    firsts = Counter(shared_order(items)[0] for _ in range(200))
    assert len(firsts) > 10 and sorted(shared_order(items)) == items
