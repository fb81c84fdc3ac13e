"""What an ablation reads from the cache, once: clips, recipes, protocol, fold plans, blocks."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from moodfuse.cache.blocks import part_files
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import (
    ClipGroup,
    assign_folds,
    can_cross_fit,
    check_modalities,
    clip_groups,
    groups_per_label,
    pair_holdouts,
    single_holdouts,
    validate,
)
from moodfuse.cache.name_series import find_name_series
from moodfuse.cache.recipe import Recipe, list_modalities
from moodfuse.cache.records import Block, ClipStatus, Holdout, Plan
from moodfuse.cache.runs import LEAKY
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.heads import ClassWeight
from moodfuse.fuse.settings import CROSSFIT, NO_CROSSFIT, Protocol, check_protocol

log = logging.getLogger(__name__)

FROZEN_REPEATS = 5
"""Fold plans by default where no source is tuned, so that repeats cost no network."""
_SEEDS_PER_PLAN = 10
"""Seeds that are tried for each plan asked for: few groups can be divided in few ways."""


@dataclass(frozen=True)
class RunInputs:
    """What a run needs to know before its fold plans are chosen.

    `clips` are in row order, `recipes` by source, sorted; `repeat_plans` are further plans of the cache for
    which it holds all tuned networks. `cross_fit` is as from `can_cross_fit_sources`; `fitted_logits` are the
    sources whose logits are fitted because they have none, `class_weight` is that of all heads.
    `has_series_as_groups` is as from `group_series`.
    """

    clips: Sequence[ClipStatus]
    groups: tuple[ClipGroup, ...]
    plan: Plan
    repeat_plans: tuple[Plan, ...]
    recipes: Mapping[str, Recipe]
    protocol: Protocol
    cross_fit: bool
    fitted_logits: tuple[str, ...]
    class_weight: ClassWeight | None = None
    has_series_as_groups: bool = False

    @property
    def tuned(self) -> tuple[str, ...]:
        """Sources whose networks saw labels."""
        return tuple(source for source, recipe in self.recipes.items() if recipe.sees_labels)


def read_inputs(
    cache: FeatureCache,
    sources: Sequence[str],
    protocol: str | None = None,
    class_weight: ClassWeight | None = None,
) -> RunInputs:
    """Read what a run of these sources needs to know."""
    recipes = {source: cache.recipe(source) for source in sorted(sources)}
    chosen = choose_protocol(cache, sources, protocol)
    holdout = Holdout.of(() if chosen == LEAKY else 0)
    return RunInputs(
        clips=cache.clips,
        groups=clip_groups(cache.clips),
        plan=cache.plan,
        repeat_plans=() if chosen == LEAKY else _complete_plans(cache, recipes, chosen),
        recipes=recipes,
        protocol=chosen,
        cross_fit=can_cross_fit_sources(cache, sources),
        fitted_logits=tuple(source for source in recipes if not cache.has_logits(source, holdout)),
        class_weight=class_weight,
    )


def can_cross_fit_sources(cache: FeatureCache, sources: Sequence[str]) -> bool:
    """Whether every class remains in each modality that sources read when any two folds are left out."""
    return can_cross_fit(cache.plan, cache.clips, list_modalities(map(cache.recipe, sources)))


def choose_protocol(cache: FeatureCache, sources: Sequence[str], protocol: str | None) -> Protocol:
    """The protocol that was asked for; without one, ``crossfit`` where the cache holds every pair network.

    Where some class would be missing without two folds, as with two folds, cross-fitting is off in any case.
    """
    if protocol not in (None, CROSSFIT):
        return check_protocol(protocol)
    recipes = {source: cache.recipe(source) for source in sources}
    complete = protocol == CROSSFIT or _has_networks(cache, recipes, cache.plan, CROSSFIT)
    return CROSSFIT if complete and can_cross_fit_sources(cache, sources) else NO_CROSSFIT


def _has_networks(cache: FeatureCache, recipes: Mapping[str, Recipe], plan: Plan, protocol: Protocol) -> bool:
    return all(
        cache.has_block(source, holdout, plan=plan)
        for source, recipe in recipes.items()
        for holdout in _list_holdouts(recipe, plan, protocol)
    )


def _list_holdouts(recipe: Recipe, plan: Plan, protocol: Protocol) -> tuple[Holdout, ...]:
    """Holdouts of the networks that a protocol needs under a plan."""
    if not recipe.sees_labels:
        return (Holdout.frozen(),)
    if protocol == LEAKY:
        return (Holdout.of(()),)
    return (*single_holdouts(plan.folds), *(pair_holdouts(plan.folds) if protocol == CROSSFIT else ()))


def _complete_plans(
    cache: FeatureCache, recipes: Mapping[str, Recipe], protocol: Protocol
) -> tuple[Plan, ...]:
    """Further plans, up to the first one for which the tuned networks are not complete."""
    complete: list[Plan] = []
    for plan in cache.repeat_plans:
        if not _has_networks(cache, recipes, plan, protocol):
            log.warning("fold plan %d is left out: not all of its networks are tuned", plan.repeat)
            break
        complete.append(plan)
    return tuple(complete)


def read_blocks(cache: FeatureCache, inputs: RunInputs, plan: Plan) -> dict[tuple[str, Holdout], Block]:
    """The blocks that a run needs under a plan, by source and holdout."""
    return {
        (source, holdout): cache.block(source, holdout, plan=plan)
        for source, recipe in inputs.recipes.items()
        for holdout in _list_holdouts(recipe, plan, inputs.protocol)
    }


def read_part_digests(cache: FeatureCache, inputs: RunInputs, plan: Plan) -> dict[str, tuple[str, str]]:
    """For each source its recipe, and the digest of the names of all parts that its blocks are read from.

    A part has the digest of its content in its name, so equal names are equal features.
    """
    digests = {}
    for source, recipe in inputs.recipes.items():
        names = []
        for holdout in _list_holdouts(recipe, plan, inputs.protocol):
            folder = cache.block_folder(recipe, cache.training_clips(recipe, holdout, plan=plan))
            names.append([str(holdout), folder.name, [file.name for file in part_files(folder)]])
        digests[source] = (recipe.digest16, digest(names))
    return digests


def choose_plans(inputs: RunInputs, repeats: int | None) -> tuple[tuple[Plan, ...], str]:
    """The current plan, and the further ones of repeated cross-validation.

    Tuned sources are tested under the plans that `extract` made all networks for; frozen ones under any, made
    here where the cache has too few. The leaky protocol and folds that the dataset declares have one plan.
    Without `repeats` these are all that there are, or `FROZEN_REPEATS` where no source is tuned.

    Returns the plans, which all divide the clips differently, and a note on repeats for the reader.

    Raises
    ------
    InputError
        If there are fewer plans than `repeats`, or a class can be learned from none of the modalities.
    """
    plans = (inputs.plan, *inputs.repeat_plans)
    if inputs.protocol == LEAKY:
        plans = (_assign_clips(inputs),)
    else:
        check_modalities(inputs.plan, inputs.clips, list_modalities(inputs.recipes.values()))
        if any(status.clip.fold is not None for status in inputs.clips):
            plans = (inputs.plan,)
        elif not inputs.tuned:
            asked = repeats or FROZEN_REPEATS
            distinct = _select_distinct(chain(plans, _make_plans(inputs, asked)), inputs)
            return _add_note(tuple(islice(distinct, asked)), asked)
    if repeats is not None and repeats > len(plans):
        raise InputError(
            f"--repeats is {repeats}, but there are {len(plans)} fold plan(s): only extract makes more, with "
            f"--repeats {repeats}; the leaky protocol and folds of the column 'fold' have one"
        )
    chosen = plans[:repeats]
    return _add_note(tuple(_select_distinct(chosen, inputs)), len(chosen))


def group_series(inputs: RunInputs) -> RunInputs | None:
    """The same inputs with each series of numbered file names as one group, under a new plan.

    The plan has fewer folds if a class has fewer groups now. `None` if there is no series, if a source is
    tuned, since its networks belong to the present plan, or if a class has too few groups.
    """
    clips = inputs.clips
    columns = zip(*((status.clip.id, status.clip.label, status.group) for status in clips), strict=True)
    series = find_name_series(*columns)
    if inputs.tuned or inputs.protocol == LEAKY or not series:
        return None
    group_of = {status.group: status.group for status in clips}
    for entry in series:
        joined = {group_of[status.group] for status in clips if status.clip.id in entry.ids}
        group_of = {name: min(joined) if group in joined else group for name, group in group_of.items()}
    clips = [replace(status, group=group_of[status.group]) for status in clips]
    groups = clip_groups(clips)
    folds = min(inputs.plan.folds, *groups_per_label(groups).values())
    assignment = assign_folds(groups, folds=folds, seed=inputs.plan.seed, placed={})
    plan = replace(inputs.plan, folds=folds, assignment=assignment)
    grouped = replace(inputs, clips=clips, groups=groups, plan=plan, has_series_as_groups=True)
    return grouped if _passes(grouped.plan, grouped) else None


def _add_note(plans: tuple[Plan, ...], asked: int) -> tuple[tuple[Plan, ...], str]:
    notes = []
    if len(plans) > 1:
        notes.append(f"cross-validation was repeated over {len(plans)} distinct fold plans")
    if len(plans) < asked:
        why = "they divide the clips as another does, or hold a class in too few folds"
        notes.append(f"{asked - len(plans)} of {asked} fold plans were left out: {why}")
    return plans, "; ".join(notes)


def _assign_clips(inputs: RunInputs) -> Plan:
    """Folds of clips without regard to their groups: how a leak is made."""
    clips = [ClipGroup(status.digest, (status.clip.label,), (status.digest,)) for status in inputs.clips]
    assignment = assign_folds(clips, folds=inputs.plan.folds, seed=inputs.plan.seed, placed={})
    validate(clips, assignment, inputs.plan.folds)
    return replace(inputs.plan, assignment=assignment)


def _make_plans(inputs: RunInputs, asked: int) -> Iterator[Plan]:
    """New plans from the seeds that follow those of the cache's plans."""
    plan = inputs.plan
    for repeat in range(1 + len(inputs.repeat_plans), _SEEDS_PER_PLAN * asked):
        seed = plan.seed + repeat
        assignment = assign_folds(inputs.groups, folds=plan.folds, seed=seed, placed={})
        yield replace(plan, seed=seed, assignment=assignment, sequence=0, repeat=repeat)


def _select_distinct(plans: Iterable[Plan], inputs: RunInputs) -> Iterator[Plan]:
    """The first plan, and further ones that pass its checks and divide the clips in another way."""
    known: set[tuple[int, ...]] = set()
    for plan in plans:
        numbers: dict[int, int] = {}
        division = tuple(
            numbers.setdefault(fold, len(numbers)) for _, fold in sorted(plan.assignment.items())
        )
        if division not in known and (not known or _passes(plan, inputs)):
            known.add(division)
            yield plan


def _passes(plan: Plan, inputs: RunInputs) -> bool:
    """Whether a further plan passes the checks of the first: classes to learn from, and cross-fitting."""
    modalities = list_modalities(inputs.recipes.values())
    try:
        validate(inputs.groups, plan.assignment, plan.folds)
        check_modalities(plan, inputs.clips, modalities)
    except InputError as error:
        log.info("fold plan %d is left out: %s", plan.repeat, error)
        return False
    return can_cross_fit(plan, inputs.clips, modalities) == inputs.cross_fit
