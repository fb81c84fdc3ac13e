"""The clips and the plan of imported features: those of the cache, or of a table of labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """All clips and their plan.

    `is_new` is whether a table of labels declares them. `assigns_folds` is whether this import assigns a clip
    to its fold, not an earlier plan or a column ``fold``. `changes` describes what the table changes.
    """

    statuses: Sequence[ClipStatus]
    plan: Plan
    is_new: bool = False
    assigns_folds: bool = False
    changes: tuple[str, ...] = ()

    @cached_property
    def clips(self) -> tuple[ClipStatus, ...]:
        """The clips that the plan covers, by id."""
        clips = (status for status in self.statuses if status.ok and status.digest in self.plan.assignment)
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
    replace: bool = False,
) -> Dataset:
    """The current clips, or those that a table of labels declares.

    In a cache that `extract` filled, a table can only agree with the clips. In a cache that imports filled, a
    changed table makes a new plan, in which clips keep their folds; with `replace` it may have none of the
    current clips.

    Raises
    ------
    InputError
        If there are no clips, the table cannot be used, or it contradicts clips that `extract` read.
    """
    plans = cache.plans if cache is not None else ()
    current = plans[-1] if plans else None
    if labels is None:
        if cache is None or current is None:
            raise InputError(
                "the cache has no clips yet; add --labels FILE.csv with id,label[,group][,fold], or run: "
                "moodfuse extract DATA --cache DIR"
            )
        _check_choice(current, choice)
        return Dataset(cache.statuses, current)
    declared = sorted(read_labels(labels), key=lambda status: status.clip.id)
    for line in label_warnings(status.clip for status in declared):
        report(f"WARNING {labels}: {line}")
    before: dict[str, ClipStatus] = {}
    # A current table of these very clips may be damaged: it is not read, but written again.
    if cache is not None and current is not None and current.records != (table_name(declared),):
        before = {status.clip.id: status for status in cache.statuses}
        if any(status.decoder != IMPORT for status in cache.statuses):
            _check_choice(current, choice)
            _check_agreement(labels, declared, cache)
            return Dataset(cache.statuses, current)
        if not replace:
            _check_overlap(labels, [status.clip.id for status in declared], cache)
    plan = next_plan(plans, declared, choice)
    changes = (*_list_clip_changes(before, declared), *_list_fold_changes(current, plan)) if current else ()
    folds = current.assignment if current else {}
    declares_folds = any(s.clip.fold is not None for s in declared if s.digest in plan.assignment)
    assigns_folds = not declares_folds and any(folds.get(k) != fold for k, fold in plan.assignment.items())
    return Dataset(declared, plan, is_new=True, assigns_folds=assigns_folds, changes=changes)


def _check_choice(plan: Plan, choice: PlanChoice) -> None:
    for option, wanted, current in (
        ("--folds", choice.folds, plan.folds),
        ("--seed", choice.seed, plan.seed),
    ):
        if wanted not in (None, current):
            raise InputError(f"{option} is {wanted}, but the current plan has {current}; drop the option")


def _check_overlap(labels: Path, names: Sequence[str], cache: FeatureCache) -> None:
    known = [status.clip.id for status in cache.statuses]
    if set(names).isdisjoint(known):
        raise InputError(
            f"{labels}: none of its {len(names)} ids ({first_few(names)}) is one of the {len(known)} clips "
            f"of {cache.path} ({first_few(known)}); name another --cache folder, or add --replace: then no "
            "present source has features of these clips"
        )


def _list_clip_changes(before: Mapping[str, ClipStatus], declared: Sequence[ClipStatus]) -> Iterator[str]:
    now = {status.clip.id: status for status in declared}
    if not before:
        return
    both = [(name, before[name], now[name]) for name in now if name in before]
    changes = {
        "clips added": [name for name in now if name not in before],
        "clips removed": [name for name in before if name not in now],
        "labels changed": [name for name, old, new in both if old.clip.label != new.clip.label],
        "groups changed": [name for name, old, new in both if old.group != new.group],
        "splits changed": [name for name, old, new in both if old.clip.split != new.clip.split],
    }
    for change, names in changes.items():
        if names:
            yield f"{len(names)} {change} (first: {first_few(names)})"


def _list_fold_changes(before: Plan, plan: Plan) -> Iterator[str]:
    if before.folds != plan.folds:
        yield f"{plan.folds} folds instead of {before.folds}"
    if moved := sum(before.assignment.get(k, fold) != fold for k, fold in plan.assignment.items()):
        yield f"{moved} of {len(plan.assignment)} clips are in another fold"


def _check_agreement(labels: Path, declared: Sequence[ClipStatus], cache: FeatureCache) -> None:
    """Check that a table has the clips that `extract` read; a missing column agrees."""
    known = {status.clip.id: status for status in cache.statuses}
    remedy = "correct the table, drop --labels, or name another --cache folder"
    if unknown := [status.clip.id for status in declared if status.clip.id not in known]:
        raise InputError(
            f"{labels}: {len(unknown)} of {len(declared)} ids are not clips of {cache.path} (first: "
            f"{first_few(unknown)}), which extract made; its ids look like {first_few(known)}; {remedy}"
        )
    for status in declared:
        clip, other = status.clip, known[status.clip.id]
        fold = cache.plan.assignment.get(other.digest)
        for name, given, expected in (
            ("label", clip.label, (other.clip.label,)),
            ("group", clip.group, (other.group, other.clip.group, None)),
            ("fold", clip.fold, (fold, None)),
            ("split", clip.split, (other.clip.split,)),
        ):
            if given not in expected:
                raise InputError(
                    f"{labels}: {name} of clip {short_repr(clip.id)} is {given!r}, but {expected[0]!r} in "
                    f"{cache.path}, which extract made; {remedy}"
                )
    names = {status.clip.id for status in declared}
    if missing := [status.clip.id for status in cache.clips if status.clip.id not in names]:
        raise InputError(
            f"{labels}: {len(missing)} of {len(cache.clips)} clips of {cache.path} are missing (first: "
            f"{first_few(missing)}); add them, or drop --labels"
        )
