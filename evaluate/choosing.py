"""Which results are not significantly worse than the best: what a choice among many may rest on.

The best is the result of the least log loss. Another is significantly worse where the 95 % t interval over groups of
the difference of their log losses lies above 0. Nothing is corrected for the number of results, so a result that is no
worse is dropped now and then; one that is kept has not been shown to be worse, which is all that is claimed.
"""

from collections.abc import Mapping

import numpy as np

from moodfuse.evaluate.intervals import WORST_LOSS, Span, interval
from moodfuse.evaluate.metrics import LOG_EPS, Floats, Labels
from moodfuse.evaluate.resampling import GroupDraws

_LOSSES = Span(-WORST_LOSS, WORST_LOSS)


def not_worse(labels: Labels, table: Mapping[str, Floats], drawn: GroupDraws) -> dict[str, float]:
    """Results that are not significantly worse than the one of the least log loss, with theirs, the least first.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    table : mapping of str to ndarray of float64, shape (N, C)
        Probabilities by the names of the results; one or more.
    drawn : GroupDraws

    Returns
    -------
    dict of str to float
    """
    names = sorted(table)
    rows = np.arange(len(labels))
    losses = np.stack([-np.log(np.clip(table[name][rows, labels], LOG_EPS, 1.0)) for name in names], axis=1)
    means, drawn_means = losses.mean(axis=0), drawn.means(losses)
    best = int(np.argmin(means))
    kept = {}
    for place in np.argsort(means, kind="stable").tolist():
        difference = float(means[place] - means[best])
        values = drawn_means[:, place] - drawn_means[:, best]
        if place == best or not interval(difference, values, drawn.effective, _LOSSES).low > 0:
            kept[names[place]] = float(means[place])
    return kept
