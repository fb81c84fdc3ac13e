"""The clips and the plan that imported features are matched with: those of the cache, or of a table of labels.

A cache that `extract` filled has its clips from their media, so a table can only agree with it. A cache that imports
filled has its clips from a table, and a changed table makes a new plan, in which clips keep their folds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.console import first_few, short_repr
from moodfuse.cache.csv_rows import label_warnings, read_labels
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import PlanChoice, next_plan
from moodfuse.cache.recipe import IMPORT
from moodfuse.cache.records import ClipStatus, Plan
from moodfuse.cache.store import FeatureCache


@dataclass(frozen=True)
class Dataset:
    """All clips, refused and test clips too, and their plan.

    `is_new` is whether a table of labels declares them, so they are written unless they are in force. `assigns_folds` is
    whether this command assigns some clip to its fold, not an earlier plan or a column ``fold``. `changes` is what the
    table changes of the clips and folds in force.
    """

    statuses: Sequence[ClipStatus]
    plan: Plan
    is_new: bool = False
    assigns_folds: bool = False
    changes: tuple[str, ...] = ()

    @cached_property
    def clips(self) -> tuple[ClipStatus, ...]:
        """The clips that the plan covers, by id."""
        assignment = dict(self.plan.assignment)
        clips = (status for status in self.statuses if status.ok and status.digest in assignment)
        return tuple(sorted(clips, key=lambda status: status.clip.id))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels."""
        return tuple(sorted({status.clip.label for status in self.clips}))


def choose_dataset(
    cache: FeatureCache | None,
    labels: Path | None,
    choice: PlanChoice,
    report: Callable[[str], None],
    *,
    replace_clips: bool = False,
) -> Dataset:
    """The clips in force, or those that a table of labels declares.

    `report` receives warnings about the table. With `replace_clips` it may have no clip in common with those in force.

    Raises
    ------
    InputError
        If there are no clips, the table cannot be used, or it contradicts clips that were read from media.
    """
    current = cache.plans[-1] if cache is not None and cache.plans else None
    if labels is None:
        if cache is None or current is None:
            raise InputError(
                "the cache has no clips yet; add --labels FILE.csv with id,label[,group][,fold], or run: moodfuse "
                "extract DATA --cache DIR"
            )
        _check_choice(current, choice)
        return Dataset(cache.statuses, current)
    declared = sorted(read_labels(labels), key=lambda status: status.clip.id)
    for line in label_warnings(status.clip for status in declared):
        report(f"WARNING {labels}: {line}")
    if cache is None or current is None:
        plan = next_plan((), declared, choice)
        return Dataset(declared, plan, is_new=True, assigns_folds=_assigns_folds(None, plan, declared))
    # The table in force may be damaged where it is this very one, so its name is compared before it is read.
    if current.records != (table_name(declared),) and any(
        status.decoder != IMPORT for status in cache.statuses
    ):
        _check_choice(current, choice)
        _check_agreement(labels, declared, cache)
        return Dataset(cache.statuses, current)
    plan = next_plan(cache.plans, declared, choice)
    dataset = Dataset(declared, plan, is_new=True, assigns_folds=_assigns_folds(current, plan, declared))
    if current.records == plan.records:
        return replace(dataset, changes=tuple(_fold_changes(current, plan)))
    before = {status.clip.id: status for status in cache.statuses}
    if not replace_clips and not any(status.clip.id in before for status in declared):
        raise InputError(
            f"{labels}: none of its {len(declared)} ids ({first_few(status.clip.id for status in declared)}) is one of "
            f"the {len(before)} clips of {cache.path} ({first_few(before)}); name another --cache folder, or add "
            "--replace: then no present source has features of these clips"
        )
    return replace(dataset, changes=(*_clip_changes(before, declared), *_fold_changes(current, plan)))


def _check_choice(plan: Plan, choice: PlanChoice) -> None:
    for option, asked, actual in (("--folds", choice.folds, plan.folds), ("--seed", choice.seed, plan.seed)):
        if asked is not None and asked != actual:
            raise InputError(f"{option} is {asked}, but the plan in force has {actual}; drop the option")


def _assigns_folds(current: Plan | None, plan: Plan, declared: Sequence[ClipStatus]) -> bool:
    covered = [status for status in declared if status.digest in plan.assignment]
    if any(status.clip.fold is not None for status in covered):
        return False
    before = {} if current is None else dict(current.assignment)
    return any(before.get(digest) != fold for digest, fold in plan.assignment.items())


def _clip_changes(before: dict[str, ClipStatus], declared: Sequence[ClipStatus]) -> Iterator[str]:
    now = {status.clip.id: status for status in declared}
    both = [(name, before[name], status) for name, status in now.items() if name in before]
    changes: dict[str, Iterable[str]] = {
        "clips added": (name for name in now if name not in before),
        "clips removed": (name for name in before if name not in now),
        "labels changed": (name for name, old, new in both if old.clip.label != new.clip.label),
        "groups changed": (name for name, old, new in both if old.group != new.group),
        "splits changed": (name for name, old, new in both if old.clip.split != new.clip.split),
    }
    for change, names in changes.items():
        if names := list(names):
            yield f"{len(names)} {change} (first: {first_few(names)})"


def _fold_changes(before: Plan, plan: Plan) -> Iterator[str]:
    if before.folds != plan.folds:
        yield f"{plan.folds} folds instead of {before.folds}"
    old = dict(before.assignment)
    if moved := sum(old.get(digest, fold) != fold for digest, fold in plan.assignment.items()):
        yield f"{moved} of {len(plan.assignment)} clips are in another fold"


def _check_agreement(labels: Path, declared: Sequence[ClipStatus], cache: FeatureCache) -> None:
    """Refuse a table that disagrees with the clips that `extract` read; a column that it does not have agrees."""
    known = {status.clip.id: status for status in cache.statuses}
    if unknown := [status.clip.id for status in declared if status.clip.id not in known]:
        raise InputError(
            f"{labels}: {len(unknown)} of {len(declared)} ids are not clips of {cache.path} (first: "
            f"{first_few(unknown)}), which extract made; its ids look like {first_few(known)}; drop --labels, or name "
            "another --cache folder"
        )
    for status in declared:
        clip, other = status.clip, known[status.clip.id]
        groups = (None, other.group.strip(), (other.clip.group or "").strip())
        fold = cache.plan.assignment.get(other.digest)
        for name, agrees, found, expected in (
            ("label", clip.label == other.clip.label.strip(), clip.label, other.clip.label),
            ("group", clip.group in groups, clip.group, other.group),
            ("fold", clip.fold in (None, fold), clip.fold, fold),
            ("split", clip.split == other.clip.split, clip.split, other.clip.split),
        ):
            if not agrees:
                raise InputError(
                    f"{labels}: {name} of clip {short_repr(clip.id)} is {found!r}, but {expected!r} in {cache.path}, "
                    "which extract made; correct the table, drop --labels, or name another --cache folder"
                )
    names = {status.clip.id for status in declared}
    if missing := [status.clip.id for status in cache.clips if status.clip.id not in names]:
        raise InputError(
            f"{labels}: {len(missing)} of {len(cache.clips)} clips of {cache.path} are missing (first: "
            f"{first_few(missing)}); add them, or drop --labels"
        )
