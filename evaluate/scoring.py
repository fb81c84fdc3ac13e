"""Score probabilities, and compare two classifiers, from labels and probabilities that a caller gives.

Input is checked here: arrays, sequences, and the Series and DataFrame of pandas, which is not imported for
it. Labels are matched with classes by value, as with scikit-learn's ``classes_``: 1, ``numpy.int64(1)``, 1.0
and ``True`` are one value, "1" is another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.cache.errors import InputError
from moodfuse.evaluate.intervals import (
    DRAWS,
    GroupDraws,
    Interval,
    bootstrap_intervals,
    draw_groups,
    few_groups_warning,
    mean_intervals,
)
from moodfuse.evaluate.metrics import Floats, Labels, all_metrics, confusion_matrix, is_correct
from moodfuse.evaluate.paired import sign_flip_p

_SUM_TOLERANCE = 1e-6
_MISSING = ("None", "nan", "NaT", "<NA>")
"""Missing values of Python, NumPy and pandas, as text."""


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


@dataclass(frozen=True)
class Difference:
    """Accuracy of one classifier minus that of another, with its 95 % interval and two-sided p-value."""

    accuracy: float
    accuracy_ci95: Interval
    p_value: float


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
        Values of classes; without `classes`, integers are indices 0 to C - 1.
    probabilities : array-like of float, shape (N, C)
        Rows sum to 1. A pandas DataFrame whose columns are named as the classes may have them in any order.
    groups : sequence, length N, optional
        Group of each clip; without it each clip is its own group.
    classes : array-like, length C, optional
        Values of the class axis, such as scikit-learn's ``classes_``: text, numbers or bools. Without it: the
        sorted label names, of which all C must occur, or False and True, or 0, 1, ...
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
    names, index, values = _check_input(labels, probabilities, classes)
    return score_draws(index, values, _resample(groups, len(index), draws, seed), classes=names)


def compare(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[object] | None = None,
    *,
    classes: ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare the accuracy of two classifiers on the same clips, from their probabilities [N, C].

    The other parameters and the errors are those of `score`. The p-value is that of a sign-flip permutation
    test over groups (see `evaluate.paired`).
    """
    correct = []
    for probabilities in (first, second):
        _, index, values = _check_input(labels, probabilities, classes)
        correct.append(is_correct(index, values))
    gains = correct[0] - correct[1]
    resamples = _resample(groups, len(gains), draws, seed)
    ((difference, interval),) = mean_intervals(gains[:, None], resamples)
    return Difference(difference, interval, sign_flip_p(resamples.group_sums(gains)))


def _check_input(
    labels: ArrayLike, probabilities: ArrayLike, classes: ArrayLike | None
) -> tuple[tuple[str, ...], Labels, Floats]:
    """Class names, class indices [N] and probabilities [N, C] with columns in the order of the names."""
    values = _check_probabilities(probabilities)
    names, index = _class_indices(labels, classes, values.shape)
    return names, index, _in_class_order(values, probabilities, names)


def _resample(groups: Sequence[object] | None, count: int, draws: int, seed: int) -> GroupDraws:
    if draws < 1:
        raise InputError(f"draws is {draws}; expected 1 or more, such as {DRAWS}")
    members = list(range(count) if groups is None else _as_array(groups))
    if len(members) != count:
        raise InputError(f"{len(members)} groups for {count} clips; give one group per clip")
    _check_none_missing("group", members)
    return draw_groups(members, draws=draws, seed=seed)


def score_draws(
    labels: Labels, probabilities: Floats, resamples: GroupDraws, *, classes: tuple[str, ...]
) -> Score:
    """`score` of class indices [N] and probabilities [N, C], with resamples that several results share."""
    intervals = bootstrap_intervals(labels, probabilities, resamples)
    warning = few_groups_warning(resamples.groups, resamples.effective)
    return Score(
        classes=classes,
        clips=len(labels),
        groups=resamples.groups,
        confusion_matrix=confusion_matrix(labels, probabilities),
        notes=(warning,) if warning else (),
        **{name: float(value) for name, value in all_metrics(labels, probabilities).items()},  # type: ignore[arg-type]
        **{f"{name}_ci95": interval for name, interval in intervals.items()},  # type: ignore[arg-type]
    )


def _check_probabilities(probabilities: ArrayLike) -> Floats:
    """Probabilities as float64 [N, C]; raise `InputError` if they are not distributions over 2 classes."""
    values = np.asarray(_as_array(probabilities), dtype=np.float64)
    if values.ndim != 2 or not values.shape[0] or values.shape[1] < 2:
        raise InputError(
            f"probabilities have shape {values.shape}; expected (clips, classes) with a clip and 2 classes "
            "at least"
        )
    # NaN fails each comparison.
    good = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"probabilities of clip {row} are {values[row].tolist()}; expected values >= 0 that sum to 1"
        )
    return values


def _class_indices(
    labels: ArrayLike, classes: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], Labels]:
    """Class names, and class indices [N] of labels, for probabilities of `shape` (N, C)."""
    given = np.asarray(_as_array(labels), dtype=object)
    if given.shape != shape[:1]:
        raise InputError(
            f"labels have shape {given.shape}, probabilities {shape}; expected one label per clip"
        )
    _check_none_missing("label", given.tolist())
    values = [_python_value(label) for label in given.tolist()]
    known: Sequence[object]
    if classes is not None:
        known = [_python_value(value) for value in np.asarray(_as_array(classes), dtype=object).tolist()]
    elif all(isinstance(label, str) for label in values):
        known = sorted({str(label) for label in values})
    elif all(isinstance(label, bool) for label in values):
        known = [False, True]
    else:
        known = range(shape[1])
    names = tuple(map(str, known))
    if len(names) != shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"classes are {', '.join(names)}; expected {shape[1]} different ones, one per column (give "
            "classes=)"
        )
    indices: dict[object, int] = {value: index for index, value in enumerate(known)}
    ambiguous = any(map(str.isdecimal, names)) and names != tuple(map(str, range(len(names))))
    if all(isinstance(value, str) for value in known) and not ambiguous:
        indices |= {index: index for index in range(len(names))}
    for label in values:
        if label not in indices:
            raise InputError(
                f"label {label!r} is none of the classes {', '.join(map(repr, known))}; correct it, or give "
                "the values of the classes in the order of the columns as classes="
            )
    return names, np.array([indices[label] for label in values], dtype=np.int64)


def _in_class_order(values: Floats, probabilities: ArrayLike, classes: tuple[str, ...]) -> Floats:
    """Probabilities in the order of the classes, where a DataFrame names all its columns like classes."""
    columns = [str(_python_value(name)) for name in getattr(probabilities, "columns", ())]
    if set(columns) == set(classes):
        return values[:, [columns.index(name) for name in classes]]
    if set(columns) & set(classes):
        raise InputError(
            f"columns {', '.join(columns)} are only partly named like the classes {', '.join(classes)}; "
            "name all columns like classes, or none"
        )
    return values


def _as_array(given: Any) -> Any:
    """The array inside a pandas object; anything else unchanged."""
    return given.to_numpy() if hasattr(given, "to_numpy") else given


def _check_none_missing(noun: str, values: Sequence[object]) -> None:
    for row, value in enumerate(values):
        if not isinstance(value, str) and str(value) in _MISSING:
            raise InputError(f"{noun} of clip {row} is {value}; give each clip one, or remove the clip")


def _python_value(value: object) -> object:
    """Convert to Python's text, bool, or int where a number is an integer; other values are unchanged."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral) or (isinstance(value, float | np.floating) and float(value).is_integer()):
        return int(value)
    return value
