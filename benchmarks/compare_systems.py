"""Coverage and false positives of `moodfuse compare` for two systems whose true difference is known.

Usage: compare_systems.py [DATA_SETS]; default: 1000 a setting. Prints one table; exits 1 if the 95 % interval
of the difference of accuracy does not cover the true one in 92 to 98 % of the data sets, or more than 6 % of
the tests are significant where the true difference is 0. The intervals of trained heads may cover it more
often, marked "wide": their correction for overlapping training sets is a constant that suits few clips.

Given predictions: each system is right on a clip with its accuracy; half of the clips are equally hard for
both, and half of the clips of a group are as hard as its first. Trained heads: data sets of `planned_tests`,
whose video adds nothing, or 8 points of accuracy, to a head on audio, trained in six folds and five plans.
"""

import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.difference import compare

DATA_SETS = 1000
DRAWS = 2
"""Only the intervals of macro F1 and AUC depend on the bootstrap."""
CLASSES = "abcdef"
LOW, HIGH, FALSE_POSITIVES = 0.92, 0.98, 0.06
LAYOUTS = {
    "52 groups of 1": (1,) * 52,
    "36 groups of 2": (2,) * 36,
    "131 groups of 1": (1,) * 131,
    "59 groups of 1 to 8": (*[1] * 30, *[2] * 13, *[3] * 6, *[5] * 6, *[8] * 4),
    "52 groups of 30 / rank": tuple(max(1, round(30 / rank)) for rank in range(1, 53)),
    "40 groups of 40, 20, 10, 5, 5 and 35 x 1": (40, 20, 10, 5, 5, *[1] * 35),
}
"""Clips of each group, by what the layout is called."""
ACCURACIES = ((0.6, 0.6), (0.6, 0.7), (0.8, 0.86))
TRAINED = ((52, 1), (26, 2), (136, 1), (68, 2))
"""Groups, and clips of each."""
TRAINED_HEADS = "trained"
Drawn = tuple[Run, object, object]
"""A run, and the two systems to compare."""


def make_run(labels: np.ndarray, member: np.ndarray, folds: np.ndarray, results: tuple[Result, ...]) -> Run:
    """A run of clips with these class indices [N], groups [N] and folds [R, N]."""
    first, *others = (tuple(plan.tolist()) for plan in folds)
    return Run(
        name="simulated",
        protocol="crossfit",
        classes=tuple(CLASSES),
        ids=tuple(map(str, range(len(labels)))),
        labels=tuple(CLASSES[label] for label in labels),
        groups=tuple(map(str, member)),
        folds=first,
        fold_count=int(folds.max()) + 1,
        seed=0,
        recipes=(),
        results=results,
        repeat_folds=tuple(others),
    )


def draw_given(sizes: tuple[int, ...], accuracies: tuple[float, float], random: np.random.Generator) -> Drawn:
    """A data set with the predictions of two systems of these accuracies."""
    member = np.repeat(np.arange(len(sizes)), sizes)
    labels, count = member % len(CLASSES), len(member)

    def draw_difficulty() -> np.ndarray:
        shared = random.random(len(sizes))[member]
        return np.where(random.random(count) < 0.5, shared, random.random(count))

    common, same = draw_difficulty(), random.random(count) < 0.5
    tables = []
    for accuracy in accuracies:
        right = np.where(same, common, draw_difficulty()) < accuracy
        wrong = (labels + random.integers(1, len(CLASSES), count)) % len(CLASSES)
        tables.append(np.eye(len(CLASSES))[np.where(right, labels, wrong)])
    return make_run(labels, member, member[None] % 6, ()), tables[0], tables[1]


def settings() -> Iterator[tuple[str, float, Callable[[int], Drawn]]]:
    """Name, true difference, and how to draw a data set from a seed."""
    for name, sizes in LAYOUTS.items():
        for pair in ACCURACIES:

            def draw(seed: int, sizes: tuple[int, ...] = sizes, pair: tuple[float, float] = pair) -> Drawn:
                return draw_given(sizes, pair, np.random.default_rng(seed))

            yield f"given, {name}, {pair[0]} and {pair[1]}", pair[1] - pair[0], draw
    script = runpy.run_path(str(Path(__file__).with_name("planned_tests.py")))
    for groups, clips in TRAINED:
        member = np.repeat(np.arange(groups), clips)

        def make(strength: float, seed: int, shape: tuple[int, int] = (groups, clips)) -> object:
            return script["draw"](*shape, script["COLUMNS"], strength, seed)

        for gain in (0.0, script["GAIN"]):
            strength = script["find_strength"](make, "accuracy", gain)

            def draw_trained(
                seed: int, strength: float = strength, make: Callable = make, member: np.ndarray = member
            ) -> Drawn:
                data = make(strength, seed)
                results = []
                for name, features in (("a", data.audio), ("a+v", np.hstack([data.audio, data.video]))):
                    table = np.stack(
                        [script["predict"](features, data.labels, folds) for folds in data.plans]
                    )
                    sources = tuple(name.split("+"))
                    results.append(Result(sources, "softmax", "embedding", table[0], repeats=table[1:]))
                return make_run(data.labels, member, data.plans, tuple(results)), "a", "a+v"

            yield f"{TRAINED_HEADS}, {groups} groups of {clips}", gain, draw_trained


def main(sets: int) -> int:
    """Print every figure with its bar; 1 if one is missed."""
    start, missed = time.monotonic(), 0
    print(f"{'setting':<62} {'difference':>10} {'coverage':>8} {'significant':>11}")
    for name, truth, draw in settings():
        covered = significant = 0
        for seed in range(sets):
            gain = compare(*draw(seed), draws=DRAWS).accuracy  # type: ignore[arg-type]
            covered += gain.ci95.low <= truth <= gain.ci95.high
            significant += gain.p_value is not None and gain.p_value < 0.05
        coverage, share = covered / sets, significant / sets
        wide = coverage > HIGH and name.startswith(TRAINED_HEADS)
        passed = coverage >= LOW and (coverage <= HIGH or wide) and (truth != 0 or share <= FALSE_POSITIVES)
        missed += not passed
        mark = "  MISSED" if not passed else "  wide" if wide else ""
        print(f"{name:<62} {truth:10.2f} {coverage:8.3f} {share:11.3f}{mark}", flush=True)
    print(f"{sets} data sets a setting, {time.monotonic() - start:.0f} s; bars missed: {missed}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else DATA_SETS))
