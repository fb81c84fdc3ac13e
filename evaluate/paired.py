"""Differences of accuracy on the same clips: significance tests between results, and the inflation of a leaky run.

The test is a sign-flip permutation test with groups as units: if two results are equally good, the surplus of correct
answers in a group is as likely on the one side as on the other (Good 2005, Permutation, Parametric and Bootstrap Tests
of Hypotheses, ch. 3; with groups of one clip it is McNemar's exact test). The surpluses are integers, so the
distribution over all 2**G flips is computed exactly, by Fourier transform, and no p-value depends on a seed. Ties count
against a difference. Several tests are corrected together (Holm 1979, Scand. J. Statist. 6:65).

A baseline that is the best of several results was chosen on these same clips, which makes the test conservative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Run
from moodfuse.evaluate.intervals import DRAWS, GroupDraws, Interval, draw_groups, mean_intervals
from moodfuse.evaluate.metrics import Floats, Labels, is_correct

LEVEL = 0.05
"""Significance level of the tests."""
LEAST_P = 0.001
"""Smaller p-values are not written out."""
_RESOLUTION = 1e-12
Verdict = Literal["better", "worse", "cannot tell"]
"""``cannot tell``: no significant difference. The values are part of the schema of `metrics.json`."""
Baseline = Literal["best single source", "mean"]
Pair = tuple[str, str, Baseline]


@dataclass(frozen=True)
class PairedTest:
    """Accuracy of one result minus that of a baseline on the same clips; `p_holm` is corrected for all tests of a run.

    The baseline is the best result that reads one source, or the mean head on the same sources, which for one source is
    the network's own result.
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
        """The outcome in words."""
        low, high = self.interval.ends
        outcome = {
            "better": f"is better than {self.against}",
            "worse": f"is worse than {self.against}",
            "cannot tell": f"against {self.against}: no significant difference",
        }[self.verdict]
        ends = (
            f"95 % CI {self.interval.shown('+.1f', scale=100)}"
            if self.interval.known
            else "no interval: one group holds all or most clips"
        )
        uncorrected = self.verdict == "cannot tell" and (low > 0 or high < 0)
        remark = "; the interval is not corrected for the number of comparisons" if uncorrected else ""
        return (
            f"{self.result} {outcome} ({100 * self.difference:+.1f} points, {ends}, "
            f"{format_p(self.p_holm)}, Holm-corrected{remark})"
        )


def paired_tests(
    labels: Labels, table: Mapping[str, Floats], drawn: GroupDraws, *, pairs: Sequence[Pair]
) -> tuple[PairedTest, ...]:
    """Test the difference of accuracy of each pair; all tests share the draws and one correction.

    `table` holds probabilities [N, C] by the names of results. The groups of `drawn` are the units of the tests.
    """
    if not pairs:
        return ()
    correct = {name: is_correct(labels, values) for name, values in table.items()}
    gains = np.stack([correct[result] - correct[against] for result, against, _ in pairs], axis=1)
    p_values = np.array([sign_flip_p(column) for column in drawn.group_sums(gains).T])
    rows = zip(pairs, mean_intervals(gains, drawn), p_values, holm(p_values), strict=True)
    return tuple(
        PairedTest(*pair, difference, interval, float(p), float(p_holm), _verdict(difference, p_holm))
        for pair, (difference, interval), p, p_holm in rows
    )


def sign_flip_p(surplus: Floats) -> float:
    """Two-sided p-value of a sum of integers [G] against all sign flips of its parts.

    It is the fraction of the 2**G flips whose sum is at least as far from 0; 1 where all parts are 0, and not below
    1e-12.
    """
    parts = np.rint(surplus).astype(np.int64)
    sizes, repeats = np.unique(np.abs(parts[parts != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    reach, observed = int(sizes @ repeats), abs(int(parts.sum()))
    # The characteristic function of the sum is a product of cosines; its transform is the distribution at -reach ...
    # reach.
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    wave = np.ones(len(angles))
    for size, times in zip(sizes, repeats, strict=True):
        wave *= np.cos(size * angles) ** int(times)
    distribution = np.fft.fft(wave).real / len(angles)
    beyond = float(distribution[observed : len(angles) - observed + 1].sum())
    return min(max(beyond, _RESOLUTION), 1.0)


def holm(p_values: Floats) -> Floats:
    """P-values [P] corrected for their number (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(raised, 1.0)
    return corrected


def _verdict(difference: float, p_value: float) -> Verdict:
    if p_value >= LEVEL:
        return "cannot tell"
    return "better" if difference > 0 else "worse"


def format_p(value: float) -> str:
    """A p-value with two significant digits, never 0.

    Examples
    --------
    >>> format_p(0.62), format_p(0.048), format_p(0.0004)
    ('p = 0.62', 'p = 0.048', 'p < 0.001')
    """
    if value < LEAST_P:
        return f"p < {LEAST_P}"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


@dataclass(frozen=True)
class InflatedResult:
    """Accuracy of one result in a run and in its leaky counterpart; `gain` is the second minus the first."""

    result: str
    accuracy: float
    leaky_accuracy: float
    gain: float
    gain_ci95: Interval


@dataclass(frozen=True)
class Inflation:
    """How much a leak inflates the accuracy of the results that two runs share.

    The mean is over fusions, or over all rows where there is no fusion.
    """

    run: str
    leaky_run: str
    rows: tuple[InflatedResult, ...]
    mean_gain: float
    mean_gain_ci95: Interval


def measure_inflation(run: Run, leaky: Run, *, draws: int = DRAWS, seed: int = 0) -> Inflation:
    """Compare the accuracy of each result that a run and a leaky run hold, clip by clip.

    Raises `InputError` if the clips, their labels or the classes differ, or the runs share no result.
    """
    order = match_clips(run, leaky)
    others = {result.name: result.probabilities[order] for result in leaky.results}
    shared = [result for result in run.results if result.name in others]
    if not shared:
        raise InputError(
            f"runs {run.name} and {leaky.name} share no result; run fuse --protocol leaky with the same --combine, "
            "--head and --level"
        )
    labels = np.array([run.classes.index(label) for label in run.labels])
    clean = np.stack([result.probabilities.argmax(axis=1) == labels for result in shared], axis=1)
    inflated = np.stack([others[result.name].argmax(axis=1) == labels for result in shared], axis=1)
    gains = inflated.astype(np.float64) - clean
    fused = [len(result.sources) > 1 for result in shared]
    mean = gains[:, fused if any(fused) else slice(None)].mean(axis=1, keepdims=True)
    *intervals, (mean_gain, mean_ci95) = mean_intervals(
        np.hstack([gains, mean]), draw_groups(run.groups, draws=draws, seed=seed)
    )
    rows = [
        InflatedResult(
            result.name, float(clean[:, index].mean()), float(inflated[:, index].mean()), gain, ends
        )
        for index, (result, (gain, ends)) in enumerate(zip(shared, intervals, strict=True))
    ]
    return Inflation(run.name, leaky.name, tuple(rows), mean_gain, mean_ci95)


def match_clips(run: Run, leaky: Run) -> list[int]:
    """Row of each clip of `run` in `leaky`; raise `InputError` if more than the protocol differs."""
    again = f"run fuse --protocol leaky on the cache as it was for {run.name}"
    if run.classes != leaky.classes:
        raise InputError(
            f"run {run.name} has the classes {', '.join(run.classes)}, run {leaky.name} "
            f"{', '.join(leaky.classes)}; {again}"
        )
    if differing := sorted(set(run.ids) ^ set(leaky.ids)):
        raise InputError(
            f"runs {run.name} and {leaky.name} differ in {len(differing)} clips, such as {differing[0]!r}; {again}"
        )
    rows = {clip: row for row, clip in enumerate(leaky.ids)}
    order = [rows[clip] for clip in run.ids]
    for row, (clip, label, other) in enumerate(zip(run.ids, run.labels, order, strict=True)):
        if leaky.labels[other] != label:
            raise InputError(
                f"clip {clip!r} is {label!r} in run {run.name}, {leaky.labels[other]!r} in {leaky.name}; {again}"
            )
        if run.digests and leaky.digests and run.digests[row] != leaky.digests[other]:
            raise InputError(f"clip {clip!r} is another file in run {run.name} than in {leaky.name}; {again}")
    recipes = dict(leaky.recipes)
    for source, recipe in run.recipes:
        if recipes.get(source, recipe) != recipe:
            raise InputError(
                f"the recipe of {source} differs between runs {run.name} and {leaky.name}, so a difference would have "
                f"other causes than the leak; {again}"
            )
    return order
