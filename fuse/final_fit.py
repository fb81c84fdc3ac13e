"""What ships of a result: the procedure that was scored, run once more without an outer fold.

At the logits level of ``crossfit`` that is the K networks `{k}`, their logits averaged, and a head that was fitted on
each fold's rows of the network that held it out. At the embedding level it is the network `{}`, which saw every clip;
what its head chooses it chooses within the networks `{k}`, as each outer fold did within its pairs. Under
``no-crossfit`` the network `{}` ships at both levels, and the head keeps its defaults, as it was scored. Sources
without logits get them from as many fits as a tuned source would ship networks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import digest_array
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import can_cross_fit, single_holdouts
from moodfuse.cache.recipe import IMPORT
from moodfuse.cache.records import Block, Holdout
from moodfuse.cache.runs import LEAKY, NETWORK, result_name
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import fit_head
from moodfuse.fuse.cross_fitting import fitted_scores, head_and_logits, names_of
from moodfuse.fuse.design import Ingredients, assemble_whole
from moodfuse.fuse.features import CrossFitted, Features, Level, values_of
from moodfuse.fuse.heads.arrays import head_arrays, linear_arrays, trees_text
from moodfuse.fuse.heads.exported import LinearArrays
from moodfuse.fuse.inference import FusedSource, Fusion
from moodfuse.fuse.protocols import CROSSFIT, views_read
from moodfuse.fuse.workers import one_thread

SAW_ALL = Holdout.of(())


@dataclass(frozen=True)
class Scored:
    """Which result ships, and how it was scored.

    Attributes
    ----------
    sources : tuple of str
    head, level : str
    protocol : str
    beside : tuple of str
        All sources of its run: together they decided whether logits could be cross-fitted.
    defaults : bool
        Whether it was scored with default settings, so that it ships with them although all clips together would do to
        choose others.
    """

    sources: tuple[str, ...]
    head: str
    level: Level
    protocol: str
    beside: tuple[str, ...]
    defaults: bool = False

    @property
    def name(self) -> str:
        """As `moodfuse.cache.runs.Result.name`."""
        return result_name(self.sources, self.head, self.level)


@dataclass(frozen=True)
class Shipped:
    """What ships of a result.

    Attributes
    ----------
    fusion : Fusion
    networks : mapping of str to tuple of Holdout
        The networks of each source, in the order in which their logits are averaged; ``*`` for a frozen one.
    trees : str
        Of a head of boosted trees, LightGBM's own text, for other tools; empty for any other head.
    """

    fusion: Fusion
    networks: Mapping[str, tuple[Holdout, ...]]
    trees: str = ""


def why_not_shipped(cache: FeatureCache, scored: Scored) -> str:
    """Why a result cannot ship; empty where it can.

    Parameters
    ----------
    cache : FeatureCache
    scored : Scored
    """
    if scored.protocol == LEAKY:
        return "a leaky run measures a leak; its networks saw what they were tested on"
    for source in scored.sources:
        if cache.recipe(source).network == IMPORT:
            return f"{source} was imported, so nothing here can compute it for a new file"
        for holdout in networks_needed(cache, source, scored):
            if not cache.has_block(source, holdout):
                option = " --for-export" if holdout == SAW_ALL else ""
                return f"the network {holdout} of {source} is missing; run extract again{option} --source {source}"
    return ""


def ship(cache: FeatureCache, scored: Scored) -> Shipped:
    """Fit what ships of a result.

    Parameters
    ----------
    cache : FeatureCache
    scored : Scored

    Raises
    ------
    InputError
        If it cannot ship; the message says why and what to do.
    MissingBlockError
        If features are not in the cache.
    """
    if why := why_not_shipped(cache, scored):
        raise InputError(f"{scored.name} cannot be exported: {why}")
    parts = [_part(cache, source, scored) for source in scored.sources]
    pairs = _inner_blocks(cache, scored) if scored.level == "embedding" else {}
    made = Ingredients([part.features for part in parts], scored.level, pairs, cache.plan.seed)
    design = assemble_whole(cache.plan, cache.clips, made)
    if scored.defaults:
        design = replace(design, inner=())
    head = "mean" if scored.head == NETWORK else scored.head
    with one_thread():
        model, choice = fit_head(design, head, cache.plan.seed)
    fusion = Fusion(
        classes=design.classes,
        level=scored.level,
        sources=tuple(
            FusedSource(part.features.source, part.own, _fill(part.features, scored.level)) for part in parts
        ),
        head=head_arrays(head, model, columns=design.x.shape[1], classes=len(design.classes)),
        temperature=choice.temperature,
        chosen=choice.chosen,
    )
    networks = {part.features.source: part.holdouts for part in parts}
    return Shipped(fusion, networks, trees_text(model) if fusion.head.kind == "trees" else "")


@dataclass(frozen=True)
class _Part:
    features: Features
    holdouts: tuple[Holdout, ...]
    own: tuple[LinearArrays, ...] = ()


def networks_needed(cache: FeatureCache, source: str, scored: Scored) -> tuple[Holdout, ...]:
    """Holdouts of the networks of a source that ship, in the order in which their logits are averaged."""
    kept = cache.recipe(source)
    if not kept.sees_labels:
        return (Holdout.frozen(),)
    singles = single_holdouts(cache.plan.folds)
    if scored.level == "embedding" and not kept.embedding_tuned:
        return singles  # the embedding saw no label and is one; the logits of all say what the source itself says
    if scored.level == "logits" and scored.protocol == CROSSFIT:
        return singles
    return (SAW_ALL,)


def _part(cache: FeatureCache, source: str, scored: Scored) -> _Part:
    needed = networks_needed(cache, source, scored)
    blocks = {holdout: cache.block(source, holdout) for holdout in needed}
    first = blocks[needed[0]]
    if first.logits is None:
        return _derived(cache, first, scored)
    if scored.level == "embedding" or len(needed) == 1:
        return _Part(first, needed)
    return _Part(_each_held_out(cache, blocks), needed)


def _derived(cache: FeatureCache, block: Block, scored: Scored) -> _Part:
    """A source without logits: fitted for each fold where every class remains, and else, in sample, on all clips."""
    if scored.level == "logits" and can_cross_fit(cache.plan, cache.clips, views_read(cache, scored.beside)):
        plan, fits, own = cache.plan, {}, []
        for holdout in single_holdouts(cache.plan.folds):
            head, fits[holdout] = head_and_logits(block, holdout, plan, cache.clips, random_state=plan.seed)
            own.append(linear_arrays(head, classes=len(cache.classes)))
        return _Part(_each_held_out(cache, fits), (block.holdout,), tuple(own))
    design = assemble_whole(cache.plan, cache.clips, Ingredients([block], "embedding", {}, cache.plan.seed))
    having = ~np.isin(design.digests, digest_array(block.absent))
    head, logits = fitted_scores(design, having, random_state=cache.plan.seed)
    seen = block.seen | names_of(design.digests[having])
    return _Part(
        replace(block, logits=logits, seen=seen),
        (block.holdout,),
        (linear_arrays(head, classes=len(design.classes)),),
    )


def _each_held_out(cache: FeatureCache, blocks: Mapping[Holdout, Block]) -> CrossFitted:
    """Logits of one source, each row from the network that held its fold out."""
    places = {holdout: number for number, holdout in enumerate(blocks)}
    folds = cache.plan.assignment
    rows = tuple((places[Holdout.of(folds[status.digest])],) for status in cache.clips)
    return CrossFitted(tuple(blocks.values()), rows)


def _inner_blocks(cache: FeatureCache, scored: Scored) -> dict[int, Sequence[Block]]:
    """For each fold the sources' blocks that held it out, to choose settings within; none where all rows are honest."""
    if scored.protocol != CROSSFIT or not any(
        cache.recipe(source).embedding_tuned for source in scored.sources
    ):
        return {}
    return {
        fold: [cache.block(source, {fold}) for source in scored.sources] for fold in range(cache.plan.folds)
    }


def _fill(features: Features, level: Level) -> NDArray[np.float64]:
    """Mean of the rows of clips that have what the source reads."""
    values = values_of(features, level).astype(np.float64)
    digests = features.blocks[0].digests if isinstance(features, CrossFitted) else features.digests
    having = np.array([digest not in features.absent for digest in digests])
    return np.asarray(values[having].mean(axis=0) if having.any() else np.zeros(values.shape[1]))
