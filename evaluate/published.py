"""Published results, and a run compared with them row by row.

A published network is compared with the network's own softmax under the recipes that repeat its optimizer; the network
under any other recipe gets a row of its own. A published fusion is compared with the published head and level under
each recipe, or with all heads of a recipe without these. Rows have a fixed order; none is selected by its score.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.runs import NETWORK, result_name
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.results import ResultScore

NETWORKS, FUSION = "networks", "fusion"
OURS = "ours"
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "": "other"}
"""Names of optimizers as tables show them; ``other`` is a row of another recipe."""
Matrix = tuple[tuple[int, ...], ...]
"""Clips by true class (rows) and predicted class (columns)."""


class PublishedScore(NamedTuple):
    """Accuracy, macro F1 and area under the curve of one published row, each in [0, 1]."""

    accuracy: float
    macro_f1: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published results: networks by (network, optimizer), fusions by their sorted networks.

    `optimizers` maps our recipes to the optimizer of each network: those that repeat a row, the one to run first.
    `matrix` is the confusion matrix of the fusion `matrix_of`; `head` and `level` are our names of the fusion method,
    and `fuse_options` repeat the fusions.
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
    fuse_options: str
    caveats: tuple[str, ...]

    def recipes(self, network: str, optimizer: str) -> list[str]:
        """Recipes that repeat a published network row."""
        return [name for name, chosen in self.optimizers.items() if chosen.get(network) == optimizer]


_OPTIMIZERS = {
    "adam": {"onedmcnn": "adam", "twodmcnn": "adam", "c3d": "adam", "i3d": "adam"},
    "sgd": {"onedmcnn": "sgd", "twodmcnn": "sgd", "c3d": "sgd", "i3d": "sgd"},
    "mixed": {"onedmcnn": "adam", "twodmcnn": "sgd", "c3d": "sgd", "i3d": "adam"},
}
ZHOU2022 = Published(
    name="zhou2022",
    citation="Zhou Ping 2022, 基于多模态深度学习的音乐情感分类算法, 2095-2163(2022)09-0110-05, tables 1 to 3",
    clips=503,
    classes=("excited", "fear", "neutral", "relaxation", "sad", "tension"),
    networks={
        ("onedmcnn", "adam"): PublishedScore(0.45, 0.41, 0.76),
        ("twodmcnn", "adam"): PublishedScore(0.65, 0.65, 0.92),
        ("c3d", "adam"): PublishedScore(0.64, 0.64, 0.90),
        ("i3d", "adam"): PublishedScore(0.66, 0.66, 0.90),
        ("onedmcnn", "sgd"): PublishedScore(0.42, 0.37, 0.73),
        ("twodmcnn", "sgd"): PublishedScore(0.73, 0.72, 0.93),
        ("c3d", "sgd"): PublishedScore(0.64, 0.64, 0.89),
        ("i3d", "sgd"): PublishedScore(0.60, 0.59, 0.88),
    },
    optimizers={
        "zhou2022-adam": _OPTIMIZERS["adam"],
        "zhou2022-sgd": _OPTIMIZERS["sgd"],
        "zhou2022": _OPTIMIZERS["mixed"],
        # Names of these recipes in runs of older versions.
        "seed-adam": _OPTIMIZERS["adam"],
        "seed-sgd": _OPTIMIZERS["sgd"],
        "seed": _OPTIMIZERS["mixed"],
    },
    fusions={
        ("c3d", "onedmcnn"): PublishedScore(0.73, 0.70, 0.92),
        ("i3d", "onedmcnn"): PublishedScore(0.70, 0.69, 0.93),
        ("c3d", "twodmcnn"): PublishedScore(0.85, 0.84, 0.98),
        ("i3d", "twodmcnn"): PublishedScore(0.84, 0.84, 0.98),
        ("c3d", "i3d", "onedmcnn", "twodmcnn"): PublishedScore(0.86, 0.88, 0.99),
    },
    matrix_of=("c3d", "i3d", "onedmcnn", "twodmcnn"),
    matrix=(
        (72, 3, 7, 0, 5, 0),
        (4, 68, 6, 3, 0, 0),
        (2, 3, 69, 3, 4, 0),
        (2, 1, 3, 85, 7, 1),
        (3, 1, 8, 7, 63, 3),
        (2, 1, 1, 1, 3, 62),
    ),
    head="softmax",
    level="embedding",
    fuse_options="--combine zhou2022 --head softmax --level embedding",
    caveats=(
        "zhou2022 tuned its networks before its cross-validation, not inside it",
        "the confusion matrix of zhou2022, 503 clips with 419 on the diagonal, gives accuracy 0.833, not the stated "
        "0.86, and macro F1 0.835, not the stated 0.88",
    ),
)
COMPARISONS: dict[str, Published] = {ZHOU2022.name: ZHOU2022}
"""Name of a comparison, as `--compare` takes it -> its numbers."""
OLD_NAMES = {"seed": "zhou2022"}


@dataclass(frozen=True)
class ClassCounts:
    """A confusion matrix: whose (`OURS` or published), of which head, level and recipe."""

    who: str
    how: str
    counts: Matrix

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(np.sum(self.counts))

    @property
    def accuracy(self) -> float:
        """Accuracy computed from the counts."""
        return float(np.trace(self.counts) / self.clips)


class ComparedRow(NamedTuple):
    """A published row, one of ours, or both; `table` is `NETWORKS` or `FUSION`, `networks` are without recipes.

    `optimizer` is empty where it is not published.
    """

    table: str
    networks: tuple[str, ...]
    optimizer: str
    published: PublishedScore | None
    ours: ResultScore | None


@dataclass(frozen=True)
class Comparison:
    """A run compared with published results; a published row is repeated for each of ours.

    `matrices` are the published one, then ours for each recipe; `commands` make the rows missing in the run.
    """

    published: Published
    evaluation: Evaluation
    rows: tuple[ComparedRow, ...]
    matrices: tuple[ClassCounts, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the CSV file, marked for a leaky run."""
        mark = f"-{self.evaluation.marker}" if self.evaluation.marker else ""
        return f"comparison-{self.published.name}{mark}.csv"


def find_published(name: str) -> Published:
    """Published results by name; raise `UnknownNameError` with the known names."""
    name = OLD_NAMES.get(name, name)
    if name not in COMPARISONS:
        raise UnknownNameError("comparison", name, tuple(COMPARISONS))
    return COMPARISONS[name]


def compare_with(evaluation: Evaluation, published: Published, *, cache: str = "DIR") -> Comparison:
    """Compare a scored run with published results; `cache` is the folder in the commands for missing rows."""
    rows = (*_network_rows(evaluation, published), *_fusion_rows(evaluation, published))
    matrix = ClassCounts(published.name, f"{published.head}/{published.level}", published.matrix)
    matrices = (matrix, *_our_matrices(rows, published))
    notes, commands = _notes(evaluation, published), _commands(rows, published, cache)
    return Comparison(published, evaluation, rows, matrices, tuple(notes), tuple(commands))


def recipe_of(sources: tuple[str, ...]) -> str | None:
    """The recipe that all sources share, ``"default"`` where their names have none; `None` where they differ."""
    recipes = {source.partition("@")[2] or "default" for source in sources}
    return recipes.pop() if len(recipes) == 1 else None


def _networks(sources: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(source.partition("@")[0] for source in sources))


def _network_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    own = {item.result.sources[0]: item for item in evaluation.scored if item.is_network}
    used: set[str] = set()
    for (network, optimizer), score in published.networks.items():
        sources = [f"{network}@{recipe}" for recipe in published.recipes(network, optimizer)]
        used.update(sources)
        matches: list[ResultScore | None] = [own[source] for source in sources if source in own]
        for item in matches or [None]:
            yield ComparedRow(NETWORKS, (network,), optimizer, score, item)
    for network in dict.fromkeys(network for network, _ in published.networks):
        for source in sorted(set(own) - used):
            if source.partition("@")[0] == network:
                yield ComparedRow(NETWORKS, (network,), "", None, own[source])


def _fusion_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    for networks, score in published.fusions.items():
        by_sources: dict[tuple[str, ...], list[ResultScore]] = {}
        for item in evaluation.scored:
            sources = item.result.sources
            if not item.is_network and recipe_of(sources) and _networks(sources) == networks:
                by_sources.setdefault(sources, []).append(item)
        matches: list[ResultScore | None] = []
        for sources in sorted(by_sources):
            items = by_sources[sources]
            name = result_name(sources, published.head, published.level)
            matches += [item for item in items if item.result.name == name] or items
        for match in matches or [None]:
            yield ComparedRow(FUSION, networks, "", score, match)


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
            how = f"{result.head}/{result.level}, {recipe}"
            yield ClassCounts(OURS, how, tuple(map(tuple, counts.tolist())))


def _class_order(classes: tuple[str, ...], published: Published) -> list[int] | None:
    """Our index of each published class, ignoring case; `None` where the classes differ."""
    names = [label.casefold() for label in classes]
    if sorted(names) != sorted(published.classes):
        return None
    return [names.index(label) for label in published.classes]


def _notes(evaluation: Evaluation, published: Published) -> Iterator[str]:
    yield (
        f"the {published.clips} clips of {published.name} and our {len(evaluation.run.ids)} are different data sets: "
        "differences are not tested, and the rows do not rank the methods"
    )
    yield from published.caveats
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
    """`extract` for the missing networks of each recipe, then `fuse` if anything was missing."""
    missing = [row for row in rows if row.ours is None]
    by_recipe: dict[str, list[str]] = {}
    for row in missing:
        if row.table == NETWORKS:
            for recipe in published.recipes(row.networks[0], row.optimizer)[:1]:
                by_recipe.setdefault(recipe, []).append(f"{row.networks[0]}@{recipe}")
    for recipe, sources in by_recipe.items():
        whole = len(sources) == len(published.optimizers[recipe])
        which = f"--recipe {recipe}" if whole else " ".join(f"--source {source}" for source in sources)
        yield f"moodfuse extract DATA --cache {cache} {which}"
    if missing:
        yield f"moodfuse fuse --cache {cache} {published.fuse_options}"


def comparison_csv(comparison: Comparison) -> str:
    """The rows as CSV, one line per published row and one per result of ours.

    `sources` is without recipes; `low` and `high` are the 95 % interval of the accuracy; `protocol` is that of our
    rows, ``LEAKY`` for a leaky run. Unknown values are empty.
    """
    columns = ["table", "optimizer", "sources", "who", "protocol", "recipe", "head", "level", "clips"]
    columns += ["accuracy", "low", "high", "macro_f1", "auc"]
    published, evaluation = comparison.published, comparison.evaluation
    protocol = evaluation.marker or evaluation.run.protocol
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n", restval="")
    writer.writeheader()
    written = None
    for row in comparison.rows:
        common = {"table": row.table, "optimizer": row.optimizer, "sources": "+".join(row.networks)}
        if row.published is not None and written != common:
            written = common
            head = (
                {"head": published.head, "level": published.level}
                if row.table == FUSION
                else {"head": NETWORK}
            )
            values = {"who": published.name, "clips": published.clips, **row.published._asdict()}
            writer.writerow({**common, **head, **values})
        if row.ours is not None:
            writer.writerow({**common, "protocol": protocol, **_our_values(row.ours)})
    return text.getvalue()


def _our_values(item: ResultScore) -> dict[str, object]:
    total, result = item.score, item.result
    low, high = total.accuracy_ci95.ends
    numbers = {"accuracy": total.accuracy, "low": low, "high": high}
    numbers |= {"macro_f1": total.macro_f1, "auc": total.auc}
    return {
        "who": OURS,
        "recipe": recipe_of(result.sources),
        "head": result.head,
        "level": result.level,
        "clips": total.clips,
        **{name: "" if math.isnan(value) else round(value, 6) for name, value in numbers.items()},
    }
