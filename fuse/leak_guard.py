"""The leak guard: a plan's clips as arrays, and the checks that every block must pass before a head reads it.

The rule is one line: a head that is tested on fold k may use, for any row, only blocks whose holdout contains
k. Each block is checked twice: by the holdout that it declares, and by the clips whose labels its network
saw.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError, LeakError, MissingBlockError
from moodfuse.cache.records import Block, ClipStatus, Plan
from moodfuse.fuse.inference import Level

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

    @property
    def absent(self) -> frozenset[str]:
        """Digests of clips without the modality that the source reads."""
        return self.blocks[0].absent

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Logits [N, C], each row from its own networks."""
        stacked = np.stack([get_values(block, "logits") for block in self.blocks])
        logits = np.empty(stacked.shape[1:], dtype=stacked.dtype)
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, networks in enumerate(self.rows):
            rows_of.setdefault(networks, []).append(row)
        for networks, rows in rows_of.items():
            logits[rows] = stacked[np.ix_(networks, rows)].mean(axis=0)
        return logits


Features = Block | CrossFitted


def list_networks(features: Features) -> tuple[Block, ...]:
    """Every network behind the features of a source."""
    return features.blocks if isinstance(features, CrossFitted) else (features,)


def get_values(features: Features, level: Level) -> NDArray[np.float32]:
    """The array of a level; the embeddings of several networks share no axes, so there is none."""
    values: NDArray[np.float32] | None = getattr(features, level, None)
    if values is None:
        raise MissingBlockError(f"{features.source}: the block has no {level}; use the other level")
    return values


@dataclass(frozen=True)
class ClipRows:
    """The clips of a plan as columns [N]; every array of features has its rows in this order.

    `labels` are indices into the sorted `classes`; `groups` and `files` have the first row of the same group,
    and of the same file. `group_keys` is the smallest clip digest of the row's group, so that fits do not
    depend on the names of groups.
    """

    ids: tuple[str, ...]
    digests: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    folds: NDArray[np.int64]
    group_names: tuple[str, ...]
    groups: NDArray[np.int64]
    files: NDArray[np.int64]
    group_keys: NDArray[np.str_]

    def mask(self, digests: Set[str]) -> Mask:
        """Which rows are clips of a set of digests, [N]."""
        return np.array([digest in digests for digest in self.digests], dtype=bool)

    def same_group(self, chosen: Mask) -> Mask:
        """Which rows are in the group of a chosen row, [N]."""
        has_chosen = np.zeros(len(chosen), dtype=bool)
        has_chosen[self.groups[chosen]] = True
        return has_chosen[self.groups]


def make_clip_rows(plan: Plan, clips: Sequence[ClipStatus]) -> ClipRows:
    """The clips of a plan as columns; `InputError` if a clip is in no fold."""
    for status in clips:
        if status.digest not in plan.assignment:
            raise InputError(f"{status.clip.id} is in no fold of the current plan; run extract again")
    digests = tuple(status.digest for status in clips)
    group_names = tuple(status.group for status in clips)
    classes, labels = np.unique([status.clip.label for status in clips], return_inverse=True)
    smallest_digest: dict[str, str] = {}
    for name, digest in sorted(zip(group_names, digests, strict=True)):
        smallest_digest.setdefault(name, digest)
    return ClipRows(
        ids=tuple(status.clip.id for status in clips),
        digests=digests,
        labels=labels,
        classes=tuple(classes.tolist()),
        folds=np.array([plan.assignment[digest] for digest in digests], dtype=np.int64),
        group_names=group_names,
        groups=_find_first_rows(group_names),
        # Clips that a table of labels declares have no file.
        files=_find_first_rows(status.file_sha256 or row for row, status in enumerate(clips)),
        group_keys=np.array([smallest_digest[name] for name in group_names]),
    )


def _find_first_rows(values: Iterable[object]) -> NDArray[np.int64]:
    """For each value the first row that has it."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, row) for row, value in enumerate(values)], dtype=np.int64)


def check_plan(rows: ClipRows, test_fold: int | None) -> None:
    """Check that no file is in two groups and no group on both sides of a test fold (`LeakError`)."""
    split = np.flatnonzero(rows.groups != rows.groups[rows.files])
    if len(split):
        clip, copy = rows.ids[split[0]], rows.ids[rows.files[split[0]]]
        raise LeakError(
            f"plan: {clip} and {copy} are the same file in two groups; give them one group and run extract "
            "with --replan"
        )
    if test_fold is None:
        return
    test = rows.folds == test_fold
    if not test.any():
        raise InputError(f"fold {test_fold} holds no clip; the plan has folds 0..{rows.folds.max()}")
    split = np.flatnonzero(rows.same_group(test) & ~test)
    if len(split):
        group, clip = rows.group_names[split[0]], rows.ids[split[0]]
        raise LeakError(
            f"plan: group {group!r} of {clip} is in fold {test_fold} and in others; run extract with --replan"
        )


def check_block(block: Block, rows: ClipRows, folds: Set[int]) -> None:
    """Check that a block has the rows of the plan, and that its network may be tested on each of `folds`.

    Raises
    ------
    InputError
        If its rows are not the plan's clips in order.
    LeakError
        If its network may have seen, or did see, a clip of these folds or of their groups, or saw a clip that
        is in no fold.
    """
    where = f"{block.source}: the block of holdout {block.holdout} cannot be used"
    if (tuple(block.digests), tuple(block.ids)) != (rows.digests, rows.ids):
        raise InputError(
            f"{where}: its {len(block.ids)} rows are not the plan's {len(rows.ids)} clips in order"
        )
    if unknown := block.training_clips.difference(rows.digests):
        raise LeakError(f"{where}: its network saw clip {min(unknown)[:16]}, which the plan does not know")
    for fold in sorted(folds):
        if not block.holdout.covers(fold):
            clip = rows.ids[int(np.argmax(rows.folds == fold))]
            raise LeakError(
                f"{where} to test fold {fold}: its network may have seen {clip}; use a holdout of {fold}"
            )
    held_out = np.array([block.holdout.covers(fold) for fold in rows.folds.tolist()])
    leaking = np.flatnonzero(rows.mask(block.training_clips) & rows.same_group(held_out))
    if folds and len(leaking):
        row = leaking[0]
        raise LeakError(
            f"{where}: its network saw {rows.ids[row]} (fold {rows.folds[row]}, group "
            f"{rows.group_names[row]!r}), of a fold or group that it held out"
        )


def is_out_of_sample(features: Features, rows: ClipRows, level: Level, test: Mask) -> bool:
    """Whether no training row's features depend on its own label, or on one of its group."""
    blocks = list_networks(features)
    if level == "embedding" and not any(block.embedding_tuned for block in blocks):
        return True
    for number, block in enumerate(blocks):
        in_sample = rows.same_group(rows.mask(block.training_clips)) & ~test
        if isinstance(features, CrossFitted):
            in_sample &= np.array([number in networks for networks in features.rows])
        if in_sample.any():
            return False
    return True
