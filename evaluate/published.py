"""Published results, and a run compared with them row by row.

A published network is compared with the network's own softmax under the recipes that repeat its optimizer;
the network under any other recipe has a row of its own. A published fusion is compared with the published
head and level under each recipe, or with all heads of a recipe without these. Rows have a fixed order; none
is selected by its score.

The published numbers are in `zhou2022.json`. The `recipes` of a network are ours that repeat its row, the one
to run first, and `seed...` in runs of older versions; `head` and `level` are our names of the published
fusion method, which `fuse_options` repeat.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cache.runs import NETWORK, result_name
from moodfuse.evaluate.evaluation import Evaluation, ResultScore

NETWORKS, FUSION = "networks", "fusion"
OURS = "ours"
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "": "other"}
"""Names of optimizers as tables show them; ``other`` is a row of another recipe."""
COLUMNS: tuple[str, ...] = (
    "table",
    "optimizer",
    "sources",
    "who",
    "protocol",
    "recipe",
    "head",
    "level",
    "clips",
)
COLUMNS += ("accuracy", "low", "high", "macro_f1", "auc")
log = logging.getLogger(__name__)
COMPARISONS = ("zhou2022",)
OLD_NAMES = {"seed": "zhou2022"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """Published results, as in `zhou2022.json`; the scores of a row are accuracy, macro F1 and AUC."""

    name: str
    citation: str
    clips: int
    classes: list[str]
    networks: list[dict[str, Any]]
    fusions: Mapping[str, Mapping[str, float]]
    head: str
    level: str
    fuse_options: str
    matrix_of: str
    matrix: list[list[int]]
    caveats: list[str]


class ComparedRow(NamedTuple):
    """A published row, one of ours, or both; `networks` are without recipes.

    `optimizer` is empty where it is not published.
    """

    table: str
    networks: str
    optimizer: str
    published: Mapping[str, float] | None
    ours: ResultScore | None


@dataclass(frozen=True)
class Comparison:
    """A run compared with published results; a published row is repeated for each of ours.

    `commands` make the rows missing in the run.
    """

    published: Published
    evaluation: Evaluation
    rows: list[ComparedRow]
    notes: list[str]
    commands: list[str]

    @property
    def file_name(self) -> str:
        """Name of the CSV file, marked for a leaky run."""
        return "-".join(filter(None, ("comparison", self.published.name, self.evaluation.marker))) + ".csv"


def find_published(name: str) -> Published:
    """Published results by name; raise `UnknownNameError` with the known names."""
    if name in OLD_NAMES:
        log.warning("--compare %s is now called %s", name, OLD_NAMES[name])
        name = OLD_NAMES[name]
    if name not in COMPARISONS:
        raise UnknownNameError("comparison", name, COMPARISONS)
    return Published(**json.loads((files("moodfuse.evaluate") / f"{name}.json").read_text("utf-8")))


def compare_with(evaluation: Evaluation, published: Published, *, cache: str = "DIR") -> Comparison:
    """Compare a scored run with published results; `cache` is the folder in the commands for missing rows."""
    rows = [*_network_rows(evaluation, published), *_fusion_rows(evaluation, published)]
    notes = [
        f"the {published.clips} clips of {published.name} and our {len(evaluation.run.ids)} are different "
        "datasets: differences are not tested, and the rows do not rank the methods",
        *published.caveats,
    ]
    if sorted(label.casefold() for label in evaluation.run.classes) != published.classes:
        notes.append(f"{published.name} has other classes than this run: {', '.join(published.classes)}")
    return Comparison(published, evaluation, rows, notes, _missing_commands(rows, published, cache))


def recipe_of(sources: tuple[str, ...]) -> str | None:
    """The recipe of all sources, ``"default"`` where names have none; `None` where they differ."""
    recipes = {source.partition("@")[2] or "default" for source in sources}
    return recipes.pop() if len(recipes) == 1 else None


def _network_names(sources: tuple[str, ...]) -> str:
    return "+".join(sorted(source.partition("@")[0] for source in sources))


def _network_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    own = {scored.result.sources[0]: scored for scored in evaluation.scored if scored.is_network}
    others = dict(sorted(own.items()))
    for row in published.networks:
        network, optimizer = row["network"], row["optimizer"]
        sources = [f"{network}@{recipe}" for recipe in row["recipes"]]
        matches: list[ResultScore | None] = [others.pop(source) for source in sources if source in own]
        for match in matches or [None]:
            yield ComparedRow(NETWORKS, network, optimizer, row["scores"], match)
    for network in dict.fromkeys(row["network"] for row in published.networks):
        for source, scored in others.items():
            if source.partition("@")[0] == network:
                yield ComparedRow(NETWORKS, network, "", None, scored)


def _fusion_rows(evaluation: Evaluation, published: Published) -> Iterator[ComparedRow]:
    for networks, row in published.fusions.items():
        by_sources: dict[tuple[str, ...], list[ResultScore]] = {}
        for scored in evaluation.scored:
            sources = scored.result.sources
            if not scored.is_network and recipe_of(sources) and _network_names(sources) == networks:
                by_sources.setdefault(sources, []).append(scored)
        matches: list[ResultScore | None] = []
        for sources in sorted(by_sources):
            name = result_name(sources, published.head, published.level)
            same = [scored for scored in by_sources[sources] if scored.result.name == name]
            matches += same or by_sources[sources]
        for match in matches or [None]:
            yield ComparedRow(FUSION, networks, "", row, match)


def _missing_commands(rows: list[ComparedRow], published: Published, cache: str) -> list[str]:
    """`extract` for each recipe that misses networks, then `fuse` if anything is missing."""
    missing = {(row.networks, row.optimizer) for row in rows if row.ours is None}
    recipes = dict.fromkeys(
        row["recipes"][0] for row in published.networks if (row["network"], row["optimizer"]) in missing
    )
    commands = [f"moodfuse extract DATA --cache {cache} --recipe {recipe}" for recipe in recipes]
    return commands + [f"moodfuse fuse --cache {cache} {published.fuse_options}"] * bool(missing)


def comparison_csv(comparison: Comparison) -> str:
    """The rows as CSV, one line per published row and one per result of ours.

    `sources` is without recipes; our `accuracy` is the mean over the fold plans, with its 95 % interval
    `low` to `high`; `protocol` is that of our rows, ``LEAKY`` for a leaky run. Unknown values are empty.
    """
    published, evaluation = comparison.published, comparison.evaluation
    methods = {
        NETWORKS: {"head": NETWORK},
        FUSION: {"head": published.head, "level": published.level},
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    written: dict[str, str] = {}
    for row in comparison.rows:
        names = {"table": row.table, "optimizer": row.optimizer, "sources": row.networks}
        if row.published is not None and written != names:
            written = names
            method = {"who": published.name, "clips": published.clips, **methods[row.table]}
            writer.writerow({**names, **method, **row.published})
        if row.ours is not None:
            result, total = row.ours.result, row.ours.score
            accuracy, interval = row.ours.mean_accuracy
            method = {
                "who": OURS,
                "protocol": evaluation.marker or evaluation.run.protocol,
                "recipe": recipe_of(result.sources),
                "head": result.head,
                "level": result.level,
                "clips": total.clips,
            }
            scores = (accuracy, *interval.ends, total.macro_f1, total.auc)
            rounded = ("" if math.isnan(value) else round(value, 6) for value in scores)
            writer.writerow({**names, **method, **dict(zip(COLUMNS[-5:], rounded, strict=True))})
    return text.getvalue()
