"""The best of many results, its accuracy corrected for the selection, and results that are nearly as good.

The best result is that of lowest log loss over all fold plans of the run, which is less noisy than accuracy,
since it uses the probability of each clip. The best of many scores is optimistically biased. Bootstrap
bias-corrected cross-validation (Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning 107:1895,
algorithm 5) repeats the selection: in each bootstrap resample the best result is selected on the resampled
groups and scored on the others. A resample selects on 63 % of the groups, so where results differ the
estimate is slightly pessimistic. Its interval uses the squared standard errors of the selected results,
averaged over resamples; where one result is far better than all others and many resamples miss it, estimate
and interval are too low (`benchmarks/coverage.py`).

In all functions `labels` are class indices [N], and the rows of a result are in the order of the labels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import (
    MIN_GROUPS,
    PROPORTION,
    UNDEFINED,
    GroupResamples,
    Interval,
    mean_intervals,
    t_interval,
)
from moodfuse.evaluate.metrics import Floats, Labels, clip_losses, is_correct

PICKS_SHOWN = 5
_DECIMALS = 9
"""Sums over the same clips in another order differ in their last bits, so scores are rounded to compare."""


class Rank(NamedTuple):
    """Sort key of a result, the best first; log loss and error rate are means over all fold plans."""

    log_loss: float
    error_rate: float
    source_count: int
    name: str


@dataclass(frozen=True)
class BestEstimate:
    """The best of many results, with its optimistic own accuracy and that corrected for the selection.

    Accuracies are means over all fold plans. `picks` are the results that draws selected most often, five at
    most, with their fraction of the draws.
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


def rank_result(labels: Labels, result: Result) -> Rank:
    """Sort key by which the best result has the lowest log loss.

    Ties go to higher accuracy, then to fewer sources, then to the name.
    """
    loss, correct = _score_clips(labels, result)
    log_loss, error_rate = round(float(loss.mean()), _DECIMALS), round(float(1 - correct.mean()), _DECIMALS)
    return Rank(log_loss, error_rate, len(result.sources), result.name)


def estimate_best(labels: Labels, results: Sequence[Result], resamples: GroupResamples) -> BestEstimate:
    """The best of one or more results by `rank_result`, corrected for the selection."""
    ranks = {result.name: rank_result(labels, result) for result in results}
    ordered = sorted(results, key=lambda result: ranks[result.name][2:])
    loss, correct = np.moveaxis(np.array([_score_clips(labels, result) for result in ordered]), 0, -1)
    best = min(range(len(ordered)), key=lambda index: ranks[ordered[index].name])
    ((accuracy, interval),) = mean_intervals(correct[:, [best]], resamples, PROPORTION)
    selection = select_and_test(correct, loss, resamples)
    picks = Counter(selection.picks.tolist()).most_common(PICKS_SHOWN)
    return BestEstimate(
        result=ordered[best].name,
        accuracy=accuracy,
        accuracy_ci95=interval,
        corrected=selection.corrected,
        corrected_ci95=selection.interval,
        candidates=len(ordered),
        picks=tuple((ordered[index].name, count / len(resamples.counts)) for index, count in picks),
    )


def _score_clips(labels: Labels, result: Result) -> tuple[Floats, Floats]:
    """Log loss of each clip, and whether it is classified correctly, [N] each: means over the fold plans."""
    loss = np.mean([clip_losses(labels, probabilities) for probabilities in result.over_plans], axis=0)
    correct = np.mean([is_correct(labels, probabilities) for probabilities in result.over_plans], axis=0)
    return loss, correct


def select_and_test(correct: Floats, loss: Floats, resamples: GroupResamples) -> Selection:
    """Select the best result on each draw's groups, and score it on the others.

    `correct` [N, R] is the fraction of fold plans in which a result is correct on a clip, `loss` [N, R] its
    log loss; ties of both go to the first column.
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
    error = float(np.sqrt((_standard_errors(correct, resamples)[selected] ** 2).mean()))
    return Selection(corrected, t_interval(corrected, error, resamples.effective), selected)


def _best_columns(hits: Floats, losses: Floats) -> Labels:
    """Column of the least loss in each row of arrays [B, R], ties by hits, then the first."""
    losses, hits = np.round(losses, _DECIMALS), np.round(hits, _DECIMALS)
    ranked = np.where(losses == losses.min(axis=1, keepdims=True), -hits, np.inf)
    return np.asarray(ranked.argmin(axis=1))


def _standard_errors(values: Floats, resamples: GroupResamples) -> Floats:
    """Standard errors over groups of the means of the columns of `values` [N, R]; NaN for too few groups."""
    effective, sums = resamples.effective, resamples.group_sums(values)
    if effective < MIN_GROUPS:
        return np.full(values.shape[1], np.nan)
    sizes = resamples.group_sums(np.ones(len(values)))
    residual = sums - sizes[:, None] * sums.sum(axis=0) / sizes.sum()
    return np.asarray(np.sqrt((residual**2).sum(axis=0) * effective / (effective - 1)) / sizes.sum())


def find_results_within_one_error(
    labels: Labels, results: Sequence[Result], resamples: GroupResamples
) -> tuple[list[Result], float]:
    """Results whose log loss is within one standard error of the least, the best first, and that error.

    The smallest of them is that of the one-standard-error rule (Breiman, Friedman, Olshen and Stone 1984,
    Classification and Regression Trees, sec. 3.4.3). The error is that of the best result's log loss over
    groups, NaN for too few groups; then the best is the only one.
    """
    ranks = {result.name: rank_result(labels, result) for result in results}
    ranked = sorted(results, key=lambda result: ranks[result.name])
    best = ranked[0]
    error = float(_standard_errors(_score_clips(labels, best)[0][:, None], resamples)[0])
    limit = ranks[best.name].log_loss + error
    return [result for result in ranked if result is best or ranks[result.name].log_loss <= limit], error


def class_frequency_loss(labels: Labels, run: Run) -> float:
    """Log loss of predicting for each clip the frequencies of the classes in the other folds of its plan.

    Mean over all fold plans. Each class counts one clip more than there are, so that none has probability 0.
    """
    losses = []
    for folds in map(np.asarray, (run.folds, *run.repeat_folds)):
        for fold in np.unique(folds):
            counts = 1 + np.bincount(labels[folds != fold], minlength=len(run.classes))
            losses.append(-np.log(counts / counts.sum())[labels[folds == fold]])
    return float(np.concatenate(losses).mean())
