"""What each source gives to each outer fold: its embedding, and logits from networks that saw neither fold.

Under ``crossfit`` a training row of fold j, for outer fold k, has the logits of the network of `{j,k}`, and a
test row the mean over all networks `{j,k}`. Under ``no-crossfit`` all rows come from the network `{k}`, in
sample; under ``leaky`` from the network that saw every clip.

Sources without logits (frozen or imported) get them here as a network would make them: a standardised
multinomial logistic regression on the embedding, the head `softmax`, fitted once per holdout on the clips
outside it. Each fit is a `Block` with the clips that it saw, and the leak guard checks it like any network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import LeakError
from moodfuse.cache.fits import KeptFit
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.records import Block, Holdout, Plan
from moodfuse.cache.runs import LEAKY
from moodfuse.fuse.design import DesignInputs, DesignMatrix, assemble, assemble_leaky
from moodfuse.fuse.heads import Level, make_head
from moodfuse.fuse.heads.exported import centred_logits
from moodfuse.fuse.heads.inner_folds import choose_on_rows
from moodfuse.fuse.leak_guard import ClipRows, CrossFitted, Features, Mask
from moodfuse.fuse.workers import one_thread

SAW_ALL = Holdout.of(())
FROZEN = Holdout.frozen()
Blocks = Mapping[tuple[str, Holdout], Block]
"""Blocks by source and holdout."""


@dataclass(frozen=True)
class PlanFeatures:
    """What every source gives to each outer fold of one plan.

    `blocks` are as the cache has them; `logits` has by source and holdout the blocks with logits, those that
    were fitted as well, without their embeddings. `seed` is that of the inner splits.
    """

    rows: ClipRows
    protocol: str
    blocks: Blocks
    logits: Mapping[str, Mapping[Holdout, Block]]
    seed: int

    def embedding(self, source: str, fold: int) -> Block:
        """The block whose embedding a head that is tested on `fold` reads."""
        frozen = self.blocks.get((source, FROZEN))
        if frozen is not None:
            return frozen
        return self.blocks[source, SAW_ALL if self.protocol == LEAKY else Holdout(frozenset({fold}))]

    def design_inputs(self, sources: tuple[str, ...], level: Level, fold: int) -> DesignInputs:
        """What the design matrix of a combination is made of."""
        if level == "logits":
            blocks = [logits_for_fold(self.logits[source], self.rows, test_fold=fold) for source in sources]
            return DesignInputs(self.rows, blocks, level, fold, seed=self.seed)
        embeddings = [self.embedding(source, fold) for source in sources]
        return DesignInputs(self.rows, embeddings, level, fold, self._pairs(embeddings, fold), self.seed)

    def design(self, sources: tuple[str, ...], level: Level, fold: int) -> DesignMatrix:
        """The design matrix of a combination: guarded, unless the protocol is the leaky one."""
        make = assemble_leaky if self.protocol == LEAKY else assemble
        return make(self.design_inputs(sources, level, fold))

    def _pairs(self, embeddings: list[Block], fold: int) -> dict[int, list[Block]]:
        """For each inner fold the sources' blocks that held it out too; none unless all have them."""
        if not any(block.embedding_tuned for block in embeddings):
            return {}  # training rows are out of sample as they are
        pairs: dict[int, list[Block]] = {}
        for inner_fold in sorted(set(self.rows.folds.tolist()) - {fold}):
            pair = Holdout(frozenset({inner_fold, fold}))
            blocks = [
                block if block.holdout.folds is None else self.blocks.get((block.source, pair))
                for block in embeddings
            ]
            if None in blocks:
                return {}
            pairs[inner_fold] = [block for block in blocks if block is not None]
        return pairs


def logits_to_fit(blocks: Blocks, plan: Plan, *, cross_fit: bool) -> dict[tuple[str, Holdout], Block]:
    """The fits that sources without logits need: source and holdout of each, and the block that it reads.

    A block that saw labels is fitted on for its own holdout, a frozen one for every pair of folds or, where a
    class would be gone without two folds, for every single one.
    """
    frozen = pair_holdouts(plan.folds) if cross_fit else single_holdouts(plan.folds)
    return {
        (source, wanted): block
        for (source, holdout), block in blocks.items()
        if block.logits is None
        for wanted in (frozen if holdout.folds is None else (holdout,))
    }


def fit_logits(
    block: Block, holdout: Holdout, rows: ClipRows, *, seed: int
) -> tuple[Any, NDArray[np.float32], Mask]:
    """Fit one holdout's logistic regression on an embedding; `seed` is that of the inner split.

    Returns the head, centred logits [N, C] of all clips, and whose labels [N] were seen. Raises `LeakError`
    if the embedding's network saw a clip of the holdout.
    """
    folds = sorted(holdout.folds or ())
    if not folds:
        raise LeakError(f"{block.source}: a fit of holdout {holdout} leaves out no fold, so it can test none")
    design, *_ = [assemble(DesignInputs(rows, [block], "embedding", fold)) for fold in folds]
    absent = rows.mask(block.absent)
    kept = ~np.isin(rows.folds, folds) & ~absent
    head, logits = fit_on_rows(design, kept, seed=seed)
    logits[absent] = 0  # filled in where they are used
    return head, logits, rows.mask(block.seen) | kept


def fit_on_rows(design: DesignMatrix, kept: Mask, *, seed: int) -> tuple[Any, NDArray[np.float32]]:
    """A logistic regression on the kept rows, C chosen where they are out of sample; and logits [N, C]."""
    y, settings = design.y[kept], None
    with one_thread():
        if design.out_of_sample:
            untuned = make_head("softmax", random_state=seed, tune=False)
            index = np.unique(y, return_inverse=True)[1]
            settings = choose_on_rows(untuned, design.x[kept], index, design.groups[kept], seed=seed)
        head = make_head("softmax", random_state=seed, tune=False, **(settings or {}))
        head.fit(design.x[kept], y)
        return head, centred_logits(head.decision_scores(design.x), head.classes_, len(design.classes))


def with_logits(
    block: Block, holdout: Holdout, logits: NDArray[np.float32], seen: Mask, rows: ClipRows
) -> Block:
    """A block with the logits of a fit on its embedding, and the clips whose labels the two saw."""
    digests = frozenset(rows.digests[row] for row in np.flatnonzero(seen))
    return replace(block, holdout=holdout, logits=logits, seen=digests)


def fit_to_keep(block: Block, holdout: Holdout, rows: ClipRows, seed: int) -> KeptFit:
    """`fit_logits` as it is kept: logits, and as last column whether a clip's label was seen."""
    _, logits, seen = fit_logits(block, holdout, rows, seed=seed)
    return KeptFit(np.column_stack([logits, seen]).astype(np.float64))


def block_of_kept(block: Block, holdout: Holdout, fit: KeptFit, rows: ClipRows) -> Block:
    """The block with the logits of a kept fit."""
    return with_logits(block, holdout, fit.values[:, :-1].astype(np.float32), fit.values[:, -1] > 0, rows)


def fit_leaky_logits(block: Block, rows: ClipRows, *, seed: int) -> Block:
    """Logits that are fitted on all clips: only to measure the effect of a leak."""
    present = ~rows.mask(block.absent)
    head = make_head("softmax", random_state=seed).fit(block.embedding[present], rows.labels[present])
    logits = centred_logits(head.decision_scores(block.embedding), head.classes_, len(rows.classes))
    return replace(block, logits=logits)


def logits_for_fold(networks: Mapping[Holdout, Block], rows: ClipRows, *, test_fold: int) -> Features:
    """Logits that a head tested on `test_fold` may use, every row from the right networks.

    `networks` are the blocks of one source. Without every pair, all rows come from the network of `{k}`, in
    sample.
    """
    for shared in (FROZEN, SAW_ALL):  # one network for all folds
        if shared in networks:
            return networks[shared]
    folds = [fold for fold in np.unique(rows.folds).tolist() if fold != test_fold]
    pairs = [Holdout(frozenset({fold, test_fold})) for fold in folds]
    if not all(pair in networks for pair in pairs):
        return networks[Holdout(frozenset({test_fold}))]
    networks_of: dict[int, tuple[int, ...]] = {fold: (number,) for number, fold in enumerate(folds)}
    networks_of[test_fold] = tuple(range(len(folds)))
    return CrossFitted(
        tuple(networks[pair] for pair in pairs), tuple(networks_of[fold] for fold in rows.folds.tolist())
    )


def plan_features(
    rows: ClipRows, protocol: str, blocks: Blocks, fitted: Blocks, *, seed: int
) -> PlanFeatures:
    """What every source gives to each outer fold: the cache's blocks, and those with fitted logits."""
    logits: dict[str, dict[Holdout, Block]] = {}
    for (source, holdout), block in {**blocks, **fitted}.items():
        if block.logits is not None:
            lean = replace(block, embedding=block.embedding[:, :0])  # what a worker is sent
            logits.setdefault(source, {})[holdout] = lean
    return PlanFeatures(rows, protocol, blocks, logits, seed)
