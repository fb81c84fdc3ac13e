"""The leak guard: a plan's clips as arrays, and the checks that every block must pass before a head reads it.

The rule is one line: a head that is tested on fold k may use, for any row, only blocks whose holdout contains
k. Each block is checked twice: by the holdout that it declares, and by the clips whose labels its network
saw.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError, LeakError, MissingBlockError
from moodfuse.cache.records import Block, ClipStatus, Plan
from moodfuse.fuse.heads import Level

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CrossFitted:
    """Logits of one source whose rows come from different networks.

    `blocks` are the networks, each with logits of all clips; `rows` has for each row the indices of its
    networks, whose logits are averaged.
    """

    blocks: tuple[Block, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def source(self) -> str:
        """Name of the source."""
        return self.blocks[0].source

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Logits [N, C], each row from its own networks."""
        stacked = np.stack([values_of(block, "logits") for block in self.blocks])
        logits = np.empty(stacked.shape[1:], dtype=stacked.dtype)
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, networks in enumerate(self.rows):
            rows_of.setdefault(networks, []).append(row)
        for networks, rows in rows_of.items():
            logits[rows] = stacked[np.ix_(networks, rows)].mean(axis=0)
        return logits

    @property
    def absent(self) -> frozenset[str]:
        """Digests of clips without the modality that the source reads."""
        return self.blocks[0].absent


Features = Block | CrossFitted


def networks_of(features: Features) -> Iterator[Block]:
    """Every network behind some features."""
    yield from features.blocks if isinstance(features, CrossFitted) else (features,)


def values_of(features: Features, level: Level) -> NDArray[np.float32]:
    """The array of a level; embeddings must come from one network, since those of two share no axes."""
    if level == "embedding":
        if isinstance(features, CrossFitted):
            raise InputError(
                f"{features.source}: rows of several networks cannot form one embedding; use level logits"
            )
        return features.embedding
    if features.logits is None:
        raise MissingBlockError(
            f"{features.source} {features.holdout}: the block has no logits; use level embedding"
        )
    return features.logits


@dataclass(frozen=True)
class ClipRows:
    """The clips of a plan as columns; every array of features has its rows in this order.

    Attributes
    ----------
    ids, digests : tuple of str, length N
    labels : ndarray of int64, shape (N,)
        Index into `classes`.
    classes : tuple of str
        Sorted labels.
    folds : ndarray of int64, shape (N,)
    group_names : tuple of str, length N
    groups, files : ndarray of int64, shape (N,)
        The first row of the same group, and of the same file.
    group_keys : ndarray of S64, shape (N,)
        The smallest clip digest of the row's group: what is fitted does not depend on how groups are named.
    """

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    folds: NDArray[np.int64]
    group_names: tuple[str, ...]
    groups: NDArray[np.int64]
    files: NDArray[np.int64]
    group_keys: NDArray[np.bytes_]

    def mask(self, digests: Set[str]) -> Mask:
        """Which rows are clips of a set of digests, [N]."""
        chosen = frozenset(digests)
        return np.array([digest in chosen for digest in self.digests], dtype=bool)

    def same_group(self, chosen: Mask) -> Mask:
        """Which rows are in the group of a chosen row, [N]."""
        has_chosen = np.zeros(len(chosen), dtype=bool)
        has_chosen[self.groups[chosen]] = True
        return has_chosen[self.groups]


def clip_rows(plan: Plan, clips: Sequence[ClipStatus]) -> ClipRows:
    """The clips of a plan as columns; refuses a clip that is in no fold."""
    folds = dict(plan.assignment)
    digests = tuple(status.digest for status in clips)
    for status in clips:
        if status.digest not in folds:
            raise InputError(f"{status.clip.id} is in no fold of the plan in force; run extract again")
    classes = sorted({status.clip.label for status in clips})
    group_names = tuple(status.group for status in clips)
    keys: dict[str, str] = {}
    for name, digest in zip(group_names, digests, strict=True):
        keys[name] = min(digest, keys.get(name, digest))
    return ClipRows(
        ids=tuple(status.clip.id for status in clips),
        digests=digests,
        labels=np.array([classes.index(status.clip.label) for status in clips], dtype=np.int64),
        classes=tuple(classes),
        folds=np.array([folds[digest] for digest in digests], dtype=np.int64),
        group_names=group_names,
        groups=_first_rows(group_names),
        # Clips that a table of labels declares have no file.
        files=_first_rows(status.file_sha256 or row for row, status in enumerate(clips)),
        group_keys=np.array([keys[name] for name in group_names], dtype="S64"),
    )


def _first_rows(values: Iterable[object]) -> NDArray[np.int64]:
    """For each value the first row that has it."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, row) for row, value in enumerate(values)], dtype=np.int64)


def check_test_fold(rows: ClipRows, fold: int) -> None:
    """Refuse an empty test fold, and groups and files on both sides of the split."""
    test = rows.folds == fold
    if not test.any():
        raise InputError(f"fold {fold} holds no clip; the plan has folds 0..{rows.folds.max()}")
    split = rows.same_group(test) & ~test
    if split.any():
        row = int(np.argmax(split))
        other = int(np.argmax(test & (rows.groups == rows.groups[row])))
        raise LeakError(
            f"plan: {rows.ids[row]} (fold {rows.folds[row]}) and {rows.ids[other]} (fold {fold}) are of one "
            f"group, {rows.group_names[row]!r}; run extract with --replan"
        )


def check_files(rows: ClipRows) -> None:
    """Refuse a file in two groups: no split of groups could keep its clips together."""
    split = rows.groups != rows.groups[rows.files]
    if split.any():
        row = int(np.argmax(split))
        first = int(rows.files[row])
        raise LeakError(
            f"plan: {rows.ids[row]} (fold {rows.folds[row]}) and {rows.ids[first]} "
            f"(fold {rows.folds[first]}) are the same file in two groups; give them one group and run "
            "extract with --replan"
        )


def check_block(block: Block, rows: ClipRows, folds: Set[int]) -> None:
    """Refuse a network with other rows than the plan, that saw an unknown clip, or may not test `folds`."""
    _check_rows(block, rows)
    if unknown := frozenset(block.seen).difference(rows.digests):
        raise LeakError(
            f"{block.source}: the block of holdout {block.holdout} cannot be used: its network saw clip "
            f"{min(unknown)[:16]}, which the plan does not know"
        )
    for fold in sorted(folds):
        _check_leak(block, rows, fold)


def _check_rows(block: Block, rows: ClipRows) -> None:
    """Refuse a block whose rows are not the plan's clips in order."""
    digests, ids = tuple(block.digests), tuple(block.ids)
    if digests == rows.digests and ids == rows.ids:
        return
    pairs = enumerate(zip(digests, rows.digests, strict=False))
    row = next((number for number, (one, other) in pairs if one != other), None)
    where = "ids differ" if row is None else f"row {row} is {ids[row]}, not {rows.ids[row]}"
    raise InputError(
        f"{block.source} {block.holdout}: {len(digests)} rows are not the plan's {len(rows.digests)} clips "
        f"in order ({where})"
    )


def _check_leak(block: Block, rows: ClipRows, fold: int) -> None:
    """Refuse a network that may have seen, or did see, a clip of `fold` or of its groups."""
    where = f"{block.source}: the block of holdout {block.holdout} cannot be used to test fold {fold}"
    if not block.holdout.covers(fold):
        clip = rows.ids[int(np.argmax(rows.folds == fold))]
        raise LeakError(f"{where}: its network may have seen {clip}; use a holdout that contains {fold}")
    folds = block.holdout.folds
    held_out = np.ones(len(rows.ids), dtype=bool) if folds is None else np.isin(rows.folds, list(folds))
    leaking = np.flatnonzero(rows.mask(block.seen) & rows.same_group(held_out))
    if not len(leaking):
        return
    row = int(min(leaking, key=lambda number: rows.digests[number]))
    if held_out[row]:
        raise LeakError(f"{where}: its network saw {rows.ids[row]} of fold {rows.folds[row]}")
    other = int(np.argmax(held_out & (rows.groups == rows.groups[row])))
    raise LeakError(
        f"{where}: its network saw {rows.ids[row]}, of one group ({rows.group_names[row]!r}) with "
        f"{rows.ids[other]} of fold {rows.folds[other]}; run extract with --replan"
    )


def is_out_of_sample(features: Features, rows: ClipRows, level: Level, test_fold: int) -> bool:
    """Whether no training row's features depend on its own label, or on one of its group."""
    blocks = tuple(networks_of(features))
    if level == "embedding" and not any(block.embedding_tuned for block in blocks):
        return True
    for number, block in enumerate(blocks):
        in_sample = rows.same_group(rows.mask(block.seen)) & (rows.folds != test_fold)
        if isinstance(features, CrossFitted):
            in_sample &= np.array([number in networks for networks in features.rows])
        if in_sample.any():
            return False
    return True
