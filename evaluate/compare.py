"""A run beside published figures, row by row. Pure: what to print is decided here, `moodfuse.evaluate.report.terminal` prints it.

A published network stands beside the network's own softmax under the recipe that repeats its optimizer; the network
under any other recipe gets a row of its own. Of a fusion the row with the published head and level is shown, for each
recipe; where a recipe has no such row, all its rows are. Rows come in a fixed order; none is chosen by its score.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.runs import NETWORK
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.report.published import ClassCounts, Published, PublishedScore
from moodfuse.evaluate.report.seed_tables import SEED
from moodfuse.evaluate.results import ResultScore

COMPARISONS: dict[str, Published] = {figures.name: figures for figures in (SEED,)}
"""Name of a comparison, as `--compare` takes it -> its figures."""
NETWORKS, FUSION = "networks", "fusion"
OURS = "ours"
ROUNDING = 0.005
"""Half of the last digit of published figures."""


@dataclass(frozen=True)
class ComparedRow:
    """A published row, ours beside it, or both.

    Attributes
    ----------
    table : str
        `NETWORKS` or `FUSION`.
    networks : tuple of str
        Without recipes.
    optimizer : str
        The published optimizer; empty where it is not said, and where the row is none of the published.
    published : PublishedScore or None
    ours : ResultScore or None
    """

    table: str
    networks: tuple[str, ...]
    optimizer: str
    published: PublishedScore | None
    ours: ResultScore | None


@dataclass(frozen=True)
class Comparison:
    """A run beside published figures.

    Attributes
    ----------
    published : Published
    evaluation : Evaluation
    rows : tuple of ComparedRow
        Equal published rows follow each other, one for each of ours.
    matrices : tuple of ClassCounts
        The published one, then ours, one for each recipe, on the same class axis.
    notes : tuple of str
        What a reader must know.
    commands : tuple of str
        What makes the rows that the run lacks, in this order; empty where it lacks none.
    """

    published: Published
    evaluation: Evaluation
    rows: tuple[ComparedRow, ...]
    matrices: tuple[ClassCounts, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def find_published(name: str) -> Published:
    """Published figures by name.

    Raises
    ------
    UnknownNameError
        If there are none of this name; the known ones are listed.
    """
    if name not in COMPARISONS:
        raise UnknownNameError("comparison", name, tuple(COMPARISONS))
    return COMPARISONS[name]


def compare(evaluation: Evaluation, published: Published, *, cache: str = "DIR") -> Comparison:
    """Put a scored run beside published figures.

    Parameters
    ----------
    evaluation : Evaluation
    published : Published
    cache : str
        Cache folder, as the commands that make missing rows shall name it.

    Returns
    -------
    Comparison
    """
    rows = (*_network_rows(evaluation, published), *_fusion_rows(evaluation, published))
    theirs = ClassCounts(published.name, f"{published.head}/{published.level}", published.matrix)
    return Comparison(
        published,
        evaluation,
        rows,
        (theirs, *_our_matrices(rows, published)),
        tuple(_notes(evaluation, published, theirs)),
        tuple(_commands(rows, published, cache)),
    )


def recipe_of(sources: tuple[str, ...]) -> str | None:
    """The recipe that all sources share, ``"default"`` where their names carry none; `None` where they differ."""
    recipes = {source.partition("@")[2] or "default" for source in sources}
    return recipes.pop() if len(recipes) == 1 else None


def _networks(sources: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(source.partition("@")[0] for source in sources))


def _network_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    own = {item.result.sources[0]: item for item in evaluation.scored if item.is_network}
    taken: set[str] = set()
    for (network, optimizer), score in published.networks.items():
        found = [source for source in _repeats(published, network, optimizer) if source in own]
        taken.update(found)
        matches: list[ResultScore | None] = [own[source] for source in found]
        for item in matches or [None]:
            yield ComparedRow(NETWORKS, (network,), optimizer, score, item)
    for network in dict.fromkeys(network for network, _ in published.networks):
        for source in sorted(set(own) - taken):
            if source.partition("@")[0] == network:
                yield ComparedRow(NETWORKS, (network,), "", None, own[source])


def _repeats(published: Published, network: str, optimizer: str) -> list[str]:
    """Sources that repeat a published network row."""
    return [
        f"{network}@{name}"
        for name, chosen in published.optimizers.items()
        if chosen.get(network) == optimizer
    ]


def _fusion_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    for networks, score in published.fusions.items():
        found: dict[tuple[str, ...], list[ResultScore]] = {}
        for item in evaluation.scored:
            sources = item.result.sources
            if not item.is_network and recipe_of(sources) and _networks(sources) == networks:
                found.setdefault(sources, []).append(item)
        matches: list[ResultScore | None] = []
        for _, items in sorted(found.items()):
            matches += [item for item in items if _is_published_way(item, published)] or items
        for match in matches or [None]:
            yield ComparedRow(FUSION, networks, "", score, match)


def _is_published_way(item: ResultScore, published: Published) -> bool:
    return (item.result.head, item.result.level) == (published.head, published.level)


def _our_matrices(rows: tuple[ComparedRow, ...], published: Published) -> Iterator[ClassCounts]:
    """For each recipe the first row of the fusion whose matrix is published, if the classes are the same."""
    seen: set[str | None] = set()
    for row in rows:
        if row.table != FUSION or row.networks != published.matrix_of or row.ours is None:
            continue
        result, order = row.ours.result, _class_order(row.ours.score.classes, published)
        recipe = recipe_of(result.sources)
        if order is not None and recipe not in seen:
            seen.add(recipe)
            counts = row.ours.score.confusion_matrix[np.ix_(order, order)]
            yield ClassCounts(
                OURS, f"{result.head}/{result.level}, {recipe}", tuple(map(tuple, counts.tolist()))
            )


def _class_order(classes: tuple[str, ...], published: Published) -> list[int] | None:
    """Where each published class stands in ours, capitals aside; `None` where the classes are others."""
    names = [label.casefold() for label in classes]
    return (
        [names.index(label) for label in published.classes]
        if sorted(names) == sorted(published.classes)
        else None
    )


def _notes(evaluation: Evaluation, published: Published, theirs: ClassCounts) -> Iterator[str]:
    clips = len(evaluation.run.ids)
    yield (
        f"the {published.clips} clips of {published.name} and our {clips} are different sets of clips; no difference "
        "is tested here, and the rows are not a contest"
    )
    yield from published.caveats
    stated = published.fusions[published.matrix_of]
    wrong = [
        f"{name} {found:.3f}, not the stated {said:.2f}"
        for name, found, said in (
            ("accuracy", theirs.accuracy, stated.accuracy),
            ("macro F1", theirs.macro_f1, stated.macro_f1),
        )
        if abs(found - said) > ROUNDING
    ]
    if wrong:
        yield (
            f"the confusion matrix of {published.name}, {theirs.clips} clips with {theirs.diagonal} on the diagonal, "
            f"gives {', and '.join(wrong)}"
        )
    if _class_order(evaluation.run.classes, published) is None:
        yield f"this run has other classes than {published.name}, which has {', '.join(published.classes)}"
    mixed = [
        item.result.sources
        for item in evaluation.scored
        if recipe_of(item.result.sources) is None and _networks(item.result.sources) in published.fusions
    ]
    if mixed:
        yield f"results that mix recipes are left out: {len(mixed)}, such as {'+'.join(mixed[0])}"


def _commands(rows: tuple[ComparedRow, ...], published: Published, cache: str) -> Iterator[str]:
    """`extract` for the missing networks of each recipe, then `fuse` for all that was missing."""
    missing = [row for row in rows if row.ours is None]
    by_recipe: dict[str, list[str]] = {}
    for row in missing:
        if row.table == NETWORKS:
            for source in _repeats(published, row.networks[0], row.optimizer)[:1]:
                by_recipe.setdefault(source.partition("@")[2], []).append(source)
    for recipe, sources in by_recipe.items():
        whole = len(sources) == len(published.optimizers[recipe])
        which = f"--recipe {recipe}" if whole else " ".join(f"--source {source}" for source in sources)
        yield f"moodfuse extract DATA --cache {cache} {which}"
    if missing:
        yield f"moodfuse fuse --cache {cache} {published.fuse_options}"


def comparison_table(comparison: Comparison) -> str:
    """The rows as CSV, one line for each published and each of ours; rows that are missing have none.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
        `sources` is without recipes; `low` and `high` are the 95 % interval of the accuracy; `protocol` is that of our
        rows, ``LEAKY`` where the run measures a leak. The unknown is empty.
    """
    columns = ["table", "optimizer", "sources", "who", "protocol", "recipe", "head", "level", "clips"]
    columns += ["accuracy", "low", "high", "macro_f1", "auc"]
    protocol = comparison.evaluation.marker or comparison.evaluation.run.protocol
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n", restval="")
    writer.writeheader()
    written: set[tuple[str, ...]] = set()
    for row in comparison.rows:
        common = {"table": row.table, "optimizer": row.optimizer, "sources": "+".join(row.networks)}
        key = tuple(common.values())
        if row.published is not None and key not in written:
            written.add(key)
            writer.writerow({**common, **_their_values(row.published, row.table, comparison.published)})
        if row.ours is not None:
            writer.writerow({**common, "protocol": protocol, **_our_values(row.ours)})
    return text.getvalue()


def comparison_name(comparison: Comparison) -> str:
    """Name of the file of a comparison; that of a leaky run says so."""
    mark = f"-{comparison.evaluation.marker}" if comparison.evaluation.marker else ""
    return f"comparison-{comparison.published.name}{mark}.csv"


def _their_values(score: PublishedScore, table: str, published: Published) -> dict[str, object]:
    fused = {"head": published.head, "level": published.level} if table == FUSION else {"head": NETWORK}
    values = {"accuracy": score.accuracy, "macro_f1": score.macro_f1, "auc": score.auc}
    return {"who": published.name, "clips": published.clips, **fused, **values}


def _our_values(item: ResultScore) -> dict[str, object]:
    total, result = item.score, item.result
    ends = total.accuracy_ci95
    numbers = {"accuracy": total.accuracy, "low": ends.low, "high": ends.high}
    numbers |= {"macro_f1": total.macro_f1, "auc": total.auc}
    return {
        "who": OURS,
        "recipe": recipe_of(result.sources),
        "head": result.head,
        "level": result.level,
        "clips": total.clips,
        **{name: "" if math.isnan(value) else round(value, 6) for name, value in numbers.items()},
    }
