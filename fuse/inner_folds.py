"""Inner splits of training rows: grouped and stratified, or none where a class has too few groups."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import Unit, inner_folds

INNER_FOLDS = 3
_REMEMBERED = 16
"""Splits that are kept: the heads and combinations of one outer fold ask for the same."""
_UNKNOWN = "unknown"
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
    given = np.arange(len(y)) if groups is None else np.asarray(groups)
    if given.shape != y.shape:
        found = f"{len(given)} groups" if given.ndim == 1 else f"groups of shape {given.shape}"
        raise InputError(f"{found} for {len(y)} rows; give one group a row")
    names = [_name_of(group) for group in given]
    asked = hashlib.sha256(f"{seed} {y.dtype} {len(y)} ".encode())
    asked.update(y.tobytes())
    asked.update(repr(names).encode())
    split = _splits.pop(asked.digest(), _UNKNOWN)
    if isinstance(split, str):
        split = _deal(y, names, seed)
    _splits[asked.digest()] = split
    while len(_splits) > _REMEMBERED:
        _splits.popitem(last=False)
    return split


def _name_of(group: object) -> str:
    return group.decode("utf-8", "surrogateescape") if isinstance(group, bytes) else str(group)


def _deal(y: NDArray[np.int64], names: Sequence[str], seed: int) -> Split:
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    units = [
        Unit(key=name, labels=tuple(str(y[row]) for row in rows), digests=tuple(map(str, rows)))
        for name, rows in members.items()
    ]
    dealt = inner_folds(units, most=INNER_FOLDS, seed=seed)
    if dealt is None:
        return None
    split = np.array([dealt[str(row)] for row in range(len(y))], dtype=np.int64)
    split.setflags(write=False)  # others get the same array
    return split
