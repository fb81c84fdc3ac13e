"""What stands on the report's page. Pure: `page_of` decides, `moodfuse.evaluate.report.rendering` fills the templates.

The page reads without JavaScript, which adds sorting, the filter, the choice of a result and the lists of clips.
Nothing on it holds a time, so the same evaluation gives the same bytes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.evaluate.compare import Comparison
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.metrics import Floats, class_aucs, macro_roc_curve, roc_curve
from moodfuse.evaluate.report.sentences import (
    PairedGroup,
    Words,
    WorthGroup,
    headline_words,
    paired_groups,
    repeat_commands,
    worth_groups,
)
from moodfuse.evaluate.results import ResultScore
from moodfuse.evaluate.validation import check_labels

PANEL_LIMIT = 12
MISTAKE_LIMIT = 12
THUMBNAIL_LIMIT = 200
COLOURS, STYLES = 8, 4


@dataclass(frozen=True)
class Curve:
    """A ROC curve: `points` as SVG has them, in a square of side 100 with its origin at the top left."""

    label: str
    area: float
    points: str
    colour: int
    style: int


@dataclass(frozen=True)
class Cell:
    """A cell of a confusion matrix; `share` is of the clips of its true class."""

    truth: int
    said: int
    clips: int
    share: float


@dataclass(frozen=True)
class Panel:
    """One result in detail.

    Attributes
    ----------
    id, title : str
    item : ResultScore
    matrix : tuple of tuple of Cell
        A row for each true class.
    curves : tuple of Curve
        Of each class that has one.
    macro : Curve or None
    """

    id: str
    title: str
    item: ResultScore
    matrix: tuple[tuple[Cell, ...], ...]
    curves: tuple[Curve, ...]
    macro: Curve | None


@dataclass(frozen=True)
class Mistake:
    """A clip whose most probable class is not the true one; `row` is its place in the run."""

    row: int
    clip: str
    truth: str
    said: str
    confidence: float
    of_truth: float


@dataclass(frozen=True)
class ClipLine:
    """A clip and what the best result says of it; `digest` is empty where the run kept none."""

    id: str
    label: str
    said: str
    confidence: float
    group: str
    fold: int
    missing: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Page:
    """All that stands on the page.

    Attributes
    ----------
    evaluation : Evaluation
    comparison : Comparison or None
    words : Words
    rows : tuple of ResultScore
        Better results first.
    paired : tuple of PairedGroup
    worth : tuple of WorthGroup
    panels : tuple of Panel
        The best result, each network, and the best of each head and level.
    mistakes : tuple of Mistake
        The best result's, the most confident first.
    clips : tuple of ClipLine
    thumbnails : mapping of int to str
        Data URI by place of the clip in the run.
    commands : tuple of str
    """

    evaluation: Evaluation
    comparison: Comparison | None
    words: Words
    rows: tuple[ResultScore, ...]
    paired: tuple[PairedGroup, ...]
    worth: tuple[WorthGroup, ...]
    panels: tuple[Panel, ...]
    mistakes: tuple[Mistake, ...]
    clips: tuple[ClipLine, ...]
    thumbnails: Mapping[int, str]
    commands: tuple[str, ...]

    @property
    def has_repeats(self) -> bool:
        """Whether cross-validation was repeated."""
        return any(item.repeated is not None and item.repeated.repeats > 1 for item in self.rows)

    @property
    def has_missing(self) -> bool:
        """Whether some clips lack a view and some do not."""
        return any(item.complete is not None for item in self.rows)

    @property
    def data(self) -> dict[str, object]:
        """What the page's script needs: clips, classes, predictions, and the thumbnails not shown elsewhere."""
        run = self.evaluation.run
        shown = {mistake.row for mistake in self.mistakes}
        return {
            "classes": [printable(name) for name in run.classes],
            "clips": [printable(name) for name in run.ids],
            "truth": [run.classes.index(label) for label in run.labels],
            "said": {panel.id: said_by(panel.item).tolist() for panel in self.panels},
            "sure": {panel.id: confidence_of(panel.item).round(3).tolist() for panel in self.panels},
            "pictures": bool(self.thumbnails),
            "thumbnails": {str(row): uri for row, uri in sorted(self.thumbnails.items()) if row not in shown},
        }


def page_of(
    evaluation: Evaluation,
    *,
    comparison: Comparison | None = None,
    thumbnails: Mapping[int, str] | None = None,
) -> Page:
    """Decide what stands on the page of an evaluation.

    Parameters
    ----------
    evaluation : Evaluation
    comparison : Comparison, optional
        Published figures to stand beside ours.
    thumbnails : mapping of int to str, optional
        Data URIs by place of the clip in the run; clips without one get a placeholder. None at all if left out.
    """
    return Page(
        evaluation=evaluation,
        comparison=comparison,
        words=headline_words(evaluation),
        rows=tuple(sorted(evaluation.scored, key=lambda item: item.rank)),
        paired=paired_groups(evaluation),
        worth=worth_groups(evaluation),
        panels=tuple(
            _panel(f"p{number}", item, evaluation) for number, item in enumerate(detailed_results(evaluation))
        ),
        mistakes=confident_mistakes(evaluation),
        clips=tuple(_clip_lines(evaluation)),
        thumbnails=dict(thumbnails or {}),
        commands=repeat_commands(evaluation),
    )


def detailed_results(evaluation: Evaluation) -> tuple[ResultScore, ...]:
    """The best result, each network, and the best of each head and level: `PANEL_LIMIT` at most."""
    ways: dict[tuple[str, str], ResultScore] = {}
    for item in sorted((*evaluation.single_heads, *evaluation.fusions), key=lambda item: item.rank):
        ways.setdefault((item.result.head, item.result.level), item)
    chosen = {item.result.name: item for item in (evaluation.best, *evaluation.networks, *ways.values())}
    return tuple(chosen.values())[:PANEL_LIMIT]


def said_by(item: ResultScore) -> np.ndarray:
    """Index of the most probable class of each clip, int [N]."""
    return np.asarray(item.result.probabilities.argmax(axis=1))


def confidence_of(item: ResultScore) -> np.ndarray:
    """Probability of the most probable class of each clip, float64 [N]."""
    return np.asarray(item.result.probabilities.max(axis=1))


def confident_mistakes(evaluation: Evaluation, *, limit: int = MISTAKE_LIMIT) -> tuple[Mistake, ...]:
    """The best result's most confident mistakes, equals in the order of the run."""
    run, item = evaluation.run, evaluation.best
    _, truth = check_labels(run.labels, run.classes, item.result.probabilities.shape)
    said, sure = said_by(item), confidence_of(item)
    wrong = np.flatnonzero(said != truth)
    ordered = wrong[np.argsort(-sure[wrong], kind="stable")][:limit]
    of_truth = item.result.probabilities[np.arange(len(truth)), truth]
    return tuple(
        Mistake(
            int(row),
            run.ids[row],
            run.labels[row],
            run.classes[said[row]],
            float(sure[row]),
            float(of_truth[row]),
        )
        for row in ordered
    )


def _clip_lines(evaluation: Evaluation) -> Iterator[ClipLine]:
    run, item = evaluation.run, evaluation.best
    said, sure = said_by(item), confidence_of(item)
    for row, name in enumerate(run.ids):
        yield ClipLine(
            id=name,
            label=run.labels[row],
            said=run.classes[said[row]],
            confidence=float(sure[row]),
            group=run.groups[row],
            fold=run.folds[row],
            missing=run.missing[row] if run.missing else (),
            digest=run.digests[row] if run.digests else "",
        )


def pictured_clips(evaluation: Evaluation, *, limit: int = THUMBNAIL_LIMIT) -> tuple[int, ...]:
    """Clips that get a thumbnail, as places in the run: the mistakes shown, then the wrong ones, then the others."""
    run = evaluation.run
    _, truth = check_labels(run.labels, run.classes, (len(run.ids), len(run.classes)))
    wrong = np.flatnonzero(said_by(evaluation.best) != truth).tolist()
    shown = [mistake.row for mistake in confident_mistakes(evaluation)]
    return tuple(dict.fromkeys((*shown, *wrong, *range(len(run.ids)))))[:limit]


def _panel(name: str, item: ResultScore, evaluation: Evaluation) -> Panel:
    run, result = evaluation.run, item.result
    _, truth = check_labels(run.labels, run.classes, result.probabilities.shape)
    counts = item.score.confusion_matrix
    totals = np.maximum(counts.sum(axis=1), 1)
    matrix = tuple(
        tuple(Cell(row, column, int(count), float(count / totals[row])) for column, count in enumerate(line))
        for row, line in enumerate(counts)
    )
    areas = class_aucs(truth, result.probabilities)
    curves = tuple(
        Curve(
            label,
            float(area),
            _points(*roc_curve(truth, result.probabilities, index)),
            index % COLOURS,
            index // 2 % STYLES,
        )
        for index, (label, area) in enumerate(zip(run.classes, areas, strict=True))
        if not math.isnan(area)
    )
    macro = _points(*macro_roc_curve(truth, result.probabilities)) if curves else ""
    title = result.name + (" (best)" if item is evaluation.best else "")
    mean = Curve("mean of all", item.score.auc, macro, 0, 0) if curves else None
    return Panel(name, title, item, matrix, curves, mean)


def _points(across: Floats, up: Floats) -> str:
    """Corners of a curve in the unit square, as SVG has them; points on a straight line are left out."""
    corners: list[tuple[float, float]] = []
    for point in zip((100 * across).round(1).tolist(), (100 - 100 * up).round(1).tolist(), strict=True):
        while len(corners) >= 2 and _straight(corners[-2], corners[-1], point):
            corners.pop()
        if not corners or corners[-1] != point:
            corners.append(point)
    return " ".join(f"{x:g},{y:g}" for x, y in corners)


def _straight(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    return any(first[axis] == middle[axis] == last[axis] for axis in (0, 1))
