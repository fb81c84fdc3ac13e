"""Design matrices, and the guard that no leak gets past: the only way from blocks to a head goes through `assemble`.

The rule: a head that is tested on fold k may use, for any row, only values whose network never saw fold k. It is
checked twice, by the holdout's name and by the digests of the clips that the network saw, groups included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache.errors import InputError, LeakError
from cache.folds import Unit
from cache.records import Block, ClipStatus, Holdout, Plan


@dataclass(frozen=True)
class Network:
    """Where values come from: the folds that the network never saw, and the clips whose labels it did see."""

    holdout: Holdout
    seen: frozenset[str]


@dataclass(frozen=True)
class Columns:
    """The columns that one source brings to a design matrix.

    Attributes
    ----------
    source : str
    values : ndarray of float32, shape (N, D)
        One row a clip of the plan, in its order.
    networks : tuple of Network
    network_of_row : ndarray of int, shape (N,)
        Which of `networks` gave each row.
    digests : tuple of str
        Clip of each row.
    """

    source: str
    values: np.ndarray
    networks: tuple[Network, ...]
    network_of_row: np.ndarray
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Design:
    """Training and test rows of one fold.

    Attributes
    ----------
    x_train, x_test : ndarray of float64, shape (n, D)
    y_train : ndarray of int, shape (n,)
        Class indices.
    groups_train : ndarray of str, shape (n,)
    train, test : ndarray of int
        Row numbers in the plan's clips.
    widths : tuple of int
        Columns of each source, in order.
    honest : bool
        Whether every training row is out of sample: its network saw neither it nor its group.
    """

    x_train: np.ndarray
    x_test: np.ndarray
    y_train: np.ndarray
    groups_train: np.ndarray
    train: np.ndarray
    test: np.ndarray
    widths: tuple[int, ...]
    honest: bool


def columns_of_block(block: Block, level: str) -> Columns:
    """The columns of a block: all rows come from its one network.

    An embedding that no label reached (`embedding_tuned` is false) counts as frozen, though its logits do not.
    """
    if level == "logits" and block.logits is None:
        raise InputError(f"{block.source} {block.holdout} has no logits; they are made by fuse.logits")
    free = level == "embedding" and not block.embedding_tuned
    network = Network(Holdout.frozen(), frozenset()) if free else Network(block.holdout, block.seen)
    values = block.embedding if level == "embedding" or block.logits is None else block.logits
    return Columns(block.source, values, (network,), np.zeros(len(block.ids), dtype=int), block.digests)


def assemble(
    plan: Plan, clips: Sequence[ClipStatus], columns: Sequence[Columns], *, test_fold: int, classes: Sequence[str]
) -> Design:
    """Put the columns of several sources side by side for one test fold.

    Raises
    ------
    LeakError
        If any row of any source comes from a network that saw a clip, or a clip's group, of the test fold.
    InputError
        If rows are not the plan's clips, in order.
    """
    folds = np.array([plan.assignment[status.digest] for status in clips])
    if not (folds == test_fold).any():
        raise InputError(f"fold {test_fold} holds no clip; the plan has folds 0..{plan.folds - 1}")
    for item in columns:
        _check_rows(item, clips)
        _check_leak(item, clips, folds, test_fold)
    train, test = np.flatnonzero(folds != test_fold), np.flatnonzero(folds == test_fold)
    x = np.concatenate([item.values for item in columns], axis=1).astype(np.float64)
    y = np.array([list(classes).index(status.clip.label) for status in clips])
    return Design(
        x_train=x[train],
        x_test=x[test],
        y_train=y[train],
        groups_train=np.array([clips[row].group for row in train]),
        train=train,
        test=test,
        widths=tuple(item.values.shape[1] for item in columns),
        honest=all(_is_honest(item, folds, train) for item in columns),
    )


def _check_rows(columns: Columns, clips: Sequence[ClipStatus]) -> None:
    if columns.digests != tuple(status.digest for status in clips) or len(columns.values) != len(clips):
        raise InputError(f"{columns.source}: rows are not the plan's clips in their order; run extract again")


def _check_leak(columns: Columns, clips: Sequence[ClipStatus], folds: np.ndarray, test_fold: int) -> None:
    groups = {status.group for status, fold in zip(clips, folds, strict=True) if fold == test_fold}
    forbidden = {status.digest: status.clip.id for status in clips if status.group in groups}
    for number in np.unique(columns.network_of_row):
        network = columns.networks[number]
        if not network.holdout.covers(test_fold):
            raise LeakError(
                f"{columns.source}: a block of holdout {network.holdout} saw fold {test_fold} in tuning and cannot be "
                f"tested on it; use a block whose holdout contains {test_fold}"
            )
        if leaked := sorted(forbidden[digest] for digest in network.seen & forbidden.keys()):
            raise LeakError(
                f"{columns.source}: the network of holdout {network.holdout} saw {leaked[0]} (or its group), which fold "
                f"{test_fold} tests; {len(leaked)} such clip(s). Run extract again"
            )


def _is_honest(columns: Columns, folds: np.ndarray, train: np.ndarray) -> bool:
    networks = columns.networks
    return all(networks[columns.network_of_row[row]].holdout.covers(int(folds[row])) for row in train)


def row_units(labels: np.ndarray, groups: np.ndarray) -> tuple[Unit, ...]:
    """Groups of rows as units for an inner split: keys are group names, members are row numbers."""
    units = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        units.append(Unit(str(group), str(labels[rows[0]]), tuple(str(row) for row in rows)))
    return tuple(units)
