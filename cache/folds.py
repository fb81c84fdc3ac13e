"""Fold plans: groups joined, groups assigned to folds, plans checked, inner splits. Pure functions.

A group's fold depends on the seed, the digests of its clips and the clips that have a fold already, never on
a path or an order. A clip that has a fold keeps it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import derived_seed
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import MODALITY_NAMES, Tuning
from moodfuse.cache.records import Clip, ClipStatus, Holdout, Plan, Role

GROUP_RULE = "declared group, else file; identical files joined"
MIN_INNER_GROUPS = 3
MODALITIES: tuple[str, ...] = tuple(MODALITY_NAMES)
"""The modalities of a clip, as `ClipStatus.missing` has them."""
DEFAULT_FOLDS = 6
DEFAULT_SEED = 0


@dataclass(frozen=True, slots=True)
class ClipGroup:
    """A group of clips: its smallest clip digest as key, and the label and digest of each clip."""

    key: str
    labels: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class PlanChoice:
    """The user's settings of a plan; `None` keeps those of the current plan. `modalities` will be read."""

    folds: int | None = None
    seed: int | None = None
    replan: bool = False
    modalities: tuple[str, ...] = MODALITIES


# Groups


def join_groups(clips: Sequence[Clip], file_digests: Mapping[str, str]) -> dict[str, str]:
    """Current group of every clip id: clips of one declared group or of identical files are joined.

    `file_digests` maps clip id to the digest of its file's bytes; absent or empty where unreadable. A group
    is named by the first declared name in it, else by its first clip's id.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for clip in clips:
        if clip.group is not None:
            parent[root(f"clip:{clip.id}")] = root(f"group:{clip.group}")
        if file_digests.get(clip.id):
            parent[root(f"clip:{clip.id}")] = root(f"file:{file_digests[clip.id]}")
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        members[root(f"clip:{clip.id}")].append(clip)
    names: dict[str, str] = {}
    for group in members.values():
        declared = sorted(clip.group for clip in group if clip.group is not None)
        name = declared[0] if declared else min(clip.id for clip in group)
        names.update({clip.id: name for clip in group})
    return names


def clip_groups(statuses: Iterable[ClipStatus]) -> tuple[ClipGroup, ...]:
    """Groups of readable clips; a group may have several labels, as an artist or a film does.

    Raises `InputError` if the same seconds of one file have two labels.
    """
    members: dict[str, list[ClipStatus]] = defaultdict(list)
    for status in statuses:
        members[status.group].append(status)
    groups = []
    for _, group in sorted(members.items()):
        _check_labels(group)
        labels = dict(sorted((status.digest, status.clip.label) for status in group))
        digests = tuple(labels)
        groups.append(ClipGroup(key=digests[0], labels=tuple(labels.values()), digests=digests))
    return tuple(groups)


def _check_labels(group: Sequence[ClipStatus]) -> None:
    """Check that clips of one file that overlap have one label; the same file twice is such a pair."""
    if len({status.clip.label for status in group}) < 2:
        return
    # Clips that are declared by a table of labels have no file.
    ordered = sorted((status for status in group if status.file_sha256), key=lambda status: status.clip.id)
    for one, other in combinations(ordered, 2):
        if one.file_sha256 != other.file_sha256 or one.clip.label == other.clip.label:
            continue
        (start, end), (other_start, other_end) = one.clip.window_s, other.clip.window_s
        if max(start, other_start) < min(end, other_end):
            cause = "the same file twice" if start == other_start else "windows of one file that overlap"
            raise InputError(
                f"{one.clip.id} is labelled {one.clip.label!r} and {other.clip.id} {other.clip.label!r}, but "
                f"they are {cause}; correct a label, or drop one of them"
            )


def groups_per_label(clip_groups: Iterable[ClipGroup]) -> Counter[str]:
    """Number of groups that have each label."""
    return Counter(label for group in clip_groups for label in set(group.labels))


# Plans


def next_plan(plans: Sequence[Plan], statuses: Sequence[ClipStatus], choice: PlanChoice) -> Plan:
    """The plan for these clips: clips keep their folds, new groups go where their labels are rarest.

    `plans` are all earlier ones, oldest first; `statuses` are all clips of the dataset, refused ones too.
    Raises `InputError` if no plan gives valid held-out folds.
    """
    check_fold_numbers(status.clip for status in statuses)
    readable = [status for status in statuses if status.ok]
    covered = [status for status in readable if status.clip.split == "train"]
    _check_splits(readable)
    if not covered:
        raise InputError(
            f"none of the {len(statuses)} clips could be read; see the reasons above, or run moodfuse check"
        )
    groups = clip_groups(covered)
    folds, seed = (plans[-1].folds, plans[-1].seed) if plans else (DEFAULT_FOLDS, DEFAULT_SEED)
    folds = folds if choice.folds is None else choice.folds
    seed = seed if choice.seed is None else choice.seed
    if (declared := declared_folds(covered)) is not None:
        folds, assignment = declared
        if choice.folds not in (None, folds):
            raise InputError(f"--folds is {choice.folds}, but column 'fold' has {folds}; drop one of the two")
    else:
        earlier = [plan.assignment for plan in plans if (plan.folds, plan.seed) == (folds, seed)]
        placed = {} if choice.replan or not earlier else earlier[-1]
        assignment = assign_folds(groups, folds=max(folds, 1), seed=seed, placed=placed)
    validate(groups, assignment, folds)
    plan = Plan(folds, seed, GROUP_RULE, assignment, (table_name(statuses),))
    check_modalities(plan, covered, choice.modalities)
    return plan


def _check_splits(statuses: Sequence[ClipStatus]) -> None:
    first: dict[str, ClipStatus] = {}
    for status in statuses:
        one, other = status.clip, first.setdefault(status.group, status).clip
        if one.split != other.split:
            raise InputError(
                f"{one.id} is split {one.split!r} and {other.id} {other.split!r}, but share group "
                f"{status.group!r}; clips of a group must share a split"
            )


def repeat_plan(
    plan: Plan,
    earlier: Sequence[Plan],
    statuses: Sequence[ClipStatus],
    repeat: int,
    *,
    modalities: tuple[str, ...] = MODALITIES,
) -> Plan:
    """A further plan of the clips of `plan`, that of repeat 0, with its seed plus `repeat`.

    `earlier` are the plans of this repeat (from 1), oldest first, whose clips keep their folds. Raises
    `InputError` if the dataset declares its folds, so that there is one plan only.
    """
    covered = [status for status in statuses if status.ok and status.clip.split == "train"]
    if declared_folds(covered) is not None:
        raise InputError(
            "--repeats assigns clips to folds again, but the column 'fold' fixes them; drop one of the two"
        )
    choice = PlanChoice(plan.folds, plan.seed + repeat, modalities=modalities)
    return replace(next_plan(earlier, statuses, choice), repeat=repeat)


def plan_line(plan: Plan, clips: Sequence[ClipStatus]) -> str:
    """A summary of a plan in a sentence: clips, groups, folds, and the clips of each label."""
    groups = len({status.group for status in clips})
    counts = Counter(status.clip.label for status in clips)
    labels = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
    return f"{len(clips)} clips in {groups} groups, {plan.folds} folds, seed {plan.seed}: {labels}"


def assign_folds(
    clip_groups: Iterable[ClipGroup], *, folds: int, seed: int, placed: Mapping[str, int]
) -> dict[str, int]:
    """Fold of each clip digest: a group goes to the fold where its labels are rarest, then to the smallest.

    How full a fold is of a label counts once for each clip of the label in the group, so that a rare label
    decides; `seed` breaks ties. Clips in `placed` keep their fold; a group in several folds (it
    was merged) moves to the one with most of its clips.
    """
    clip_groups = list(clip_groups)
    assignment: dict[str, int] = {}
    label_counts: Counter[tuple[int, str]] = Counter()
    totals: Counter[int] = Counter()
    sizes = Counter(label for group in clip_groups for label in group.labels)

    def put(group: ClipGroup, fold: int) -> None:
        assignment.update(dict.fromkeys(group.digests, fold))
        label_counts.update((fold, label) for label in group.labels)
        totals[fold] += len(group.digests)

    def fullness(group: ClipGroup, fold: int) -> tuple[float, int]:
        counts = sorted(Counter(group.labels).items())
        return sum(n * label_counts[fold, label] / sizes[label] for label, n in counts), totals[fold]

    new = []
    for group in clip_groups:
        votes = Counter(placed[digest] for digest in group.digests if digest in placed)
        if votes:
            put(group, min(votes, key=lambda fold: (-votes[fold], fold)))
        else:
            new.append(group)
    for group in sorted(new, key=lambda group: (-len(group.digests), derived_seed(seed, group.key))):
        full = [fullness(group, fold) for fold in range(folds)]
        equal = [fold for fold in range(folds) if full[fold] == min(full)]
        if len(equal) > 1:
            equal.sort(key=lambda fold: derived_seed(seed, group.key, fold))
        put(group, equal[0])
    return assignment


def check_fold_numbers(clips: Iterable[Clip]) -> None:
    """Check that the column `fold` counts from 0; `InputError` if not."""
    folds = Counter(clip.fold for clip in clips if clip.fold is not None and clip.split == "train")
    if folds and (first := min(folds)) > 0:
        raise InputError(
            f"the column 'fold' counts from {first}: found folds {first} to {max(folds)} in {folds.total()} "
            f"clips; folds are counted from 0: subtract {first} from each, and from the folds of --holdout "
            "if you import"
        )


def declared_folds(statuses: Iterable[ClipStatus]) -> tuple[int, dict[str, int]] | None:
    """K and the assignment from the dataset's own `fold` column, or `None` where it has none.

    Raises `InputError` if not every clip has a fold, or a group is in two.
    """
    statuses = list(statuses)
    declared = [(status, status.clip.fold) for status in statuses if status.clip.fold is not None]
    if not declared:
        return None
    if len(declared) < len(statuses):
        missing = next(status.clip.id for status in statuses if status.clip.fold is None)
        raise InputError(
            f"{missing} has no fold while others have one; fill the column 'fold' for every clip or drop it"
        )
    by_group: dict[str, int] = {}
    for status, fold in declared:
        if by_group.setdefault(status.group, fold) != fold:
            raise InputError(
                f"{status.clip.id}: group {status.group!r} is in folds {by_group[status.group]} and {fold}; "
                "clips of a group must share a fold"
            )
    return max(by_group.values()) + 1, {status.digest: by_group[status.group] for status, _ in declared}


def validate(clip_groups: Sequence[ClipGroup], assignment: Mapping[str, int], folds: int) -> None:
    """Check that a plan gives valid folds; `InputError` on few groups, an empty fold or an unseen class."""
    groups = groups_per_label(clip_groups)
    check_group_counts(groups, folds)
    for fold in range(folds):
        if fold not in assignment.values():
            raise InputError(f"fold {fold} is empty; use fewer folds, or correct the column 'fold'")
        if absent := sorted(set(groups) - _labels_outside(clip_groups, assignment, fold)):
            raise InputError(
                f"label {absent[0]!r} is in fold {fold} only, so it would be absent from the training folds; "
                "run extract with --replan, with another --seed, or correct the column 'fold'"
            )


def check_group_counts(groups: Mapping[str, int], folds: int) -> None:
    """Check that the groups of each label are enough for the folds; `InputError` if not."""
    if len(groups) < 2:
        raise InputError(
            f"found {len(groups)} label(s) among the readable clips ({', '.join(groups)}); need at least 2"
        )
    if folds < 2:
        raise InputError(f"--folds is {folds}; expected 2 or more")
    fewest, label = min((count, label) for label, count in groups.items())
    if fewest < folds:
        other = f"add clips of {label!r}"
        remedy = f"use --folds {fewest}, or {other}" if fewest > 1 else f"{other}, or drop it"
        raise InputError(f"label {label!r} has {fewest} group(s), fewer than the {folds} folds; {remedy}")


def _labels_outside(clip_groups: Iterable[ClipGroup], assignment: Mapping[str, int], fold: int) -> set[str]:
    return {label for group in clip_groups if assignment[group.digests[0]] != fold for label in group.labels}


def can_cross_fit(plan: Plan, clips: Iterable[ClipStatus], modalities: Sequence[str] = MODALITIES) -> bool:
    """Whether every class remains in each of the modalities when any two folds are left out."""
    clips = tuple(clips)
    labels = [folds for modality in modalities for folds in _folds_by_label(plan, clips, modality).values()]
    return plan.folds > 2 and all(len(folds) > 2 for folds in labels)


def check_modalities(plan: Plan, clips: Iterable[ClipStatus], modalities: Sequence[str] = MODALITIES) -> None:
    """Check that each class can be learned outside each fold from each modality; `InputError` if not."""
    clips = tuple(clips)
    for modality in modalities:
        folds_by_label = _folds_by_label(plan, clips, modality)
        few = [(min(folds, default=0), label) for label, folds in folds_by_label.items() if len(folds) < 2]
        if few:
            fold, label = min(few)
            name = MODALITY_NAMES.get(modality, modality)
            raise InputError(
                f"label {label!r} has no clip with {name} outside fold {fold}, so it would be absent "
                f"from the training clips of sources that read {name}; add clips that have it, leave out "
                "these sources, or run extract with --missing refuse"
            )


def _folds_by_label(plan: Plan, clips: Iterable[ClipStatus], modality: str) -> dict[str, set[int]]:
    """For each label the folds with a clip that has a modality."""
    by_label: dict[str, set[int]] = {}
    for status in clips:
        folds = by_label.setdefault(status.clip.label, set())
        if status.missing != modality and status.digest in plan.assignment:
            folds.add(plan.assignment[status.digest])
    return by_label


# Holdouts and training clips


def holdouts(
    plan: Plan,
    clips: Sequence[ClipStatus],
    *,
    crossfit: bool,
    leaky: bool,
    modalities: tuple[str, ...] = MODALITIES,
) -> tuple[Holdout, ...]:
    """The holdouts of a plan: ``{k}``; all pairs if `crossfit` and the clips allow it; ``{}`` if `leaky`."""
    pairs = pair_holdouts(plan.folds) if crossfit and can_cross_fit(plan, clips, modalities) else ()
    return (*single_holdouts(plan.folds), *pairs, *((Holdout.of(()),) if leaky else ()))


def single_holdouts(folds: int) -> tuple[Holdout, ...]:
    """``{k}`` for each of K folds."""
    return tuple(Holdout.of(fold) for fold in range(folds))


def pair_holdouts(folds: int) -> tuple[Holdout, ...]:
    """``{j,k}`` for each pair of K folds: K (K - 1) / 2 of them."""
    return tuple(Holdout.of(pair) for pair in combinations(range(folds), 2))


def inner_folds(clip_groups: Sequence[ClipGroup], *, most: int, seed: int) -> dict[str, int] | None:
    """Inner fold of each training clip by digest, grouped and stratified.

    `None` where a class has fewer than 3 groups, or groups of several labels left a class in one fold only.
    """
    groups = groups_per_label(clip_groups)
    fewest = min(groups.values(), default=0)
    if fewest < MIN_INNER_GROUPS:
        return None
    folds = min(most, fewest)
    assignment = assign_folds(clip_groups, folds=folds, seed=seed, placed={})
    every_class = all(_labels_outside(clip_groups, assignment, fold) == set(groups) for fold in range(folds))
    return assignment if every_class else None


def tuning_clips(
    clip_groups: Sequence[ClipGroup], tuning: Tuning, *, seed: int
) -> tuple[tuple[str, str, Role], ...]:
    """(clip digest, label, role) of every clip that a network is tuned on or stopped by.

    Where a class has fewer than 3 groups nothing stops early: every clip has the role ``"tune"``.
    """
    inner = inner_folds(clip_groups, most=tuning.stop_folds, seed=seed) or {}
    return tuple(
        sorted(
            (digest, label, "stop" if inner.get(digest) == 0 else "tune")
            for group in clip_groups
            for digest, label in zip(group.digests, group.labels, strict=True)
        )
    )


def imported_training_clips(
    clip_groups: Iterable[ClipGroup], plan: Plan, holdout: Holdout
) -> tuple[tuple[str, str, Role], ...]:
    """(clip digest, label, role) of imported features: every clip outside the holdout counts as tuned on."""
    outside = [group for group in clip_groups if not holdout.covers(plan.assignment[group.key])]
    clips = [clip for group in outside for clip in zip(group.digests, group.labels, strict=True)]
    return tuple(sorted((digest, label, "tune") for digest, label in clips))
