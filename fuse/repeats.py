"""The fold plans of a run: the one in force, and further ones of repeated cross-validation.

A further plan passes what the first one passed, so that what is said of the run holds under all, and divides the clips
otherwise than any before it: a division that counted twice would promise more certainty than it brings.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import can_cross_fit, check_views, deal, validate
from moodfuse.cache.records import Plan
from moodfuse.cache.runs import LEAKY
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.protocols import CROSSFIT, clip_plan, has_networks, views_read

log = logging.getLogger(__name__)

FROZEN_REPEATS = 5
"""Fold plans by default where no source is tuned, so that repeats cost no network."""
_SEEDS_A_PLAN = 10
"""Seeds that are tried for each plan asked for: few groups can be divided in few ways."""


@dataclass(frozen=True)
class FoldPlans:
    """Plans to test under.

    Attributes
    ----------
    plans : tuple of Plan
        No two divide the clips alike.
    asked : int
        How many were asked for; where nobody asked, how many there would be.
    """

    plans: tuple[Plan, ...]
    asked: int

    @property
    def note(self) -> str:
        """What a reader must know of repeats; empty where there are none."""
        count, said = len(self.plans), []
        if count > 1:
            said.append(f"cross-validation was repeated over {count} distinct fold plans")
            said.append("the table shows the first, all enter `repeated`")
        if count < self.asked:
            why = "they divide the clips as another does, or hold a class in too few folds"
            said.append(f"{self.asked - count} of {self.asked} fold plans were left out: {why}")
        return "; ".join(said)


def fold_plans(cache: FeatureCache, sources: Sequence[str], protocol: str, repeats: int | None) -> FoldPlans:
    """The plan in force, and the further ones of repeated cross-validation.

    Tuned sources are tested under the plans that `extract` made all networks for; frozen ones under any, dealt here
    where none is kept. The leaky protocol and folds that the data set declares have one plan.

    Parameters
    ----------
    cache : FeatureCache
    sources : sequence of str
    protocol : str
    repeats : int or None
        How many; `None` for all that there are, or `FROZEN_REPEATS` where no source is tuned.

    Raises
    ------
    InputError
        If more repeats are asked for than there are plans, or outside some fold of the plan in force some class can be
        learned from none of the views that a source reads.
    """
    if protocol != LEAKY:
        check_views(cache.plan, cache.clips, views_read(cache, sources))
    passes = partial(_passes, cache, sources, protocol)
    tuned = [source for source in sources if cache.recipe(source).sees_labels]
    plans: list[Plan] = [clip_plan(cache) if protocol == LEAKY else cache.plan]
    if protocol == LEAKY:
        why = "the leaky protocol has one plan"
    elif any(status.clip.fold is not None for status in cache.clips):
        why = "the data set declares its folds in the column 'fold'"
    elif tuned:
        plans += _tuned_plans(cache, tuned, protocol)
        why = f"{', '.join(tuned)} have networks under {len(plans)}; only extract makes more, with --repeats {repeats}"
    else:
        asked = repeats or FROZEN_REPEATS
        dealt = chain(plans, cache.repeat_plans, _dealt_plans(cache, asked))
        return FoldPlans(tuple(islice(_distinct(dealt, passes), asked)), asked)
    if repeats is not None and repeats > len(plans):
        raise InputError(f"--repeats is {repeats}, but there are {len(plans)} fold plan(s): {why}")
    chosen = plans[:repeats]
    return FoldPlans(tuple(_distinct(chosen, passes)), len(chosen))


def _tuned_plans(cache: FeatureCache, tuned: Sequence[str], protocol: str) -> Iterator[Plan]:
    """Further plans under which every tuned source has the networks that the protocol reads."""
    for plan in cache.repeat_plans:
        if not all(has_networks(cache, source, plan, pairs=protocol == CROSSFIT) for source in tuned):
            log.warning("fold plan %d is left out: not all of its networks are tuned", plan.repeat)
            return
        yield plan


def _dealt_plans(cache: FeatureCache, asked: int) -> Iterator[Plan]:
    """Freshly dealt plans of the seeds that follow those of the plans that the cache keeps."""
    kept = cache.plan
    for repeat in range(1 + len(cache.repeat_plans), _SEEDS_A_PLAN * asked):
        seed = kept.seed + repeat
        assignment = deal(cache.units, folds=kept.folds, seed=seed, placed={})
        yield Plan(kept.folds, seed, kept.group_rule, assignment, kept.records, repeat=repeat)


def _distinct(plans: Iterable[Plan], passes: Callable[[Plan], bool]) -> Iterator[Plan]:
    """The first plan, and those after it that pass and divide the clips otherwise than any before."""
    seen: set[tuple[int, ...]] = set()
    for plan in plans:
        division = _division(plan)
        if division not in seen and (not seen or passes(plan)):
            seen.add(division)
            yield plan


def _passes(cache: FeatureCache, sources: Sequence[str], protocol: str, plan: Plan) -> bool:
    """Whether a further plan passes what the plan in force did: classes to learn from, and as much cross-fitting."""
    views = views_read(cache, sources)
    try:
        validate(cache.units, plan.assignment, plan.folds)
        check_views(plan, cache.clips, views)
    except InputError as error:
        log.info("fold plan %d is left out: %s", plan.repeat, error)
        return False
    derives = any(cache.recipe(source).tuning is None for source in sources)
    alike = can_cross_fit(plan, cache.clips, views) == can_cross_fit(cache.plan, cache.clips, views)
    return alike or not (derives or protocol == CROSSFIT)


def _division(plan: Plan) -> tuple[int, ...]:
    """How a plan divides the clips, whatever its folds are called: folds numbered as the digests come."""
    numbers: dict[int, int] = {}
    return tuple(
        numbers.setdefault(plan.assignment[digest], len(numbers)) for digest in sorted(plan.assignment)
    )
