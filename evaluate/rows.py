"""Which results the tables and the ablation figure of a report show, and in which order.

Estimates and tests are always of the whole run: nothing here changes a number. `metrics.csv` and
the page have every result.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import NETWORK
from moodfuse.evaluate.evaluation import Evaluation, ResultScore
from moodfuse.evaluate.paired import MEAN_HEAD
from moodfuse.evaluate.planned import PLANNED_HEADS, index_results

SHORT_TABLE = 16
"""A run with no more results has all of them in its tables and in the figure."""
COMBINATION_LIMIT = 6
"""More combinations of one size, such as the pairs of five sources, are left out."""


class Rows(NamedTuple):
    """The fields of an `Evaluation` of these names."""

    table_rows: tuple[ResultScore, ...]
    figure_rows: tuple[ResultScore, ...]


def choose_rows(
    evaluation: Evaluation,
    only: Collection[str] = (),
    heads: Collection[str] = (),
    levels: Collection[str] = (),
    *,
    all_rows: bool = False,
) -> Rows:
    """The results of some combinations of sources, heads and levels; without these, those of a paper.

    A paper's rows are each single source, the pairs if there are few, the largest fusion, and the best
    result. The table has them under one head and level, the first of `PLANNED_HEADS` that the largest fusion
    has, the figure under every head. `all_rows` has every result in the table.

    Parameters
    ----------
    only : collection of str
        Sources joined by ``+``, in any order.
    heads : collection of str
        Heads as in the tables, such as ``"softmax"`` or ``"network"``.
    levels : collection of str
        ``"logits"`` or ``"embedding"``.

    Raises
    ------
    InputError
        If a name is not that of a result, or no result is left.
    """
    ranked = evaluation.ranked
    if only or heads or levels:
        rows = _filter_rows(evaluation, only, heads, levels)
        return Rows(rows, rows)
    figure = _paper_figure(evaluation)
    if all_rows or len(ranked) <= SHORT_TABLE:
        return Rows(ranked, figure)
    planned = _planned_head(evaluation)
    table = [one for one in figure if _head_of(one) == planned or one.is_network or one is evaluation.best]
    return Rows(tuple(table), figure)


def _filter_rows(
    evaluation: Evaluation, only: Collection[str], heads: Collection[str], levels: Collection[str]
) -> tuple[ResultScore, ...]:
    ranked, run = evaluation.ranked, evaluation.run.name
    wanted = {tuple(sorted(name.split("+"))): name for name in only}
    known_sources = {tuple(sorted(one.result.sources)): "+".join(one.result.sources) for one in ranked}
    known_heads = {one.result.head for one in ranked}
    unknown = [
        *((name, known_sources.values()) for sources, name in wanted.items() if sources not in known_sources),
        *((head, known_heads) for head in heads if head not in known_heads),
    ]
    if unknown:
        name, known = unknown[0]
        raise InputError(f"run {run} has no result of {name!r}; it has: {', '.join(sorted(known))}")
    rows = tuple(
        one
        for one in ranked
        if (not only or tuple(sorted(one.result.sources)) in wanted)
        and (not heads or one.result.head in heads)
        and (not levels or one.result.level in levels)
    )
    if not rows:
        raise InputError(f"run {run} has no result of these sources, heads and levels")
    return rows


def _head_of(scored: ResultScore) -> tuple[str, str]:
    return scored.result.head, scored.result.level


def _planned_head(evaluation: Evaluation) -> tuple[str, str]:
    """The head and level of the planned tests; where a run has none of them, those of the best result."""
    results = index_results(evaluation.run)
    everything = max((sources for sources, _, _ in results), key=len)
    keys = ((everything, *head) for head in PLANNED_HEADS)
    planned = next((results[key] for key in keys if key in results), evaluation.best.result)
    return planned.head, planned.level


def _paper_figure(evaluation: Evaluation) -> tuple[ResultScore, ...]:
    """A paper's combinations of sources under every head, at the level of the planned tests."""
    ranked = evaluation.ranked
    if len(ranked) <= SHORT_TABLE:
        return ranked
    combinations = {one.result.sources for one in ranked}
    largest = max(map(len, combinations))
    counts = Counter(map(len, combinations))
    sizes = {1, *(size for size in (2, largest) if counts[size] <= COMBINATION_LIMIT)}
    _, level = _planned_head(evaluation)
    return tuple(
        one
        for one in ranked
        if one is evaluation.best
        or (
            len(one.result.sources) in sizes
            and (one.result.level == level or one.is_network or _head_of(one) == MEAN_HEAD)
        )
    )


def split_sections(rows: Iterable[ResultScore]) -> list[list[ResultScore]]:
    """The sections of a table: networks, heads on one source, fusions; none is empty."""
    sections: dict[int, list[ResultScore]] = {}
    for one in rows:
        sections.setdefault(0 if one.is_network else 2 if one.is_fusion else 1, []).append(one)
    return [sections[key] for key in sorted(sections)]


def group_by_sources(rows: Iterable[ResultScore]) -> list[list[ResultScore]]:
    """Results of one combination of sources together; single sources first, then by the best of each."""
    groups: dict[tuple[str, ...], list[ResultScore]] = {}
    for one in rows:
        groups.setdefault(one.result.sources, []).append(one)
    order = list_heads(one for group in groups.values() for one in group)
    return [
        sorted(group, key=lambda one: order.index(_head_of(one)))
        for group in sorted(groups.values(), key=lambda group: (len(group[0].result.sources), group[0].rank))
    ]


def list_heads(rows: Iterable[ResultScore]) -> list[tuple[str, str]]:
    """Heads and levels of results: networks, the mean, then those of the planned tests, then others."""
    first = [(NETWORK, "logits"), MEAN_HEAD, *PLANNED_HEADS]
    present = dict.fromkeys(_head_of(one) for one in rows)
    return sorted(present, key=lambda head: (first.index(head) if head in first else len(first), head))


def axis_limits(evaluation: Evaluation) -> tuple[float, float]:
    """Multiples of 0.1 that enclose all of the ablation figure."""
    pairs = [one.mean_accuracy for one in evaluation.figure_rows]
    values = [evaluation.majority[1], *(end for value, interval in pairs for end in (value, *interval.ends))]
    known = [value for value in values if not math.isnan(value)]
    low, high = math.floor(10 * min(known)), math.ceil(10 * max(known))
    return low / 10, max(high, low + 1) / 10


def head_name(head: tuple[str, str]) -> str:
    """A head with its level, which for networks and their mean is always that of the logits."""
    return head[0] if head[0] in (NETWORK, MEAN_HEAD[0]) else ", ".join(head)
