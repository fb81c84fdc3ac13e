"""What remains to be done for a source: networks to tune, clips to embed. Decided from the cache's listing."""

from collections.abc import Sequence
from dataclasses import dataclass

from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.folds import VIEWS
from moodfuse.cache.planning import holdouts
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import ClipStatus, Holdout, Plan
from moodfuse.cache.store import FeatureCache, Roles


@dataclass(frozen=True)
class Wanted:
    """Which networks a tuned source shall have: pair holdouts too, one that sees all clips, under how many plans.

    Pair holdouts are made where the `views` that all sources of the command read allow it.
    """

    crossfit: bool = True
    leaky: bool = False
    repeats: int = 1
    views: tuple[str, ...] = VIEWS

    def networks(self, cache: FeatureCache) -> tuple[tuple[Plan, Holdout], ...]:
        """Every holdout of every plan."""
        plans = (cache.plan, *cache.repeat_plans)[: self.repeats]
        return tuple(
            (plan, holdout)
            for plan in plans
            for holdout in holdouts(
                plan, cache.clips, crossfit=self.crossfit, leaky=self.leaky, views=self.views
            )
        )


@dataclass(frozen=True)
class Work:
    """What the cache lacks of one source.

    Attributes
    ----------
    recipe : Recipe
    trunk : tuple of str
        Digests of clips that have to pass the frozen trunk.
    networks : tuple of Roles
        What each network whose block is incomplete is tuned on.
    to_tune : int
        How many of them have no weights yet.
    body : bool
        Whether the part of the network that no tuning changes is not kept yet.
    clips : int
        Clips that each network embeds.
    """

    recipe: Recipe
    trunk: tuple[str, ...]
    networks: tuple[Roles, ...]
    to_tune: int
    clips: int
    body: bool = False


def remaining(cache: FeatureCache, recipe: Recipe, wanted: Wanted) -> Work:
    """What the cache lacks of a source under the plans in force."""
    digests = {status.digest for status in cache.clips_with(recipe)}
    networks: dict[Roles, None] = {}
    for plan, holdout in wanted.networks(cache) if recipe.tuning is not None else ():
        roles = cache.roles(recipe, holdout, plan=plan)
        if roles is None:
            raise MoodfuseError(f"{recipe.source}: a tuned recipe without roles")
        if roles not in networks and (
            digests - cache.held(recipe, roles) or not cache.has_record(recipe, roles)
        ):
            networks[roles] = None
    trunk: set[str] = set()
    if recipe.depth == "frozen" or (recipe.depth == "head" and networks):
        trunk = digests - cache.held(frozen_counterpart(recipe), None)
    to_tune = sum(not cache.network_path(recipe, roles).is_file() for roles in networks)
    body = recipe.depth != "full" and not cache.network_path(recipe, None).is_file()
    return Work(recipe, tuple(sorted(trunk)), tuple(networks), to_tune, len(digests), body)


def needing_media(cache: FeatureCache, work: Sequence[Work]) -> tuple[ClipStatus, ...]:
    """Clips whose decoded media is needed: what passes a trunk, and all that a network tuned whole reads."""
    wanted = {digest for item in work for digest in item.trunk}
    for item in work:
        if item.networks and item.recipe.depth == "full":
            wanted |= {status.digest for status in cache.clips_with(item.recipe)}
    return tuple(status for status in cache.clips if status.digest in wanted)
