"""Logits under cross-fitting: every row from networks that saw neither its own fold nor the fold under test.

For outer fold k a training row of fold j comes from the network of `{j,k}`, and a test row is the mean of all networks
`{j,k}`. Sources that have no logits (frozen or imported) get them here as a network would make them: a standardised
multinomial logistic regression on the embedding, the head `softmax`, fitted once per holdout on the clips outside it;
where the embedding saw labels, on that of the holdout itself.
Each fit is a `Block` that carries what it saw, and the leak guard checks it like any network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import Digests, digest_array
from moodfuse.cache.errors import LeakError
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.records import Block, ClipStatus, Holdout, Plan
from moodfuse.fuse.design import Ingredients, assemble
from moodfuse.fuse.features import CrossFitted, Features, values_of
from moodfuse.fuse.matrix import DesignMatrix, Values
from moodfuse.fuse.tuning import choose_on_rows
from moodfuse.fuse.workers import one_thread


def holdouts_to_fit(block: Block, plan: Plan, *, crossfit: bool) -> tuple[Holdout, ...]:
    """Holdouts of the fits on a block: its own if it saw labels; else every pair or, without cross-fitting, `{k}`.

    Parameters
    ----------
    block : Block
    plan : Plan
    crossfit : bool
        Whether every class remains when two folds are left out (`moodfuse.cache.folds.can_cross_fit`).
    """
    if block.holdout.folds is not None:
        return (block.holdout,)
    return pair_holdouts(plan.folds) if crossfit else single_holdouts(plan.folds)


def fit_logits(
    block: Block, holdout: Holdout, plan: Plan, clips: Sequence[ClipStatus], *, random_state: int
) -> Block:
    """Fit one holdout's logistic regression and give the logits of all clips: see `head_and_logits`."""
    return head_and_logits(block, holdout, plan, clips, random_state=random_state)[1]


def logits_and_seen(
    block: Block, holdout: Holdout, plan: Plan, clips: Sequence[ClipStatus], *, random_state: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What of `fit_logits` is not known before: the logits [N, C], and of which clips [N] a label was seen."""
    fitted = fit_logits(block, holdout, plan, clips, random_state=random_state)
    return values_of(fitted, "logits"), np.isin(digest_array(block.digests), digest_array(fitted.seen))


def with_logits(
    block: Block, holdout: Holdout, logits: NDArray[np.float32], saw: NDArray[np.bool_], *, digests: Digests
) -> Block:
    """A block with the logits of a fit, and what that saw by rows; `digests` are those of the rows, shared by all."""
    return replace(block, holdout=holdout, logits=logits, seen=block.seen | names_of(digests[saw]))


def head_and_logits(
    block: Block, holdout: Holdout, plan: Plan, clips: Sequence[ClipStatus], *, random_state: int
) -> tuple[Any, Block]:
    """Fit one holdout's logistic regression; the head, and the logits of all clips.

    Parameters
    ----------
    block : Block
        The source's embedding; its own holdout must contain `holdout`.
    holdout : Holdout
        Folds that the fit leaves out.
    plan, clips
        As for `moodfuse.fuse.design.assemble`.
    random_state : int
        Seed of the inner split that chooses C.

    Returns
    -------
    head : SoftmaxHead
    Block
        The same rows with centred logits [N, C]; `seen` holds the clips of the fit as well.

    Raises
    ------
    LeakError
        If the embedding's network saw a clip of the holdout.
    """
    folds = sorted(holdout.folds or ())
    if not folds:
        raise LeakError(f"{block.source}: a fit of holdout {holdout} leaves out no fold, so it can test none")
    design, *_ = [assemble(plan, clips, Ingredients([block], "embedding"), test_fold=fold) for fold in folds]
    absent = np.isin(design.digests, digest_array(block.absent))
    kept = ~np.isin(plan.folds_of(design.digests), folds) & ~absent
    head, logits = fitted_scores(design, kept, random_state=random_state)
    logits[absent] = 0  # filled in where they are used
    return head, replace(
        block, holdout=holdout, logits=logits, seen=block.seen | names_of(design.digests[kept])
    )


def names_of(digests: Digests) -> frozenset[str]:
    """Digests as a set of strings."""
    return frozenset(digests.astype("U64").tolist())


def fitted_scores(
    design: DesignMatrix, kept: NDArray[np.bool_], *, random_state: int
) -> tuple[Any, NDArray[np.float32]]:
    """A source's logistic regression on the kept rows [N], its C chosen where they are out of sample; all logits."""
    from moodfuse.fuse.heads.registry import make_head

    y, groups, chosen = design.y[kept], design.groups[kept], None
    with one_thread():
        if design.honest:
            untuned = make_head("softmax", random_state=random_state, tune=False)
            _, index = np.unique(y, return_inverse=True)
            rows = np.flatnonzero(kept)  # no copy of the kept rows stands beside those of the inner folds
            chosen = choose_on_rows(untuned, design.x, index, groups, seed=random_state, rows=rows)
        head = make_head("softmax", random_state=random_state, tune=False, **(chosen or {}))
        head.fit(design.x[kept], y)
        return head, centred_scores(head, design.x, len(design.classes))


def centred_scores(head: Any, x: Values, classes: int) -> NDArray[np.float32]:
    """Linear scores [N, classes] of a fitted head, centred; a class that it did not see gets its lowest score."""
    seen = head.decision_scores(x)
    scores = np.repeat(seen.min(axis=1, keepdims=True), classes, axis=1)
    scores[:, head.classes_] = seen
    centred: NDArray[np.float32] = (scores - scores.mean(axis=1, keepdims=True)).astype(np.float32)
    return centred


def logits_for_fold(networks: Mapping[Holdout, Block], plan: Plan, *, test_fold: int) -> Features:
    """Logits that a head tested on `test_fold` may use, every row from the right networks.

    Parameters
    ----------
    networks : mapping of Holdout to Block
        Blocks of one source with logits, rows in the order of the clips. Without every pair, all rows come from the
        network of `{k}`, in sample.
    plan : Plan
    test_fold : int
        The outer fold k.
    """
    pairs = {fold: Holdout.of({fold, test_fold}) for fold in range(plan.folds) if fold != test_fold}
    if not all(pair in networks for pair in pairs.values()):
        return networks[Holdout.of({test_fold})]
    places: dict[int, tuple[int, ...]] = {fold: (place,) for place, fold in enumerate(pairs)}
    places[test_fold] = tuple(range(len(pairs)))
    blocks = tuple(networks[pair] for pair in pairs.values())
    folds = plan.folds_of(blocks[0].digests)
    return CrossFitted(blocks, rows=tuple(places[fold] for fold in folds.tolist()))
