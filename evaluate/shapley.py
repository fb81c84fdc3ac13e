"""How much each source contributes: exact Shapley values, and the loss of accuracy without it.

The value of a set of sources is the accuracy of one head, at one level, on these sources; for the mean of one source it
is the network's own accuracy, and for no source that of predicting the most common label. The Shapley value of a source
is the mean, over all orders of adding the sources, of what it adds (Shapley 1953, Contributions to the Theory of Games
2:307). It is computed over all 2**S subsets, and the values sum to the value of all sources minus that of none.

Each value is a mean over clips of fixed weights of correct answers, so a bootstrap of groups gives its interval. The
most common label is the same in every draw.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np

from moodfuse.cache.runs import NETWORK
from moodfuse.evaluate.intervals import GroupDraws, Interval, mean_intervals
from moodfuse.evaluate.metrics import Floats, Labels, is_correct

MOST_SOURCES = 8
MEAN_HEAD = ("mean", "logits")
"""Head and level whose result on one source is the network's own."""
Key = tuple[tuple[str, ...], str, str]
Subset = frozenset[str]


@dataclass(frozen=True)
class SourceImportance:
    """How much a source contributes to the accuracy of one head at one level.

    `alone` is the accuracy on the source alone, `drop` that of all sources minus that of all others.
    """

    source: str
    head: str
    level: str
    alone: float
    shapley: float
    shapley_ci95: Interval
    drop: float
    drop_ci95: Interval


def source_importance(
    labels: Labels, table: Mapping[Key, Floats], drawn: GroupDraws
) -> tuple[SourceImportance, ...]:
    """Shapley values and leave-one-out drops for every head and level that `table` has on every subset of its sources.

    `table` holds probabilities [N, C] by (sources, head, level). Sources that are never fused with each other, such as
    one network under two recipes, are taken separately; sets of more than `MOST_SOURCES` are left out. The rows are in
    the order of `table`, then by falling Shapley value.
    """
    correct = {key: is_correct(labels, values) for key, values in table.items()}
    networks = {frozenset(sources): right for (sources, head, _), right in correct.items() if head == NETWORK}
    heads = dict.fromkeys(
        (head, level) for sources, head, level in correct if head != NETWORK and len(sources) > 1
    )
    majority = (labels == np.bincount(labels).argmax()).astype(np.float64)
    rows: list[SourceImportance] = []
    for head, level in heads:
        fused = {frozenset(key[0]): right for key, right in correct.items() if key[1:] == (head, level)}
        known = {**networks, **fused} if (head, level) == MEAN_HEAD else fused
        for sources in _connected(fused):
            if not 2 <= len(sources) <= MOST_SOURCES:
                continue
            sizes = range(1, len(sources) + 1)
            subsets = [frozenset(names) for size in sizes for names in combinations(sources, size)]
            if known.keys() >= set(subsets):
                right = {names: known[names] for names in subsets} | {frozenset(): majority}
                rows += _importance(right, drawn, head, level)
    return tuple(rows)


def _connected(fused: Mapping[Subset, Floats]) -> list[tuple[str, ...]]:
    """Sets of sources that are fused with each other, directly or through others, sorted."""
    sets: list[set[str]] = []
    for names in fused:
        joined = [item for item in sets if item & names]
        sets = [item for item in sets if not item & names] + [set(names).union(*joined)]
    return sorted(tuple(sorted(item)) for item in sets)


def _shapley_weight(names: Subset, source: str, count: int) -> float:
    """Weight of a subset's accuracy in the Shapley value of one of `count` sources."""
    before = len(names - {source})
    weight = factorial(before) * factorial(count - before - 1) / factorial(count)
    return weight if source in names else -weight


def _importance(
    right: Mapping[Subset, Floats], draws: GroupDraws, head: str, level: str
) -> Iterator[SourceImportance]:
    """Importance of each source, from whether each subset is correct on each clip [N]."""
    everything = max(right, key=len)
    sources, subsets = sorted(everything), list(right)
    hits = np.stack([right[names] for names in subsets], axis=1)
    weights = [[_shapley_weight(names, source, len(sources)) for source in sources] for names in subsets]
    values = mean_intervals(hits @ np.array(weights), draws)
    without = [subsets.index(everything - {source}) for source in sources]
    drops = mean_intervals(hits[:, [subsets.index(everything)]] - hits[:, without], draws)
    for index in np.argsort([-value for value, _ in values], kind="stable").tolist():
        alone = float(right[frozenset([sources[index]])].mean())
        yield SourceImportance(sources[index], head, level, alone, *values[index], *drops[index])
