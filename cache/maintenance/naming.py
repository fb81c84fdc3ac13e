"""The holdouts behind digests: which network of a source the plans in force call ``{2}``, ``{1,4}`` or ``{}``.

A network is named on disk by what it was tuned on. The names of single folds and of none are computed from the plans;
any other network says itself what it saw, and the plan says which folds that leaves out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from moodfuse.cache.digests import trained_digest16
from moodfuse.cache.errors import CacheError
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.recipe import IMPORT, Recipe
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.storage.json_files import read_json
from moodfuse.cache.store import FROZEN, FeatureCache


@dataclass(frozen=True)
class HoldoutName:
    """A holdout of one of the plans in force: `repeat` is 0 for that of all results."""

    repeat: int
    holdout: Holdout

    def __str__(self) -> str:
        return f"{self.holdout}" if not self.repeat else f"{self.holdout} of repeat {self.repeat}"


ANY = (HoldoutName(0, Holdout.frozen()),)
"""What the one block of a frozen source is called."""
NONE = Holdout.of(())
_MOST_FOLDS = 8
"""Of so many folds at most all sets are tried: 2^8 of them."""


class Namer:
    """Names of the networks of a cache under its plans in force."""

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self.plans: tuple[Plan, ...] = (cache.plan, *cache.repeat_plans)
        self._known: dict[tuple[object, ...], str] = {}

    def singles(self, recipe: Recipe) -> dict[str, tuple[HoldoutName, ...]]:
        """`trained16` of every ``{k}`` of every plan to its names; of a frozen recipe the one block."""
        if not recipe.sees_labels:
            return {FROZEN: ANY}
        return self._named(
            recipe, [(plan, holdout) for plan in self.plans for holdout in single_holdouts(plan.folds)]
        )

    def names(self, recipe: Recipe, trained: str, record: Path) -> tuple[HoldoutName, ...]:
        """What the plans in force call a network; empty where none of their holdouts is it.

        Parameters
        ----------
        recipe : Recipe
        trained : str
            Its `trained16`, or ``frozen``.
        record : Path
            Its ``trained.json``; read only where the network is none of a single fold.
        """
        if (trained == FROZEN) == recipe.sees_labels:
            return ()
        found = self.singles(recipe).get(trained, ())
        for plan in self.plans if not found else ():
            candidates = {NONE, *_left_out(plan, record, recipe)}
            candidates -= {NONE} if plan.repeat else set()  # the same in every plan
            found += self._named(recipe, [(plan, holdout) for holdout in candidates]).get(trained, ())
        return found

    def _named(
        self, recipe: Recipe, wanted: Iterable[tuple[Plan, Holdout]]
    ) -> dict[str, tuple[HoldoutName, ...]]:
        found: dict[str, tuple[HoldoutName, ...]] = {}
        for plan, holdout in wanted:
            name = HoldoutName(plan.repeat, holdout)
            trained = self._trained(recipe, plan, holdout)
            if name not in found.get(trained, ()):
                found[trained] = (*found.get(trained, ()), name)
        return found

    def _trained(self, recipe: Recipe, plan: Plan, holdout: Holdout) -> str:
        """`trained16` of a holdout; recipes that stop alike are tuned on the same clips."""
        stops = (recipe.seed, recipe.tuning.stop_folds) if recipe.tuning else ()
        key = (recipe.view, stops, plan.repeat, holdout)
        if key not in self._known:
            self._known[key] = trained_digest16(self._cache.roles(recipe, holdout, plan=plan) or ())
        return self._known[key]


def _left_out(plan: Plan, record: Path, recipe: Recipe) -> tuple[Holdout, ...]:
    """The folds of which a network says that it saw no clip; where its record cannot be read all that it may be.

    That is every pair, and of an import every set of folds, unless these are too many.
    """
    try:
        seen = [str(digest) for digest, _, _ in read_json(record)]
    except (CacheError, TypeError, ValueError):
        if recipe.network != IMPORT or plan.folds > _MOST_FOLDS:
            return pair_holdouts(plan.folds)
        sizes = range(2, plan.folds)
        return tuple(Holdout.of(some) for size in sizes for some in combinations(range(plan.folds), size))
    folds = {plan.assignment.get(digest, -1) for digest in seen}
    return () if not folds or -1 in folds else (Holdout(frozenset(range(plan.folds)) - folds),)
