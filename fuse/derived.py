"""Logits of sources that have none, for every holdout that a plan reads: one fit each, none of them done twice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import digest_array
from moodfuse.cache.fits import KeptFit, KeptFits
from moodfuse.cache.folds import can_cross_fit
from moodfuse.cache.records import Block, Holdout, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.cross_fitting import holdouts_to_fit, logits_and_seen, with_logits
from moodfuse.fuse.workers import Call, Workers, run_parallel

Fitted = dict[tuple[str, Holdout], Block]


@dataclass(frozen=True)
class Memory:
    """Where fits of logits are kept, and the key of the one of a source and a holdout."""

    fits: KeptFits
    key: Callable[[str, Holdout], str]


def derive_logits(
    cache: FeatureCache,
    plan: Plan,
    blocks: Sequence[Block],
    *,
    views: Sequence[str],
    workers: Workers,
    memory: Memory | None = None,
) -> Fitted:
    """Logits of blocks that have none.

    Parameters
    ----------
    cache : FeatureCache
    plan : Plan
    blocks : sequence of Block
    views : sequence of str
        What of a clip the sources of the run read: without every class in each, less two folds, nothing is
        cross-fitted.
    workers : Workers
    memory : Memory, optional

    Returns
    -------
    dict of (source, Holdout) to Block
    """
    if not blocks:
        return {}
    crossfit = can_cross_fit(plan, cache.clips, views)
    wanted = [
        (block, holdout) for block in blocks for holdout in holdouts_to_fit(block, plan, crossfit=crossfit)
    ]
    keys = [memory.key(block.source, holdout) for block, holdout in wanted] if memory else []
    kept = memory.fits.find(keys) if memory else {}
    found = {place: _taken_apart(kept[key]) for place, key in enumerate(keys) if key in kept}
    missing = [place for place in range(len(wanted)) if place not in found]
    calls: Iterator[Call] = (
        (logits_and_seen, (*wanted[place], plan, cache.clips), {"random_state": cache.plan.seed})
        for place in missing
    )
    for number, fit in run_parallel(calls, total=len(missing), workers=workers, what="fitting logits"):
        found[missing[number]] = fit
        if memory:
            memory.fits.keep(keys[missing[number]], _put_together(*fit))
    return {
        (block.source, holdout): with_logits(
            block, holdout, *found[place], digests=digest_array(status.digest for status in cache.clips)
        )
        for place, (block, holdout) in enumerate(wanted)
    }


def logits_alone(block: Block) -> Block:
    """A block without its embedding: what a head at the level of logits reads, and a worker is sent."""
    return replace(block, embedding=block.embedding[:, :0])


def _put_together(logits: NDArray[np.float32], saw: NDArray[np.bool_]) -> KeptFit:
    """Logits, and as last column whether the fit saw a clip."""
    return KeptFit(np.column_stack([logits, saw]).astype(np.float64))


def _taken_apart(kept: KeptFit) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return kept.values[:, :-1].astype(np.float32), kept.values[:, -1] > 0
