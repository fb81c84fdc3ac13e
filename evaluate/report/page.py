"""The HTML page of a report: one self-contained file with its own charts, tables and thumbnails of clips.

The page reads without JavaScript, which adds sorting, the filter, the selection of a result and lists of clips.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moodfuse.cache.console import printable
from moodfuse.cache.media import kept_frame
from moodfuse.cache.runs import Run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Evaluation, Tick
from moodfuse.evaluate.markup import page_assets, render, report_style
from moodfuse.evaluate.metrics import Floats, macro_roc_curve, roc_curve
from moodfuse.evaluate.published import OPTIMIZERS, Comparison
from moodfuse.evaluate.report.text import TEMPLATES, design_of, repeat_commands, summarize
from moodfuse.evaluate.results import ResultScore, run_labels

PANEL_LIMIT = 12
MISTAKE_LIMIT = 12
THUMBNAIL_LIMIT = 200
THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT, JPEG_QUALITY = 160, 240, 60
MIDDLE_FRAME = 16
MODALITIES = {"sound": "audio", "picture": "video"}
"""How runs store the modalities that a clip does not have -> their names."""


@dataclass(frozen=True)
class Curve:
    """A ROC curve: `points` of an SVG polyline, in a square of side 100 with its origin at the top left."""

    label: str
    area: float
    points: str
    style: str


@dataclass(frozen=True)
class Panel:
    """One result in detail."""

    id: str
    title: str
    item: ResultScore
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class ClipLine:
    """A clip with the prediction of the best result; `row` is its index in the run."""

    row: int
    id: str
    label: str
    predicted: str
    confidence: float
    label_probability: float
    group: str
    fold: int
    missing: str
    digest: str


def render_page(
    evaluation: Evaluation,
    *,
    comparison: Comparison | None = None,
    thumbnails: Mapping[int, str] | None = None,
) -> str:
    """The page as HTML; only its own script may run, and nothing may be loaded.

    `thumbnails` are data URIs by row of the run; if there are any, other clips get a placeholder.
    """
    run, clips = evaluation.run, clip_lines(evaluation)
    mistakes = confident_mistakes(clips)
    results = detailed_results(evaluation)
    pictures = dict(thumbnails or {})
    return render(
        TEMPLATES,
        "report.html.j2",
        **page_assets(report_style(), (TEMPLATES / "report.js").read_text("utf-8")),
        evaluation=evaluation,
        run=run,
        marker=evaluation.marker,
        design=design_of(run),
        summary=summarize(evaluation),
        panels=[_panel(f"p{number}", item, evaluation) for number, item in enumerate(results)],
        has_repeats=any(item.repeated and item.repeated.repeats > 1 for item in evaluation.scored),
        has_missing=any(item.complete for item in evaluation.scored),
        clips=clips,
        mistakes=mistakes,
        thumbnails=pictures,
        comparison=comparison,
        optimizers=OPTIMIZERS,
        commands=repeat_commands(evaluation),
        data=_script_values(run, results, pictures, shown={mistake.row for mistake in mistakes}),
    )


def _script_values(
    run: Run, results: Sequence[ResultScore], thumbnails: Mapping[int, str], *, shown: set[int]
) -> dict[str, object]:
    """Input of the page's script: clips, classes, predictions, and the thumbnails not `shown` elsewhere."""
    tables = {f"p{number}": item.result.probabilities for number, item in enumerate(results)}
    return {
        "classes": [printable(name) for name in run.classes],
        "clips": [printable(name) for name in run.ids],
        "true": [run.classes.index(label) for label in run.labels],
        "predicted": {key: table.argmax(axis=1).tolist() for key, table in tables.items()},
        "confidence": {key: table.max(axis=1).round(3).tolist() for key, table in tables.items()},
        "pictures": bool(thumbnails),
        "thumbnails": {str(row): uri for row, uri in sorted(thumbnails.items()) if row not in shown},
    }


def detailed_results(evaluation: Evaluation) -> tuple[ResultScore, ...]:
    """The best result, each network, and the best of each head and level: `PANEL_LIMIT` at most."""
    by_head: dict[tuple[str, str], ResultScore] = {}
    for item in evaluation.ranked:
        if not item.is_network:
            by_head.setdefault((item.result.head, item.result.level), item)
    results = (evaluation.best, *evaluation.networks, *by_head.values())
    return tuple({item.result.name: item for item in results}.values())[:PANEL_LIMIT]


def clip_lines(evaluation: Evaluation) -> list[ClipLine]:
    """Every clip with the best result's prediction, in the order of the run."""
    run, table = evaluation.run, evaluation.best.result.probabilities
    lines = []
    for row, (label, predicted) in enumerate(zip(run_labels(run), table.argmax(axis=1), strict=True)):
        missing = run.missing[row] if run.missing else ()
        lines.append(
            ClipLine(
                row=row,
                id=run.ids[row],
                label=run.labels[row],
                predicted=run.classes[predicted],
                confidence=float(table[row, predicted]),
                label_probability=float(table[row, label]),
                group=run.groups[row],
                fold=run.folds[row],
                missing=", ".join(MODALITIES.get(name, name) for name in missing),
                digest=run.digests[row] if run.digests else "",
            )
        )
    return lines


def confident_mistakes(clips: Sequence[ClipLine]) -> list[ClipLine]:
    """The most confident wrong predictions, the most confident first."""
    wrong = [clip for clip in clips if clip.predicted != clip.label]
    return sorted(wrong, key=lambda clip: -clip.confidence)[:MISTAKE_LIMIT]


def pictured_clips(evaluation: Evaluation, *, limit: int = THUMBNAIL_LIMIT) -> tuple[int, ...]:
    """Rows of the clips that get a thumbnail: the mistakes shown, then other wrong predictions, then the others."""
    clips = clip_lines(evaluation)
    wrong = [clip for clip in clips if clip.predicted != clip.label]
    return tuple(dict.fromkeys(clip.row for clip in (*confident_mistakes(clips), *wrong, *clips)))[:limit]


def _panel(name: str, item: ResultScore, evaluation: Evaluation) -> Panel:
    table, labels = item.result.probabilities, run_labels(evaluation.run)
    curves = [
        Curve(
            score.label,
            score.auc,
            _points(*roc_curve(labels, table, index)),
            f"c{index % 8} d{index // 2 % 4}",
        )
        for index, score in enumerate(item.per_class)
        if not math.isnan(score.auc)
    ]
    if curves:
        curves.append(
            Curve("macro average", item.score.auc, _points(*macro_roc_curve(labels, table)), "macro")
        )
    title = item.result.name + (" (best)" if item is evaluation.best else "")
    return Panel(name, title, item, tuple(curves))


def _points(across: Floats, up: Floats) -> str:
    """Corners of a curve in the unit square as SVG points; points inside a straight line are left out."""
    corners: list[tuple[float, float]] = []
    for point in zip((100 * across).round(1).tolist(), (100 - 100 * up).round(1).tolist(), strict=True):
        while len(corners) >= 2 and any(
            corners[-2][axis] == corners[-1][axis] == point[axis] for axis in (0, 1)
        ):
            corners.pop()
        if not corners or corners[-1] != point:
            corners.append(point)
    return " ".join(f"{x:g},{y:g}" for x, y in corners)


def read_thumbnails(
    cache: FeatureCache, run: Run, rows: Iterable[int], *, tick: Tick | None = None
) -> dict[int, str]:
    """Middle frames of clips as data URIs, by row of the run; `tick` is called with the id of each.

    A clip without media or video in the cache, or whose file has changed since the run, has none.
    """
    statuses = {status.clip.id: status for status in (cache.clips if cache.plans else ())}
    uris = {}
    for row in rows:
        status = statuses.get(run.ids[row])
        if status is None or (run.digests and status.digest != run.digests[row]):
            continue
        kept = kept_frame(cache.path / "media", status.digest, MIDDLE_FRAME)
        if kept is None:
            continue
        uris[row] = data_uri(*kept)
        if tick is not None:
            tick(status.clip.id)
    return uris


def data_uri(frame: np.ndarray, shape_hw: tuple[int, int] | None = None) -> str:
    """A frame, uint8 [H, W, 3] in RGB, as a small JPEG in a data URI, in the aspect ratio of `shape_hw` if given."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    if shape_hw is not None and shape_hw != frame.shape[:2]:
        image = image.resize(shape_hw[::-1], Image.Resampling.LANCZOS)
    image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
