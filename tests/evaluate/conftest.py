"""Runs and simulations that several tests of the evaluation share."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.runs import Result, Run


def build_run(
    seed: int = 0,
    *,
    protocol: str = "crossfit",
    skill: float = 0.4,
    classes: tuple[str, ...] = ("a", "b", "c"),
    name: str = "one",
) -> Run:
    """Two networks, their mean and a softmax over 36 clips in 18 groups; one clip without audio."""
    rng = np.random.default_rng(seed)
    labels = np.arange(36) // 2 % len(classes)
    noise = rng.dirichlet(np.ones(len(classes)), (6, 36))
    c3d, i3d, mean, softmax, *repeats = (1 - skill) * noise + skill * np.eye(len(classes))[labels]
    folds = np.arange(36) // 2 // 3 % 3
    scaled = Result(
        ("c3d", "i3d"),
        "softmax",
        "logits",
        softmax,
        ("uncalibrated",),
        unscaled=softmax**2 / (softmax**2).sum(axis=1, keepdims=True),
        temperatures=(2.0, 2.0, 2.0),
        settings=({}, {"C": 0.1}, {"C": 1.0}),
        repeats=np.array(repeats[:1]),
    )
    return Run(
        name=name,
        protocol=protocol,
        classes=classes,
        ids=tuple(f"{classes[label]}/{row:02d}.mp4" for row, label in enumerate(labels)),
        labels=tuple(classes[label] for label in labels),
        groups=tuple(str(row // 2) for row in range(36)),
        folds=tuple(folds.tolist()),
        fold_count=3,
        seed=0,
        recipes=(("c3d", "ab" * 8),),
        digests=tuple(f"{row:032x}{row:032x}" for row in range(36)),
        missing=(("sound",), *[()] * 35),
        repeat_folds=(tuple(((folds + np.arange(36) // 18) % 3).tolist()),),
        versions=(("numpy", "2.4.6"),),
        commands=("moodfuse fuse --cache work",),
        results=(
            Result(("c3d",), "network", "logits", c3d),
            Result(("i3d",), "network", "logits", i3d[:, [0, *range(len(classes) - 1, 0, -1)]]),
            Result(("c3d", "i3d"), "mean", "logits", mean),
            scaled,
        ),
    )


@pytest.fixture
def make_run() -> Callable[..., Run]:
    return build_run


@pytest.fixture(scope="session")
def simulations() -> dict[str, Any]:
    """The functions of the coverage benchmark, to run them with few datasets."""
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
