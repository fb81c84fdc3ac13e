"""What a protocol gives to each outer fold: the blocks of every source, at both levels, for one fold plan.

``crossfit`` reads networks `{k}` and `{j,k}`; ``no-crossfit``, the seed's way, networks `{k}` alone, whose training
rows are in sample; ``leaky`` the network that saw every clip, over folds of clips instead of groups. Frozen sources
are cross-fitted under the first two, which costs no network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.folds import Unit, can_cross_fit, deal, pair_holdouts, single_holdouts, validate
from moodfuse.cache.recipe import views_of
from moodfuse.cache.records import Block, ClipStatus, Holdout, Plan
from moodfuse.cache.runs import LEAKY
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.combinations import Combination
from moodfuse.fuse.cross_fitting import centred_scores, logits_for_fold
from moodfuse.fuse.derived import Memory, derive_logits, logits_alone
from moodfuse.fuse.design import Ingredients, assemble, unguarded
from moodfuse.fuse.features import Features, Level
from moodfuse.fuse.matrix import DesignMatrix
from moodfuse.fuse.workers import Workers

Protocol = Literal["crossfit", "no-crossfit", "leaky"]
CROSSFIT: Protocol = "crossfit"
NO_CROSSFIT: Protocol = "no-crossfit"
PROTOCOLS: tuple[Protocol, ...] = (CROSSFIT, NO_CROSSFIT, LEAKY)


@dataclass(frozen=True)
class PlanFeatures:
    """What every source gives to each outer fold of one plan.

    Attributes
    ----------
    plan : Plan
    protocol : str
    embedding : mapping of (source, fold) to Block
    pairs : mapping of (source, Holdout) to Block
        Pair networks, whose embeddings serve the inner folds.
    logits : mapping of (source, fold) to Block or CrossFitted
    derived : tuple of str
        Sources whose logits were fitted here.
    """

    plan: Plan
    protocol: Protocol
    embedding: Mapping[tuple[str, int], Block]
    pairs: Mapping[tuple[str, Holdout], Block]
    logits: Mapping[tuple[str, int], Features]
    derived: tuple[str, ...]

    def design(self, cache: FeatureCache, sources: Combination, level: Level, fold: int) -> DesignMatrix:
        """The design matrix of a combination: guarded, unless the protocol is the leaky one."""
        return self.fold_of(cache, fold).design(self.ingredients(cache, sources, level, fold))

    def fold_of(self, cache: FeatureCache, fold: int) -> "OuterFold":
        """What makes design matrices of an outer fold, in any process."""
        return OuterFold(self.plan, cache.clips, fold, guarded=self.protocol != LEAKY)

    def ingredients(self, cache: FeatureCache, sources: Combination, level: Level, fold: int) -> Ingredients:
        """What the design matrix of a combination is made of."""
        table: Mapping[tuple[str, int], Features] = self.logits if level == "logits" else self.embedding
        blocks = [table[source, fold] for source in sources]
        pairs = self._inner_blocks(sources, fold) if level == "embedding" else {}
        return Ingredients(blocks, level, pairs, cache.plan.seed)

    def _inner_blocks(self, sources: Combination, fold: int) -> dict[int, list[Block]]:
        """For each inner fold the sources' blocks that held it out too; none unless every tuned source has them."""
        found: dict[int, list[Block]] = {}
        if not any(self.embedding[source, fold].embedding_tuned for source in sources):
            return found  # training rows are out of sample as they are
        for inner in range(self.plan.folds):
            pair = Holdout.of({inner, fold})
            blocks = [self._inner_block(source, fold, pair) for source in sources]
            if inner != fold and all(block is not None for block in blocks):
                found[inner] = [block for block in blocks if block is not None]
        return found if len(found) == self.plan.folds - 1 else {}

    def _inner_block(self, source: str, fold: int, pair: Holdout) -> Block | None:
        block = self.embedding[source, fold]
        return block if block.holdout.folds is None else self.pairs.get((source, pair))


@dataclass(frozen=True)
class OuterFold:
    """An outer fold of a plan over some clips, guarded unless a leak shall be measured."""

    plan: Plan
    clips: Sequence[ClipStatus]
    fold: int
    guarded: bool

    def design(self, parts: Ingredients) -> DesignMatrix:
        """Put blocks together, behind the leak guard where there is one."""
        make = assemble if self.guarded else unguarded
        return make(self.plan, self.clips, parts, test_fold=self.fold)


def has_networks(cache: FeatureCache, source: str, plan: Plan, *, pairs: bool) -> bool:
    """Whether the cache holds a source's networks of every fold, and of every pair of folds, of a plan."""
    wanted = (*single_holdouts(plan.folds), *(pair_holdouts(plan.folds) if pairs else ()))
    return all(cache.has_block(source, holdout, plan=plan) for holdout in wanted)


def check_protocol(name: str) -> Protocol:
    """The protocol itself, if it is one.

    Raises
    ------
    UnknownNameError
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return name


def choose_protocol(cache: FeatureCache, sources: Sequence[str], wanted: str | None) -> Protocol:
    """The protocol that was asked for; without one, ``crossfit`` where the cache holds every pair network.

    Where some class is gone once two folds are left out, as with two folds, cross-fitting is off in any case.
    """
    protocol = CROSSFIT if wanted is None else check_protocol(wanted)
    if protocol != CROSSFIT:
        return protocol
    made = wanted is not None or all(
        has_networks(cache, source, cache.plan, pairs=True) for source in sources
    )
    return (
        CROSSFIT
        if made and can_cross_fit(cache.plan, cache.clips, views_read(cache, sources))
        else NO_CROSSFIT
    )


def views_read(cache: FeatureCache, sources: Sequence[str]) -> tuple[str, ...]:
    """The views that some sources read, sorted."""
    return views_of(map(cache.recipe, sources))


def clip_plan(cache: FeatureCache) -> Plan:
    """Folds of clips, whatever their groups: how a leak is made."""
    units = [Unit(status.digest, (status.clip.label,), (status.digest,)) for status in cache.clips]
    assignment = deal(units, folds=cache.plan.folds, seed=cache.plan.seed, placed={})
    validate(units, assignment, cache.plan.folds)
    return replace(cache.plan, assignment=assignment)


def without_logits(
    cache: FeatureCache, plan: Plan, sources: Sequence[str], protocol: Protocol
) -> tuple[str, ...]:
    """The sources whose logits are fitted here, told without reading their embeddings."""
    holdout = Holdout.of(()) if protocol == LEAKY else Holdout.of(0)
    return tuple(source for source in sources if not cache.has_logits(source, holdout, plan=plan))


def load_features(
    cache: FeatureCache,
    plan: Plan,
    sources: Sequence[str],
    protocol: Protocol,
    *,
    workers: Workers,
    memory: Memory | None = None,
) -> PlanFeatures:
    """Blocks of every source for each outer fold of a plan; sources without logits get theirs here.

    Parameters
    ----------
    cache : FeatureCache
    plan : Plan
    sources : sequence of str
    protocol : str
    workers : Workers
        Who fits.
    memory : Memory, optional
        Where fits of logits are kept.

    Raises
    ------
    MissingBlockError
        If a network that the protocol needs is not in the cache.
    """
    if protocol == LEAKY:
        return _leaky_features(cache, plan, sources)
    embedding: dict[tuple[str, int], Block] = {}
    for source in sources:
        for fold in range(plan.folds):
            first = embedding.get((source, 0))
            frozen = first is not None and first.holdout.folds is None  # one block serves every fold
            embedding[source, fold] = first if first and frozen else cache.block(source, {fold}, plan=plan)
    pairs: dict[tuple[str, Holdout], Block] = {}
    if protocol == CROSSFIT:
        tuned = [source for source in sources if embedding[source, 0].holdout.folds is not None]
        for source in tuned:
            for pair in pair_holdouts(plan.folds):
                pairs[source, pair] = cache.block(source, pair, plan=plan)
    blocks = {(source, block.holdout): block for (source, _), block in embedding.items()} | pairs
    lacking = [source for source in sources if embedding[source, 0].logits is None]
    bare = [block for block in blocks.values() if block.logits is None]
    networks = pairs | {(source, Holdout.of(fold)): block for (source, fold), block in embedding.items()}
    networks |= derive_logits(
        cache, plan, bare, views=views_read(cache, sources), workers=workers, memory=memory
    )
    lean = {name: logits_alone(block) for name, block in networks.items()}
    logits: dict[tuple[str, int], Features] = {}
    for source, fold in embedding:
        own = {holdout: block for (owner, holdout), block in lean.items() if owner == source}
        logits[source, fold] = logits_for_fold(own, plan, test_fold=fold)
    return PlanFeatures(plan, protocol, embedding, pairs, logits, tuple(lacking))


def _leaky_features(cache: FeatureCache, plan: Plan, sources: Sequence[str]) -> PlanFeatures:
    """One network for all folds: the one that saw every clip; a frozen source's logits are fitted on all clips."""
    embedding: dict[tuple[str, int], Block] = {}
    logits: dict[tuple[str, int], Features] = {}
    derived = []
    for source in sources:
        block = cache.block(source, "{}")
        if block.logits is None:
            derived.append(source)
        full = _with_leaky_logits(cache, block) if block.logits is None else block
        for fold in range(plan.folds):
            embedding[source, fold], logits[source, fold] = block, full
    return PlanFeatures(plan, LEAKY, embedding, {}, logits, tuple(derived))


def _with_leaky_logits(cache: FeatureCache, block: Block) -> Block:
    from moodfuse.fuse.heads.registry import make_head

    index = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
    having = np.array([digest not in block.absent for digest in block.digests])
    head = make_head("softmax", random_state=cache.plan.seed).fit(block.embedding[having], index[having])
    return replace(block, logits=centred_scores(head, block.embedding, len(cache.classes)))
