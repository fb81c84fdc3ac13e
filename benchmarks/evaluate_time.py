"""How long `moodfuse evaluate` takes on runs of 60 results, 2 000 draws: 52 clips and 5 000, the whole report included.

Usage: evaluate_time.py [CLIPS ...]. The runs are made up: noisy logits of six classes, pairs of clips in a group.
Prints the seconds of each command and its bar; exits 1 if one is missed.
"""

import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np

from moodfuse.cache.runs import NETWORK, Result, Run, write_run
from moodfuse.cache.store import FeatureCache

CLASSES = ("excited", "fear", "neutral", "relaxation", "sad", "tension")
VIEWS = ("c3d", "i3d", "onedmcnn", "twodmcnn")
COMBINATIONS = tuple(
    tuple(name for name, taken in zip(VIEWS, chosen, strict=True) if taken)
    for chosen in product((0, 1), repeat=4)
)
WAYS = tuple(
    (head, level) for head in ("softmax", "logistic", "lightgbm") for level in ("logits", "embedding")
)
RESULTS = 60
BARS_S = {52: 20.0, 5000: 180.0}


def made_run(clips: int) -> Run:
    """A run of `RESULTS` results over so many clips: the four networks, then heads."""
    random = np.random.default_rng(0)
    truth = np.arange(clips) // 2 % len(CLASSES)

    def chances(strength: float) -> np.ndarray:
        logits = random.standard_normal((clips, len(CLASSES)))
        logits[np.arange(clips), truth] += strength
        odds = np.exp(logits)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    fused = [sources for sources in COMBINATIONS if len(sources) > 1]
    rows = [((view,), NETWORK, "logits") for view in VIEWS]
    rows += [(sources, "mean", "logits") for sources in fused]
    rows += [(sources, *way) for way in WAYS for sources in COMBINATIONS if sources]
    results = []
    for sources, head, level in rows[:RESULTS]:
        values = chances(0.4 + 0.3 * len(sources))
        results.append(Result(sources, head, level, values, unscaled=values, temperatures=(1.0,) * 6))
    return Run(
        name="made",
        protocol="crossfit",
        classes=CLASSES,
        ids=tuple(f"{CLASSES[label]}/{row}.mp4" for row, label in enumerate(truth)),
        labels=tuple(CLASSES[label] for label in truth),
        groups=tuple(f"g{row // 2}" for row in range(clips)),
        folds=tuple(row // 12 % 6 for row in range(clips)),
        fold_count=6,
        seed=0,
        recipes=(),
        results=tuple(results),
    )


def seconds(clips: int) -> float:
    """Wall time of the command, start-up and all files included."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        write_run(FeatureCache(cache, create=True), made_run(clips))
        start = time.monotonic()
        command = [sys.executable, "-m", "moodfuse", "evaluate", "--cache", str(cache)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start


def main(sizes: tuple[int, ...]) -> int:
    """Print each size's seconds; 1 if one is over its bar."""
    missed = 0
    for clips in sizes:
        found, bar = seconds(clips), BARS_S.get(clips, float("inf"))
        missed += found > bar
        print(f"{clips} clips, {RESULTS} results: {found:.1f} s, bar {bar:.0f} s", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(tuple(map(int, sys.argv[1:])) or tuple(BARS_S)))
