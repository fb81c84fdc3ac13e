"""What each source is worth: exact Shapley values, and what is lost without it.

The worth of a set of sources is the accuracy of one head, at one level, on these sources; the mean of one source is its
network's own softmax. The worth of none is that of always saying the commonest label. A source's Shapley value is the
mean, over all orders in which the sources could be added, of what it adds when its turn comes (Shapley 1953,
Contributions to the Theory of Games 2:307). It is computed over all 2**S subsets, none sampled, and the values sum to
the worth of all minus the worth of none.

Each value is a mean over clips of a fixed weighting of right answers, so a bootstrap of groups gives its interval
like an accuracy's, on the scale from -1 to 1. The commonest label stays the same in every draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np

from moodfuse.cache.runs import NETWORK
from moodfuse.evaluate.intervals import DIFFERENCE, interval
from moodfuse.evaluate.metrics import Floats, Labels
from moodfuse.evaluate.records import SourceWorth
from moodfuse.evaluate.resampling import GroupDraws

MOST_SOURCES = 8
MEAN_WAY = ("mean", "logits")
"""Head and level whose result of one source is the network's own row."""
Key = tuple[tuple[str, ...], str, str]
Subset = frozenset[str]


def source_worths(labels: Labels, table: Mapping[Key, Floats], drawn: GroupDraws) -> tuple[SourceWorth, ...]:
    """Shapley values and leave-one-out drops for every head and level that has every subset of its sources.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
    table : mapping of (sources, head, level) to ndarray of float64, shape (N, C)
        Probabilities. Sources that are never fused with each other, such as one network under two recipes, are taken
        apart.
    drawn : GroupDraws

    Returns
    -------
    tuple of SourceWorth
        By head and level in the order of `table`, then by Shapley value, the largest first. Nothing for more than
        `MOST_SOURCES` sources.
    """
    single = {frozenset(sources): values for (sources, head, _), values in table.items() if head == NETWORK}
    ways = dict.fromkeys(
        (head, level) for sources, head, level in table if head != NETWORK and len(sources) > 1
    )
    found: list[SourceWorth] = []
    for head, level in ways:
        made = {frozenset(key[0]): values for key, values in table.items() if key[1:] == (head, level)}
        known = {**single, **made} if (head, level) == MEAN_WAY else made
        for sources in _teams(made):
            rows = _complete(sources, known)
            if rows is not None:
                right = {names: values.argmax(axis=1) == labels for names, values in rows.items()}
                right[frozenset()] = labels == np.bincount(labels).argmax()
                found += _worths(right, drawn, (head, level))
    return tuple(found)


def _teams(fused: Mapping[Subset, Floats]) -> list[tuple[str, ...]]:
    """Sources that are fused with each other, directly or by way of others, sorted."""
    teams: list[set[str]] = []
    for names in fused:
        joined = [team for team in teams if team & names]
        teams = [team for team in teams if not team & names] + [set(names).union(*joined)]
    return sorted(tuple(sorted(team)) for team in teams)


def _complete(sources: tuple[str, ...], rows: Mapping[Subset, Floats]) -> dict[Subset, Floats] | None:
    """Probabilities of every subset but the empty one; `None` where one is missing or the sources are too many."""
    if not 2 <= len(sources) <= MOST_SOURCES:
        return None
    subsets = [
        frozenset(names) for size in range(1, len(sources) + 1) for names in combinations(sources, size)
    ]
    return {names: rows[names] for names in subsets} if set(subsets) <= set(rows) else None


def shapley_weights(sources: Sequence[str], subsets: Sequence[Subset]) -> Floats:
    """Weight of each subset's worth in each source's Shapley value.

    Parameters
    ----------
    sources : sequence of str, length S
    subsets : sequence of frozenset of str, length 2**S

    Returns
    -------
    ndarray of float64, shape (2**S, S)
    """
    count = len(sources)

    def weight(names: Subset, source: str) -> float:
        before = len(names - {source})
        share = factorial(before) * factorial(count - before - 1) / factorial(count)
        return share if source in names else -share

    return np.array([[weight(names, source) for source in sources] for names in subsets])


def _worths(right: Mapping[Subset, Labels], draws: GroupDraws, way: tuple[str, str]) -> Iterator[SourceWorth]:
    """Worth of each source, from whether each subset is right about each clip [N]."""
    whole = max(right, key=len)
    sources, subsets = sorted(whole), list(right)
    hits = np.stack([right[names] for names in subsets], axis=1).astype(np.float64)
    values = hits @ shapley_weights(sources, subsets)
    without = [subsets.index(whole - {source}) for source in sources]
    drops = hits[:, [subsets.index(whole)]] - hits[:, without]
    of_draws, drops_of_draws = draws.means(values), draws.means(drops)
    means, losses = values.mean(axis=0), drops.mean(axis=0)
    for index in np.argsort(-means, kind="stable"):
        yield SourceWorth(
            source=sources[index],
            head=way[0],
            level=way[1],
            alone=float(right[frozenset([sources[index]])].mean()),
            shapley=float(means[index]),
            shapley_ci95=interval(float(means[index]), of_draws[:, index], draws.effective, DIFFERENCE),
            drop=float(losses[index]),
            drop_ci95=interval(float(losses[index]), drops_of_draws[:, index], draws.effective, DIFFERENCE),
        )
