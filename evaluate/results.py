"""The results of a run with their scores: over all clips, by fold and class, before temperature scaling, over repeats."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import NETWORK, Result, Run
from moodfuse.evaluate import metrics
from moodfuse.evaluate.intervals import COVERAGE, DRAWS, UNDEFINED, GroupDraws, Interval, draw_groups
from moodfuse.evaluate.metrics import Floats, Labels, ReliabilityBin
from moodfuse.evaluate.scoring import Score, check_labels, check_probabilities, score_draws


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
class Calibration:
    """Calibration of a result's probabilities before and after temperature scaling.

    `ece_if_perfect` and `ece_if_perfect_high` are the mean and 95th percentile of the calibration error that a
    perfectly calibrated model with the same (scaled) probabilities would show on as many clips.
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


@dataclass(frozen=True)
class RepeatedScore:
    """Mean accuracy over all folds of several plans, with the standard deviation of the plans (NaN for one)."""

    repeats: int
    accuracy: float
    spread: float
    ci95: Interval


@dataclass(frozen=True)
class ResultScore:
    """A result with its scores over all clips, by fold and by class.

    `calibration` is `None` where the run kept no unscaled probabilities, `repeated` where cross-validation was not
    repeated. `complete` is the score over the clips with all modalities; `None` where every clip has them.
    """

    result: Result
    score: Score
    per_fold: tuple[FoldScore, ...]
    per_class: tuple[ClassScore, ...] = ()
    calibration: Calibration | None = None
    repeated: RepeatedScore | None = None
    complete: Score | None = None

    @property
    def is_network(self) -> bool:
        """Whether this is one network's own softmax."""
        return self.result.head == NETWORK

    @property
    def is_fusion(self) -> bool:
        """Whether a head reads several sources."""
        return len(self.result.sources) > 1

    @property
    def rank(self) -> tuple[float, float, str]:
        """Sort key: higher accuracy first, ties by log loss, then by name."""
        return -self.score.accuracy, self.score.log_loss, self.result.name


def run_labels(run: Run) -> Labels:
    """Class index of each clip of a run, int64 [N]."""
    return check_labels(run.labels, run.classes, (len(run.ids), len(run.classes)))[1]


def score_results(run: Run, drawn: GroupDraws, *, seed: int) -> Iterator[ResultScore]:
    """Score each result of a run, all with the same draws of its groups; `seed` is of the other random draws."""
    labels, folds = run_labels(run), np.asarray(run.folds)
    plans = np.array([run.folds, *run.repeat_folds])
    draws = len(drawn.counts)
    whole = np.array([not missing for missing in run.missing] or [True] * len(labels))
    drawn_whole = None
    if whole.any() and not whole.all():
        groups = [group for group, keep in zip(run.groups, whole, strict=True) if keep]
        drawn_whole = draw_groups(groups, draws=draws, seed=seed)
    for result in run.results:
        try:
            values = check_probabilities(result.probabilities)
        except InputError as error:
            raise InputError(f"run {run.name}, {result.name}: {error}") from error
        repeated = complete = None
        if result.repeats is not None:
            repeated = repeated_score(labels, np.concatenate([values[None], result.repeats]), plans)
        if drawn_whole is not None:
            complete = score_draws(labels[whole], values[whole], drawn_whole, classes=run.classes)
        yield ResultScore(
            result=result,
            score=score_draws(labels, values, drawn, classes=run.classes),
            per_fold=tuple(
                _fold_score(int(fold), labels[folds == fold], values[folds == fold])
                for fold in np.unique(folds)
            ),
            per_class=class_scores(labels, values, run.classes),
            calibration=calibration(labels, result, draws=draws, seed=seed),
            repeated=repeated,
            complete=complete,
        )


def _fold_score(fold: int, labels: Labels, probabilities: Floats) -> FoldScore:
    values = metrics.all_metrics(labels, probabilities)
    accuracy, macro_f1, auc = (float(values[name]) for name in ("accuracy", "macro_f1", "auc"))
    return FoldScore(fold, len(labels), accuracy, macro_f1, auc)


def class_scores(labels: Labels, probabilities: Floats, classes: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Score each class against the rest.

    Precision is NaN where the class is never predicted, recall where it is never true, F1 where it is neither.
    """
    matrix = metrics.confusion_matrix(labels, probabilities).astype(np.float64)
    hits, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    columns = (
        np.divide(parts, wholes, out=np.full(len(hits), np.nan), where=wholes > 0)
        for parts, wholes in ((hits, predicted), (hits, true), (2 * hits, true + predicted))
    )
    rows = zip(classes, true, *columns, metrics.class_aucs(labels, probabilities), strict=True)
    return tuple(ClassScore(label, int(clips), *map(float, numbers)) for label, clips, *numbers in rows)


def calibration(labels: Labels, result: Result, *, draws: int = DRAWS, seed: int = 0) -> Calibration | None:
    """Calibration of a result; `draws` and `seed` are of the simulated labels.

    `None` where the run kept no probabilities from before temperature scaling.
    """
    before, after = result.unscaled, result.probabilities
    if before is None:
        return None
    perfect = metrics.ece_if_calibrated(after, draws=draws, seed=seed)
    scores_before, scores_after = metrics.all_metrics(labels, before), metrics.all_metrics(labels, after)
    return Calibration(
        temperatures=tuple(float(value) for value in result.temperatures),
        log_loss_before=float(scores_before["log_loss"]),
        log_loss_after=float(scores_after["log_loss"]),
        ece_before=float(scores_before["ece"]),
        ece_after=float(scores_after["ece"]),
        ece_if_perfect=float(perfect.mean()),
        ece_if_perfect_high=float(np.quantile(perfect, 0.95)),
        bins_before=metrics.reliability_bins(labels, before),
        bins_after=metrics.reliability_bins(labels, after),
    )


def repeated_score(labels: Labels, probabilities: Floats, folds: NDArray[np.int64]) -> RepeatedScore:
    """Accuracy over the folds of several plans, with an interval that allows for overlapping training sets.

    The corrected resampled t interval widens the variance s**2 / J of J fold accuracies to
    (1 / J + n_test / n_train) s**2 (Nadeau and Bengio 2003, Machine Learning 52:239; for repeated cross-validation
    Bouckaert and Frank 2004, PAKDD). `probabilities` are [R, N, C] and `folds` [R, N] for R plans.
    """
    right = probabilities.argmax(axis=-1) == labels
    fold_scores = [
        (rows[inside].mean(), inside.sum())
        for rows, plan in zip(right, folds, strict=True)
        for inside in (plan == fold for fold in np.unique(plan))
    ]
    accuracies, sizes = np.array(fold_scores, dtype=np.float64).T
    repeats = right.mean(axis=1)
    return RepeatedScore(
        repeats=len(right),
        accuracy=float(accuracies.mean()),
        spread=float(repeats.std(ddof=1)) if len(repeats) > 1 else float("nan"),
        ci95=_corrected_interval(accuracies, float(np.mean(sizes / np.maximum(right.shape[1] - sizes, 1)))),
    )


def _corrected_interval(accuracies: Floats, test_to_train: float) -> Interval:
    """Interval of the mean of fold accuracies [J], within 0 and 1."""
    from scipy.special import stdtrit

    count = len(accuracies)
    # Equal folds do not show how much others would differ.
    if count < 2 or np.ptp(accuracies) < 1e-12:
        return UNDEFINED
    error = np.sqrt((1 / count + test_to_train) * accuracies.var(ddof=1))
    reach = float(stdtrit(count - 1, (1 + COVERAGE) / 2)) * error
    low, high = np.clip([accuracies.mean() - reach, accuracies.mean() + reach], 0.0, 1.0)
    return Interval(float(low), float(high))
