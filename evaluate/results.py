"""Each result of a run with its score: over all clips, by fold, by class, before scaling, over repeats."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import NETWORK, Result, Run
from moodfuse.evaluate import metrics
from moodfuse.evaluate.calibration import calibration
from moodfuse.evaluate.metrics import Labels
from moodfuse.evaluate.records import Calibration, ClassScore, FoldScore, RepeatedScore
from moodfuse.evaluate.repeats import repeated_score
from moodfuse.evaluate.resampling import GroupDraws, draw_groups
from moodfuse.evaluate.scoring import Score, class_scores, score_draws
from moodfuse.evaluate.validation import check_labels, check_probabilities

METRICS_PER_FOLD = {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1, "auc": metrics.auc}


@dataclass(frozen=True)
class ResultScore:
    """A result with its score over all clips and in each fold that has clips.

    Attributes
    ----------
    result : Result
    score : Score
    per_fold : tuple of FoldScore
    per_class : tuple of ClassScore
        In the order of the classes.
    calibration : Calibration or None
        `None` where the run kept no unscaled probabilities.
    repeated : RepeatedScore or None
        `None` where cross-validation was not repeated.
    complete : Score or None
        On the clips that lack no view; `None` where none lacks any.
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
        """Whether this is one network's own softmax, not a head's."""
        return self.result.head == NETWORK

    @property
    def is_fusion(self) -> bool:
        """Whether a head reads several sources."""
        return len(self.result.sources) > 1

    @property
    def rank(self) -> tuple[float, float, str]:
        """Sorts better results first: by accuracy, equals by log loss, then by name."""
        return -self.score.accuracy, self.score.log_loss, self.result.name


def run_labels(run: Run) -> Labels:
    """Class index of each clip of a run, int64 [N]."""
    return check_labels(run.labels, run.classes, (len(run.ids), len(run.classes)))[1]


def score_results(run: Run, drawn: GroupDraws, *, seed: int) -> Iterator[ResultScore]:
    """Each result of a run with its score, one by one.

    Parameters
    ----------
    run : Run
    drawn : GroupDraws
        Of the run's groups; all results share them.
    seed : int
        Of what is drawn beside.

    Raises
    ------
    InputError
        If a result cannot be scored.
    """
    labels, folds = run_labels(run), np.asarray(run.folds)
    plans = np.array([run.folds, *run.repeat_folds])
    draws = len(drawn.counts)
    whole = np.array([not missing for missing in run.missing] or [True] * len(labels))
    # Where every clip lacks a view, none is left to score.
    some = (
        None
        if whole.all() or not whole.any()
        else draw_groups(_kept(run.groups, whole), draws=draws, seed=seed)
    )
    for result in run.results:
        try:
            values = check_probabilities(result.probabilities)
        except InputError as error:
            raise InputError(f"run {run.name}, {result.name}: {error}") from error
        yield ResultScore(
            result=result,
            score=score_draws(labels, values, drawn, classes=run.classes),
            per_fold=tuple(
                _fold_score(int(fold), labels, values, folds == fold) for fold in np.unique(folds)
            ),
            per_class=class_scores(labels, values, run.classes),
            calibration=calibration(labels, result, draws=draws, seed=seed),
            repeated=None
            if result.repeats is None
            else repeated_score(labels, np.concatenate([values[None], result.repeats]), plans),
            complete=None
            if some is None
            else score_draws(labels[whole], values[whole], some, classes=run.classes),
        )


def _kept(names: tuple[str, ...], rows: np.ndarray) -> list[str]:
    return [name for name, keep in zip(names, rows, strict=True) if keep]


def _fold_score(fold: int, labels: Labels, probabilities: np.ndarray, rows: np.ndarray) -> FoldScore:
    values = {
        name: float(metric(labels[rows], probabilities[rows])) for name, metric in METRICS_PER_FOLD.items()
    }
    return FoldScore(fold=fold, clips=int(rows.sum()), **values)
