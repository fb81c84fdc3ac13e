"""Keys of fits: the digest of everything that decides what a fit comes to, so that none is done twice.

A key is made of digests that the cache has already: a part of features says its content in its name. The clips with
their labels and groups name the folder that kept fits stand in (`moodfuse.cache.fits`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moodfuse.cache.blocks import part_files
from moodfuse.cache.digests import content_digest, digest
from moodfuse.cache.folds import can_cross_fit, pair_holdouts, single_holdouts
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.runs import LEAKY, NETWORK
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.combinations import Combination
from moodfuse.fuse.features import Level
from moodfuse.fuse.heads.registry import head_spec
from moodfuse.fuse.notes import versions
from moodfuse.fuse.protocols import CROSSFIT, Protocol, views_read

RULES = 1
"""Counts the changes of the code that change what every fit comes to: designs, inner folds, the choice of settings."""
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm")


@dataclass(frozen=True)
class Ledger:
    """The keys of the fits of one plan.

    Attributes
    ----------
    cache : FeatureCache
    plan : Plan
    protocol : str
    sources : tuple of str
        All sources of the run: together they decide whether logits can be cross-fitted.
    """

    cache: FeatureCache
    plan: Plan
    protocol: Protocol
    sources: Combination

    def of_row(self, sources: Combination, head: str, level: Level, fold: int) -> str:
        """Key of a head's predictions of one outer fold."""
        version = head_spec("mean" if head == NETWORK else head).version
        return self._key({"head": [head, version], "level": level, "fold": fold}, sources)

    def of_logits(self, source: str, holdout: Holdout) -> str:
        """Key of the logits of a source that has none, from one fit that leaves out a holdout."""
        return self._key(
            {"logits": str(holdout), "head": ["softmax", head_spec("softmax").version]}, (source,)
        )

    def _key(self, facts: dict[str, Any], sources: Combination) -> str:
        return digest(
            {**self._common, **facts, "sources": [[name, *self._features[name]] for name in sources]}
        )

    @cached_property
    def _common(self) -> dict[str, Any]:
        views = views_read(self.cache, self.sources)
        return {
            "rules": RULES,
            "libraries": {name: version for name, version in versions() if name in _LIBRARIES},
            "folds": self.plan.folds,
            "plan": content_digest(self.plan.to_arrays(), {}),
            "protocol": self.protocol,
            "crossfit": can_cross_fit(self.plan, self.cache.clips, views),
            "seed": self.cache.plan.seed,
        }

    @cached_property
    def _features(self) -> dict[str, tuple[str, str]]:
        return {source: self._digest_of(source) for source in self.sources}

    def _digest_of(self, source: str) -> tuple[str, str]:
        """Recipe of a source, and the digest of the names of all parts that its blocks are read from."""
        recipe = self.cache.recipe(source)
        names = []
        for holdout in (
            _holdouts_read(self.plan, self.protocol) if recipe.sees_labels else (Holdout.frozen(),)
        ):
            roles = self.cache.roles(recipe, holdout, plan=self.plan) if recipe.sees_labels else None
            folder = self.cache.block_folder(recipe, roles)
            names.append([str(holdout), folder.name, [file.name for file in part_files(folder)]])
        return recipe.digest16, digest(names)


def _holdouts_read(plan: Plan, protocol: Protocol) -> tuple[Holdout, ...]:
    """Holdouts of the networks that a protocol reads."""
    if protocol == LEAKY:
        return (Holdout.of(()),)
    pairs = pair_holdouts(plan.folds) if protocol == CROSSFIT else ()
    return (*single_holdouts(plan.folds), *pairs)
