"""One call from labels and probabilities to every metric with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import InputError
from evaluate.groups import DRAWS, GroupDraws, draw_groups
from evaluate.metrics import Floats, Labels, class_aucs, confusion_matrix
from evaluate.records import ClassScore, Interval
from evaluate.uncertainty import METRICS, bootstrap_intervals, few_groups_warning

_SUM_TOLERANCE = 1e-6


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
        As in `evaluate.metrics`; `auc` is NaN where all clips are of one class.
    accuracy_ci95, macro_f1_ci95, auc_ci95, log_loss_ci95, ece_ci95 : Interval
        As in `evaluate.uncertainty`.
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
    classes: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Metrics of class probabilities, with 95 % intervals over groups.

    Parameters
    ----------
    labels : array-like, shape (N,)
        Class indices, or class names.
    probabilities : array-like of float, shape (N, C)
        Rows sum to 1.
    groups : sequence, length N, optional
        Group of each clip; without it each clip is its own.
    classes : sequence of str, length C, optional
        Names of the class axis. Without it: the sorted label names where all C of them occur, else 0, 1, ...
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    Score

    Raises
    ------
    InputError
        If there is no clip, shapes differ, a label is unknown, or a row is no probability distribution.

    Examples
    --------
    >>> score(["sad", "fear"], [[0.2, 0.8], [0.9, 0.1]], classes=["fear", "sad"]).accuracy
    1.0
    """
    values = check_probabilities(probabilities)
    names, index = check_labels(labels, classes, values.shape)
    members = [str(group) for group in (range(len(index)) if groups is None else groups)]
    if len(members) != len(index):
        raise InputError(f"{len(members)} groups for {len(index)} clips; give one group a clip")
    if draws < 1:
        raise InputError(f"draws is {draws}; expected 1 or more, such as {DRAWS}")
    return score_draws(index, values, draw_groups(members, draws=draws, seed=seed), classes=names)


def score_draws(labels: Labels, probabilities: Floats, draws: GroupDraws, *, classes: tuple[str, ...]) -> Score:
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


def check_probabilities(probabilities: ArrayLike) -> Floats:
    """Probabilities as float64 [N, C].

    Raises
    ------
    InputError
        If there is no clip or no second class, or a row is no probability distribution.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or not values.shape[0] or values.shape[1] < 2:
        raise InputError(
            f"probabilities have shape {values.shape}; expected (clips, classes) with a clip and 2 classes at least"
        )
    # NaN fails each comparison, so it is refused too.
    good = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"probabilities of clip {row} are {values[row].tolist()}; expected values >= 0 that sum to 1")
    return values


def check_labels(
    labels: ArrayLike, classes: Sequence[str] | None, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], Labels]:
    """Class names and indices [N] of labels given as either, for probabilities of `shape` (N, C).

    Raises
    ------
    InputError
        If a label is unknown, or the numbers of labels or classes do not fit `shape`.
    """
    given = np.asarray(labels)
    if given.shape != shape[:1]:
        raise InputError(f"labels have shape {given.shape}, probabilities {shape}; expected one label a clip")
    named = given.dtype.kind in "UO"
    if classes is None:
        classes = sorted({str(label) for label in given}) if named else [str(index) for index in range(shape[1])]
    names = tuple(classes)
    if len(names) != shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"classes are {', '.join(names)}; expected {shape[1]} different ones, one a column (give classes=)"
        )
    if named:
        place = {name: index for index, name in enumerate(names)}
        if unknown := sorted({str(label) for label in given} - set(names)):
            raise InputError(f"label {unknown[0]!r} is none of the classes {', '.join(names)}")
        return names, np.array([place[str(label)] for label in given], dtype=np.int64)
    if given.dtype.kind not in "iu":
        raise InputError(f"labels are {given.dtype}; expected class indices or names")
    index = given.astype(np.int64)
    if index.min() < 0 or index.max() >= len(names):
        raise InputError(f"labels go from {index.min()} to {index.max()}; expected 0 to {len(names) - 1}")
    return names, index
