"""What remains to be computed for a source, decided from what the cache holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moodfuse.cache.folds import holdouts
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import FeatureCache, Roles
from moodfuse.extract.settings import NetworkChoice


@dataclass(frozen=True)
class Work:
    """What the cache does not hold of one source."""

    recipe: Recipe
    trunk: tuple[str, ...]  # digests of the clips that have to pass the frozen trunk
    networks: tuple[Roles, ...]  # what each network is tuned on whose block is incomplete
    to_tune: int  # number of `networks` without weights
    clips: int  # clips that each network embeds
    body: bool = False  # whether the part of the network that tuning leaves unchanged has to be stored

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.trunk or self.networks or self.body)


def remaining(cache: FeatureCache, recipe: Recipe, choice: NetworkChoice) -> Work:
    """What the cache does not hold of a source under the plans in force."""
    digests = {status.digest for status in cache.clips_with(recipe)}
    networks = tuple(
        roles
        for roles in dict.fromkeys(_wanted_networks(cache, recipe, choice))
        if digests - cache.held(recipe, roles) or not cache.has_record(recipe, roles)
    )
    trunk: set[str] = set()
    if recipe.depth == "frozen" or (recipe.depth == "head" and networks):
        trunk = digests - cache.held(frozen_counterpart(recipe), None)
    to_tune = sum(not cache.network_path(recipe, roles).is_file() for roles in networks)
    body = recipe.depth != "full" and not cache.network_path(recipe, None).is_file()
    return Work(recipe, tuple(sorted(trunk)), networks, to_tune, len(digests), body)


def _wanted_networks(cache: FeatureCache, recipe: Recipe, choice: NetworkChoice) -> Iterator[Roles]:
    """What each network of a tuned recipe is tuned on: every holdout of every plan."""
    if recipe.tuning is None:
        return
    options = {"crossfit": choice.crossfit, "leaky": choice.leaky}
    for plan in (cache.plan, *cache.repeat_plans)[: choice.repeats]:
        for holdout in holdouts(plan, cache.clips, modalities=choice.modalities, **options):
            roles = cache.roles(recipe, holdout, plan=plan)
            assert roles is not None  # the recipe is tuned
            yield roles


def needing_media(cache: FeatureCache, work: Sequence[Work]) -> tuple[ClipStatus, ...]:
    """Clips to decode: those that have to pass a trunk, and all that a network reads that is tuned whole."""
    wanted = {digest for item in work for digest in item.trunk}
    for item in work:
        if item.networks and item.recipe.depth == "full":
            wanted |= {status.digest for status in cache.clips_with(item.recipe)}
    return tuple(status for status in cache.clips if status.digest in wanted)
