"""Plans: groups joined, clips dealt to folds, inner splits. Pure functions, no disk.

A group's fold depends on the seed, the digests of its clips and what is already placed, never on a path or a
position in a list. A clip that has a fold keeps it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.clip_table import ClipTable
from moodfuse.cache.columns import Assignment
from moodfuse.cache.digests import derived_seed
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Tuning
from moodfuse.cache.records import Clip, ClipStatus, Holdout, Plan, Role

GROUP_RULE = "declared group, else file; identical files joined"
MIN_INNER_GROUPS = 3
VIEWS: tuple[str, ...] = ("sound", "picture")
"""What a clip may lack; see `ClipStatus.missing`. Where nobody has said what will be read, both are."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A group as the dealer sees it: a stable key, its clips' digests, and the label of each of them."""

    key: str
    labels: tuple[str, ...]
    digests: tuple[str, ...]


def join_groups(clips: Sequence[Clip], file_digests: Mapping[str, str]) -> dict[str, str]:
    """Group in force of every clip id: clips of one declared group or of equal files are joined.

    Parameters
    ----------
    clips : sequence of Clip
    file_digests : mapping of clip id to the digest of its file's bytes; absent or empty where unreadable.

    Returns
    -------
    dict of clip id to group name: the first declared name in it, else the first clip's id.
    """
    parent: dict[str, str] = {}

    def find(item: str) -> str:
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for clip in clips:
        if clip.group is not None:
            parent[find(f"clip:{clip.id}")] = find(f"group:{clip.group}")
        if file_digests.get(clip.id):
            parent[find(f"clip:{clip.id}")] = find(f"file:{file_digests[clip.id]}")
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        members[find(f"clip:{clip.id}")].append(clip)
    joined: dict[str, str] = {}
    for group in members.values():
        declared = sorted(clip.group for clip in group if clip.group is not None)
        name = declared[0] if declared else min(clip.id for clip in group)
        joined.update({clip.id: name for clip in group})
    return joined


def units_of(statuses: Iterable[ClipStatus]) -> tuple[Unit, ...]:
    """Groups of readable clips; one may hold several labels, as an artist or a film does.

    Raises
    ------
    InputError
        If the same seconds of one file carry two labels.
    """
    members: dict[str, list[ClipStatus]] = defaultdict(list)
    for status in statuses:
        members[status.group].append(status)
    units = []
    for _, group in sorted(members.items()):
        _refuse_contradictions(group)
        labels = dict(sorted((status.digest, status.clip.label) for status in group))
        digests = tuple(labels)
        units.append(Unit(key=digests[0], labels=tuple(labels.values()), digests=digests))
    return tuple(units)


def _refuse_contradictions(group: Sequence[ClipStatus]) -> None:
    """Refuse clips of one file that overlap and have different labels; the same file twice is such a pair."""
    if len({status.clip.label for status in group}) < 2:
        return
    ordered = sorted(group, key=lambda status: (status.clip.label, status.clip.id))
    for one, other in combinations(ordered, 2):
        # Clips that a table of labels declares have no file.
        if not one.file_sha256 or one.file_sha256 != other.file_sha256 or one.clip.label == other.clip.label:
            continue
        (start, end), (begin, stop) = one.clip.window_s, other.clip.window_s
        if max(start, begin) < min(end, stop):
            cause = "the same file twice" if start == begin else "windows of one file that overlap"
            raise InputError(
                f"{one.clip.id} is labelled {one.clip.label!r} and {other.clip.id} {other.clip.label!r}, but they are "
                f"{cause}; correct a label, or drop one of them"
            )


def deal(units: Iterable[Unit], *, folds: int, seed: int, placed: Mapping[str, int]) -> dict[str, int]:
    """Deal groups to folds: each goes where its labels are scarcest, then where fewest clips are.

    A fold's share of all clips of a label counts once for each clip of it in the group, so that a rare label decides.

    Parameters
    ----------
    units : iterable of Unit
    folds : int
        Number of folds K.
    seed : int
        Decides the order of equals.
    placed : mapping of clip digest to fold
        Clips that keep their fold. A group that lies in several (it was merged) moves to the one that holds most.

    Returns
    -------
    dict of clip digest to fold
    """
    units = list(units)
    assignment: dict[str, int] = {}
    label_counts: Counter[tuple[int, str]] = Counter()
    totals: Counter[int] = Counter()
    sizes = Counter(label for unit in units for label in unit.labels)

    def put(unit: Unit, fold: int) -> None:
        assignment.update(dict.fromkeys(unit.digests, fold))
        label_counts.update((fold, label) for label in unit.labels)
        totals[fold] += len(unit.digests)

    def fullness(unit: Unit) -> list[tuple[float, int]]:
        counts = sorted(Counter(unit.labels).items())
        crowd = [
            sum(n * label_counts[fold, label] / sizes[label] for label, n in counts) for fold in range(folds)
        ]
        return [(crowd[fold], totals[fold]) for fold in range(folds)]

    waiting = []
    for unit in units:
        votes = Counter(placed[digest] for digest in unit.digests if digest in placed)
        if votes:
            put(unit, min(votes, key=lambda fold: (-votes[fold], fold)))
        else:
            waiting.append(unit)
    for unit in sorted(waiting, key=lambda unit: (-len(unit.digests), derived_seed(seed, unit.key))):
        full = fullness(unit)
        equal = [fold for fold in range(folds) if full[fold] == min(full)]
        put(
            unit,
            equal[0] if len(equal) == 1 else min(equal, key=lambda fold: derived_seed(seed, unit.key, fold)),
        )
    return assignment


def check_fold_numbers(clips: Iterable[Clip]) -> None:
    """Refuse a column `fold` that does not count from 0.

    Raises
    ------
    InputError
    """
    folds = Counter(clip.fold for clip in clips if clip.fold is not None and clip.split == "train")
    if folds and (first := min(folds)) > 0:
        raise InputError(
            f"the column 'fold' counts from {first}: found folds {first} to {max(folds)} in {folds.total()} clips; "
            f"folds are counted from 0: subtract {first} from each, and from the folds of --holdout if you import"
        )


def declared_folds(statuses: Iterable[ClipStatus]) -> tuple[int, dict[str, int]] | None:
    """K and assignment from the data set's own `fold` column, or `None` where it has none.

    Raises
    ------
    InputError
        If only some clips have a fold, or a group is spread over two.
    """
    statuses = list(statuses)
    given = [(status, status.clip.fold) for status in statuses if status.clip.fold is not None]
    if not given:
        return None
    if len(given) < len(statuses):
        missing = next(status.clip.id for status in statuses if status.clip.fold is None)
        raise InputError(
            f"{missing} has no fold while others have one; fill the column 'fold' for every clip or drop it"
        )
    by_group: dict[str, int] = {}
    for status, fold in given:
        if by_group.setdefault(status.group, fold) != fold:
            raise InputError(
                f"{status.clip.id}: group {status.group!r} lies in folds {by_group[status.group]} and {fold}; "
                "clips of a group must share a fold"
            )
    return max(by_group.values()) + 1, {status.digest: by_group[status.group] for status, _ in given}


def validate(units: Sequence[Unit], assignment: Mapping[str, int], folds: int) -> None:
    """Refuse a plan that cannot be tested honestly: too few labels or groups, an empty fold, an unseen class.

    Raises
    ------
    InputError
    """
    groups = groups_per_label(units)
    if len(groups) < 2:
        raise InputError(
            f"found {len(groups)} label(s) among the readable clips ({', '.join(groups)}); need at least 2"
        )
    if folds < 2:
        raise InputError(f"--folds is {folds}; expected 2 or more")
    label, fewest = min(groups.items(), key=lambda item: (item[1], item[0]))
    if fewest < folds:
        remedy = (
            f"use --folds {fewest}, or add clips of {label!r}"
            if fewest >= 2
            else f"add clips of {label!r}, or drop it"
        )
        raise InputError(f"label {label!r} has {fewest} group(s), fewer than the {folds} folds; {remedy}")
    for fold in range(folds):
        if fold not in assignment.values():
            raise InputError(f"fold {fold} is empty; use fewer folds, or correct the column 'fold'")
        if absent := sorted(set(groups) - _outside(units, assignment, fold)):
            raise InputError(
                f"label {absent[0]!r} stands in fold {fold} alone, so nothing could learn it for that fold; "
                "run extract with --replan, with another --seed, or correct the column 'fold'"
            )


def groups_per_label(units: Iterable[Unit]) -> Counter[str]:
    """How many groups hold each label."""
    return Counter(label for unit in units for label in set(unit.labels))


def _outside(units: Iterable[Unit], assignment: Mapping[str, int], fold: int) -> set[str]:
    """Labels that some group outside a fold holds."""
    return {label for unit in units if assignment[unit.digests[0]] != fold for label in unit.labels}


def inner_folds(units: Sequence[Unit], *, most: int, seed: int) -> dict[str, int] | None:
    """Grouped, stratified inner folds of a training side, or `None` where a class has under 3 groups.

    Returns
    -------
    dict of clip digest to inner fold; the number of folds is min(most, groups of the rarest class). `None` too where
    groups of several labels left a class to one fold alone.
    """
    groups = groups_per_label(units)
    fewest = min(groups.values(), default=0)
    if fewest < MIN_INNER_GROUPS:
        return None
    folds = min(most, fewest)
    dealt = deal(units, folds=folds, seed=seed, placed={})
    return dealt if all(_outside(units, dealt, fold) == set(groups) for fold in range(folds)) else None


def tuning_roles(units: Sequence[Unit], tuning: Tuning, *, seed: int) -> tuple[tuple[str, str, Role], ...]:
    """(clip digest, label, role) of every clip that a network tunes on, or is stopped by.

    Where a class has fewer than 3 groups nothing stops early: every clip has the role ``"tune"``.
    """
    inner = inner_folds(units, most=tuning.stop_folds, seed=seed)
    roles: list[tuple[str, str, Role]] = []
    for unit in units:
        for digest, label in zip(unit.digests, unit.labels, strict=True):
            roles.append((digest, label, "stop" if inner is not None and inner[digest] == 0 else "tune"))
    return tuple(sorted(roles))


def imported_roles(units: Iterable[Unit], plan: Plan, holdout: Holdout) -> tuple[tuple[str, str, Role], ...]:
    """(clip digest, label, role) of features made elsewhere: every clip outside the holdout counts as tuned on."""
    side = [unit for unit in units if not holdout.covers(plan.assignment[unit.key])]
    clips = [clip for unit in side for clip in zip(unit.digests, unit.labels, strict=True)]
    return tuple(sorted((digest, label, "tune") for digest, label in clips))


def can_cross_fit(plan: Plan, clips: Iterable[ClipStatus], views: Sequence[str] = VIEWS) -> bool:
    """Whether every class remains in each of some views when any two folds are left out; needs K >= 3."""
    table, pairs = ClipTable.of(clips), tuple(combinations(range(plan.folds), 2))
    placed = Assignment.of(plan.assignment).folds_of(table.digests)
    return plan.folds > 2 and not any(_lost(placed, table, view, pair) for view in views for pair in pairs)


def check_views(plan: Plan, clips: Iterable[ClipStatus], views: Sequence[str] = VIEWS) -> None:
    """Refuse a plan under which some class can be learned from one of the views that are read, outside some fold.

    Raises
    ------
    InputError
    """
    table = ClipTable.of(clips)
    placed = Assignment.of(plan.assignment).folds_of(table.digests)
    for view in views:
        for fold in range(plan.folds):
            if lost := _lost(placed, table, view, (fold,)):
                raise InputError(
                    f"label {lost[0]!r} has no clip with {view} outside fold {fold}, so nothing that reads {view} "
                    f"could learn it there; add clips that have it, leave out the sources that read {view}, or run "
                    "extract with --missing refuse"
                )


def _lost(placed: NDArray[np.int16], clips: ClipTable, view: str, folds: tuple[int, ...]) -> list[str]:
    """Labels without a clip that has a view and is placed outside some folds; `placed` is each clip's fold."""
    outside = (placed >= 0) & ~np.isin(placed, folds)
    having, labels = outside & ~clips.where("missing", view), clips.rows["label"]
    lost = np.setdiff1d(labels, labels[having])
    return sorted(clips.texts["label"][place] for place in lost.tolist())


def single_holdouts(folds: int) -> tuple[Holdout, ...]:
    """``{k}`` for each of K folds."""
    return tuple(Holdout.of(fold) for fold in range(folds))


def pair_holdouts(folds: int) -> tuple[Holdout, ...]:
    """``{j,k}`` for each pair of K folds: K (K - 1) / 2 of them."""
    return tuple(Holdout.of(pair) for pair in combinations(range(folds), 2))
