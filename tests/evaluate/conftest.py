"""Runs and simulations that several tests of the evaluation share."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.runs import Result, Run


def build_run(seed: int = 0, *, protocol: str = "crossfit", skill: float = 0.4) -> Run:
    """Two networks, their mean and a softmax over 36 clips in 18 groups; one clip without audio, repeated folds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(36) // 2 % 3
    several = (1 - skill) * rng.dirichlet(np.ones(3), (6, 36)) + skill * np.eye(3)[labels]
    sharp = several[3] ** 2 / (several[3] ** 2).sum(axis=1, keepdims=True)
    folds = np.arange(36) // 2 // 3 % 3
    softmax = Result(
        ("c3d", "i3d"),
        "softmax",
        "logits",
        several[3],
        ("uncalibrated",),
        unscaled=sharp,
        temperatures=(2.0, 2.0, 2.0),
        repeats=several[4:5],
    )
    return Run(
        name="one" if protocol != "leaky" else "leak",
        protocol=protocol,
        classes=("a", "b", "c"),
        ids=tuple(f"{row:02d}" for row in range(36)),
        labels=tuple("abc"[k] for k in labels),
        groups=tuple(str(row // 2) for row in range(36)),
        folds=tuple(folds.tolist()),
        fold_count=3,
        seed=0,
        recipes=(("c3d", "0" * 16),),
        missing=(("sound",), *[()] * 35),
        repeat_folds=(tuple(((folds + np.arange(36) // 18) % 3).tolist()),),
        versions=(("numpy", "2.4.6"),),
        commands=("moodfuse fuse",),
        results=(
            Result(("c3d",), "network", "logits", several[0]),
            Result(("i3d",), "network", "logits", several[1][:, [0, 2, 1]]),
            Result(("c3d", "i3d"), "mean", "logits", several[2]),
            softmax,
        ),
    )


@pytest.fixture
def make_run() -> Callable[..., Run]:
    return build_run


@pytest.fixture(scope="session")
def simulations() -> dict[str, Any]:
    """The functions of the coverage benchmark, to run them with few data sets."""
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
