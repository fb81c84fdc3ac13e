"""What the leak guard knows of a plan's clips, and what it holds every block to.

Clips are read by five columns, so that many thousands cost little beside a fit. `fuse.design` asks for every check.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.columns import Assignment
from cache.errors import InputError, LeakError
from cache.records import Block, ClipStatus, Plan
from cache.tables import ClipTable
from fuse.features import CrossFitted, Features, Level, networks_of


@dataclass(frozen=True, slots=True)
class GuardedClip:
    """What the guard reads of a clip: a whole record of each of many thousands would take longer than most fits."""

    id: str
    label: str
    digest: str
    file_sha256: str
    group: str

    @property
    def clip(self) -> "GuardedClip":
        """Itself: `id` and `label` stand in the clip of a `ClipStatus`."""
        return self


def guarded_clips(clips: Sequence[ClipStatus]) -> tuple[GuardedClip, ...]:
    """The clips as the guard reads them."""
    if not isinstance(clips, ClipTable):
        return tuple(
            GuardedClip(item.clip.id, item.clip.label, item.digest, item.file_sha256, item.group) for item in clips
        )
    known = tuple(clips.texts["label"])
    labels = [known[place] for place in clips.rows["label"].tolist()]
    columns = (clips.texts[name] for name in ("digest", "file_sha256", "group"))
    return tuple(map(GuardedClip, clips.ids, labels, *columns))


@dataclass(frozen=True)
class Rows:
    """The plan's clips as the guard sees them: fold and group of each digest."""

    clips: tuple[GuardedClip, ...]
    folds: Mapping[str, int]
    groups: Mapping[str, str]
    test_fold: int

    @property
    def fold_of_row(self) -> NDArray[np.int64]:
        """Fold of each row, [N]."""
        return np.array([self.folds[status.digest] for status in self.clips], dtype=np.int64)

    @property
    def test(self) -> NDArray[np.bool_]:
        """Which rows are under test, [N]."""
        return self.fold_of_row == self.test_fold

    def name(self, digest: str) -> str:
        """The clip's id."""
        return next(status.clip.id for status in self.clips if status.digest == digest)


def planned_rows(plan: Plan, clips: Sequence[ClipStatus], test_fold: int) -> Rows:
    """The plan's clips; refuses clips outside the plan."""
    seen, assigned = guarded_clips(clips), Assignment.of(plan.assignment).to_dict()
    if strange := [status.clip.id for status in seen if status.digest not in assigned]:
        raise InputError(f"{strange[0]} is in no fold of the plan in force; run extract again")
    return Rows(
        clips=seen,
        folds={status.digest: assigned[status.digest] for status in seen},
        groups={status.digest: status.group for status in seen},
        test_fold=test_fold,
    )


def tested_rows(plan: Plan, clips: Sequence[ClipStatus], test_fold: int) -> Rows:
    """The plan's clips; refuses an empty test fold, and groups and files that lie on both sides."""
    rows = planned_rows(plan, clips, test_fold)
    tested = {status.group: status.clip.id for status in rows.clips if rows.folds[status.digest] == test_fold}
    if not tested:
        raise InputError(f"fold {test_fold} holds no clip; the plan has folds 0..{plan.folds - 1}")
    for status in rows.clips:
        if status.group in tested and rows.folds[status.digest] != test_fold:
            raise LeakError(
                f"plan: {status.clip.id} (fold {rows.folds[status.digest]}) and {tested[status.group]} (fold "
                f"{test_fold}) are of one group, {status.group!r}; run extract with --replan"
            )
    check_files(rows)
    return rows


def check_files(rows: Rows) -> None:
    """Refuse a file that stands in two groups: no split of groups could keep its clips together."""
    first: dict[str, GuardedClip] = {}
    for status in rows.clips:
        other = first.setdefault(status.file_sha256, status) if status.file_sha256 else status
        if other.group != status.group:
            both = " and ".join(f"{item.clip.id} (fold {rows.folds[item.digest]})" for item in (status, other))
            raise LeakError(
                f"plan: {both} are the same file in two groups; give them one group and run extract with --replan"
            )


def check_rows(block: Block, rows: Rows) -> None:
    """Refuse a block whose rows are not the plan's clips in order.

    Raises
    ------
    InputError
    """
    expected = tuple(status.digest for status in rows.clips)
    if block.digests == expected and block.ids == tuple(status.clip.id for status in rows.clips):
        return
    place = next((i for i, (got, want) in enumerate(zip(block.digests, expected, strict=False)) if got != want), None)
    where = f"row {place} is {block.ids[place]}, not {rows.clips[place].clip.id}" if place is not None else "ids differ"
    raise InputError(
        f"{block.source} {block.holdout}: {len(block.digests)} rows are not the plan's {len(expected)} clips "
        f"in order ({where})"
    )


def check_leak(block: Block, rows: Rows, fold: int) -> None:
    """Hold one network that tests `fold` to the rule, by its declared holdout and by what it saw."""
    where = f"{block.source}: the block of holdout {block.holdout} cannot be used to test fold {fold}"
    if not block.holdout.covers(fold):
        clip = next(status for status in rows.clips if rows.folds[status.digest] == fold)
        raise LeakError(f"{where}: its network may have seen {clip.clip.id}; use a holdout that contains {fold}")
    check_known(block, rows, where)
    held = {rows.groups[digest]: digest for digest, at in rows.folds.items() if block.holdout.covers(at)}
    for digest in sorted(block.seen):
        group = rows.groups[digest]
        if group not in held:
            continue
        if block.holdout.covers(rows.folds[digest]):
            raise LeakError(f"{where}: its network saw {rows.name(digest)} of fold {rows.folds[digest]}")
        raise LeakError(
            f"{where}: its network saw {rows.name(digest)}, of one group ({group!r}) with {rows.name(held[group])} "
            f"of fold {rows.folds[held[group]]}; run extract with --replan"
        )


def check_known(block: Block, rows: Rows, where: str) -> None:
    """Refuse a network that saw a clip that is in no fold: what cannot be checked is not let through."""
    if strange := sorted(block.seen - rows.folds.keys()):
        raise LeakError(f"{where}: its network saw clip {strange[0][:16]}, which the plan does not know")


def is_honest(features: Features, rows: Rows, level: Level) -> bool:
    """Whether no training row's features depend on its label, or on one of its group."""
    blocks = tuple(networks_of(features))
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
