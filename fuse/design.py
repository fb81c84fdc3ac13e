"""Design matrices: the one place where blocks become the matrix of a head, behind the leak guard.

Rows are the plan's clips in order; class indices follow the sorted labels. What a head chooses (C, rounds,
temperature) it chooses on inner folds of the training rows. Where training rows are out of sample, these are
grouped splits of the rows themselves. Where they are embeddings of a network that saw them, inner fold j is
tested within the pair network `{j,k}`, which saw neither j nor k, and the guard checks that network for both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Block
from moodfuse.fuse.heads import Level, check_level
from moodfuse.fuse.heads.inner_folds import inner_split
from moodfuse.fuse.leak_guard import (
    ClipRows,
    Features,
    Mask,
    check_block,
    check_files,
    check_test_fold,
    is_out_of_sample,
    networks_of,
    values_of,
)

HIDDEN = -1
"""Class index of a test row: its label enters no design matrix."""
NO_FOLD = -1
"""The outer fold of a design matrix without a test fold: that of a model for export."""
Values = NDArray[np.float32] | NDArray[np.float64]
"""Features as they were computed, in float32, or in float64 where means fill in for what is absent."""


@dataclass(frozen=True)
class DesignInputs:
    """What a design matrix is made of; all that a worker process needs.

    `blocks` has one entry per source, in the order of the columns. `pairs` has for inner fold j the blocks of
    the same sources from networks that held out j and the test fold; it is empty where there are none, or
    none are needed. `seed` is that of the inner split.
    """

    rows: ClipRows
    blocks: Sequence[Features]
    level: Level
    test_fold: int = NO_FOLD
    pairs: Mapping[int, Sequence[Block]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class InnerFold:
    """One inner fold: features [N, D], rows to fit on [N], rows to score [N]; test rows are in neither."""

    x: Values
    fit: Mask
    held_out: Mask


@dataclass(frozen=True)
class DesignMatrix:
    """The features of one outer fold, checked against leaks.

    Attributes
    ----------
    x : ndarray of float32 or float64, shape (N, D)
        The sources' columns side by side; rows are the plan's clips in order.
    y : ndarray of int64, shape (N,)
        Index into `classes`; `HIDDEN` for test rows.
    groups : ndarray of S64, shape (N,)
        Group of each row, named by the smallest clip digest in it.
    test : ndarray of bool, shape (N,)
        Which rows are tested; the others train.
    classes : tuple of str
        Sorted labels.
    out_of_sample : bool
        Whether no network behind a training row's features saw its label, or one of its group.
    inner : tuple of InnerFold
        Empty where nothing can be chosen: training rows in sample without pair networks, or too few groups.
    """

    x: Values
    y: NDArray[np.int64]
    groups: NDArray[np.bytes_]
    test: Mask
    classes: tuple[str, ...]
    out_of_sample: bool
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
    def groups_train(self) -> NDArray[np.bytes_]:
        """Groups of the training rows, [N_train]."""
        return self.groups[~self.test]

    @property
    def x_test(self) -> Values:
        """Features of the test rows, [N_test, D]."""
        return self.x[self.test]


def assemble(inputs: DesignInputs) -> DesignMatrix:
    """Put the blocks of several sources side by side, after checking each against the holdout rule.

    Without a test fold every row trains: the matrix of a model for export. Its settings are chosen as under
    an outer fold, here within networks that held one fold out. Raises `LeakError` if a network may have seen,
    or did see, a clip of a fold that it is tested on or of its groups, or a clip that is in no fold.
    """
    rows, test_fold = inputs.rows, inputs.test_fold
    check_level(inputs.level)
    check_files(rows)
    if test_fold != NO_FOLD:
        check_test_fold(rows, test_fold)
    names = [features.source for features in inputs.blocks]
    if not names or len(set(names)) != len(names):
        raise InputError(f"fold {test_fold}: expected one block per source, got {names}")
    for block in _networks(inputs.blocks):
        check_block(block, rows, {test_fold} - {NO_FOLD})
    for inner_fold, blocks in inputs.pairs.items():
        for block in blocks:
            check_block(block, rows, {test_fold, inner_fold} - {NO_FOLD})
    out_of_sample = all(
        is_out_of_sample(features, rows, inputs.level, test_fold) for features in inputs.blocks
    )
    return _build(inputs, out_of_sample=out_of_sample)


def assemble_leaky(inputs: DesignInputs) -> DesignMatrix:
    """A design matrix without the guard, rows taken as out of sample: to measure the effect of a leak."""
    ungrouped = replace(inputs.rows, group_keys=np.array(inputs.rows.digests, dtype="S64"))
    return _build(replace(inputs, rows=ungrouped), out_of_sample=True)


def _networks(blocks: Sequence[Features]) -> Iterator[Block]:
    for features in blocks:
        yield from networks_of(features)


def _build(inputs: DesignInputs, *, out_of_sample: bool) -> DesignMatrix:
    """The matrix itself, from blocks that were checked."""
    rows = inputs.rows
    test = rows.folds == inputs.test_fold
    x = _columns(inputs.blocks, inputs, ~test)
    return DesignMatrix(
        x=x,
        y=np.where(test, HIDDEN, rows.labels),
        groups=rows.group_keys,
        test=test,
        classes=rows.classes,
        out_of_sample=out_of_sample,
        inner=tuple(_inner_folds(inputs, ~test, x if out_of_sample else None)),
    )


def _columns(blocks: Sequence[Features], inputs: DesignInputs, fit: Mask) -> Values:
    """Columns side by side; clips without the modality of a source get its mean over the rows of `fit`.

    That mean is in float64, and so are then all columns.
    """
    columns = []
    for features in blocks:
        values: Values = values_of(features, inputs.level)
        if features.absent:
            values = values.astype(np.float64)
            absent = inputs.rows.mask(features.absent)
            known = fit & ~absent
            values[absent] = values[known].mean(axis=0) if known.any() else 0.0
        columns.append(values)
    if len(columns) == 1:
        return columns[0]
    joined: NDArray[Any] = np.concatenate(columns, axis=1)
    return joined


def _inner_folds(inputs: DesignInputs, train: Mask, x: Values | None) -> Iterator[InnerFold]:
    """Grouped splits of training rows `x` out of sample, else the pair networks, each on its fold."""
    rows = inputs.rows
    split = inner_split(rows.labels[train], rows.group_keys[train], seed=inputs.seed)
    if split is None:
        return
    if x is not None:
        inner = np.full(len(train), HIDDEN)
        inner[train] = split
        imputed = any(features.absent for features in inputs.blocks)
        for number in np.unique(split):
            fit = train & (inner != number)
            yield InnerFold(_columns(inputs.blocks, inputs, fit) if imputed else x, fit, inner == number)
        return
    for number, blocks in sorted(inputs.pairs.items()):
        fit = train & (rows.folds != number)
        yield InnerFold(_columns(blocks, inputs, fit), fit, rows.folds == number)
