"""Coverage of the 95 % intervals of all metrics by the sizes of classes and groups, in simulation.

Usage: class_sizes.py [DATA_SETS]; default: 1000 a setting. Prints one table, a star where most data sets have
a warning about that interval, a dash where most have no interval. Exits 1 if a coverage outside of 92 to 98 %
has neither, or a stated figure is not found again.

Classes are drawn with the frequencies of the setting, each at least once. The classifier knows them: its
logits have normal noise, half of it the group's where a group has several clips, and it is calibrated unless
its logits are multiplied by another `sharpness` than 1. True values are those of 300 000 independent clips.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moodfuse.evaluate.intervals import (
    SIMULATED_RARE,
    SIMULATED_WRONG,
    bootstrap_intervals,
    interval_warnings,
    resample_groups,
)
from moodfuse.evaluate.metrics import all_metrics

DATA_SETS = 1000
DRAWS = 300
MANY = 300_000
LOW, HIGH = 0.92, 0.98
TABLE_TOLERANCE = 0.03
NAMES = {"accuracy": "accuracy", "macro_f1": "macro F1", "auc": "AUC", "log_loss": "log loss", "ece": "ECE"}
"""Metrics, as the warnings call them."""
WEAK, STRONG, BETTER, BEST = 1.2, 2.6, 3.3, 3.8
"""Of the true class's logit; for six equal classes accuracies of 0.52, 0.88, 0.96 and 0.985."""
TWENTY = tuple(np.linspace(12, 60, 20).round().astype(int).tolist())
UNEQUAL = (50, 30, 10, 5, 3, 2)
DOMINANT = {
    "40 groups of 40, 20, 10, 5, 5 and 35 x 1": (40, 20, 10, 5, 5, *[1] * 35),
    "30 groups of 2 x 15 and 28 x 1": (15, 15, *[1] * 28),
    "52 groups of 30 / rank": tuple(max(1, round(30 / rank)) for rank in range(1, 53)),
}
"""Clips of each group, by what the layout is called."""


@dataclass(frozen=True)
class Setting:
    """Groups of clips, how often each class is drawn for a group, and a classifier."""

    name: str
    classes: tuple[int, ...]
    strength: float
    groups: tuple[int, ...] = ()
    sharpness: float = 1.0

    @property
    def frequencies(self) -> np.ndarray:
        """Fraction of each class, shape (C,)."""
        return np.array(self.classes) / sum(self.classes)

    @property
    def member(self) -> np.ndarray:
        """Group of each clip, shape (N,)."""
        sizes = self.groups or (1,) * sum(self.classes)
        return np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True)
class Measured:
    """Coverage of each metric; the fraction of data sets with a warning about its interval, and with one."""

    setting: Setting
    accuracy: float
    coverage: dict[str, float]
    warned: dict[str, float]
    defined: dict[str, float]

    @property
    def missed(self) -> list[str]:
        """Metrics whose coverage is not from 92 to 98 %, without a warning."""
        outside = [name for name, share in self.coverage.items() if not LOW <= share <= HIGH]
        return [name for name in outside if self.warned[name] < 0.5 and self.defined[name] >= 0.5]

    def cell(self, name: str) -> str:
        """The coverage of a metric as the table shows it."""
        if self.defined[name] < 0.5:
            return f"{'–':>8} "
        return f"{100 * self.coverage[name]:8.1f}{'*' if self.warned[name] >= 0.5 else ' '}"


def settings() -> Iterator[Setting]:
    """All of them."""
    for strength, quality in ((WEAK, "weak"), (STRONG, "strong")):
        yield Setting(f"20 classes of 12 to 60 clips, {quality}", TWENTY, strength)
        yield Setting(f"100 clips of 50/30/10/5/3/2 %, {quality}", UNEQUAL, strength)
        yield Setting(f"5 classes of 30 clips, one of 3, {quality}", (*[30] * 5, 3), strength)
        yield Setting(f"600 clips of 50/30/10/5/3/2 %, {quality}", tuple(6 * n for n in UNEQUAL), strength)
        yield Setting(f"6 classes of 20 clips, {quality}", (20,) * 6, strength)
        yield Setting(f"6 classes of 50 clips, {quality}", (50,) * 6, strength)
        yield Setting(f"6 classes of 50 clips, {quality}, unsure", (50,) * 6, strength, sharpness=0.4)
    for strength in (BETTER, BEST):
        yield Setting("6 classes of 20 clips, nearly perfect", (20,) * 6, strength)
        yield Setting("6 classes of 50 clips, nearly perfect", (50,) * 6, strength)
    for name, groups in DOMINANT.items():
        for strength, quality in ((WEAK, "weak"), (STRONG, "strong")):
            yield Setting(f"{name}, {quality}", (1,) * 6, strength, groups)


def draw_labels(setting: Setting, random: np.random.Generator) -> np.ndarray:
    """Class of each group, shape (G,), each class at least once."""
    count = setting.member[-1] + 1
    while True:
        labels = random.choice(len(setting.classes), count, p=setting.frequencies)
        if len(np.unique(labels)) == len(setting.classes):
            return labels


def classify(setting: Setting, labels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Probabilities [N, C] of clips whose logits have this noise [N, C]."""
    z = noise.copy()
    z[np.arange(len(labels)), labels] += setting.strength
    z = setting.sharpness * (setting.strength * z + np.log(setting.frequencies))
    odds = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def measure(setting: Setting, sets: int) -> Measured:
    """Draw data sets, and count the intervals that cover the true value."""
    random = np.random.default_rng(1)
    count, member = len(setting.classes), setting.member
    drawn = resample_groups(member, draws=DRAWS)
    many = random.choice(count, MANY, p=setting.frequencies)
    truth = all_metrics(many, classify(setting, many, random.standard_normal((MANY, count))))
    covered, warned, defined = (dict.fromkeys(NAMES, 0) for _ in range(3))
    for _ in range(sets):
        labels = draw_labels(setting, random)[member]
        noise = random.standard_normal((len(member), count))
        if setting.groups:
            shared = random.standard_normal((len(setting.groups), count))[member]
            noise = (noise + shared) / np.sqrt(2)
        p = classify(setting, labels, noise)
        intervals = bootstrap_intervals(labels, p, drawn)
        notes = " ".join(interval_warnings(labels, p, drawn, [str(index) for index in range(count)]))
        for name, words in NAMES.items():
            covered[name] += bool(intervals[name].low <= truth[name] <= intervals[name].high)
            warned[name] += words in notes
            defined[name] += intervals[name].known
    coverage = {name: covered[name] / max(defined[name], 1) for name in NAMES}
    shares = [{name: number / sets for name, number in counts.items()} for counts in (warned, defined)]
    return Measured(setting, float(truth["accuracy"]), coverage, *shares)


def stated_figures(measured: list[Measured]) -> Iterator[tuple[str, float, float]]:
    """What is stated, its figure, and the one found, for rare classes and for nearly perfect results."""
    rare = [row for row in measured if row.warned["macro_f1"] >= 0.5 and not row.setting.groups]
    wrong = [row for row in measured if row.setting.strength >= BETTER]
    for rows, words, table in (
        (rare, "rare classes", SIMULATED_RARE),
        (wrong, "few wrong", SIMULATED_WRONG),
    ):
        for name, stated in table.items():
            yield f"{words}: least coverage of {NAMES[name]}", stated, min(row.coverage[name] for row in rows)


def main(sets: int) -> int:
    """Print the table; 1 if a coverage is missed."""
    start, measured, failed = time.monotonic(), [], 0
    print(
        f"{'coverage in %; * with a warning':<52} {'true accuracy':>13}", *(f"{n:>9}" for n in NAMES.values())
    )
    for setting in settings():
        row = measure(setting, sets)
        measured.append(row)
        cells = [row.cell(name) for name in NAMES]
        failed += len(row.missed)
        missed = f"  MISSED: {', '.join(row.missed)}" if row.missed else ""
        print(f"{setting.name:<52} {row.accuracy:13.3f}", *cells, missed, flush=True)
    for words, stated, found in stated_figures(measured):
        passed = abs(found - stated) <= TABLE_TOLERANCE
        failed += not passed
        print(f"{words}: {found:.3f}, stated {stated:.2f} {'ok' if passed else 'MISSED'}")
    print(f"{sets} data sets a setting, {time.monotonic() - start:.0f} s; bars missed: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else DATA_SETS))
