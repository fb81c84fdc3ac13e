"""The next fold plan of a data set, from the clips that could be read and the plans before it. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import (
    GROUP_RULE,
    MODALITIES,
    assign_folds,
    can_cross_fit,
    check_fold_numbers,
    check_modalities,
    clip_groups,
    declared_folds,
    pair_holdouts,
    single_holdouts,
    validate,
)
from moodfuse.cache.records import ClipStatus, Holdout, Plan

DEFAULT_FOLDS = 6
DEFAULT_SEED = 0


@dataclass(frozen=True)
class PlanChoice:
    """The user's settings of a plan; `None` keeps those of the plan in force. `modalities` are those to be read."""

    folds: int | None = None
    seed: int | None = None
    replan: bool = False
    modalities: tuple[str, ...] = MODALITIES


def next_plan(plans: Sequence[Plan], statuses: Sequence[ClipStatus], choice: PlanChoice) -> Plan:
    """The plan for these clips: clips keep their folds, new groups go to the fold where their labels are rarest.

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
        If no plan allows a fair test; the message names the remedy.
    """
    check_fold_numbers(status.clip for status in statuses)
    readable = [status for status in statuses if status.ok]
    covered = [status for status in readable if status.clip.split == "train"]
    _check_splits(readable)
    if not covered:
        raise InputError(
            f"none of the {len(statuses)} clips could be read; see the reasons above, or run moodfuse check"
        )
    units = clip_groups(covered)
    folds, seed = (plans[-1].folds, plans[-1].seed) if plans else (DEFAULT_FOLDS, DEFAULT_SEED)
    folds = folds if choice.folds is None else choice.folds
    seed = seed if choice.seed is None else choice.seed
    if (declared := declared_folds(covered)) is not None:
        folds, assignment = declared
        if choice.folds not in (None, folds):
            raise InputError(
                f"--folds is {choice.folds}, but the column 'fold' has {folds}; drop one of the two"
            )
    else:
        earlier = [plan.assignment for plan in plans if (plan.folds, plan.seed) == (folds, seed)]
        placed = {} if choice.replan or not earlier else earlier[-1]
        assignment = assign_folds(units, folds=max(folds, 1), seed=seed, placed=placed)
    validate(units, assignment, folds)
    plan = Plan(folds, seed, GROUP_RULE, assignment, (table_name(statuses),))
    check_modalities(plan, covered, choice.modalities)
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
    modalities: tuple[str, ...] = MODALITIES,
) -> Plan:
    """A further plan of the same clips for repeated cross-validation: its seed is that of `plan` plus `repeat`.

    `plan` is that of repeat 0; `earlier` are the plans of this repeat (from 1), oldest first, whose clips
    keep their folds. Raises `InputError` if the data set declares its folds, so that there is one plan only.
    """
    covered = [status for status in statuses if status.ok and status.clip.split == "train"]
    if declared_folds(covered) is not None:
        raise InputError(
            "--repeats assigns clips to folds again, but the column 'fold' fixes them; drop one of the two"
        )
    choice = PlanChoice(plan.folds, plan.seed + repeat, modalities=modalities)
    return replace(next_plan(earlier, statuses, choice), repeat=repeat)


def holdouts(
    plan: Plan,
    clips: Sequence[ClipStatus],
    *,
    crossfit: bool,
    leaky: bool,
    modalities: tuple[str, ...] = MODALITIES,
) -> tuple[Holdout, ...]:
    """The holdouts of one plan: ``{k}``; every pair if `crossfit` and the clips allow it; ``{}`` if `leaky`."""
    pairs = pair_holdouts(plan.folds) if crossfit and can_cross_fit(plan, clips, modalities) else ()
    return (*single_holdouts(plan.folds), *pairs, *((Holdout.of(()),) if leaky else ()))


def _check_splits(statuses: Sequence[ClipStatus]) -> None:
    first: dict[str, ClipStatus] = {}
    for status in statuses:
        other = first.setdefault(status.group, status)
        if other.clip.split != status.clip.split:
            raise InputError(
                f"{status.clip.id} is split {status.clip.split!r} and {other.clip.id} {other.clip.split!r}, but share "
                f"group {status.group!r}; clips of a group must share a split"
            )
