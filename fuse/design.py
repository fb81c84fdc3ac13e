"""Design matrices: the one place where cached blocks become the matrix of a fusion head, under the leak guard.

The rule is one line: a head that is tested on fold k may use, for any row, only blocks whose holdout contains k.
`assemble` holds every block to it twice: by the holdout that the block declares, and by content, through the digests
of the clips whose labels its network saw. Rows are the plan's clips in order; class indices follow the sorted labels.

What a head chooses (C, rounds, temperature) it chooses on inner folds of the training rows. Where training rows are out
of sample these are grouped splits of the rows themselves; where they are embeddings of a network that saw them, inner
fold j is tested within the pair network `{j,k}`, which saw neither j nor k, and the guard holds that one to both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import Digests, digest_array
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Block, ClipStatus, Plan
from moodfuse.fuse.features import Features, Level, check_level, networks_of, values_of
from moodfuse.fuse.inner_folds import inner_split
from moodfuse.fuse.leak_guard import (
    Rows,
    check_files,
    check_known,
    check_leak,
    check_rows,
    is_honest,
    planned_rows,
    tested_rows,
)
from moodfuse.fuse.matrix import HIDDEN, NO_FOLD, DesignMatrix, InnerFold, Values


@dataclass(frozen=True)
class Ingredients:
    """What a design matrix is made of.

    Attributes
    ----------
    blocks : sequence of Block or CrossFitted
        One a source; the column order.
    level : str
    pairs : mapping of int to sequence of Block
        For inner fold j the blocks of the same sources from networks that held out j and the test fold; empty where
        there are none, or none are needed.
    seed : int
        Of the inner split.
    """

    blocks: Sequence[Features]
    level: Level
    pairs: Mapping[int, Sequence[Block]] = field(default_factory=dict)
    seed: int = 0


def assemble(plan: Plan, clips: Sequence[ClipStatus], parts: Ingredients, *, test_fold: int) -> DesignMatrix:
    """Put the blocks of several sources side by side, after holding each to the holdout rule.

    Parameters
    ----------
    plan : Plan
        The plan whose fold is tested.
    clips : sequence of ClipStatus
        The clips that it covers, in row order (`FeatureCache.clips`).
    parts : Ingredients
    test_fold : int
        The outer fold k.

    Returns
    -------
    DesignMatrix

    Raises
    ------
    LeakError
        If a network behind a block may have seen, or did see, a clip of the test fold or of its groups.
    InputError
        If rows are not the plan's clips in order, or an embedding comes from several networks.
    MissingBlockError
        If a block has no logits at the logits level.
    """
    check_level(parts.level)
    rows = tested_rows(plan, clips, test_fold)
    if not parts.blocks or len({block.source for block in parts.blocks}) != len(parts.blocks):
        names = [block.source for block in parts.blocks]
        raise InputError(f"fold {test_fold}: expected one block a source, got {names}")
    for features in parts.blocks:
        for block in networks_of(features):
            check_rows(block, rows)
            check_leak(block, rows, test_fold)
    for inner, blocks in parts.pairs.items():
        for block in blocks:
            check_rows(block, rows)
            check_leak(block, rows, test_fold)
            check_leak(block, rows, inner)
    honest = all(is_honest(features, rows, parts.level) for features in parts.blocks)
    return build(rows, parts, honest=honest)


def assemble_whole(plan: Plan, clips: Sequence[ClipStatus], parts: Ingredients) -> DesignMatrix:
    """The design matrix of a head that ships: every row trains, and no fold is tested.

    Settings are chosen as under an outer fold: on splits of the rows where these are out of sample, else within the
    networks of `parts.pairs`, here those that held one fold out, which the guard holds to it.

    Parameters
    ----------
    plan, clips, parts
        As for `assemble`; `parts.pairs` holds for each fold the blocks of networks that held it out.

    Raises
    ------
    LeakError
        If a network that shall choose on a fold may have seen, or did see, a clip of it or of its groups, any network
        saw a clip that is in no fold, such as one that is kept for a test, or a file stands in two groups.
    InputError, MissingBlockError
        As for `assemble`.
    """
    check_level(parts.level)
    rows = planned_rows(plan, clips, NO_FOLD)
    check_files(rows)
    for features in parts.blocks:
        for block in networks_of(features):
            check_rows(block, rows)
            check_known(block, rows, f"{block.source}: the block of holdout {block.holdout} cannot ship")
    for inner, blocks in parts.pairs.items():
        for block in blocks:
            check_rows(block, rows)
            check_leak(block, rows, inner)
    return build(rows, parts, honest=all(is_honest(features, rows, parts.level) for features in parts.blocks))


def unguarded(plan: Plan, clips: Sequence[ClipStatus], parts: Ingredients, *, test_fold: int) -> DesignMatrix:
    """A design matrix without the guard, rows taken as out of sample: only to measure what a leak is worth."""
    rows = planned_rows(plan, clips, test_fold)
    return build(replace(rows, groups=np.arange(len(rows.digests))), parts, honest=True)


def build(rows: Rows, parts: Ingredients, *, honest: bool) -> DesignMatrix:
    """The matrix itself, from blocks that were checked."""
    test = rows.test
    widths = [values_of(features, parts.level).shape[1] for features in parts.blocks]
    edges = np.cumsum([0, *widths]).tolist()
    groups = rows.group_keys
    x = _matrix(parts.blocks, parts.level, rows, ~test)
    return DesignMatrix(
        x=x,
        y=np.where(test, HIDDEN, rows.labels),
        groups=groups,
        digests=rows.digests,
        test=test,
        test_fold=rows.test_fold,
        classes=rows.classes,
        columns=tuple(
            (item.source, slice(*edges[place : place + 2])) for place, item in enumerate(parts.blocks)
        ),
        level=parts.level,
        honest=honest,
        inner=tuple(_inner_folds(rows, parts, groups, whole=x if honest else None)),
    )


def _matrix(blocks: Sequence[Features], level: Level, rows: Rows, fit: NDArray[np.bool_]) -> Values:
    """Columns side by side, as they are; rows of clips that lack what a source reads get its mean over those of `fit`.

    That mean is in float64, and so are then all columns. Of one source alone the array itself is given, no copy.
    """
    columns = []
    for features in blocks:
        values: Values = values_of(features, level)
        if features.absent:
            values = values.astype(np.float64)
            absent = np.isin(rows.digests, digest_array(features.absent))
            known = fit & ~absent
            values[absent] = values[known].mean(axis=0) if known.any() else 0.0
        columns.append(values)
    if len(columns) == 1:
        return columns[0]
    joined: NDArray[Any] = np.concatenate(columns, axis=1)
    return joined


def _inner_folds(
    rows: Rows, parts: Ingredients, groups: Digests, *, whole: Values | None
) -> Iterator[InnerFold]:
    """Grouped splits of honest training rows, given as `whole`; else the pair networks, each tested on its own fold."""
    train = ~rows.test
    split = inner_split(rows.labels[train], groups[train], seed=parts.seed)
    if split is None:
        return
    if whole is not None:
        inner = np.full(len(train), HIDDEN)
        inner[train] = split
        filled = any(
            features.absent for features in parts.blocks
        )  # else no cell depends on what is fitted on
        for number in np.unique(split):
            fit = train & (inner != number)
            x = _matrix(parts.blocks, parts.level, rows, fit) if filled else whole
            yield InnerFold(x, fit, inner == number)
        return
    folds = rows.folds
    for number, blocks in sorted(parts.pairs.items()):
        fit = train & (folds != number)
        yield InnerFold(_matrix(blocks, parts.level, rows, fit), fit, folds == number)
