"""Inner folds of training rows, and the choice of a head's settings on them.

A head offers `candidates()` and `try_candidates(x, y, held_out)`. The candidate of least inner log loss wins,
classes weighted to count alike; of equals the first, which is the simplest.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import Unit, inner_folds
from moodfuse.fuse.heads.exported import TINY, Floats, Ints

INNER_FOLDS = 3
InnerData = tuple[NDArray[Any], Ints, NDArray[Any], Ints]
"""Rows to fit on with their class indices, and rows to score with theirs."""
_DECIMALS = 9
"""Decimals to which losses are compared."""


def inner_split(y: NDArray[np.int64], groups: ArrayLike | None, *, seed: int) -> NDArray[np.int64] | None:
    """Inner fold of each row, grouped and stratified, or `None` where a class has fewer than 3 groups.

    `y` are class indices [N]; without `groups` [N] every row is its own group.
    """
    given: NDArray[Any] = np.arange(len(y)) if groups is None else np.asarray(groups)
    if given.shape != y.shape:
        found = f"{len(given)} groups" if given.ndim == 1 else f"groups of shape {given.shape}"
        raise InputError(f"{found} for {len(y)} rows; give one group per row")
    if given.dtype.kind == "S":
        given = np.char.decode(given, "utf-8", "surrogateescape")
    split = _split(tuple(y.tolist()), tuple(str(name) for name in given), seed)
    return None if split is None else np.array(split, dtype=np.int64)


@lru_cache(maxsize=16)
def _split(y: tuple[int, ...], names: tuple[str, ...], seed: int) -> tuple[int, ...] | None:
    """The heads and combinations of one outer fold ask for the same split."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    units = [
        Unit(key=name, labels=tuple(str(y[row]) for row in rows), digests=tuple(map(str, rows)))
        for name, rows in members.items()
    ]
    fold_of = inner_folds(units, most=INNER_FOLDS, seed=seed)
    return None if fold_of is None else tuple(fold_of[str(row)] for row in range(len(y)))


def choose_on_rows(
    model: Any, x: NDArray[Any], y: Ints, groups: ArrayLike | None, *, seed: int
) -> dict[str, Any] | None:
    """Settings chosen on grouped inner splits of rows; `None` where a class has fewer than 3 groups."""
    folds = inner_split(y, groups, seed=seed)
    if folds is None:
        return None

    def data() -> Iterator[InnerData]:
        for fold in np.unique(folds):
            fit, held_out = folds != fold, folds == fold
            yield x[fit], y[fit], x[held_out], y[held_out]

    losses, _, _ = inner_scores(model, data(), classes=int(y.max()) + 1)
    settings: dict[str, Any] = model.candidates()[best_candidate(losses)]
    return settings


def best_candidate(losses: Floats) -> int:
    """Index of the least loss; of equals the first."""
    return int(np.argmin(np.round(losses, _DECIMALS)))


def inner_scores(model: Any, data: Iterable[InnerData], *, classes: int) -> tuple[Floats, Floats, Ints]:
    """Try every candidate on every inner fold, whose scored rows are M in all.

    Returns losses [candidates], classes weighted to count alike, probabilities [candidates, M, classes], and
    the class indices of the rows [M].
    """
    tried, labels = [], []
    for x, y, held_out, y_held_out in data:
        found = model.try_candidates(x, y, held_out)
        every_class = np.zeros((*found.shape[:2], classes))
        every_class[:, :, np.unique(y)] = found
        tried.append(every_class)
        labels.append(y_held_out)
    probabilities, y_true = np.concatenate(tried, axis=1), np.concatenate(labels)
    counts = np.bincount(y_true, minlength=classes)
    weights = len(y_true) / (np.count_nonzero(counts) * counts[y_true])
    of_true_class = probabilities[:, np.arange(len(y_true)), y_true]
    return -np.log(np.maximum(of_true_class, TINY)) @ weights, probabilities, y_true
