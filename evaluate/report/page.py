"""The HTML page of a report: one self-contained file with its own charts, tables and thumbnails of clips.

The page reads without JavaScript, which adds sorting, the filter, the selection of a result and lists of
clips.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from moodfuse.cache.console import printable
from moodfuse.cache.media import read_frame
from moodfuse.cache.recipe import MODALITY_NAMES
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Evaluation, ResultScore, run_labels
from moodfuse.evaluate.markup import page_assets, percent, report_style
from moodfuse.evaluate.metrics import Floats, Labels, macro_roc_curve, roc_curve
from moodfuse.evaluate.paired import SourceImportance
from moodfuse.evaluate.published import OPTIMIZERS, Comparison
from moodfuse.evaluate.report.text import TEMPLATES, interval_text, render_report
from moodfuse.evaluate.rows import SHORT_TABLE, axis_limits, group_by_sources, head_name, list_heads

PANEL_LIMIT = 12
MISTAKE_LIMIT = 12
THUMBNAIL_LIMIT = 200
THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT, JPEG_QUALITY = 160, 240, 60
MIDDLE_FRAME = 16


class Curve(NamedTuple):
    """A ROC curve: `points` of an SVG polyline, in a square of side 100 with its origin at the top left."""

    label: str
    area: float
    points: str
    style: str


class AblationMark(NamedTuple):
    """A result in the ablation figure: its place and those of its interval in %, `None` where not defined."""

    series: int
    x: float | None
    low: float | None
    high: float | None
    title: str


class AblationRow(NamedTuple):
    """The results of one combination of sources, and a label for screen readers."""

    sources: tuple[str, ...]
    label: str
    marks: list[AblationMark]


class AblationChart(NamedTuple):
    """The ablation figure; `ticks` are the labels and places of its axis."""

    heads: list[str]
    rows: list[AblationRow]
    ticks: list[tuple[str, float | None]]
    baseline: float | None
    subset: str


def render_page(
    evaluation: Evaluation,
    *,
    comparison: Comparison | None = None,
    thumbnails: Mapping[int, str] | None = None,
) -> str:
    """The page as HTML; only its own script may run, and nothing may be loaded.

    `thumbnails` are data URIs by row of the run; if there are any, other clips get a placeholder.
    """
    run, best = evaluation.run, evaluation.best.result.probabilities
    labels, images = run_labels(run), dict(thumbnails or {})
    results, wrong = detailed_results(evaluation), wrong_rows(evaluation)
    mistakes = wrong[:MISTAKE_LIMIT]
    tables = [scored.result.probabilities for scored in results]
    script_values = {
        "classes": [printable(name) for name in run.classes],
        "clips": [printable(name) for name in run.ids],
        "true": labels.tolist(),
        "predicted": [table.argmax(axis=1).tolist() for table in tables],
        "confidence": [table.max(axis=1).round(3).tolist() for table in tables],
        "pictures": bool(images),
        "thumbnails": {str(row): uri for row, uri in sorted(images.items()) if row not in mistakes},
    }
    return render_report(
        "report.html.j2",
        evaluation,
        **page_assets(report_style(), (TEMPLATES / "report.js").read_text("utf-8")),
        ablation=_ablation_chart(evaluation),
        rows_open=SHORT_TABLE,
        wrong_count=len(wrong),
        results=results,
        curves=[_curves(scored, labels) for scored in results],
        reach=_chart_reach(evaluation.importance),
        has_notes=any(scored.result.notes for scored in evaluation.scored),
        has_missing=any(scored.complete for scored in evaluation.scored),
        predicted=[run.classes[index] for index in best.argmax(axis=1)],
        confidence=best.max(axis=1).tolist(),
        label_probability=best[np.arange(len(labels)), labels].tolist(),
        missing=[", ".join(MODALITY_NAMES.get(name, name) for name in names) for names in run.missing],
        mistakes=mistakes,
        thumbnails=images,
        comparison=comparison,
        optimizers=OPTIMIZERS,
        data=script_values,
    )


def detailed_results(evaluation: Evaluation) -> tuple[ResultScore, ...]:
    """The best result, each network, and the best of each head and level: `PANEL_LIMIT` at most."""
    networks = [scored for scored in evaluation.ranked if scored.is_network]
    by_head: dict[tuple[str, str], ResultScore] = {}
    for scored in evaluation.ranked:
        if not scored.is_network:
            by_head.setdefault((scored.result.head, scored.result.level), scored)
    results = (evaluation.best, *networks, *by_head.values())
    return tuple({scored.result.name: scored for scored in results}.values())[:PANEL_LIMIT]


def wrong_rows(evaluation: Evaluation) -> list[int]:
    """Rows of the clips that the best result classifies wrongly, the most confident first."""
    table = evaluation.best.result.probabilities
    wrong = np.flatnonzero(table.argmax(axis=1) != run_labels(evaluation.run))
    return [int(row) for row in wrong[np.argsort(-table.max(axis=1)[wrong], kind="stable")]]


def _ablation_chart(evaluation: Evaluation) -> AblationChart:
    """The ablation figure, with places in %."""
    rows = evaluation.figure_rows
    low, high = axis_limits(evaluation)

    def place(value: float) -> float | None:
        return None if math.isnan(value) else round(100 * (value - low) / (high - low), 2)

    heads = list_heads(rows)
    groups = []
    for group in group_by_sources(rows):
        marks = []
        for one in group:
            value, interval = one.mean_accuracy
            head = one.result.head, one.result.level
            title = f"{head_name(head)} {percent(value)} ({interval_text(interval)})"
            places = [place(number) for number in (value, *interval.ends)]
            marks.append(AblationMark(heads.index(head), places[0], places[1], places[2], title))
        label = f"{'+'.join(group[0].result.sources)}: {', '.join(one.title for one in marks)}"
        groups.append(AblationRow(group[0].result.sources, label, marks))
    ticks = [(str(tick), place(tick / 100)) for tick in range(round(100 * low), round(100 * high) + 1, 10)]
    names = [head_name(head) for head in heads]
    total = len(evaluation.scored)
    subset = "" if len(rows) == total else f": {len(rows)} of {total} results"
    return AblationChart(names, groups, ticks, place(evaluation.majority[1]), subset)


def _chart_reach(importance: Iterable[SourceImportance]) -> float:
    """Largest distance from zero of any value or interval of the sources' importance, at least 0.1."""
    numbers = [(row.shapley, *row.shapley_ci95.ends, row.drop, *row.drop_ci95.ends) for row in importance]
    return max(0.1, float(np.nanmax(np.abs(numbers), initial=0.0)))


def _curves(scored: ResultScore, labels: Labels) -> list[Curve]:
    """ROC curve of each class that has one, and their mean."""
    table = scored.result.probabilities
    curves = [
        Curve(
            one.label,
            one.auc,
            _svg_points(*roc_curve(labels, table, index)),
            f"c{index % 8} d{index // 2 % 4}",
        )
        for index, one in enumerate(scored.per_class)
        if not math.isnan(one.auc)
    ]
    if curves:
        points = _svg_points(*macro_roc_curve(labels, table))
        curves.append(Curve("macro average", scored.score.auc, points, "macro"))
    return curves


def _svg_points(across: Floats, up: Floats) -> str:
    """Points of a curve in the unit square; equal neighbours are left out."""
    points = [f"{x:g},{y:g}" for x, y in zip((100 * across).round(1), (100 - 100 * up).round(1), strict=True)]
    return " ".join(dict.fromkeys(points))


def read_thumbnails(cache: FeatureCache, evaluation: Evaluation) -> dict[int, str]:
    """Middle frames of at most `THUMBNAIL_LIMIT` clips as data URIs by row, wrong predictions first.

    A clip without media or video in the cache, or whose file has changed since the run, has none.
    """
    run = evaluation.run
    statuses = {status.clip.id: status for status in (cache.clips if cache.plans else ())}
    rows = list(dict.fromkeys((*wrong_rows(evaluation), *range(len(run.ids)))))[:THUMBNAIL_LIMIT]
    uris = {}
    for row in rows:
        status = statuses.get(run.ids[row])
        if status is None or (run.digests and status.digest != run.digests[row]):
            continue
        frame = read_frame(cache.path / "media", status.digest, MIDDLE_FRAME)
        if frame is not None:
            uris[row] = data_uri(*frame)
    return uris


def data_uri(frame: np.ndarray, shape_hw: tuple[int, int] | None = None) -> str:
    """A frame, uint8 [H, W, 3] in RGB, as a JPEG data URI, in the aspect ratio of `shape_hw` if given."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    if shape_hw is not None and shape_hw != frame.shape[:2]:
        image = image.resize(shape_hw[::-1], Image.Resampling.LANCZOS)
    image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
