"""What each source gives to each outer fold: its embedding, and logits from networks that saw neither fold.

Under ``crossfit`` a training row of fold j, for outer fold k, has the logits of the network of `{j,k}`, and a
test row the mean over all networks `{j,k}`. Under ``no-crossfit`` all rows come from the network `{k}`, in
sample; under ``leaky`` from the network that saw every clip.

Sources without logits (frozen or imported) get them here as a network would make them: a standardised
multinomial logistic regression on the embedding, the head `softmax`, fitted once per holdout on the clips
outside it. Each fit is a `Block` with the clips that it saw, and the leak guard checks it like any network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moodfuse.cache.fits import CachedFit
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.records import Block, Holdout
from moodfuse.cache.runs import LEAKY
from moodfuse.fuse.design import DesignInputs, assemble
from moodfuse.fuse.fitting import FitRunner
from moodfuse.fuse.heads import HeadSettings, get_head_spec, make_head
from moodfuse.fuse.heads.inner_folds import limit_to_one_thread
from moodfuse.fuse.inference import Level, centre_logits
from moodfuse.fuse.leak_guard import ClipRows, CrossFitted, Features
from moodfuse.fuse.run_inputs import RunInputs

SAW_ALL = Holdout.of(())
FROZEN = Holdout.frozen()
Blocks = Mapping[tuple[str, Holdout], Block]
"""Blocks by source and holdout."""
Case = tuple[tuple[str, ...], Level, int]
"""Sources, level and outer fold."""


@dataclass(frozen=True)
class PlanFeatures:
    """What every source gives to each outer fold of one plan.

    `blocks` are as the cache has them; `logits` has by source and holdout the blocks with logits, fitted ones
    included, without their embeddings. `settings` are those of all heads.
    """

    rows: ClipRows
    protocol: str
    blocks: Blocks
    logits: Mapping[str, Mapping[Holdout, Block]]
    settings: HeadSettings

    def make_design_inputs(self, sources: Sequence[str], level: Level, fold: int) -> DesignInputs:
        """What a design matrix is made of."""
        leaky, seed = self.protocol == LEAKY, self.settings.random_state
        if level == "logits":
            logits = [select_logits(self.logits[source], self.rows, test_fold=fold) for source in sources]
            return DesignInputs(self.rows, logits, level, fold, seed=seed, leaky=leaky)
        blocks = [self.embedding(source, fold) for source in sources]
        return DesignInputs(self.rows, blocks, level, fold, self._pairs(blocks, fold), seed, leaky)

    def embedding(self, source: str, fold: int) -> Block:
        """The block whose embedding a head that is tested on `fold` reads."""
        if (source, FROZEN) in self.blocks:
            return self.blocks[source, FROZEN]
        return self.blocks[source, SAW_ALL if self.protocol == LEAKY else Holdout.of(fold)]

    def _pairs(self, embeddings: Sequence[Block], fold: int) -> dict[int, list[Block]]:
        """For each inner fold the sources' blocks that held it out too; none unless all have them."""
        if not any(block.embedding_tuned for block in embeddings):
            return {}  # training rows are out of sample as they are
        pairs = {}
        for inner_fold in sorted(set(self.rows.folds.tolist()) - {fold}):
            holdout = Holdout.of({inner_fold, fold})
            blocks = [
                block if block.holdout == FROZEN else self.blocks.get((block.source, holdout))
                for block in embeddings
            ]
            if None in blocks:
                return {}
            pairs[inner_fold] = [block for block in blocks if block is not None]
        return pairs


def fit_features(
    inputs: RunInputs, rows: ClipRows, blocks: Blocks, key: Callable[..., str], runner: FitRunner
) -> PlanFeatures:
    """What every source gives to each outer fold of a plan; sources without logits get theirs here.

    `key` gives the key of a fit, from sources and further facts.
    """
    settings = HeadSettings(inputs.plan.seed, inputs.class_weight)
    logits = {name: block for name, block in blocks.items() if block.logits is not None}
    if inputs.protocol == LEAKY:
        for name in blocks.keys() - logits.keys():
            logits[name] = fit_leaky_logits(blocks[name], rows, settings)
    else:
        to_fit = list_logits_to_fit(blocks, inputs.plan.folds, cross_fit=inputs.cross_fit)
        version = get_head_spec("softmax").version
        fits = runner.run(
            "Fitting logits",
            {
                (source, holdout): key((source,), "fitted logits", version, str(holdout))
                for source, holdout in to_fit
            },
            lambda missing: [
                (name, fit_to_keep, (to_fit[name], name[1], rows, settings)) for name in missing
            ],
        )
        logits |= {name: make_fitted_block(to_fit[name], name[1], fit, rows) for name, fit in fits.items()}
    by_source: dict[str, dict[Holdout, Block]] = {source: {} for source, _ in logits}
    for (source, holdout), block in logits.items():
        # Workers do not need the embedding.
        by_source[source][holdout] = replace(block, embedding=block.embedding[:, :0])
    return PlanFeatures(rows, inputs.protocol, blocks, by_source, settings)


def select_logits(
    networks: Mapping[Holdout, Block], rows: ClipRows, *, test_fold: int | None = None
) -> Features:
    """Logits that a head tested on `test_fold` may use, every row from the right networks.

    `networks` are the blocks of one source. Without every pair, all rows come from the network of `{k}`, in
    sample. Without a test fold, for export, every row comes from the network that held its fold out.
    """
    for shared in (FROZEN, SAW_ALL):  # one network for all folds
        if shared in networks:
            return networks[shared]
    tested = set() if test_fold is None else {test_fold}
    folds = [fold for fold in np.unique(rows.folds).tolist() if fold != test_fold]
    holdouts = [Holdout.of({fold, *tested}) for fold in folds]
    if not all(holdout in networks for holdout in holdouts):
        return networks[Holdout.of(tested)]
    networks_by_fold: dict[int, tuple[int, ...]] = {fold: (number,) for number, fold in enumerate(folds)}
    networks_by_fold |= dict.fromkeys(tested, tuple(range(len(folds))))
    return CrossFitted(
        tuple(networks[holdout] for holdout in holdouts),
        tuple(networks_by_fold[fold] for fold in rows.folds.tolist()),
    )


# Fitted logits


def list_logits_to_fit(blocks: Blocks, folds: int, *, cross_fit: bool) -> dict[tuple[str, Holdout], Block]:
    """For each fit that a source without logits needs, by source and holdout, the block that it reads.

    A frozen source needs one for every pair of folds or, where some class would be missing without two folds,
    for every single one; a block that saw labels one for its own holdout.
    """
    frozen = pair_holdouts(folds) if cross_fit else single_holdouts(folds)
    return {
        (source, fitted): block
        for (source, holdout), block in blocks.items()
        if block.logits is None
        for fitted in (frozen if holdout == FROZEN else (holdout,))
    }


def fit_logits(
    block: Block, holdout: Holdout, rows: ClipRows, settings: HeadSettings
) -> tuple[Any, CachedFit]:
    """Fit a logistic regression on an embedding and the clips outside a holdout, C chosen where it can be.

    Returns the head, and the fit as it is cached: logits [N, C], and as last column whether a clip's label
    was seen. Raises `LeakError` if the embedding's network saw a clip of the holdout.
    """
    folds = sorted(holdout.folds or ())
    tested: list[int | None] = [*folds] or [None]
    design, *_ = [assemble(DesignInputs(rows, [block], "embedding", fold)) for fold in tested]
    absent = rows.mask(block.absent)
    kept = ~np.isin(rows.folds, folds) & ~absent
    head = make_head("softmax", **vars(settings), tune=design.out_of_sample)
    with limit_to_one_thread():
        head.fit(design.x[kept], design.y[kept], groups=design.groups[kept])
        logits = centre_logits(head.decision_scores(design.x), head.classes_, len(design.classes))
    logits[absent] = 0  # imputed where they are used
    seen = kept | rows.mask(block.training_clips)
    return head, CachedFit(np.concatenate([logits, seen[:, None]], axis=1, dtype=np.float64))


def fit_to_keep(block: Block, holdout: Holdout, rows: ClipRows, settings: HeadSettings) -> CachedFit:
    """`fit_logits` in a worker process."""
    return fit_logits(block, holdout, rows, settings)[1]


def make_fitted_block(block: Block, holdout: Holdout, fit: CachedFit, rows: ClipRows) -> Block:
    """The block with the logits of a fit on its embedding; the fit saw labels, too."""
    seen = block.training_clips | {rows.digests[row] for row in np.flatnonzero(fit.values[:, -1])}
    return replace(block, holdout=holdout, logits=fit.values[:, :-1].astype(np.float32), training_clips=seen)


def fit_leaky_logits(block: Block, rows: ClipRows, settings: HeadSettings) -> Block:
    """Logits that are fitted on all clips: only to measure the effect of a leak."""
    present = ~rows.mask(block.absent)
    head = make_head("softmax", **vars(settings)).fit(block.embedding[present], rows.labels[present])
    logits = centre_logits(head.decision_scores(block.embedding), head.classes_, len(rows.classes))
    return replace(block, logits=logits)
