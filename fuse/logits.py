"""Logits for sources that have none: standardised multinomial logistic regression, once per holdout, under the same rule.

For test fold k the rows of fold k are scored by the fit on all folds but k, and the rows of a training fold j by the
fit on all folds but j and k: so every row is out of sample, and no row's fit saw fold k.
"""

from collections.abc import Sequence

import numpy as np

from cache.records import Block, ClipStatus, Holdout, Plan
from fuse.design import Columns, Network
from fuse.heads import make_head


class DerivedLogits:
    """Logits of one frozen block under every holdout asked for; each fit is done once.

    Parameters
    ----------
    block : Block
        Of holdout ``*``.
    plan : Plan
    clips : sequence of ClipStatus
        The plan's clips, in the order of the block's rows.
    classes : sequence of str
    """

    def __init__(self, block: Block, plan: Plan, clips: Sequence[ClipStatus], classes: Sequence[str]) -> None:
        self.block = block
        self.classes = classes
        self.folds = np.array([plan.assignment[status.digest] for status in clips])
        self.targets = np.array([list(classes).index(status.clip.label) for status in clips])
        self.groups = np.array([status.group for status in clips])
        self._fits: dict[frozenset[int], np.ndarray] = {}

    def _logits(self, held_out: frozenset[int]) -> np.ndarray:
        """Log probabilities [N, C] of all rows by the fit that left these folds out."""
        if held_out not in self._fits:
            train = ~np.isin(self.folds, sorted(held_out))
            x = self.block.embedding.astype(np.float64)
            head = make_head("softmax").fit(x[train], self.targets[train], groups=self.groups[train])
            logits = np.full((len(x), len(self.classes)), np.log(1e-12))
            logits[:, head.classes_] = np.log(np.clip(head.predict_proba(x), 1e-12, 1.0))
            self._fits[held_out] = logits.astype(np.float32)
        return self._fits[held_out]

    def columns(self, test_fold: int) -> Columns:
        """The columns of this source for one test fold, each row from a fit that saw neither it nor the test fold."""
        folds = sorted(set(self.folds.tolist()))
        can_pair = len(folds) >= 3
        values = np.zeros((len(self.folds), len(self.classes)), dtype=np.float32)
        networks = []
        for fold in folds:
            held_out = frozenset({fold, test_fold} if can_pair else {test_fold})
            rows = self.folds == fold
            values[rows] = self._logits(held_out)[rows]
            seen = frozenset(np.array(self.block.digests)[~np.isin(self.folds, sorted(held_out))].tolist())
            networks.append(Network(Holdout(held_out), seen))
        return Columns(
            self.block.source, values, tuple(networks), np.searchsorted(folds, self.folds), self.block.digests
        )
