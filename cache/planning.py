"""The next fold plan of a data set, decided from the clips that could be read and the plans before it. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import (
    GROUP_RULE,
    VIEWS,
    can_cross_fit,
    check_fold_numbers,
    check_views,
    deal,
    declared_folds,
    pair_holdouts,
    single_holdouts,
    units_of,
    validate,
)
from moodfuse.cache.manifest import table_name
from moodfuse.cache.records import ClipStatus, Holdout, Plan

DEFAULT_FOLDS = 6
DEFAULT_SEED = 0


@dataclass(frozen=True)
class PlanChoice:
    """What the user asks of a plan; `None` keeps what the plan in force has. `views` are those that will be read."""

    folds: int | None = None
    seed: int | None = None
    replan: bool = False
    views: tuple[str, ...] = VIEWS


def next_plan(plans: Sequence[Plan], statuses: Sequence[ClipStatus], choice: PlanChoice) -> Plan:
    """The plan for these clips: clips keep their folds, new groups go where their label is scarcest.

    Parameters
    ----------
    plans : sequence of Plan
        All earlier plans, oldest first.
    statuses : sequence of ClipStatus
        Every clip of the data set, refused ones too.
    choice : PlanChoice

    Raises
    ------
    InputError
        If no honest plan can be made; the message says what to change.
    """
    check_fold_numbers(status.clip for status in statuses)
    readable = [status for status in statuses if status.ok]
    covered = [status for status in readable if status.clip.split == "train"]
    _refuse_shared_groups(readable)
    if not covered:
        raise InputError(
            f"none of the {len(statuses)} clips could be read; see the reasons above, or run moodfuse check"
        )
    units = units_of(covered)
    current = plans[-1] if plans else None
    folds = choice.folds if choice.folds is not None else (current.folds if current else DEFAULT_FOLDS)
    seed = choice.seed if choice.seed is not None else (current.seed if current else DEFAULT_SEED)
    declared = declared_folds(covered)
    if declared is not None:
        folds, assignment = declared
        if choice.folds not in (None, folds):
            raise InputError(
                f"--folds is {choice.folds}, but the column 'fold' has {folds}; drop one of the two"
            )
        validate(units, assignment, folds)
    else:
        earlier = [plan for plan in plans if (plan.folds, plan.seed) == (folds, seed)]
        placed = earlier[-1].assignment if earlier and not choice.replan else {}
        assignment = deal(units, folds=max(folds, 1), seed=seed, placed=placed)
        validate(units, assignment, folds)
    plan = Plan(folds, seed, GROUP_RULE, assignment, (table_name(statuses),))
    check_views(plan, covered, choice.views)
    return plan


def plan_line(plan: Plan, clips: Sequence[ClipStatus]) -> str:
    """A summary of a plan in a sentence: clips, groups, folds, and the clips of each label."""
    groups = len({status.group for status in clips})
    counts = sorted(Counter(status.clip.label for status in clips).items())
    return f"{len(clips)} clips in {groups} groups, {plan.folds} folds, seed {plan.seed}: " + ", ".join(
        f"{label} {count}" for label, count in counts
    )


def repeat_plan(
    plan: Plan,
    earlier: Sequence[Plan],
    statuses: Sequence[ClipStatus],
    repeat: int,
    *,
    views: tuple[str, ...] = VIEWS,
) -> Plan:
    """A further plan of the same clips for repeated cross-validation: its seed is that of `plan` plus `repeat`.

    Parameters
    ----------
    plan : Plan
        The plan of repeat 0, just made.
    earlier : sequence of Plan
        Plans of this repeat, oldest first; clips keep the folds that they had there.
    statuses : sequence of ClipStatus
    repeat : int
        From 1.
    views : tuple of str
        Those that will be read.

    Raises
    ------
    InputError
        If the data set names its folds itself, so that there is one plan only.
    """
    covered = [status for status in statuses if status.ok and status.clip.split == "train"]
    if declared_folds(covered) is not None:
        raise InputError(
            "--repeats deals clips to folds anew, but the column 'fold' fixes them; drop one of the two"
        )
    choice = PlanChoice(plan.folds, plan.seed + repeat, views=views)
    return replace(next_plan(earlier, statuses, choice), repeat=repeat)


def holdouts(
    plan: Plan, clips: Sequence[ClipStatus], *, crossfit: bool, leaky: bool, views: tuple[str, ...] = VIEWS
) -> tuple[Holdout, ...]:
    """The holdouts of one plan: ``{k}``; every pair if `crossfit` and the `views` allow it; ``{}`` if `leaky`."""
    pairs = pair_holdouts(plan.folds) if crossfit and can_cross_fit(plan, clips, views) else ()
    return (*single_holdouts(plan.folds), *pairs, *((Holdout.of(()),) if leaky else ()))


def _refuse_shared_groups(statuses: Sequence[ClipStatus]) -> None:
    splits: dict[str, ClipStatus] = {}
    for status in statuses:
        other = splits.setdefault(status.group, status)
        if other.clip.split != status.clip.split:
            raise InputError(
                f"{status.clip.id} is split {status.clip.split!r} and {other.clip.id} {other.clip.split!r}, but share "
                f"group {status.group!r}; clips of a group must share a split"
            )
