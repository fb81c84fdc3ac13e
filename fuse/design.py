"""The leak guard: the one place where cached blocks become the matrix of a fusion head.

The rule is one line: a head that is tested on fold k may use, for any row, only blocks whose holdout contains k.
`assemble` holds every block to it twice: by the holdout that the block declares, and by content, through the digests
of the clips whose labels its network saw. Rows are the plan's clips in order; class indices follow the sorted labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError, LeakError, MissingBlockError, UnknownNameError
from cache.records import Block, ClipStatus, Plan

Level = Literal["logits", "embedding"]
LEVELS: tuple[Level, ...] = get_args(Level)
HIDDEN = -1
"""Class index of a test row: its label enters no design matrix."""


@dataclass(frozen=True)
class CrossFitted:
    """Logits of one source whose rows come from different networks.

    Attributes
    ----------
    blocks : tuple of Block
        The networks; all of one source, with logits of all clips.
    rows : tuple of tuple of int
        For each row, which of `blocks` it comes from; several are averaged.
    """

    blocks: tuple[Block, ...]
    rows: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.blocks or len({(block.source, block.digests) for block in self.blocks}) != 1:
            raise InputError("cross-fitted logits need blocks of one source over the same clips")
        if len(self.rows) != len(self.blocks[0].digests):
            raise InputError(f"{self.source}: {len(self.rows)} rows chosen for {len(self.blocks[0].digests)} clips")
        if any(not chosen or not set(chosen) <= set(range(len(self.blocks))) for chosen in self.rows):
            raise InputError(f"{self.source}: a row names no network, or one that is not there")

    @property
    def source(self) -> str:
        """Name of the source."""
        return self.blocks[0].source

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits [N, C], each row from its own networks."""
        stacked = np.stack([_values(block, "logits") for block in self.blocks])
        return np.stack([stacked[list(blocks), row].mean(axis=0) for row, blocks in enumerate(self.rows)])


Features = Block | CrossFitted
"""What a source gives to one design matrix."""


@dataclass(frozen=True)
class DesignMatrix:
    """The features of one outer fold, checked against leaks. Made by `assemble` alone.

    Attributes
    ----------
    x : ndarray of float64, shape (N, D)
        The sources' columns side by side; rows are the plan's clips in order.
    y : ndarray of int64, shape (N,)
        Index into `classes`; `HIDDEN` for test rows.
    groups : tuple of str
        Group of each row, named by the smallest clip digest in it.
    digests : tuple of str
        Clip of each row.
    test : ndarray of bool, shape (N,)
        Role of each row: test, or train.
    test_fold : int
        The outer fold.
    classes : tuple of str
        Sorted labels.
    columns : tuple of (source, slice)
        Where each source's columns stand.
    level : str
        ``"logits"`` or ``"embedding"``.
    honest : bool
        Whether every training row is out of sample: no network behind its features saw its label, or its group's.
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    groups: tuple[str, ...]
    digests: tuple[str, ...]
    test: NDArray[np.bool_]
    test_fold: int
    classes: tuple[str, ...]
    columns: tuple[tuple[str, slice], ...]
    level: Level
    honest: bool

    @property
    def x_train(self) -> NDArray[np.float64]:
        """Features of the training rows, [N_train, D]."""
        return self.x[~self.test]

    @property
    def y_train(self) -> NDArray[np.int64]:
        """Class indices of the training rows, [N_train]."""
        return self.y[~self.test]

    @property
    def groups_train(self) -> NDArray[np.str_]:
        """Groups of the training rows, [N_train]."""
        return np.array(self.groups)[~self.test]

    @property
    def x_test(self) -> NDArray[np.float64]:
        """Features of the test rows, [N_test, D]."""
        return self.x[self.test]


@dataclass(frozen=True)
class _Rows:
    """The plan's clips as the guard sees them: fold and group of each digest."""

    clips: tuple[ClipStatus, ...]
    folds: Mapping[str, int]
    groups: Mapping[str, str]
    test_fold: int

    @property
    def test(self) -> NDArray[np.bool_]:
        return np.array([self.folds[status.digest] == self.test_fold for status in self.clips])

    def name(self, digest: str) -> str:
        return next(status.clip.id for status in self.clips if status.digest == digest)


def check_level(level: str) -> Level:
    """The level itself, if it is one.

    Raises
    ------
    UnknownNameError
    """
    if level not in LEVELS:
        raise UnknownNameError("level", level, LEVELS)
    return level


def assemble(
    plan: Plan, clips: Sequence[ClipStatus], blocks: Sequence[Features], *, test_fold: int, level: Level
) -> DesignMatrix:
    """Put the blocks of several sources side by side, after holding each to the holdout rule.

    Parameters
    ----------
    plan : Plan
        The plan in force.
    clips : sequence of ClipStatus
        The clips that it covers, in row order (`FeatureCache.clips`).
    blocks : sequence of Block or CrossFitted
        One a source; the column order.
    test_fold : int
        The outer fold k.
    level : str
        ``"logits"`` or ``"embedding"``.

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
    check_level(level)
    rows = _rows(plan, clips, test_fold)
    if not blocks or len({block.source for block in blocks}) != len(blocks):
        raise InputError(f"fold {test_fold}: expected one block a source, got {[block.source for block in blocks]}")
    for features in blocks:
        for block in _networks(features):
            _check_rows(block, rows)
            _check_leak(block, rows)
    parts = [_values(features, level) for features in blocks]
    edges = np.cumsum([0, *(part.shape[1] for part in parts)]).tolist()
    classes = tuple(sorted({status.clip.label for status in clips}))
    index = {label: number for number, label in enumerate(classes)}
    test = rows.test
    labels = np.array([index[status.clip.label] for status in clips], dtype=np.int64)
    keys = _group_keys(clips)
    return DesignMatrix(
        x=np.concatenate(parts, axis=1, dtype=np.float64),
        y=np.where(test, HIDDEN, labels),
        groups=tuple(keys[status.group] for status in clips),
        digests=tuple(status.digest for status in clips),
        test=test,
        test_fold=test_fold,
        classes=classes,
        columns=tuple((item.source, slice(*edges[place : place + 2])) for place, item in enumerate(blocks)),
        level=level,
        honest=all(_is_honest(features, rows, level) for features in blocks),
    )


def _rows(plan: Plan, clips: Sequence[ClipStatus], test_fold: int) -> _Rows:
    """The plan's clips; refuses clips outside the plan, an empty test fold, and groups that lie on both sides."""
    if strange := [status.clip.id for status in clips if status.digest not in plan.assignment]:
        raise InputError(f"{strange[0]} is in no fold of the plan in force; run extract again")
    rows = _Rows(
        clips=tuple(clips),
        folds={status.digest: plan.assignment[status.digest] for status in clips},
        groups={status.digest: status.group for status in clips},
        test_fold=test_fold,
    )
    tested = {status.group: status.clip.id for status in clips if rows.folds[status.digest] == test_fold}
    if not tested:
        raise InputError(f"fold {test_fold} holds no clip; the plan has folds 0..{plan.folds - 1}")
    for status in clips:
        if rows.folds[status.digest] != test_fold and status.group in tested:
            raise LeakError(
                f"plan: {status.clip.id} (fold {rows.folds[status.digest]}) and {tested[status.group]} "
                f"(fold {test_fold}) are of one group, {status.group!r}; run extract with --replan"
            )
    return rows


def _group_keys(clips: Sequence[ClipStatus]) -> dict[str, str]:
    """Group name to its smallest clip digest, so that nothing fitted depends on how a group is called."""
    keys: dict[str, str] = {}
    for status in clips:
        keys[status.group] = min(status.digest, keys.get(status.group, status.digest))
    return keys


def _networks(features: Features) -> Iterator[Block]:
    yield from features.blocks if isinstance(features, CrossFitted) else (features,)


def _values(features: Features, level: Level) -> NDArray[np.float32]:
    """The array of a level; embeddings of different networks share no axes, so they must come from one."""
    if level == "embedding":
        if isinstance(features, CrossFitted):
            raise InputError(f"{features.source}: rows of several networks cannot form one embedding; use level logits")
        return features.embedding
    if features.logits is None:
        raise MissingBlockError(f"{features.source} {features.holdout}: no logits; derive them, or use level embedding")
    return features.logits


def _check_rows(block: Block, rows: _Rows) -> None:
    expected = tuple(status.digest for status in rows.clips)
    if block.digests == expected and block.ids == tuple(status.clip.id for status in rows.clips):
        return
    place = next((i for i, (got, want) in enumerate(zip(block.digests, expected, strict=False)) if got != want), None)
    where = f"row {place} is {block.ids[place]}, not {rows.clips[place].clip.id}" if place is not None else "ids differ"
    raise InputError(
        f"{block.source} {block.holdout}: {len(block.digests)} rows are not the plan's {len(expected)} clips "
        f"in order ({where})"
    )


def _check_leak(block: Block, rows: _Rows) -> None:
    """Hold one network to the rule, by its declared holdout and by what it saw."""
    fold = rows.test_fold
    where = f"{block.source}: the block of holdout {block.holdout} cannot be used to test fold {fold}"
    if not block.holdout.covers(fold):
        clip = next(status for status in rows.clips if rows.folds[status.digest] == fold)
        raise LeakError(f"{where}: its network may have seen {clip.clip.id}; use a holdout that contains {fold}")
    held = {rows.groups[digest]: digest for digest, at in rows.folds.items() if block.holdout.covers(at)}
    for digest in sorted(block.seen):
        if digest not in rows.folds:
            raise LeakError(f"{where}: its network saw clip {digest[:16]}, which the plan does not know")
        group = rows.groups[digest]
        if group not in held:
            continue
        if block.holdout.covers(rows.folds[digest]):
            raise LeakError(f"{where}: its network saw {rows.name(digest)} of fold {rows.folds[digest]}")
        raise LeakError(
            f"{where}: its network saw {rows.name(digest)}, of one group ({group!r}) with {rows.name(held[group])} "
            f"of fold {rows.folds[held[group]]}; run extract with --replan"
        )


def _is_honest(features: Features, rows: _Rows, level: Level) -> bool:
    """Whether no training row's features depend on its label, or on one of its group."""
    blocks = tuple(_networks(features))
    if level == "embedding" and not any(block.embedding_tuned for block in blocks):
        return True
    seen = [{rows.groups[digest] for digest in block.seen} for block in blocks]
    chosen = features.rows if isinstance(features, CrossFitted) else ((0,),) * len(rows.clips)
    return not any(
        status.group in seen[network]
        for status, networks in zip(rows.clips, chosen, strict=True)
        if rows.folds[status.digest] != rows.test_fold
        for network in networks
    )
