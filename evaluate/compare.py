"""A run beside published figures, row by row. Pure: what to print is decided here, `evaluate.tables` prints it.

Networks are compared by their own softmax, under the recipe that repeats the published optimizer; a network under any
other recipe gets a row of its own. Of a fusion the rows with the published head and level are shown, and all rows
where there is none; never the best by score.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from cache.errors import UnknownNameError
from evaluate.report import Evaluation, ResultScore

COMPARISONS = {"seed": "evaluate.seed_tables:SEED"}
"""Name of a comparison -> where its figures stand."""
NETWORKS, FUSION = "networks", "fusion"
Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PublishedScore:
    """One published row: accuracy, macro F1 and area under the curve."""

    accuracy: float
    macro_f1: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published figures.

    Attributes
    ----------
    name, citation : str
    clips : int
        Clips that every figure stands on.
    classes : tuple of str
        Class axis of `matrix`.
    networks : mapping of (network, optimizer) to PublishedScore
    optimizers : mapping of recipe to mapping of network to optimizer
        Which of our recipes repeats which published row.
    fusions : mapping of sorted networks to PublishedScore
    matrix_of : tuple of str
        The fusion whose confusion matrix is published.
    matrix : tuple of tuple of int
        Counts, true class by predicted class.
    head, level : str
        How the published fusions were made.
    caveats : tuple of str
    """

    name: str
    citation: str
    clips: int
    classes: tuple[str, ...]
    networks: Mapping[tuple[str, str], PublishedScore]
    optimizers: Mapping[str, Mapping[str, str]]
    fusions: Mapping[tuple[str, ...], PublishedScore]
    matrix_of: tuple[str, ...]
    matrix: Matrix
    head: str
    level: str
    caveats: tuple[str, ...]

    @property
    def matrix_accuracy(self) -> float:
        """What the published confusion matrix itself says."""
        counts = np.array(self.matrix)
        return float(np.trace(counts) / counts.sum())


@dataclass(frozen=True)
class ComparedRow:
    """A published row, ours beside it, or both.

    Attributes
    ----------
    table : str
        ``"networks"`` or ``"fusion"``.
    sources : tuple of str
        Networks, without recipes.
    optimizer : str
        The published optimizer; empty where the row is none of the published.
    published : PublishedScore or None
    ours : ResultScore or None
    """

    table: str
    sources: tuple[str, ...]
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
    matrix : ResultScore or None
        Our result whose confusion matrix stands beside the published one.
    notes : tuple of str
    """

    published: Published
    evaluation: Evaluation
    rows: tuple[ComparedRow, ...]
    matrix: ResultScore | None
    notes: tuple[str, ...] = field(default=())


def find_published(name: str) -> Published:
    """Published figures by name.

    Raises
    ------
    UnknownNameError
        If there are none of this name; the known ones are listed.
    """
    if name not in COMPARISONS:
        raise UnknownNameError("comparison", name, tuple(COMPARISONS))
    module, _, attribute = COMPARISONS[name].partition(":")
    found: Published = getattr(importlib.import_module(module), attribute)
    return found


def compare(evaluation: Evaluation, published: Published) -> Comparison:
    """Put a scored run beside published figures.

    Parameters
    ----------
    evaluation : Evaluation
    published : Published
    """
    rows = (*_network_rows(evaluation, published), *_fusion_rows(evaluation, published))
    candidates = [row.ours for row in rows if row.sources == published.matrix_of and row.ours is not None]
    same_classes = [label.casefold() for label in evaluation.run.classes] == list(published.classes)
    notes = [*published.caveats]
    stated = published.fusions[published.matrix_of].accuracy
    if abs(stated - published.matrix_accuracy) > 0.005:
        diagonal = sum(row[index] for index, row in enumerate(published.matrix))
        notes.append(
            f"the published confusion matrix holds {sum(map(sum, published.matrix))} clips, {diagonal} on the "
            f"diagonal: accuracy {published.matrix_accuracy:.3f}, not the {stated:.2f} that its table states"
        )
    if not same_classes:
        notes.append(f"this run has other classes than the published ones ({', '.join(published.classes)})")
    if any(row.ours is None for row in rows):
        notes.append(
            "rows without ours: run moodfuse extract with --recipe seed-adam, and again with --recipe seed-sgd, into "
            "this cache, then moodfuse fuse --combine seed"
        )
    return Comparison(published, evaluation, rows, candidates[0] if candidates and same_classes else None, tuple(notes))


def _networks(sources: tuple[str, ...]) -> tuple[str, ...] | None:
    """Networks of a combination, sorted; `None` where its sources do not share one recipe."""
    recipes = {source.partition("@")[2] for source in sources}
    return tuple(sorted(source.partition("@")[0] for source in sources)) if len(recipes) == 1 else None


def _network_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    own = {item.result.sources[0]: item for item in evaluation.networks if len(item.result.sources) == 1}
    taken: set[str] = set()
    for (network, optimizer), score in published.networks.items():
        recipes = [name for name, chosen in published.optimizers.items() if chosen.get(network) == optimizer]
        found = [f"{network}@{recipe}" for recipe in recipes if f"{network}@{recipe}" in own]
        taken.update(found)
        matches: list[ResultScore | None] = [own[source] for source in found]
        for item in matches or [None]:
            yield ComparedRow(NETWORKS, (network,), optimizer, score, item)
    for source in sorted(set(own) - taken):
        yield ComparedRow(NETWORKS, (source.partition("@")[0],), "", None, own[source])


def _fusion_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    for sources, score in published.fusions.items():
        alike = [item for item in evaluation.fusions if _networks(item.result.sources) == sources]
        exact = [item for item in alike if (item.result.head, item.result.level) == (published.head, published.level)]
        matches: list[ResultScore | None] = [*(exact or alike)]
        for item in matches or [None]:
            yield ComparedRow(FUSION, sources, "", score, item)


def comparison_table(comparison: Comparison) -> str:
    """The rows as CSV, one line for each published and each of ours."""
    columns = ["table", "optimizer", "networks", "who", "sources", "head", "level", "clips"]
    columns += ["accuracy", "accuracy_ci95_low", "accuracy_ci95_high", "macro_f1", "auc"]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n", restval="")
    writer.writeheader()
    written: set[tuple[object, ...]] = set()
    for row in comparison.rows:
        common = {"table": row.table, "optimizer": row.optimizer, "networks": "+".join(row.sources)}
        key = tuple(common.values())
        if row.published is not None and key not in written:
            written.add(key)
            values = {"accuracy": row.published.accuracy, "macro_f1": row.published.macro_f1, "auc": row.published.auc}
            writer.writerow({**common, "who": comparison.published.name, "clips": comparison.published.clips, **values})
        if row.ours is not None:
            writer.writerow({**common, **_ours(row.ours)})
    return text.getvalue()


def _ours(item: ResultScore) -> dict[str, object]:
    total, result = item.score, item.result
    return {
        "who": "ours",
        "sources": "+".join(result.sources),
        "head": result.head,
        "level": result.level,
        "clips": total.clips,
        "accuracy": round(total.accuracy, 6),
        "accuracy_ci95_low": round(total.accuracy_ci95.low, 6),
        "accuracy_ci95_high": round(total.accuracy_ci95.high, 6),
        "macro_f1": round(total.macro_f1, 6),
        "auc": round(total.auc, 6),
    }
