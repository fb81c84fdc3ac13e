"""The best of many results, corrected for having been chosen: bootstrap bias-corrected cross-validation.

Of many results the best on some clips is partly the luckiest on them. So the choice itself is put on trial
(Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning 107:1895, algorithm 5): in each bootstrap draw of
groups the best result is chosen on the drawn groups, equals by log loss, and scored on the groups that were not
drawn. The mean over draws is what "take the best of these" gives on new clips. A draw chooses on 63 % of the groups,
so where results do differ the figure errs on the low side, a little.

The interval stands around that mean and is as wide as that of a result that the draws pick: the squared standard
errors of the picks, over groups, are averaged, on the logit scale with t quantiles as in `moodfuse.evaluate.intervals`. The
scores of single draws answer for a test on a third of the clips and vary far too much; the mean over draws itself
varies less than one result's accuracy where the picks change, but that would have to be taken from the same clips that
made them change, and such intervals held the truth in 85 % of simulations. This one did in 93 to 99 %, for 60 results
of equal or of evenly spread worth. Where one result alone is far better than all others and the draws often miss it,
figure and interval are too low (71 to 90 % with the correlations that are usual here, 63 % at worst): never too good.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moodfuse.evaluate.intervals import UNDEFINED, interval, t_interval
from moodfuse.evaluate.metrics import LOG_EPS, Floats, Labels
from moodfuse.evaluate.records import Headline, Interval
from moodfuse.evaluate.resampling import GroupDraws

PICKS_SHOWN = 5


@dataclass(frozen=True)
class Trial:
    """What choosing the best of R results came to, over the draws.

    Attributes
    ----------
    corrected : float
        Mean accuracy on undrawn groups of the result chosen on the drawn ones; NaN where no draw left a group out.
    interval : Interval
    picks : ndarray of int64, shape (B,)
        Index of the result chosen by each draw.
    """

    corrected: float
    interval: Interval
    picks: Labels


def corrected_best(labels: Labels, table: Mapping[str, Floats], drawn: GroupDraws) -> Headline:
    """The best of several results by accuracy, equals by log loss, then by name; with its selection corrected.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    table : mapping of str to ndarray of float64, shape (N, C)
        Probabilities by the names of the results; one or more.
    drawn : GroupDraws

    Returns
    -------
    Headline
    """
    names = sorted(table)
    clips = np.arange(len(labels))
    right = np.stack([table[name].argmax(axis=1) == labels for name in names], axis=1).astype(np.float64)
    loss = np.stack([-np.log(np.clip(table[name][clips, labels], LOG_EPS, 1.0)) for name in names], axis=1)
    best = int(_choose(right.sum(axis=0)[None], loss.sum(axis=0)[None])[0])
    accuracy = float(right[:, best].mean())
    trial = choose_and_test(right, loss, drawn)
    chosen = Counter(trial.picks.tolist()).most_common(PICKS_SHOWN)
    return Headline(
        result=names[best],
        accuracy=accuracy,
        accuracy_ci95=interval(accuracy, drawn.means(right[:, [best]])[:, 0], drawn.effective),
        corrected=trial.corrected,
        corrected_ci95=trial.interval,
        candidates=len(names),
        picks=tuple((names[index], count / len(drawn.counts)) for index, count in chosen),
    )


def choose_and_test(right: Floats, loss: Floats, draws: GroupDraws) -> Trial:
    """Choose the best result on each draw's groups, and score it on the others.

    Parameters
    ----------
    right, loss : ndarray of float64, shape (N, R)
        Whether each result is right about each clip (1 or 0), and its log loss.
    draws : GroupDraws
    """
    hits, losses = draws.group_sums(right), draws.group_sums(loss)
    sizes = draws.group_sums(np.ones(len(right)))
    picks, scores = [], []
    for chunk in draws.chunks(draws.groups):
        drawn, undrawn = chunk.astype(np.float64), (chunk == 0).astype(np.float64)
        best = _choose(drawn @ hits, drawn @ losses)
        clips = undrawn @ sizes
        of_best = np.take_along_axis(undrawn @ hits, best[:, None], axis=1)[:, 0]
        scores.append(of_best[clips > 0] / clips[clips > 0])
        picks.append(best)
    chosen, values = np.concatenate(picks), np.concatenate(scores)
    if draws.groups < 2 or not len(values):
        return Trial(float("nan"), UNDEFINED, chosen)
    corrected = float(values.mean())
    error = float(np.sqrt(_squared_errors(hits, sizes, draws.effective)[chosen].mean()))
    return Trial(corrected, t_interval(corrected, error, draws.effective), chosen)


def _choose(hits: Floats, losses: Floats) -> Labels:
    """Column of the most hits in each row, equals told apart by loss, then the first; of arrays [B, R]."""
    # Sums over the same clips in another order differ in their last bits: these are no better loss.
    ranked = np.where(hits == hits.max(axis=1, keepdims=True), np.round(losses, 9), np.inf)
    return np.asarray(ranked.argmin(axis=1))


def _squared_errors(hits: Floats, sizes: Floats, count: float) -> Floats:
    """Squared standard errors [R] of shares over groups: hits [G, R] among sizes [G], which count as so many."""
    residual = hits - sizes[:, None] * hits.sum(axis=0) / sizes.sum()
    return np.asarray((residual**2).sum(axis=0) * count / (count - 1) / sizes.sum() ** 2)
