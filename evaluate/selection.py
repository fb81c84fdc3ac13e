"""The best of many results: its accuracy corrected for the selection, and the results that are not worse.

The maximum of many scores is optimistically biased. Bootstrap bias-corrected cross-validation
(Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning 107:1895, algorithm 5) repeats the selection:
in each bootstrap resample the best result is selected on the resampled groups and scored on the others. A
resample selects on 63 % of the groups, so where results differ the estimate is slightly pessimistic. Its
interval uses the squared standard errors of the selected results, averaged over resamples; where one result
is far better than all others and many resamples miss it, estimate and interval are too low
(`benchmarks/coverage.py`).

The functions take class indices `labels` [N] and a `table` of one or more results: name -> probabilities [N,
C].
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moodfuse.evaluate.intervals import (
    MAX_LOSS,
    PROPORTION,
    UNDEFINED,
    GroupResamples,
    Interval,
    Scale,
    mean_intervals,
    t_interval,
)
from moodfuse.evaluate.metrics import Floats, Labels, clip_losses, is_correct

PICKS_SHOWN = 5
_LOSS_DIFFERENCE = Scale(-MAX_LOSS, MAX_LOSS)


@dataclass(frozen=True)
class BestEstimate:
    """The best of many results, with its optimistic own accuracy and that corrected for the selection.

    `picks` are the results that draws selected most often, five at most, with their fraction of the draws.
    """

    result: str
    accuracy: float
    accuracy_ci95: Interval
    corrected: float
    corrected_ci95: Interval
    candidates: int
    picks: tuple[tuple[str, float], ...]


class Selection(NamedTuple):
    """Mean accuracy on undrawn groups of the results selected in B draws, and their indices."""

    corrected: float
    interval: Interval
    picks: Labels


def estimate_best(labels: Labels, table: Mapping[str, Floats], resamples: GroupResamples) -> BestEstimate:
    """The best result by accuracy, ties by log loss, then by name; corrected for the selection."""
    names = sorted(table)
    correct = np.stack([is_correct(labels, table[name]) for name in names], axis=1)
    loss = np.stack([clip_losses(labels, table[name]) for name in names], axis=1)
    best = int(_best_columns(correct.sum(axis=0)[None], loss.sum(axis=0)[None])[0])
    ((accuracy, interval),) = mean_intervals(correct[:, [best]], resamples, PROPORTION)
    selection = select_and_test(correct, loss, resamples)
    picks = Counter(selection.picks.tolist()).most_common(PICKS_SHOWN)
    return BestEstimate(
        result=names[best],
        accuracy=accuracy,
        accuracy_ci95=interval,
        corrected=selection.corrected,
        corrected_ci95=selection.interval,
        candidates=len(names),
        picks=tuple((names[index], count / len(resamples.counts)) for index, count in picks),
    )


def select_and_test(correct: Floats, loss: Floats, resamples: GroupResamples) -> Selection:
    """Select the best result on each draw's groups, and score it on the others.

    `correct` [N, R] is 1 where a result is correct on a clip, else 0; `loss` [N, R] is its log loss.
    """
    hits, losses = resamples.group_sums(correct), resamples.group_sums(loss)
    sizes = resamples.group_sums(np.ones(len(correct)))
    picks, scores = [], []
    for counts in resamples.chunks(resamples.groups):
        drawn, undrawn = counts.astype(np.float64), (counts == 0).astype(np.float64)
        best = _best_columns(drawn @ hits, drawn @ losses)
        clips = undrawn @ sizes
        hits_of_best = np.take_along_axis(undrawn @ hits, best[:, None], axis=1)[:, 0]
        scores.append(hits_of_best[clips > 0] / clips[clips > 0])
        picks.append(best)
    selected, values = np.concatenate(picks), np.concatenate(scores)
    if resamples.groups < 2 or not len(values):
        return Selection(float("nan"), UNDEFINED, selected)
    corrected = float(values.mean())
    effective, residual = resamples.effective, hits - sizes[:, None] * hits.sum(axis=0) / sizes.sum()
    squared_errors = (residual**2).sum(axis=0) * effective / (effective - 1) / sizes.sum() ** 2
    error = float(np.sqrt(squared_errors[selected].mean()))
    return Selection(corrected, t_interval(corrected, error, effective), selected)


def _best_columns(hits: Floats, losses: Floats) -> Labels:
    """Column of the most hits in each row of arrays [B, R], ties by loss, then the first."""
    # Sums over the same clips in another order differ in their last bits, so losses are rounded.
    ranked = np.where(hits == hits.max(axis=1, keepdims=True), np.round(losses, 9), np.inf)
    return np.asarray(ranked.argmin(axis=1))


def find_equivalent_results(
    labels: Labels, table: Mapping[str, Floats], resamples: GroupResamples
) -> dict[str, float]:
    """Results that are not significantly worse than that of least log loss, with their loss, sorted by it.

    A result is worse where the 95 % interval of its difference of log loss lies above 0. There is no
    correction for the number of results, and a result in this set has not been shown to be equivalent.
    """
    names = sorted(table)
    losses = np.stack([clip_losses(labels, table[name]) for name in names], axis=1)
    means = losses.mean(axis=0)
    best = int(np.argmin(means))
    differences = mean_intervals(losses - losses[:, [best]], resamples, _LOSS_DIFFERENCE)
    return {
        names[index]: float(means[index])
        for index in np.argsort(means, kind="stable").tolist()
        if index == best or not differences[index][1].low > 0
    }
