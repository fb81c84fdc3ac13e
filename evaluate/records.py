"""The records of an evaluation: what stage three finds out, and what its report shows. No arithmetic here but
what writing them needs.

Accuracies and differences of them are shares in [0, 1], not percent; every interval is a 95 % one over groups.
"""

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "cannot tell"]
Baseline = Literal["best single source", "mean"]
UNKNOWN = "–"
"""What stands for a number that is not defined."""
LEAST_P = 0.001
"""Smaller p-values are not written out."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; both ends are NaN where it is not defined."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether it is defined."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high

    def shown(self, form: str = ".2f", *, scale: float = 1.0) -> str:
        """The ends in brackets, times `scale`, or a dash where there are none.

        Examples
        --------
        >>> Interval(0.414, 0.667).shown(), Interval(-0.014, 0.1).shown("+.1f", scale=100)
        ('[0.41, 0.67]', '[-1.4, +10.0]')
        """
        return (
            f"[{', '.join(format(scale * end, form) for end in self.ends)}]" if self.known else f"[{UNKNOWN}]"
        )


@dataclass(frozen=True)
class FoldScore:
    """Metrics of one result on the clips of one fold; `auc` is NaN where it is not defined."""

    fold: int
    clips: int
    accuracy: float
    macro_f1: float
    auc: float


@dataclass(frozen=True)
class ClassScore:
    """Metrics of one class against the rest; a metric is NaN where it is not defined."""

    label: str
    clips: int
    precision: float
    recall: float
    f1: float
    auc: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Clips whose top probability lies in (`low`, `high`]; `confidence` is its mean, `accuracy` the share right."""

    low: float
    high: float
    clips: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far a result's probabilities can be taken at their word, before and after temperature scaling.

    Attributes
    ----------
    temperatures : tuple of float
        One an outer fold, learned inside its training folds; 1 where nothing could be learned.
    log_loss_before, log_loss_after, ece_before, ece_after : float
    ece_if_perfect, ece_if_perfect_high : float
        Mean and 95th percentile of the calibration error that a perfectly calibrated model with the same (scaled)
        probabilities would show on as many clips.
    bins_before, bins_after : tuple of ReliabilityBin
        Empty bins are left out.
    """

    temperatures: tuple[float, ...]
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float
    ece_if_perfect: float
    ece_if_perfect_high: float
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


def p_shown(value: float) -> str:
    """A p-value as it is read: two digits that count, never 0.

    Examples
    --------
    >>> p_shown(0.62), p_shown(0.048), p_shown(0.0004)
    ('p = 0.62', 'p = 0.048', 'p < 0.001')
    """
    if value < LEAST_P:
        return f"p < {LEAST_P}"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


@dataclass(frozen=True)
class PairedTest:
    """One result against a baseline on the same clips.

    Attributes
    ----------
    result, against : str
        Names of the results (`moodfuse.cache.runs.Result.name`).
    baseline : str
        What `against` is: the best result that reads one source only, or the mean head on the same sources, which for
        one source is its network's own row.
    difference : float
        Accuracy of `result` minus that of `against`.
    interval : Interval
        Of the difference, by bootstrap over groups.
    p_value, p_holm : float
        Two-sided sign-flip permutation over groups; corrected for all tests of the table (Holm).
    verdict : str
    """

    result: str
    against: str
    baseline: Baseline
    difference: float
    interval: Interval
    p_value: float
    p_holm: float
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The finding in words; where the interval and the corrected test disagree, why."""
        points = f"{100 * self.difference:+.1f} points"
        ends = (
            self.interval.shown("+.1f", scale=100)
            if self.interval.known
            else "with no interval: one group holds all or most clips"
        )
        low, high = self.interval.ends
        apart = self.verdict == "cannot tell" and (low > 0 or high < 0)
        remark = "; the interval is not corrected for the number of comparisons" if apart else ""
        what = {
            "better": f"is better than {self.against}",
            "worse": f"is worse than {self.against}",
            "cannot tell": f"against {self.against}: these clips cannot tell",
        }[self.verdict]
        return f"{self.result} {what} ({points} {ends}, {p_shown(self.p_holm)} after Holm{remark})"


@dataclass(frozen=True)
class Headline:
    """The best of many results, with its selection corrected.

    Attributes
    ----------
    result : str
        The result that is best on all clips.
    accuracy, accuracy_ci95
        Its own accuracy: an optimistic pick where there are many candidates.
    corrected, corrected_ci95
        Accuracy of "take the best" itself: chosen on the groups of a bootstrap draw, scored on the undrawn ones.
    candidates : int
        How many results were in the contest.
    picks : tuple of (str, float)
        Which results the draws chose, and in what share of them; the commonest first, five at most.
    """

    result: str
    accuracy: float
    accuracy_ci95: Interval
    corrected: float
    corrected_ci95: Interval
    candidates: int
    picks: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SourceWorth:
    """What a source adds under one head and level.

    Attributes
    ----------
    source, head, level : str
    alone : float
        Accuracy of the head on the source alone; of `mean`, that is the network's own softmax.
    shapley, shapley_ci95
        Exact Shapley value of its accuracy over all subsets of the sources; the values sum to the accuracy of all
        sources minus that of saying the commonest label.
    drop, drop_ci95
        Accuracy of all sources minus that of all others.
    """

    source: str
    head: str
    level: str
    alone: float
    shapley: float
    shapley_ci95: Interval
    drop: float
    drop_ci95: Interval


@dataclass(frozen=True)
class RepeatedScore:
    """Accuracy over repeated cross-validation.

    Attributes
    ----------
    repeats : int
        Fold plans R; 1 where cross-validation was not repeated.
    accuracy : float
        Mean over all folds of all repeats.
    spread : float
        Standard deviation of the repeats' accuracies; NaN for one repeat.
    ci95 : Interval
        Corrected resampled t interval (Nadeau and Bengio 2003), for training sets of this size.
    """

    repeats: int
    accuracy: float
    spread: float
    ci95: Interval


@dataclass(frozen=True)
class Inflated:
    """One result under the honest and the leaky protocol; `points` is leaky minus honest accuracy, as a share."""

    result: str
    honest: float
    leaky: float
    points: float
    points_ci95: Interval


@dataclass(frozen=True)
class Inflation:
    """What a leak is worth on this very data.

    Attributes
    ----------
    honest_run, leaky_run : str
    rows : tuple of Inflated
        Results that both runs hold.
    mean_points : float
        Mean of the rows' `points`, fusions of two and more sources only.
    mean_points_ci95 : Interval
    """

    honest_run: str
    leaky_run: str
    rows: tuple[Inflated, ...]
    mean_points: float
    mean_points_ci95: Interval
