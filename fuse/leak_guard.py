"""What the leak guard knows of a plan's clips, and what it holds every block to.

Clips are read by columns, so that many thousands cost little beside a fit. `moodfuse.fuse.design` asks for every check.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import Digests, digest_array
from moodfuse.cache.errors import InputError, LeakError
from moodfuse.cache.records import Block, ClipStatus, Plan
from moodfuse.fuse.features import CrossFitted, Features, Level, networks_of

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The plan's clips as the guard sees them, a row each.

    Attributes
    ----------
    ids : sequence of str, length N
    digests : ndarray of S64, shape (N,)
    labels : ndarray of int64, shape (N,)
        Index into `classes`.
    classes : tuple of str
        Sorted labels.
    folds : ndarray of int16, shape (N,)
        -1 for a clip that is in no fold.
    names : sequence of str, length N
        The group of each row ...
    groups, files : ndarray of int64, shape (N,)
        ... and the first row of the same group, and of the same file: equal numbers are one group, one file.
    test_fold : int
    """

    ids: Sequence[str]
    digests: Digests
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    folds: NDArray[np.int16]
    names: Sequence[str]
    groups: Places
    files: Places
    test_fold: int

    @property
    def test(self) -> Mask:
        """Which rows are under test, [N]."""
        return self.folds == self.test_fold

    @property
    def group_keys(self) -> Digests:
        """The smallest clip digest of each row's group, S64 [N]: nothing fitted depends on how a group is called."""
        falling = np.argsort(self.digests)[::-1]
        smallest = np.empty(len(falling), dtype=np.int64)
        smallest[self.groups[falling]] = falling  # of a group the last one written stays
        return self.digests[smallest[self.groups]]

    def beside(self, chosen: Mask) -> Mask:
        """Which rows are of a group that has one of the chosen rows, [N]."""
        having = np.zeros(len(chosen), dtype=bool)
        having[self.groups[chosen]] = True
        return having[self.groups]

    def held_by(self, block: Block) -> Mask:
        """Which rows are of folds that a block's holdout covers, [N]."""
        covered = [fold for fold in np.unique(self.folds).tolist() if block.holdout.covers(fold)]
        return np.isin(self.folds, covered)


def rows_of(plan: Plan, clips: Sequence[ClipStatus], test_fold: int) -> Rows:
    """The clips' columns."""
    classes = sorted({status.clip.label for status in clips})
    numbers = {label: number for number, label in enumerate(classes)}
    digests = digest_array(status.digest for status in clips)
    # Clips that a table of labels declares have no file: each counts as one of its own.
    files = [status.file_sha256 or f"row {row}" for row, status in enumerate(clips)]
    groups = tuple(status.group for status in clips)
    return Rows(
        ids=tuple(status.clip.id for status in clips),
        digests=digests,
        labels=np.array([numbers[status.clip.label] for status in clips], dtype=np.int64),
        classes=tuple(classes),
        folds=plan.folds_of(digests),
        names=groups,
        groups=_first_places(groups),
        files=_first_places(files),
        test_fold=test_fold,
    )


def _first_places(names: Sequence[str]) -> Places:
    """Of each name the row where it stands first: equal names have equal numbers."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, row) for row, name in enumerate(names)], dtype=np.int64)


def planned_rows(plan: Plan, clips: Sequence[ClipStatus], test_fold: int) -> Rows:
    """The plan's clips; refuses clips outside the plan."""
    rows = rows_of(plan, clips, test_fold)
    if (row := _first(rows.folds < 0)) is not None:
        raise InputError(f"{rows.ids[row]} is in no fold of the plan in force; run extract again")
    return rows


def tested_rows(plan: Plan, clips: Sequence[ClipStatus], test_fold: int) -> Rows:
    """The plan's clips; refuses an empty test fold, and groups and files that lie on both sides."""
    rows = planned_rows(plan, clips, test_fold)
    if not rows.test.any():
        raise InputError(f"fold {test_fold} holds no clip; the plan has folds 0..{plan.folds - 1}")
    if (row := _first(rows.beside(rows.test) & ~rows.test)) is not None:
        other = int(np.argmax(rows.test & (rows.groups == rows.groups[row])))
        raise LeakError(
            f"plan: {rows.ids[row]} (fold {rows.folds[row]}) and {rows.ids[other]} (fold "
            f"{test_fold}) are of one group, {rows.names[row]!r}; run extract with --replan"
        )
    check_files(rows)
    return rows


def check_files(rows: Rows) -> None:
    """Refuse a file that stands in two groups: no split of groups could keep its clips together."""
    if (row := _first(rows.groups != rows.groups[rows.files])) is not None:
        both = " and ".join(
            f"{rows.ids[place]} (fold {rows.folds[place]})" for place in (row, int(rows.files[row]))
        )
        raise LeakError(
            f"plan: {both} are the same file in two groups; give them one group and run extract with --replan"
        )


def check_rows(block: Block, rows: Rows) -> None:
    """Refuse a block whose rows are not the plan's clips in order.

    Raises
    ------
    InputError
    """
    digests = digest_array(block.digests)
    if np.array_equal(digests, rows.digests) and tuple(rows.ids) == tuple(block.ids):
        return
    common = min(len(digests), len(rows.digests))
    row = _first(digests[:common] != rows.digests[:common])
    where = "ids differ" if row is None else f"row {row} is {block.ids[row]}, not {rows.ids[row]}"
    raise InputError(
        f"{block.source} {block.holdout}: {len(digests)} rows are not the plan's {len(rows.digests)} clips "
        f"in order ({where})"
    )


def check_leak(block: Block, rows: Rows, fold: int) -> None:
    """Hold one network that tests `fold` to the rule, by its declared holdout and by what it saw."""
    where = f"{block.source}: the block of holdout {block.holdout} cannot be used to test fold {fold}"
    if not block.holdout.covers(fold):
        clip = rows.ids[int(np.argmax(rows.folds == fold))]
        raise LeakError(f"{where}: its network may have seen {clip}; use a holdout that contains {fold}")
    check_known(block, rows, where)
    held = rows.held_by(block)
    spoilt = np.flatnonzero(np.isin(rows.digests, digest_array(block.seen)) & rows.beside(held))
    if len(spoilt):
        row = int(spoilt[np.argsort(rows.digests[spoilt], kind="stable")[0]])
        if held[row]:
            raise LeakError(f"{where}: its network saw {rows.ids[row]} of fold {rows.folds[row]}")
        other = int(np.argmax(held & (rows.groups == rows.groups[row])))
        raise LeakError(
            f"{where}: its network saw {rows.ids[row]}, of one group ({rows.names[row]!r}) with {rows.ids[other]} "
            f"of fold {rows.folds[other]}; run extract with --replan"
        )


def check_known(block: Block, rows: Rows, where: str) -> None:
    """Refuse a network that saw a clip that is in no fold: what cannot be checked is not let through."""
    if strange := sorted(block.seen - set(rows.digests.astype("U64").tolist())):
        raise LeakError(f"{where}: its network saw clip {strange[0][:16]}, which the plan does not know")


def is_honest(features: Features, rows: Rows, level: Level) -> bool:
    """Whether no training row's features depend on its label, or on one of its group."""
    blocks = tuple(networks_of(features))
    if level == "embedding" and not any(block.embedding_tuned for block in blocks):
        return True
    for number, block in enumerate(blocks):
        spoilt = rows.beside(np.isin(rows.digests, digest_array(block.seen))) & ~rows.test
        if isinstance(features, CrossFitted):
            spoilt &= np.fromiter((number in chosen for chosen in features.rows), bool, len(spoilt))
        if spoilt.any():
            return False
    return True


def _first(chosen: Mask) -> int | None:
    """The first chosen row, if there is one."""
    return int(np.argmax(chosen)) if chosen.any() else None
