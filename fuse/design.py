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

from moodfuse.cache.records import Block
from moodfuse.fuse.heads.inner_folds import split_inner_folds
from moodfuse.fuse.inference import Level
from moodfuse.fuse.leak_guard import (
    ClipRows,
    Features,
    Mask,
    check_block,
    check_plan,
    get_values,
    is_out_of_sample,
    list_networks,
)

HIDDEN = -1
"""Class index of a test row: its label enters no design matrix."""
Values = NDArray[np.float32] | NDArray[np.float64]
"""Features in float32, or in float64 where absent rows are imputed by means."""


@dataclass(frozen=True)
class DesignInputs:
    """All that a design matrix is made of; a worker process needs nothing else.

    `blocks` has one entry per source, in the order of the columns; `test_fold` is `None` for a model for
    export, which trains on all rows. `pairs` has for inner fold j the blocks of the same sources from
    networks that held out j and the test fold, where they are needed. `seed` is that of the inner split.
    `leaky` leaves out the guard and takes all rows as out of sample and ungrouped, to measure a leak.
    """

    rows: ClipRows
    blocks: Sequence[Features]
    level: Level
    test_fold: int | None = None
    pairs: Mapping[int, Sequence[Block]] = field(default_factory=dict)
    seed: int = 0
    leaky: bool = False


@dataclass(frozen=True)
class InnerFold:
    """One inner fold: features [N, D], rows to fit on [N], rows to score [N]; test rows are in neither."""

    x: Values
    fit: Mask
    held_out: Mask


@dataclass(frozen=True)
class DesignMatrix:
    """The features of one outer fold, checked against leaks.

    `x` [N, D] has the sources' columns side by side, a row per clip of the plan; `widths` are their numbers.
    `y` [N] are indices into the sorted labels `classes`, `HIDDEN` for test rows; `groups` [N] are named by
    the smallest clip digest in them; `test` [N] is which rows are tested, the others train. `out_of_sample`
    is whether no network behind a training row's features saw its label, or one of its group. `inner` is
    empty where nothing can be chosen: training rows in sample without pair networks, or too few groups.
    """

    x: Values
    y: NDArray[np.int64]
    groups: NDArray[np.str_]
    test: Mask
    classes: tuple[str, ...]
    out_of_sample: bool
    widths: tuple[int, ...]
    inner: tuple[InnerFold, ...] = ()

    @property
    def x_train(self) -> Values:
        """Features of the training rows, [N_train, D]."""
        return self.x[~self.test]

    @property
    def y_train(self) -> NDArray[np.int64]:
        """Class indices of the training rows, [N_train]."""
        return self.y[~self.test]


def assemble(inputs: DesignInputs) -> DesignMatrix:
    """Put the blocks of several sources side by side, after checking each against the holdout rule.

    Raises
    ------
    LeakError
        If a network may have seen, or did see, a clip of a fold that it is tested on or of its groups, or a
        clip that is in no fold.
    """
    rows, level = inputs.rows, inputs.level
    test = np.zeros(len(rows.ids), bool) if inputs.test_fold is None else rows.folds == inputs.test_fold
    if inputs.leaky:
        rows, out_of_sample = replace(rows, group_keys=np.array(rows.digests)), True
    else:
        _check(inputs)
        out_of_sample = all(is_out_of_sample(features, rows, level, test) for features in inputs.blocks)
    x = _stack_columns(inputs.blocks, inputs, ~test)
    return DesignMatrix(
        x=x,
        y=np.where(test, HIDDEN, rows.labels),
        groups=rows.group_keys,
        test=test,
        classes=rows.classes,
        out_of_sample=out_of_sample,
        widths=tuple(get_values(features, level).shape[1] for features in inputs.blocks),
        inner=tuple(_make_inner_folds(inputs, rows, ~test, x if out_of_sample else None)),
    )


def _check(inputs: DesignInputs) -> None:
    """Have the guard check the plan and all blocks."""
    rows, tested = inputs.rows, set() if inputs.test_fold is None else {inputs.test_fold}
    check_plan(rows, inputs.test_fold)
    for features in inputs.blocks:
        for block in list_networks(features):
            check_block(block, rows, tested)
    for inner_fold, blocks in inputs.pairs.items():
        for block in blocks:
            check_block(block, rows, {*tested, inner_fold})


def _stack_columns(blocks: Sequence[Features], inputs: DesignInputs, fit: Mask) -> Values:
    """Columns side by side; clips without the modality of a source get its mean over the rows of `fit`.

    That mean is in float64, and so are then all columns.
    """
    columns: list[NDArray[Any]] = []
    for features in blocks:
        values: NDArray[Any] = get_values(features, inputs.level)
        if features.absent:
            values = values.astype(np.float64)
            absent = inputs.rows.mask(features.absent)
            known = fit & ~absent
            values[absent] = values[known].mean(axis=0) if known.any() else 0.0
        columns.append(values)
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def _make_inner_folds(
    inputs: DesignInputs, rows: ClipRows, train: Mask, x: Values | None
) -> Iterator[InnerFold]:
    """Grouped splits of training rows `x` out of sample, else the pair networks, each on its fold."""
    split = split_inner_folds(rows.labels[train], rows.group_keys[train], seed=inputs.seed)
    if split is None:
        return
    if x is None:
        for number, blocks in sorted(inputs.pairs.items()):
            fit = train & (rows.folds != number)
            yield InnerFold(_stack_columns(blocks, inputs, fit), fit, rows.folds == number)
        return
    inner = np.full(len(train), HIDDEN)
    inner[train] = split
    imputed = any(features.absent for features in inputs.blocks)
    for number in np.unique(split):
        fit = train & (inner != number)
        yield InnerFold(_stack_columns(inputs.blocks, inputs, fit) if imputed else x, fit, inner == number)
