"""Coverage of intervals and bias of the corrected best, by simulation.

Usage: coverage.py [DATA_SETS]; default: 2000 a setting. Prints one table; exits 1 if a bar is missed.

Accuracy and macro F1: six classes, a label right with the chance stated, else any other; two clips of a group
are equally right or wrong with a correlation of 0.5. Unequal groups: the same, accuracy alone, as macro F1
has no known truth where one group fills a class. Few groups: logits with normal noise, half of it the group's
where a group has two clips. Selection by log loss: 60 results whose errors are correlated by 0.6.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moodfuse.evaluate.intervals import SIMULATED, bootstrap_intervals, interval, resample_groups
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.selection import select_and_test

CLASSES = 6
DATA_SETS = 2000
CORRELATION = 0.5
LAYOUTS = ((52, 1), (36, 2), (131, 1))
UNEQUAL = {
    "40 groups of 40, 20, 10, 5, 5 and 35 x 1": (40, 20, 10, 5, 5, *[1] * 35),
    "30 groups of 2 x 15 and 28 x 1": (15, 15, *[1] * 28),
    "52 groups of 30 / rank": tuple(max(1, round(30 / rank)) for rank in range(1, 53)),
}
"""Clips of each group, by what the layout is called."""
TRUTHS = (0.6, 0.86)
STRENGTHS = (1.55, 2.6)
"""Of the true class's logit; they give accuracies of about 0.63 and 0.88."""
TABLE_TOLERANCE = 0.03


@dataclass(frozen=True)
class Row:
    """A measured figure and the limits that it must keep; `bar` is empty where it is for information."""

    what: str
    figure: float
    bar: str = ""
    low: float = -np.inf
    high: float = np.inf

    @property
    def passed(self) -> bool:
        """Whether the figure lies within the bar."""
        return bool(self.low <= self.figure <= self.high)


@dataclass(frozen=True)
class Layout:
    """Groups by their sizes; the classes take turns."""

    name: str
    sizes: tuple[int, ...]

    @classmethod
    def equal(cls, groups: int, clips: int) -> "Layout":
        """So many groups of so many clips."""
        return cls(f"{groups} x {clips}", (clips,) * groups)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.sizes)

    @property
    def single(self) -> bool:
        """Whether every clip is its own group."""
        return max(self.sizes) == 1

    @property
    def member(self) -> np.ndarray:
        """Group of each clip, shape (N,)."""
        return np.repeat(np.arange(self.groups), self.sizes)

    @property
    def first(self) -> np.ndarray:
        """Whether each clip is the first of its group, shape (N,)."""
        return np.diff(self.member, prepend=-1) > 0

    @property
    def labels(self) -> np.ndarray:
        """Class of each clip, shape (N,)."""
        return self.member % CLASSES

    def __str__(self) -> str:
        return self.name


def right_answers(layout: Layout, truth: float, random: np.random.Generator) -> np.ndarray:
    """Whether each clip is right, bool [N]: a clip does as the first of its group half of the time."""
    first = (random.random(layout.groups) < truth)[layout.member]
    alone = random.random(len(first)) < truth
    copied = random.random(len(first)) < CORRELATION
    copied[layout.first] = True
    return np.where(copied, first, alone)


def answers(labels: np.ndarray, right: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Probabilities [N, C] that say the true class where right, any other where not."""
    wrong = (labels + random.integers(1, CLASSES, len(labels))) % CLASSES
    return np.eye(CLASSES)[np.where(right, labels, wrong)]


def interval_rows(layout: Layout, truth: float, sets: int, draws: int = 2000) -> Iterator[Row]:
    """Coverage of accuracy and, for equal groups, of macro F1, whose true value is the same there."""
    random = np.random.default_rng(0)
    drawn = resample_groups(layout.member, draws=draws)
    weights = np.concatenate(list(drawn.weights()))
    labels = layout.labels
    equal = len(set(layout.sizes)) == 1
    names = ("accuracy", "macro_f1") if equal else ("accuracy",)
    held = dict.fromkeys(names, 0)
    for _ in range(sets):
        p = answers(labels, right_answers(layout, truth, random), random)
        for name in names:
            metric = METRICS[name]
            ends = interval(float(metric(labels, p)), metric(labels, p, weights), drawn.effective)  # type: ignore[operator]
            held[name] += ends.low <= truth <= ends.high
    bar = ("0.92 to 0.98", 0.92, 0.98) if equal else ("0.90 or more", 0.90)
    yield Row(f"accuracy {truth}, {layout}: coverage", held["accuracy"] / sets, *bar)
    if equal:
        yield Row(f"macro F1 {truth}, {layout}: coverage", held["macro_f1"] / sets)


def soft_answers(
    labels: np.ndarray, strength: float, shared: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Probabilities [N, C] of noisy logits, of which `shared` [N, C] is the group's half."""
    z = random.standard_normal((len(labels), CLASSES))
    if shared.any():
        z = np.sqrt(1 - CORRELATION) * z + np.sqrt(CORRELATION) * shared
    z[np.arange(len(labels)), labels] += strength
    odds = np.exp(1.3 * z)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def few_groups_coverage(groups: int, sets: int, draws: int = 500) -> dict[str, float]:
    """The lowest coverage of each metric over one and two clips a group and two accuracies."""
    random = np.random.default_rng(1)
    many = np.arange(300_000) % CLASSES
    lowest = {name: 1.0 for name in METRICS if name != "ece"}
    for layout in (Layout.equal(groups, 1), Layout.equal(groups, 2)):
        drawn, labels = resample_groups(layout.member, draws=draws), layout.labels
        for strength in STRENGTHS:
            p = soft_answers(many, strength, np.zeros(1), random)
            truth = {name: float(METRICS[name](many, p)) for name in lowest}  # type: ignore[operator]
            held = dict.fromkeys(lowest, 0)
            for _ in range(sets):
                noise = random.standard_normal((groups, CLASSES)) * (not layout.single)
                p = soft_answers(labels, strength, noise[layout.member], random)
                intervals = bootstrap_intervals(labels, p, drawn)
                for name in lowest:
                    held[name] += intervals[name].low <= truth[name] <= intervals[name].high
            lowest = {name: min(lowest[name], held[name] / sets) for name in lowest}
    return lowest


def few_groups_rows(sets: int) -> Iterator[Row]:
    """The table behind the warning of few groups, again."""
    for groups, stated in SIMULATED.items():
        measured = few_groups_coverage(groups, sets)
        for name, share in stated.items():
            low, high = share - TABLE_TOLERANCE, share + TABLE_TOLERANCE
            what = f"{groups} groups, {name}: lowest coverage"
            yield Row(what, measured[name], f"{share:.2f} +- {TABLE_TOLERANCE}, as stated", low, high)


def many_results(layout: Layout, truths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Margins [N, R] of R results, right where positive: correlated by 0.6, and by 0.5 in a group."""
    from scipy.special import ndtri

    def noise(*shape: int) -> np.ndarray:
        own = random.standard_normal((len(layout.member), *shape))
        if layout.single:
            return own
        shared = random.standard_normal((layout.groups, *shape))[layout.member]
        return np.asarray(np.sqrt(1 - CORRELATION) * own + np.sqrt(CORRELATION) * shared)

    z = np.sqrt(0.6) * noise()[:, None] + np.sqrt(0.4) * noise(len(truths))
    return np.asarray(ndtri(truths) - z)


def selection_rows(
    layout: Layout, truths: np.ndarray, name: str, sets: int, draws: int = 300
) -> Iterator[Row]:
    """Mean error of the corrected accuracy of the best result, the same uncorrected, and its coverage."""
    random = np.random.default_rng(3)
    drawn = resample_groups(layout.member, draws=draws)
    off, naive, held = [], [], 0
    for _ in range(sets):
        margins = many_results(layout, truths, random)
        right, loss = (margins > 0).astype(np.float64), np.log1p(np.exp(-2 * margins))
        best = int(loss.sum(axis=0).argmin())
        trial = select_and_test(right, loss, drawn)
        off.append(trial.corrected - truths[best])
        naive.append(right[:, best].mean() - truths[best])
        held += trial.interval.low <= truths[best] <= trial.interval.high
    what = f"best of {len(truths)}, {name}, {layout}"
    bar = ("within 0.01", -0.01, 0.01) if name.startswith("equal") else ("", -np.inf, np.inf)
    yield Row(f"{what}: corrected less truth", float(np.mean(off)), *bar)
    yield Row(f"{what}: uncorrected less truth", float(np.mean(naive)))
    yield Row(f"{what}: coverage of the corrected", held / sets, "0.92 or more", 0.92)


def rows(sets: int) -> Iterator[Row]:
    """All of it."""
    equal, unequal = [Layout.equal(*shape) for shape in LAYOUTS], [Layout(*item) for item in UNEQUAL.items()]
    for layout in (*equal, *unequal):
        for truth in TRUTHS:
            yield from interval_rows(layout, truth, sets)
    few = max(1, sets // 2)
    for layout in (*equal, *unequal):
        for name, truths in (
            ("equal 0.6", np.full(60, 0.6)),
            ("equal 0.86", np.full(60, 0.86)),
            ("0.45 to 0.7", np.linspace(0.45, 0.7, 60)),
        ):
            yield from selection_rows(layout, truths, name, few)
    yield from few_groups_rows(few)


def main(sets: int) -> int:
    """Print every figure with its bar; 1 if one is missed."""
    start = time.monotonic()
    failed = 0
    print(f"{'figure':<90} {'found':>7}  bar")
    for row in rows(sets):
        mark = "" if not row.bar else "ok" if row.passed else "MISSED"
        failed += not row.passed
        print(f"{row.what:<90} {row.figure:7.3f}  {row.bar} {mark}".rstrip(), flush=True)
    print(f"{sets} datasets a setting, {time.monotonic() - start:.0f} s; bars missed: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else DATA_SETS))
