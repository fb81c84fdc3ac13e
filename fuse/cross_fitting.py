"""What each source gives to each outer fold: its embedding, and logits from networks that saw neither fold.

Under ``crossfit`` a training row of fold j, for outer fold k, has the logits of the network of `{j,k}`, and a
test row the mean over all networks `{j,k}`. Under ``no-crossfit`` all rows come from the network `{k}`, in
sample; under ``leaky`` from the network that saw every clip.

Sources without logits (frozen or imported) get them here as a network would make them: a standardised
multinomial logistic regression on the embedding, the head `softmax`, fitted once per holdout on the clips
outside it. Each fit is a `Block` with the clips that it saw, and the leak guard checks it like any network.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import LeakError
from moodfuse.cache.fits import KeptFit
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.records import Block, Holdout
from moodfuse.cache.runs import LEAKY
from moodfuse.fuse.design import DesignInputs, DesignMatrix, assemble
from moodfuse.fuse.fitting import FitRunner
from moodfuse.fuse.heads import head_spec, make_head
from moodfuse.fuse.heads.inner_folds import one_thread
from moodfuse.fuse.inference import Level, centred_logits
from moodfuse.fuse.leak_guard import ClipRows, CrossFitted, Features, Mask, values_of
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
    included, without their embeddings. `seed` is that of the inner splits.
    """

    rows: ClipRows
    protocol: str
    blocks: Blocks
    logits: Mapping[str, Mapping[Holdout, Block]]
    seed: int

    def design_inputs(self, cases: Iterable[Case]) -> dict[Case, DesignInputs]:
        """What the design matrix of each case is made of."""
        return {case: self._design_inputs(*case) for case in dict.fromkeys(cases)}

    def _design_inputs(self, sources: Sequence[str], level: Level, fold: int) -> DesignInputs:
        leaky = self.protocol == LEAKY
        if level == "logits":
            logits = [logits_for_fold(self.logits[source], self.rows, test_fold=fold) for source in sources]
            return DesignInputs(self.rows, logits, level, fold, seed=self.seed, leaky=leaky)
        blocks = [self.embedding(source, fold) for source in sources]
        return DesignInputs(self.rows, blocks, level, fold, self._pairs(blocks, fold), self.seed, leaky)

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
            pairs[inner_fold] = [block for block in blocks if block is not None]
            if len(pairs[inner_fold]) < len(blocks):
                return {}
        return pairs


def fit_features(
    inputs: RunInputs, rows: ClipRows, blocks: Blocks, key: Callable[..., str], runner: FitRunner
) -> PlanFeatures:
    """What every source gives to each outer fold of a plan; sources without logits get theirs here.

    `key` gives the key of a fit, from sources and further facts.
    """
    seed = inputs.plan.seed
    if inputs.protocol == LEAKY:
        fitted = {
            name: block if block.logits is not None else fit_leaky_logits(block, rows, seed=seed)
            for name, block in blocks.items()
        }
    else:
        to_fit = logits_to_fit(blocks, inputs.plan.folds, cross_fit=inputs.cross_fit)
        version = head_spec("softmax").version
        fits = runner.run(
            "fitting logits",
            {
                (source, holdout): key((source,), "fitted logits", version, str(holdout))
                for source, holdout in to_fit
            },
            lambda missing: [(name, fit_to_keep, (to_fit[name], name[1], rows, seed)) for name in missing],
        )
        made = {name: block_of_fit(to_fit[name], name[1], fit, rows) for name, fit in fits.items()}
        fitted = {**blocks, **made}
    return PlanFeatures(rows, inputs.protocol, blocks, _group_by_source(fitted), seed)


def _group_by_source(blocks: Blocks) -> dict[str, dict[Holdout, Block]]:
    """The blocks with logits, without their embeddings, so that less is sent to a worker."""
    logits: dict[str, dict[Holdout, Block]] = {}
    for (source, holdout), block in blocks.items():
        if block.logits is not None:
            logits.setdefault(source, {})[holdout] = replace(block, embedding=block.embedding[:, :0])
    return logits


def logits_for_fold(networks: Mapping[Holdout, Block], rows: ClipRows, *, test_fold: int) -> Features:
    """Logits that a head tested on `test_fold` may use, every row from the right networks.

    `networks` are the blocks of one source. Without every pair, all rows come from the network of `{k}`, in
    sample.
    """
    for shared in (FROZEN, SAW_ALL):  # one network for all folds
        if shared in networks:
            return networks[shared]
    folds = [fold for fold in np.unique(rows.folds).tolist() if fold != test_fold]
    pairs = [Holdout.of({fold, test_fold}) for fold in folds]
    if not all(pair in networks for pair in pairs):
        return networks[Holdout.of(test_fold)]
    networks_of: dict[int, tuple[int, ...]] = {fold: (number,) for number, fold in enumerate(folds)}
    networks_of[test_fold] = tuple(range(len(folds)))
    return CrossFitted(
        tuple(networks[pair] for pair in pairs), tuple(networks_of[fold] for fold in rows.folds.tolist())
    )


# Fitted logits


def logits_to_fit(blocks: Blocks, folds: int, *, cross_fit: bool) -> dict[tuple[str, Holdout], Block]:
    """The fits that sources without logits need: source and holdout of each, and the block that it reads.

    A block that saw labels is fitted on for its own holdout, a frozen one for every pair of folds or, where
    some class would be missing without two folds, for every single one.
    """
    frozen = pair_holdouts(folds) if cross_fit else single_holdouts(folds)
    return {
        (source, fitted): block
        for (source, holdout), block in blocks.items()
        if block.logits is None
        for fitted in (frozen if holdout == FROZEN else (holdout,))
    }


def fit_logits(block: Block, holdout: Holdout, rows: ClipRows, *, seed: int) -> tuple[Any, Block]:
    """Fit one holdout's logistic regression on an embedding; `seed` is that of the inner split.

    Returns the head, and the block with its logits. Raises `LeakError` if the embedding's network saw a clip
    of the holdout.
    """
    folds = sorted(holdout.folds or ())
    if not folds:
        raise LeakError(f"{block.source}: a fit of holdout {holdout} leaves out no fold, so it can test none")
    design, *_ = [assemble(DesignInputs(rows, [block], "embedding", fold)) for fold in folds]
    absent = rows.mask(block.absent)
    kept = ~np.isin(rows.folds, folds) & ~absent
    head, logits = fit_on_rows(design, kept, seed=seed)
    logits[absent] = 0  # imputed where they are used
    return head, with_logits(block, holdout, logits, kept, rows)


def fit_on_rows(design: DesignMatrix, kept: Mask, *, seed: int) -> tuple[Any, NDArray[np.float32]]:
    """A logistic regression on the kept rows, C chosen where they are out of sample; and logits [N, C]."""
    head = make_head("softmax", random_state=seed, tune=design.out_of_sample)
    with one_thread():
        head.fit(design.x[kept], design.y[kept], groups=design.groups[kept])
        return head, centred_logits(head.decision_scores(design.x), head.classes_, len(design.classes))


def with_logits(
    block: Block, holdout: Holdout, logits: NDArray[np.float32], kept: Mask, rows: ClipRows
) -> Block:
    """A block with the logits of a fit on its embedding; the labels of the `kept` rows were seen, too."""
    seen = block.seen | {rows.digests[row] for row in np.flatnonzero(kept)}
    return replace(block, holdout=holdout, logits=logits, seen=seen)


def fit_to_keep(block: Block, holdout: Holdout, rows: ClipRows, seed: int) -> KeptFit:
    """`fit_logits` as it is cached: logits, and as last column whether a clip's label was seen."""
    _, fitted = fit_logits(block, holdout, rows, seed=seed)
    logits, seen = values_of(fitted, "logits"), rows.mask(fitted.seen)[:, None]
    return KeptFit(np.concatenate([logits, seen], axis=1, dtype=np.float64))


def block_of_fit(block: Block, holdout: Holdout, fit: KeptFit, rows: ClipRows) -> Block:
    """The block with the logits of a cached fit."""
    return with_logits(block, holdout, fit.values[:, :-1].astype(np.float32), fit.values[:, -1] > 0, rows)


def fit_leaky_logits(block: Block, rows: ClipRows, *, seed: int) -> Block:
    """Logits that are fitted on all clips: only to measure the effect of a leak."""
    present = ~rows.mask(block.absent)
    head = make_head("softmax", random_state=seed).fit(block.embedding[present], rows.labels[present])
    logits = centred_logits(head.decision_scores(block.embedding), head.classes_, len(rows.classes))
    return replace(block, logits=logits)
