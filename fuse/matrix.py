"""The design matrix of one outer fold, with its inner folds. `moodfuse.fuse.design` makes it, behind the leak guard."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import Digests
from moodfuse.fuse.features import Level

HIDDEN = -1
"""Class index of a test row: its label enters no design matrix."""
Values = NDArray[np.float32] | NDArray[np.float64]
"""Features as they were computed, in float32, or in float64 where means fill in for what is absent."""
NO_FOLD = -1
"""The outer fold of a design matrix that tests none: its head ships."""


@dataclass(frozen=True)
class InnerFold:
    """One inner fold: where settings are tried.

    Attributes
    ----------
    x : ndarray of float32 or float64, shape (N, D)
    fit, held : ndarray of bool, shape (N,)
        Rows to fit on, and rows to score; neither holds a test row.
    """

    x: Values
    fit: NDArray[np.bool_]
    held: NDArray[np.bool_]


@dataclass(frozen=True)
class DesignMatrix:
    """The features of one outer fold, checked against leaks. Made by `assemble`, and unchecked for leaky runs alone.

    Attributes
    ----------
    x : ndarray of float32 or float64, shape (N, D)
        The sources' columns side by side; rows are the plan's clips in order.
    y : ndarray of int64, shape (N,)
        Index into `classes`; `HIDDEN` for test rows.
    groups : ndarray of S64, shape (N,)
        Group of each row, named by the smallest clip digest in it.
    digests : ndarray of S64, shape (N,)
        Clip of each row.
    test : ndarray of bool, shape (N,)
        Role of each row: test, or train.
    test_fold : int
        The outer fold, or `NO_FOLD`.
    classes : tuple of str
        Sorted labels.
    columns : tuple of (source, slice)
        Where each source's columns stand.
    level : str
        ``"logits"`` or ``"embedding"``.
    honest : bool
        Whether every training row is out of sample: no network behind its features saw its label, or its group's.
    inner : tuple of InnerFold
        Empty where nothing can be chosen: training rows in sample without pair networks, or too few groups.
    """

    x: Values
    y: NDArray[np.int64]
    groups: Digests
    digests: Digests
    test: NDArray[np.bool_]
    test_fold: int
    classes: tuple[str, ...]
    columns: tuple[tuple[str, slice], ...]
    level: Level
    honest: bool
    inner: tuple[InnerFold, ...] = ()

    @property
    def x_train(self) -> Values:
        """Features of the training rows, [N_train, D]."""
        return self.x[~self.test]

    @property
    def y_train(self) -> NDArray[np.int64]:
        """Class indices of the training rows, [N_train]."""
        return self.y[~self.test]

    @property
    def groups_train(self) -> Digests:
        """Groups of the training rows, [N_train]."""
        return self.groups[~self.test]

    @property
    def x_test(self) -> Values:
        """Features of the test rows, [N_test, D]."""
        return self.x[self.test]
