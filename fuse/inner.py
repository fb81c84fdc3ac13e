"""Inner splits of training rows: grouped and stratified, or none where a class has too few groups."""

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.errors import InputError
from cache.folds import Unit, inner_folds

INNER_FOLDS = 3
_REMEMBERED = 16
"""Splits that are kept: the heads and combinations of one outer fold ask for the same."""
Split = NDArray[np.int64] | None
_splits: OrderedDict[bytes, Split] = OrderedDict()


def inner_split(y: NDArray[np.int64], groups: ArrayLike | None, *, seed: int) -> Split:
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
    named = np.arange(len(y)) if groups is None else np.asarray(groups)
    if named.shape != y.shape:
        raise InputError(f"{len(named)} groups for {len(y)} rows; give one group a row")
    named = named.astype(str) if named.dtype == object else named
    asked = hashlib.sha256(f"{seed} {named.dtype} {y.dtype} {len(y)} ".encode())
    asked.update(y.tobytes())
    asked.update(named.tobytes())
    if (key := asked.digest()) not in _splits:
        _splits[key] = _deal(y, named, seed)
        if len(_splits) > _REMEMBERED:
            _splits.popitem(last=False)
    _splits.move_to_end(key)
    return _splits[key]


def _deal(y: NDArray[np.int64], groups: NDArray[np.generic], seed: int) -> Split:
    members: dict[object, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    units = [
        Unit(
            key=group.decode() if isinstance(group, bytes) else str(group),
            labels=tuple(str(y[row]) for row in rows),
            digests=tuple(map(str, rows)),
        )
        for group, rows in members.items()
    ]
    dealt = inner_folds(units, most=INNER_FOLDS, seed=seed)
    return None if dealt is None else np.array([dealt[str(row)] for row in range(len(y))], dtype=np.int64)
