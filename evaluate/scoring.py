"""One call from labels and probabilities to every metric with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.cache.errors import InputError
from moodfuse.evaluate.intervals import METRICS, bootstrap_intervals, few_groups_warning
from moodfuse.evaluate.metrics import Floats, Labels, class_aucs, confusion_matrix
from moodfuse.evaluate.records import ClassScore, Interval
from moodfuse.evaluate.resampling import DRAWS, GroupDraws, draw_groups
from moodfuse.evaluate.validation import check_groups, check_labels, check_probabilities, in_class_order


@dataclass(frozen=True)
class Score:
    """What some probabilities are worth.

    Attributes
    ----------
    classes : tuple of str
        Names of the class axis.
    clips, groups : int
        Number of clips, and of groups they came in.
    accuracy, macro_f1, auc, log_loss, ece : float
        As in `moodfuse.evaluate.metrics`; `auc` is NaN where all clips are of one class.
    accuracy_ci95, macro_f1_ci95, auc_ci95, log_loss_ci95, ece_ci95 : Interval
        As in `moodfuse.evaluate.intervals`.
    confusion_matrix : ndarray of int64, shape (C, C)
        Rows are the truth.
    notes : tuple of str
        What a reader must know.
    """

    classes: tuple[str, ...]
    clips: int
    groups: int
    accuracy: float
    macro_f1: float
    auc: float
    log_loss: float
    ece: float
    accuracy_ci95: Interval
    macro_f1_ci95: Interval
    auc_ci95: Interval
    log_loss_ci95: Interval
    ece_ci95: Interval
    confusion_matrix: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def score(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[object] | None = None,
    *,
    classes: ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Metrics of class probabilities, with 95 % intervals over groups.

    Parameters
    ----------
    labels : array-like, shape (N,)
        Values of classes; whole numbers are indices 0 to C - 1 where no classes are given, or only their names.
    probabilities : array-like of float, shape (N, C)
        Rows sum to 1. A pandas DataFrame whose columns are called as the classes may have them in any order.
    groups : sequence, length N, optional
        Group of each clip; without it each clip is its own.
    classes : array-like, length C, optional
        Values of the class axis, such as scikit-learn's ``classes_``: text, numbers or bools. Without it: the sorted
        label names, of which all C must occur, or False and True, or 0, 1, ...
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    Score

    Raises
    ------
    InputError
        If there is no clip, shapes differ, a label is unknown, a group is missing, or a row is no probability
        distribution.

    Examples
    --------
    >>> score(["sad", "fear"], [[0.2, 0.8], [0.9, 0.1]], classes=["fear", "sad"]).accuracy
    1.0
    """
    values = check_probabilities(probabilities)
    names, index = check_labels(labels, classes, values.shape)
    values = in_class_order(values, probabilities, names)
    members = check_groups(range(len(index)) if groups is None else groups, len(index))
    if draws < 1:
        raise InputError(f"draws is {draws}; expected 1 or more, such as {DRAWS}")
    return score_draws(index, values, draw_groups(members, draws=draws, seed=seed), classes=names)


def score_draws(
    labels: Labels, probabilities: Floats, draws: GroupDraws, *, classes: tuple[str, ...]
) -> Score:
    """`score` of checked input, with draws that several results share.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    draws : GroupDraws
    classes : tuple of str, length C
    """
    intervals = bootstrap_intervals(labels, probabilities, draws)
    warning = few_groups_warning(draws.groups, draws.effective)
    return Score(
        classes=classes,
        clips=len(labels),
        groups=draws.groups,
        confusion_matrix=confusion_matrix(labels, probabilities),
        notes=(warning,) if warning else (),
        **{name: float(metric(labels, probabilities)) for name, metric in METRICS.items()},  # type: ignore[arg-type]
        **{f"{name}_ci95": interval for name, interval in intervals.items()},  # type: ignore[arg-type]
    )


def class_scores(labels: Labels, probabilities: Floats, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Each class against the rest.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    probabilities : ndarray of float64, shape (N, C)
    classes : sequence of str, length C

    Returns
    -------
    tuple of ClassScore
        Precision is NaN where the class is never predicted, recall where it is never true, F1 where it is neither.
    """
    matrix = confusion_matrix(labels, probabilities).astype(np.float64)
    hits, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    shares = (
        np.divide(parts, wholes, out=np.full(len(hits), np.nan), where=wholes > 0)
        for parts, wholes in ((hits, predicted), (hits, true), (2 * hits, true + predicted))
    )
    rows = zip(classes, true, *shares, class_aucs(labels, probabilities), strict=True)
    return tuple(ClassScore(label, int(clips), *map(float, numbers)) for label, clips, *numbers in rows)
