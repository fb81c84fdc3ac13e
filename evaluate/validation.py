"""What a caller gives to be scored, checked: labels, probabilities, groups.

Arrays, sequences, and the Series and DataFrame of pandas, which is not imported for it. Labels are matched with classes
by value, as with scikit-learn's ``classes_``: 1, ``numpy.int64(1)``, 1.0 and ``True`` are one value, "1" is another.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moodfuse.cache.errors import InputError
from moodfuse.evaluate.metrics import Floats, Labels

_SUM_TOLERANCE = 1e-6


def check_probabilities(probabilities: ArrayLike) -> Floats:
    """Probabilities as float64 [N, C].

    Raises
    ------
    InputError
        If there is no clip or no second class, or a row is no probability distribution.
    """
    values = np.asarray(_unwrapped(probabilities), dtype=np.float64)
    if values.ndim != 2 or not values.shape[0] or values.shape[1] < 2:
        raise InputError(
            f"probabilities have shape {values.shape}; expected (clips, classes) with a clip and 2 classes at least"
        )
    # NaN fails each comparison, so it is refused too.
    good = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"probabilities of clip {row} are {values[row].tolist()}; expected values >= 0 that sum to 1"
        )
    return values


def check_labels(
    labels: ArrayLike, classes: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], Labels]:
    """Class names and indices [N] of labels, for probabilities of `shape` (N, C).

    Parameters
    ----------
    labels, classes, shape
        As for `evaluate.score`.

    Raises
    ------
    InputError
        If a label is missing or unknown, or the numbers of labels or classes do not fit `shape`.
    """
    given = np.asarray(_unwrapped(labels), dtype=object)
    if given.shape != shape[:1]:
        raise InputError(f"labels have shape {given.shape}, probabilities {shape}; expected one label a clip")
    _refuse_missing("label", given.tolist())
    values = [_plain(label) for label in given.tolist()]
    known = _class_values(values, classes, shape[1])
    names = tuple(map(str, known))
    if len(names) != shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"classes are {', '.join(names)}; expected {shape[1]} different ones, one a column (give classes=)"
        )
    if _are_text(known) and not any(isinstance(label, str) for label in values):
        return names, _places(values, names)
    place = {value: index for index, value in enumerate(known)}
    for label in values:
        if label not in place:
            raise InputError(f"label {label!r} is none of the classes {', '.join(names)}")
    return names, np.array([place[label] for label in values], dtype=np.int64)


def _class_values(labels: Sequence[object], classes: ArrayLike | None, count: int) -> Sequence[object]:
    """The values of the class axis: those given, else the sorted names that occur, else those of `count` indices."""
    if classes is not None:
        return [_plain(value) for value in np.asarray(_unwrapped(classes), dtype=object).tolist()]
    if _are_text(labels):
        return sorted({str(label) for label in labels})
    strange = [label for label in labels if not isinstance(label, int)]
    if strange:
        raise InputError(f"labels such as {strange[0]!r} are neither class names nor indices; give classes=")
    if all(isinstance(label, bool) for label in labels):
        return [False, True]
    found = sorted({label for label in labels if isinstance(label, int)})
    if found[0] < 0 or found[-1] >= count:
        raise InputError(
            f"labels go from {found[0]} to {found[-1]}; expected indices 0 to {count - 1} of the {count} columns; if "
            f"they are values of classes, give these in the order of the columns, such as classes={found}"
        )
    return list(range(count))


def _places(labels: Sequence[object], names: tuple[str, ...]) -> Labels:
    """Places on the class axis as they were given for classes that are text."""
    if all(name.isdecimal() for name in names) and names != tuple(map(str, range(len(names)))):
        raise InputError(
            f"labels are numbers and classes text ({', '.join(map(repr, names))}), so {labels[0]!r} may be a class or "
            "a place among them; give both as numbers, or both as text"
        )
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < len(names):
            raise InputError(
                f"label {label!r} is neither one of the classes {', '.join(names)} nor a place among them, 0 to "
                f"{len(names) - 1}"
            )
    return np.array(labels, dtype=np.int64)


def in_class_order(values: Floats, probabilities: ArrayLike, classes: tuple[str, ...]) -> Floats:
    """Probabilities [N, C] whose columns follow the classes, also where a DataFrame names them in another order.

    Columns without names, or with names that are no classes, stand as they are.

    Raises
    ------
    InputError
        If some columns are called like classes and some are not.
    """
    columns = [str(_plain(name)) for name in getattr(probabilities, "columns", ())]
    if set(columns) == set(classes):
        return values[:, [columns.index(name) for name in classes]]
    if shared := sorted(set(columns) & set(classes)):
        strange = next(name for name in columns if name not in classes)
        raise InputError(
            f"column {shared[0]!r} is called like a class, column {strange!r} is not; the classes are "
            f"{', '.join(classes)}: name all columns so, or none"
        )
    return values


def check_groups(groups: Sequence[object], count: int) -> list[str]:
    """A group's name for each of `count` clips.

    Raises
    ------
    InputError
        If there are more or fewer, or a clip has none.
    """
    values = list(_unwrapped(groups))
    if len(values) != count:
        raise InputError(f"{len(values)} groups for {count} clips; give one group a clip")
    _refuse_missing("group", values)
    return [str(group) for group in values]


def _unwrapped(given: Any) -> Any:
    """The array behind a pandas object; anything else as it is."""
    return given.to_numpy() if hasattr(given, "to_numpy") else given


def _refuse_missing(what: str, values: Sequence[object]) -> None:
    for row, value in enumerate(values):
        if _is_missing(value):
            raise InputError(f"{what} of clip {row} is {value}; give each clip one, or leave the clip out")


def _is_missing(value: object) -> bool:
    """Whether a value is None, NaN or NaT, which equal nothing, or pandas' NA, which cannot even say so."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _plain(value: object) -> object:
    """Python's own value: text, bool, or int where a number is whole; other values as they are."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    return int(value) if isinstance(value, float | np.floating) and float(value).is_integer() else value


def _are_text(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(value, str) for value in values)
