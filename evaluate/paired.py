"""Differences of accuracy on the same clips: pairs of results, contributions of sources, a leaky run.

The pairs of a run are compared by intervals alone; `evaluate.planned` tests a few questions, and
`evaluate.difference` a pair that is named. Given predictions are tested there by a sign-flip permutation test
over groups: if both are equally good, the sign of the difference in a group is exchangeable (Good 2005,
Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3; with groups of one clip it is McNemar's
exact test). The distribution over all 2**G flips is computed exactly.

The contribution of a source is its Shapley value (Shapley 1953, Contributions to the Theory of Games 2:307):
the mean, over all orders of adding the sources, of the accuracy that it adds. With no source at all, each
clip is predicted as the most common label of the other folds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Literal

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import NETWORK, Result, Run
from moodfuse.evaluate.intervals import DRAWS, GroupResamples, Interval, mean_intervals, resample_groups
from moodfuse.evaluate.metrics import Floats, Labels, is_correct

_RESOLUTION = 1e-12
MAX_SOURCES = 8
"""Larger sets of sources have no Shapley values."""
MEAN_HEAD = ("mean", "logits")
"""Head and level whose result on one source is the network's own."""
Baseline = Literal["best single source", "mean"]
Pair = tuple[str, str, Baseline]
Key = tuple[tuple[str, ...], str, str]
Subset = frozenset[str]


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one result minus that of a baseline on the same clips, with its 95 % interval.

    The baseline is the best result that reads one source, or the mean head on the same sources, which for one
    source is the network's own result.
    """

    result: str
    against: str
    baseline: Baseline
    difference: float
    interval: Interval


def paired_differences(
    labels: Labels, table: Mapping[str, Floats], resamples: GroupResamples, *, pairs: Sequence[Pair]
) -> tuple[PairedDifference, ...]:
    """Difference of accuracy of each pair; `table` holds probabilities [N, C] by the names of results."""
    if not pairs:
        return ()
    correct = {name: is_correct(labels, values) for name, values in table.items()}
    gains = np.stack([correct[result] - correct[against] for result, against, _ in pairs], axis=1)
    rows = zip(pairs, mean_intervals(gains, resamples), strict=True)
    return tuple(PairedDifference(*pair, *difference) for pair, difference in rows)


def baseline_pairs(results: Sequence[Result], *, best_single: str | None) -> list[Pair]:
    """Pairs to show: fusions against the best result on one source, heads against the mean of their sources.

    The mean of one source is its network's own result.
    """
    pairs: list[Pair] = []
    if best_single is not None:
        fusions = (one for one in results if len(one.sources) > 1)
        pairs += [(one.name, best_single, "best single source") for one in fusions]
    means = {
        one.sources: one.name
        for one in results
        if one.head == NETWORK or (len(one.sources) > 1 and (one.head, one.level) == MEAN_HEAD)
    }
    for one in results:
        mean = means.get(one.sources, one.name)
        if mean != one.name:
            pairs.append((one.name, mean, "mean"))
    return pairs


def sign_flip_p(surplus: Floats) -> float:
    """Two-sided p-value of a sum of integers [G] against all sign flips of its parts.

    It is the fraction of the 2**G flips whose sum is at least as far from 0; 1 where all parts are 0, and not
    below 1e-12.
    """
    parts = np.rint(surplus).astype(np.int64)
    sizes, repeats = np.unique(np.abs(parts[parts != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    reach, observed = int(sizes @ repeats), abs(int(parts.sum()))
    # The characteristic function of the sum is a product of cosines; its transform is the distribution.
    angles = 2 * np.pi * np.arange(2 * reach + 1) / (2 * reach + 1)
    wave = np.ones(len(angles))
    for size, times in zip(sizes, repeats, strict=True):
        wave *= np.cos(size * angles) ** int(times)
    distribution = np.fft.fft(wave).real / len(angles)
    beyond = float(distribution[observed : len(angles) - observed + 1].sum())
    return min(max(beyond, _RESOLUTION), 1.0)


@dataclass(frozen=True)
class SourceImportance:
    """How much a source contributes to the accuracy of one head at one level.

    `alone` is the accuracy on the source alone, `drop` that of all sources minus that of all others.
    """

    source: str
    head: str
    level: str
    alone: float
    shapley: float
    shapley_ci95: Interval
    drop: float
    drop_ci95: Interval


def source_importance(
    labels: Labels, folds: Labels, table: Mapping[Key, Floats], resamples: GroupResamples
) -> tuple[SourceImportance, ...]:
    """Shapley values and drops for every head and level that `table` has on every subset of its sources.

    `folds` is the fold of each clip [N], and `table` holds probabilities [N, C] by (sources, head, level).
    Sources that are never fused with each other, such as one network under two recipes, are taken separately;
    sets of more than `MAX_SOURCES` are left out. The rows are in the order of `table`, then by descending
    Shapley value.
    """
    correct = {key: is_correct(labels, values) for key, values in table.items()}
    networks = {frozenset(sources): right for (sources, head, _), right in correct.items() if head == NETWORK}
    heads = dict.fromkeys(
        (head, level) for sources, head, level in correct if head != NETWORK and len(sources) > 1
    )
    majority = majority_is_correct(labels, folds)
    rows: list[SourceImportance] = []
    for head, level in heads:
        fused = {frozenset(key[0]): right for key, right in correct.items() if key[1:] == (head, level)}
        known = {**networks, **fused} if (head, level) == MEAN_HEAD else fused
        for sources in _connected(fused):
            if not 2 <= len(sources) <= MAX_SOURCES:
                continue
            sizes = range(1, len(sources) + 1)
            subsets = [frozenset(names) for size in sizes for names in combinations(sources, size)]
            if known.keys() >= set(subsets):
                right = {names: known[names] for names in subsets} | {frozenset(): majority}
                rows += subset_importance(right, resamples, head, level)
    return tuple(rows)


def majority_is_correct(labels: Labels, folds: Labels) -> Floats:
    """1.0 for each clip whose label is the most common of the other folds, the first of ties; else 0.0."""
    correct = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside = folds == fold
        correct[inside] = labels[inside] == np.bincount(labels[~inside], minlength=1).argmax()
    return correct


def _connected(fused: Mapping[Subset, Floats]) -> list[tuple[str, ...]]:
    """Sets of sources that are fused with each other, directly or through others, sorted."""
    sets: list[set[str]] = []
    for names in fused:
        joined = [known for known in sets if known & names]
        sets = [known for known in sets if not known & names] + [set(names).union(*joined)]
    return sorted(tuple(sorted(known)) for known in sets)


def _shapley_weight(names: Subset, source: str, count: int) -> float:
    """Weight of a subset's accuracy in the Shapley value of one of `count` sources."""
    before = len(names - {source})
    weight = factorial(before) * factorial(count - before - 1) / factorial(count)
    return weight if source in names else -weight


def subset_importance(
    right: Mapping[Subset, Floats], resamples: GroupResamples, head: str, level: str
) -> Iterator[SourceImportance]:
    """Importance of each source, from whether each subset, the empty one too, is correct on each clip [N]."""
    everything = max(right, key=len)
    sources, subsets = sorted(everything), list(right)
    hits = np.stack([right[names] for names in subsets], axis=1)
    weights = [[_shapley_weight(names, source, len(sources)) for source in sources] for names in subsets]
    values = mean_intervals(hits @ np.array(weights), resamples)
    without = [subsets.index(everything - {source}) for source in sources]
    drops = mean_intervals(hits[:, [subsets.index(everything)]] - hits[:, without], resamples)
    for index in np.argsort([-value for value, _ in values], kind="stable").tolist():
        alone = float(right[frozenset([sources[index]])].mean())
        yield SourceImportance(sources[index], head, level, alone, *values[index], *drops[index])


@dataclass(frozen=True)
class InflatedResult:
    """Accuracy of one result in an honest and in a leaky run; `points` is the second minus the first."""

    result: str
    honest: float
    leaky: float
    points: float
    points_ci95: Interval


@dataclass(frozen=True)
class Inflation:
    """How much a leak inflates the accuracy of the results that two runs share.

    The mean is over fusions, or over all rows where there is no fusion.
    """

    honest_run: str
    leaky_run: str
    rows: tuple[InflatedResult, ...]
    mean_points: float
    mean_points_ci95: Interval


def measure_inflation(run: Run, leaky: Run, *, draws: int = DRAWS, seed: int = 0) -> Inflation:
    """Compare the accuracy of each result that a run and a leaky run hold, clip by clip.

    Raises `InputError` if the clips, their labels, the classes or recipes differ, or no result is shared.
    """
    again = f"run fuse --protocol leaky on the cache as it was for {run.name}"
    order = match_clips(run, leaky, hint=again)
    leaky_recipes = dict(leaky.recipes)
    for source, recipe in run.recipes:
        if leaky_recipes.get(source, recipe) != recipe:
            raise InputError(
                f"the recipe of {source} differs between runs {run.name} and {leaky.name}, so a difference "
                f"would have other causes than the leak; {again}"
            )
    others = {result.name: result.probabilities[order] for result in leaky.results}
    shared = [result for result in run.results if result.name in others]
    if not shared:
        raise InputError(
            f"runs {run.name} and {leaky.name} share no result; run fuse --protocol leaky with the same "
            "--combine, --head and --level"
        )
    labels = np.array([run.classes.index(label) for label in run.labels])
    honest = np.stack([is_correct(labels, result.probabilities) for result in shared], axis=1)
    inflated = np.stack([is_correct(labels, others[result.name]) for result in shared], axis=1)
    gains = inflated - honest
    fused = [len(result.sources) > 1 for result in shared]
    mean = gains[:, fused if any(fused) else slice(None)].mean(axis=1, keepdims=True)
    resamples = resample_groups(run.groups, draws=draws, seed=seed)
    *intervals, (mean_gain, mean_ci95) = mean_intervals(np.hstack([gains, mean]), resamples)
    accuracies = zip(honest.mean(axis=0).tolist(), inflated.mean(axis=0).tolist(), strict=True)
    rows = tuple(
        InflatedResult(result.name, *pair, *gain)
        for result, pair, gain in zip(shared, accuracies, intervals, strict=True)
    )
    return Inflation(run.name, leaky.name, rows, mean_gain, mean_ci95)


def match_clips(run: Run, other: Run, *, hint: str = "compare runs of the same clips") -> list[int]:
    """The row of `other` for each clip of a run.

    Raises `InputError`, which ends with `hint`, if the clips, their labels or files, or the classes differ.
    """
    with_digests = bool(run.digests and other.digests)
    clips, other_clips = (
        set(zip(one.ids, one.labels, one.digests if with_digests else one.ids, strict=True))
        for one in (run, other)
    )
    if run.classes != other.classes or clips != other_clips:
        example = f", such as {min(clips ^ other_clips)[0]!r}" if clips != other_clips else ""
        raise InputError(
            f"runs {run.name} and {other.name} differ in classes, clips, labels or files{example}; {hint}"
        )
    rows = {clip: row for row, clip in enumerate(other.ids)}
    return [rows[clip] for clip in run.ids]
