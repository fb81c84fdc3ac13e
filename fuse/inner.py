"""Inner splits of training rows: grouped and stratified, or none where a class has too few groups."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import InputError
from cache.folds import Unit, inner_folds

INNER_FOLDS = 3


def inner_split(y: NDArray[np.int64], groups: ArrayLike | None, *, seed: int) -> NDArray[np.int64] | None:
    """Inner fold of each row, grouped and stratified, or `None` where a class has fewer than 3 groups.

    Parameters
    ----------
    y : ndarray of int, shape (N,)
        Class indices.
    groups : array-like, shape (N,), or None
        Rows that stay together; without them every row is its own group.
    seed : int

    Raises
    ------
    InputError
        If there is not one group a row.
    """
    names = [str(row) for row in range(len(y))] if groups is None else [str(group) for group in np.asarray(groups)]
    if len(names) != len(y):
        raise InputError(f"{len(names)} groups for {len(y)} rows; give one group a row")
    dealt = _deal(tuple(y.tolist()), tuple(names), seed)
    return None if dealt is None else np.array(dealt, dtype=np.int64)


@lru_cache(maxsize=16)
def _deal(labels: tuple[int, ...], names: tuple[str, ...], seed: int) -> tuple[int, ...] | None:
    """Inner fold of each row; the heads and combinations of one outer fold ask for the same."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    units = [
        Unit(key=name, labels=tuple(str(labels[row]) for row in rows), digests=tuple(map(str, rows)))
        for name, rows in members.items()
    ]
    dealt = inner_folds(units, most=INNER_FOLDS, seed=seed)
    return None if dealt is None else tuple(dealt[str(row)] for row in range(len(labels)))
