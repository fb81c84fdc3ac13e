"""Score probabilities, from labels and probabilities that a caller gives.

Input is checked here. Labels are matched with classes by value, as with scikit-learn's ``classes_``: 1,
``numpy.int64(1)``, 1.0 and ``True`` are one value, "1" is another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.cache.errors import InputError
from moodfuse.evaluate.intervals import (
    COVERAGE,
    DRAWS,
    UNDEFINED,
    GroupResamples,
    Interval,
    bootstrap_intervals,
    interval_warnings,
    resample_groups,
)
from moodfuse.evaluate.metrics import Floats, Labels, all_metrics, confusion_matrix, log_loss

_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Score:
    """Metrics of class probabilities (see `evaluate.metrics`) with 95 % intervals (`evaluate.intervals`).

    `auc` is NaN where all clips are of one class, rows of `confusion_matrix` [C, C] are true classes, and
    `notes` are warnings about the intervals.
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
        Values of classes; without `classes`, numbers are indices 0 to C - 1.
    probabilities : array-like of float, shape (N, C)
        Rows sum to 1. A pandas DataFrame whose columns are named as the classes may have them in any order.
    groups : sequence, length N, optional
        Group of each clip; without it each clip is its own group.
    classes : array-like, length C, optional
        Values of the columns, such as scikit-learn's ``classes_``: text, numbers or bools. Default: the
        sorted names in `labels`, False and True, or 0 to C - 1.
    draws, seed : int
        Of the bootstrap.

    Raises
    ------
    InputError
        If there is no clip, shapes differ, a label is unknown, a group is missing, or a row of
        `probabilities` is not a distribution.

    Examples
    --------
    >>> score(["sad", "fear"], [[0.2, 0.8], [0.9, 0.1]], classes=["fear", "sad"]).accuracy
    1.0
    """
    names, index, values = check_input(labels, probabilities, classes)
    return score_resamples(index, values, _resample(groups, len(index), draws, seed), classes=names)


def check_input(
    labels: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None
) -> tuple[tuple[str, ...], Labels, Floats]:
    """Class names, class indices [N] and probabilities [N, C] with columns in the order of the names."""
    try:
        values = np.asarray(probabilities, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"probabilities are not numbers ({error}); expected (clips, classes)") from error
    if values.ndim != 2 or not values.shape[0] or values.shape[1] < 2:
        raise InputError(
            f"probabilities have shape {values.shape}; expected (clips, classes) with a clip and 2 classes "
            "at least"
        )
    # NaN fails each comparison.
    valid = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not valid.all():
        row = int(np.argmin(valid))
        raise InputError(
            f"probabilities of clip {row} are {values[row].tolist()}; expected values >= 0 that sum to 1"
        )
    names, index = _class_indices(labels, classes, values.shape)
    columns = list(map(str, getattr(probabilities, "columns", ())))
    if set(columns) == set(names):
        values = values[:, [columns.index(name) for name in names]]
    return names, index, values


def _class_indices(
    labels: ArrayLike, classes: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], Labels]:
    """Class names, and class indices [N] of labels, for probabilities of `shape` (N, C)."""
    given = np.asarray(labels, dtype=object)
    if given.shape != shape[:1]:
        raise InputError(
            f"labels have shape {given.shape}, probabilities {shape}; expected one label per clip"
        )
    known: Sequence[object]
    if classes is not None:
        known = np.asarray(classes, dtype=object).tolist()
    elif all(isinstance(label, str) for label in given):
        known = sorted(set(given))
    elif all(isinstance(label, bool | np.bool_) for label in given):
        known = [False, True]
    else:
        known = range(shape[1])
    names = tuple(map(str, known))
    if len(names) != shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"classes are {', '.join(names)}; expected {shape[1]} different ones, one per column (give "
            "classes=)"
        )
    indices = {value: index for index, value in enumerate(known)}
    for label in given:
        if label not in indices:
            raise InputError(
                f"label {label!r} is none of the classes {', '.join(map(repr, known))}; correct it, or give "
                "the values of the classes in the order of the columns as classes="
            )
    return names, np.array([indices[label] for label in given], dtype=np.int64)


def _resample(groups: Sequence[object] | None, count: int, draws: int, seed: int) -> GroupResamples:
    if draws < 1:
        raise InputError(f"draws is {draws}; expected 1 or more, such as {DRAWS}")
    members = list(range(count) if groups is None else groups)
    if len(members) != count:
        raise InputError(f"{len(members)} groups for {count} clips; give one group per clip")
    for row, group in enumerate(members):
        if group is None or group != group:
            raise InputError(f"the group of clip {row} is missing; give each clip one, or remove the clip")
    return resample_groups(members, draws=draws, seed=seed)


def score_resamples(
    labels: Labels, probabilities: Floats, resamples: GroupResamples, *, classes: tuple[str, ...]
) -> Score:
    """`score` of class indices [N] and probabilities [N, C], with resamples that several results share."""
    intervals = bootstrap_intervals(labels, probabilities, resamples)
    return Score(
        classes=classes,
        clips=len(labels),
        groups=resamples.groups,
        confusion_matrix=confusion_matrix(labels, probabilities),
        notes=interval_warnings(labels, probabilities, resamples, classes),
        **{name: float(value) for name, value in all_metrics(labels, probabilities).items()},  # type: ignore[arg-type]
        **{f"{name}_ci95": interval for name, interval in intervals.items()},  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class RepeatedScore:
    """Accuracy and log loss as means over all clips and plans, with the standard deviation of the plans.

    `ci95` is the interval of the accuracy.
    """

    repeats: int
    accuracy: float
    spread: float
    ci95: Interval
    log_loss: float


def repeated_score(labels: Labels, probabilities: Floats, folds: NDArray[np.int64]) -> RepeatedScore:
    """Scores over the folds of several plans, with an interval that allows for overlapping training sets.

    The corrected resampled t interval widens the variance s**2 / J of J fold accuracies to (1 / J + n_test /
    n_train) s**2 (Nadeau and Bengio 2003, Machine Learning 52:239; for repeated cross-validation Bouckaert
    and Frank 2004, PAKDD). `probabilities` are [R, N, C] and `folds` [R, N] for R plans.
    """
    from scipy.special import stdtrit

    right = probabilities.argmax(axis=-1) == labels
    fold_scores = [
        (rows[inside].mean(), inside.sum())
        for rows, plan in zip(right, folds, strict=True)
        for inside in (plan == fold for fold in np.unique(plan))
    ]
    accuracies, sizes = np.array(fold_scores, dtype=np.float64).T
    count, mean, repeats = len(accuracies), right.mean(), right.mean(axis=1)
    ci95 = UNDEFINED
    if np.ptp(accuracies) > 1e-12:  # equal folds do not show how much others would differ
        test_to_train = float(np.mean(sizes / np.maximum(right.shape[1] - sizes, 1)))
        error = np.sqrt((1 / count + test_to_train) * accuracies.var(ddof=1))
        reach = float(stdtrit(count - 1, (1 + COVERAGE) / 2)) * error
        ci95 = Interval(*np.clip([mean - reach, mean + reach], 0.0, 1.0).tolist())
    return RepeatedScore(
        repeats=len(right),
        accuracy=float(mean),
        spread=float(repeats.std(ddof=1)) if len(repeats) > 1 else float("nan"),
        ci95=ci95,
        log_loss=float(np.mean([log_loss(labels, table) for table in probabilities])),
    )
