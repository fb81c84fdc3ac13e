"""Logits for sources that have none (frozen or imported), made as a network would make them.

A standardised multinomial logistic regression on the embedding, the head `softmax`, is fitted once per holdout on the
clips outside it. For test fold k the fold's own rows come from the fit of `{k}`, and training rows of fold j from the
fit of `{j,k}`, so that every row is out of sample. Each fit is a `Block` that carries what it saw, and the leak guard
checks it like any network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from cache.errors import LeakError
from cache.records import Block, ClipStatus, Holdout, Plan
from fuse.design import CrossFitted, Features, assemble


def can_cross_fit(plan: Plan, clips: Sequence[ClipStatus]) -> bool:
    """Whether every class remains when any two folds are left out; needs K >= 3."""
    classes = {status.clip.label for status in clips}
    for pair in combinations(range(plan.folds), 2):
        if {status.clip.label for status in clips if plan.assignment[status.digest] not in pair} != classes:
            return False
    return True


def holdouts_to_fit(block: Block, plan: Plan, clips: Sequence[ClipStatus]) -> tuple[Holdout, ...]:
    """Holdouts whose fits the logits of a block's source need: every `{k}`, and every pair if it saw no label."""
    singles = [Holdout.of({fold}) for fold in range(plan.folds) if block.holdout.covers(fold)]
    if block.holdout.folds is not None or not can_cross_fit(plan, clips):
        return tuple(singles)
    return (*singles, *(Holdout.of(pair) for pair in combinations(range(plan.folds), 2)))


def fit_logits(block: Block, holdout: Holdout, plan: Plan, clips: Sequence[ClipStatus], *, random_state: int) -> Block:
    """Fit one holdout's logistic regression and give the logits of all clips.

    Parameters
    ----------
    block : Block
        The source's embedding; its own holdout must contain `holdout`.
    holdout : Holdout
        Folds that the fit leaves out.
    plan, clips
        As for `fuse.design.assemble`.
    random_state : int
        Seed of the inner split that chooses C.

    Returns
    -------
    Block
        The same rows with centred logits [N, C]; `seen` holds the clips of the fit as well.

    Raises
    ------
    LeakError
        If the embedding's network saw a clip of the holdout.
    """
    from threadpoolctl import threadpool_limits

    from fuse.heads import make_head

    folds = sorted(holdout.folds or ())
    if not folds:
        raise LeakError(f"{block.source}: a fit of holdout {holdout} leaves out no fold, so it can test none")
    guarded = [assemble(plan, clips, [block], test_fold=fold, level="embedding") for fold in folds]
    design = guarded[0]
    kept = np.array([plan.assignment[status.digest] not in folds for status in clips])
    with threadpool_limits(1):
        head = make_head("softmax", random_state=random_state, tune=design.honest)
        head.fit(design.x[kept], design.y[kept], groups=np.array(design.groups)[kept])
        scores = head.decision_scores(design.x)
    logits = (scores - scores.mean(axis=1, keepdims=True)).astype(np.float32)
    seen = block.seen | {digest for digest, inside in zip(block.digests, kept, strict=True) if inside}
    return replace(block, holdout=holdout, logits=logits, seen=seen)


def logits_for_fold(
    fits: Mapping[Holdout, Block], plan: Plan, clips: Sequence[ClipStatus], *, test_fold: int
) -> Features:
    """Logits that a head tested on `test_fold` may use, every row from the right fit.

    Parameters
    ----------
    fits : mapping of Holdout to Block
        What `fit_logits` gave for `holdouts_to_fit`. Without pairs, all rows come from the fit of `{k}`, in sample.
    plan, clips
        As for `fuse.design.assemble`.
    test_fold : int
        The outer fold k.
    """
    single = Holdout.of({test_fold})
    pairs = {fold: Holdout.of({fold, test_fold}) for fold in range(plan.folds) if fold != test_fold}
    if not all(pair in fits for pair in pairs.values()):
        return fits[single]
    order = {fold: place for place, fold in enumerate(pairs, start=1)}
    order[test_fold] = 0
    return CrossFitted(
        blocks=(fits[single], *(fits[pair] for pair in pairs.values())),
        rows=tuple((order[plan.assignment[status.digest]],) for status in clips),
    )
