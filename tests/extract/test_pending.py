"""Work that several `extract` processes share on one cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from moodfuse.cache.files import temporaries
from moodfuse.cache.store import FeatureCache


def test_two_processes_write_what_one_writes(all_depths, tmp_path: Path) -> None:
    """Features and clips.csv are those of a single process; no temporary and no bad file is left."""
    runner, one, shared = all_depths.runner, all_depths.runner.cache, tmp_path / "shared"
    words = [
        sys.executable,
        "-m",
        "moodfuse",
        "extract",
        str(runner.data),
        "--source",
        "twodmcnn",
        "--folds",
        "2",
    ]
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
