"""The holdouts of stored networks under the current plans.

A network is stored under the digest of its training clips, which follows from its recipe and its holdout.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.digests import trained_digest16
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.store import FROZEN, FeatureCache, read_recipe


@dataclass(frozen=True)
class HoldoutName:
    """A holdout of one of the current plans; `repeat` 0 is the plan of all results."""

    repeat: int
    holdout: Holdout

    def __str__(self) -> str:
        return f"{self.holdout} of repeat {self.repeat}" if self.repeat else str(self.holdout)


class HoldoutNames:
    """Holdouts of networks under the current plans: ``{2}``, ``{1,4}``, ``{}``, or ``*`` if frozen.

    The digest of a network follows from its recipe and holdout. Which holdout to try is read from the record
    of its training clips, except for single folds.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self.plans: tuple[Plan, ...] = (cache.plan, *cache.repeat_plans)
        self._single_folds: dict[Recipe, dict[str, tuple[HoldoutName, ...]]] = {}

    def single_folds(self, recipe: Recipe) -> Mapping[str, tuple[HoldoutName, ...]]:
        """Digest to names of the networks of ``{k}`` in every plan; the one block of a frozen recipe."""
        if not recipe.sees_labels:
            return {FROZEN: (HoldoutName(0, Holdout.frozen()),)}
        if recipe not in self._single_folds:
            names: dict[str, tuple[HoldoutName, ...]] = {}
            for plan in self.plans:
                for holdout in single_holdouts(plan.folds):
                    digest = self._digest(recipe, plan, holdout)
                    names[digest] = (*names.get(digest, ()), HoldoutName(plan.repeat, holdout))
            self._single_folds[recipe] = names
        return self._single_folds[recipe]

    def find(self, recipe: Recipe, trained: str, record: Path) -> tuple[HoldoutName, ...]:
        """Names of the network with the digest `trained`; empty where no current plan has such a network.

        `record` is its ``trained.json``; if that cannot be read, the pairs of folds are tried.
        """
        if (trained == FROZEN) == recipe.sees_labels:
            return ()
        if names := self.single_folds(recipe).get(trained):
            return names
        try:
            training_clips = [digest for digest, _, _ in read_json(record)]
        except (CacheError, TypeError, ValueError):
            training_clips = []
        return tuple(
            HoldoutName(plan.repeat, holdout)
            for plan in self.plans
            for holdout in _possible_holdouts(plan, training_clips)
            if self._digest(recipe, plan, holdout) == trained
        )

    def _digest(self, recipe: Recipe, plan: Plan, holdout: Holdout) -> str:
        return trained_digest16(self._cache.roles(recipe, holdout, plan=plan) or ())


def _possible_holdouts(plan: Plan, training_clips: Sequence[str]) -> Iterator[Holdout]:
    """The folds without training clips, or all pairs of folds where these clips are not known."""
    no_fold = Holdout.of(())
    if not plan.repeat:  # a network of all clips is the same in every plan
        yield no_fold
    if not training_clips:
        yield from pair_holdouts(plan.folds)
    elif all(clip in plan.assignment for clip in training_clips):
        seen = {plan.assignment[clip] for clip in training_clips}
        if held_out := frozenset(range(plan.folds)) - seen:
            yield Holdout(held_out)


def read_record(file: Path) -> Recipe | None:
    """A recipe from its file; `None` where that cannot be read."""
    try:
        return read_recipe(file)
    except (CacheError, InputError, TypeError, AttributeError, ValueError):
        return None
