"""The choice of a head's settings on inner grouped folds.

The candidate of lowest inner log loss is chosen; of equals the first, which is the simplest.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import ClipGroup, inner_folds
from moodfuse.fuse.inference import TINY, Floats, Ints

INNER_FOLDS = 3
InnerData = tuple[NDArray[Any], Ints, NDArray[Any], Ints]
"""Rows to fit on with their class indices, and rows to score with theirs."""
_DECIMALS = 9
"""Decimals to which losses are compared."""


def split_inner_folds(y: Ints, groups: ArrayLike | None, *, seed: int) -> Ints | None:
    """Inner fold of each row, grouped and stratified, or `None` where a class has fewer than 3 groups.

    `y` are class indices [N]; without `groups` [N] every row is its own group.
    """
    names: NDArray[Any] = np.arange(len(y)) if groups is None else np.asarray(groups)
    if names.shape != y.shape:
        raise InputError(f"groups of shape {names.shape} for {len(y)} rows; give one group per row")
    split = _split(tuple(y.tolist()), tuple(map(str, names)), seed)
    return None if split is None else np.array(split, dtype=np.int64)


@lru_cache(maxsize=16)  # the heads and combinations of one outer fold need the same split
def _split(y: tuple[int, ...], names: tuple[str, ...], seed: int) -> tuple[int, ...] | None:
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    groups = [
        ClipGroup(key=name, labels=tuple(str(y[row]) for row in rows), digests=tuple(map(str, rows)))
        for name, rows in members.items()
    ]
    fold_of = inner_folds(groups, most=INNER_FOLDS, seed=seed)
    return None if fold_of is None else tuple(fold_of[str(row)] for row in range(len(y)))


def choose_on_rows(head: Any, x: NDArray[Any], y: Ints, groups: ArrayLike | None, *, seed: int) -> Any:
    """Choose a head's settings on inner splits of rows; `None` where a class has fewer than 3 groups."""
    folds = split_inner_folds(y, groups, seed=seed)
    if folds is None:
        return None
    data = (
        (x[folds != fold], y[folds != fold], x[folds == fold], y[folds == fold]) for fold in np.unique(folds)
    )
    return choose_settings(head, data, classes=int(y.max()) + 1)[0]


def choose_settings(
    head: Any, data: Iterable[InnerData], *, classes: int
) -> tuple[dict[str, Any], Floats, Ints]:
    """Choose the candidate of lowest inner log loss among those of the head's `grid`.

    Returns its settings, its probabilities [M, classes] of the scored rows of all inner folds, and the class
    indices of these rows [M].
    """
    tried, labels = [], []
    for x, y, held_out, y_held_out in data:
        probabilities = head.try_candidates(x, y, held_out)
        every_class = np.zeros((*probabilities.shape[:2], classes))
        every_class[:, :, np.unique(y)] = probabilities
        tried.append(every_class)
        labels.append(y_held_out)
    probabilities, y_true = np.concatenate(tried, axis=1), np.concatenate(labels)
    of_true_class = probabilities[:, np.arange(len(y_true)), y_true]
    losses = -np.log(np.maximum(of_true_class, TINY)).mean(axis=1)
    best = int(np.argmin(np.round(losses, _DECIMALS)))
    return head.grid[best], probabilities[best], y_true


def limit_to_one_thread() -> Any:
    """A context in which BLAS uses one thread: for small matrices waking threads costs more than it gains."""
    return _thread_pools().limit(limits=1)


@lru_cache(maxsize=1)  # looking for the thread pools takes longer than most fits
def _thread_pools() -> Any:
    import scipy.linalg.blas
    from threadpoolctl import ThreadpoolController

    scipy.linalg.blas.ddot([0.0], [0.0])  # loads SciPy's own BLAS
    return ThreadpoolController()
