"""The report of an evaluation: `metrics.json`, `metrics.csv`, figures, Markdown, LaTeX and an HTML page.

Nothing written holds a time, and numbers are rounded to 12 decimals, so the same run gives the same bytes.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from moodfuse.cache.files import write_text
from moodfuse.cache.runs import LEAKY_MARK
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Evaluation, ResultScore
from moodfuse.evaluate.figures import draw_figures
from moodfuse.evaluate.intervals import UNDEFINED, Interval
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.published import Comparison, comparison_csv
from moodfuse.evaluate.report.page import read_thumbnails, render_page
from moodfuse.evaluate.report.text import (
    latex_table,
    markdown_report,
    print_comparison,
    print_evaluation,
)
from moodfuse.evaluate.scoring import Score

__all__ = ["PAGE", "metrics_csv", "metrics_values", "print_comparison", "print_evaluation", "write_report"]
SCHEMA = 1
PAGE = "report.html"
_FIELD_NAMES: dict[str, str] = {}
_INFLATION_KEYS = {
    "run": "honest_run",
    "accuracy": "honest",
    "leaky_accuracy": "leaky",
    "gain": "points",
    "gain_ci95": "points_ci95",
    "mean_gain": "mean_points",
    "mean_gain_ci95": "mean_points_ci95",
}
"""Fields of the inflation -> their keys in `metrics.json`."""


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    comparison: Comparison | None = None,
    thumbnails_from: FeatureCache | None = None,
) -> list[str]:
    """Write a report, each file whole or not at all, and return the names of its figures.

    `thumbnails_from` holds the media of the clips; without it the page has no thumbnails.
    """
    figures = draw_figures(evaluation, folder)
    thumbnails = read_thumbnails(thumbnails_from, evaluation) if thumbnails_from else None
    page = render_page(evaluation, comparison=comparison, thumbnails=thumbnails)
    if comparison is not None:
        write_text(folder / comparison.file_name, comparison_csv(comparison))
    write_text(folder / "report.md", markdown_report(evaluation))
    write_text(folder / "table.tex", latex_table(evaluation))
    write_text(folder / PAGE, page)
    write_text(folder / "metrics.csv", metrics_csv(evaluation))
    values = json.dumps(metrics_values(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "metrics.json", values + "\n")
    return figures


def metrics_values(evaluation: Evaluation) -> dict[str, object]:
    """Values of `metrics.json`, results in the order of the run."""
    run = evaluation.run
    values: dict[str, object] = {"schema": SCHEMA, "run": run.name}
    if evaluation.marker:
        values["leaky"] = True
    values |= {
        "classes": list(run.classes),
        "clips": len(run.ids),
        "groups": evaluation.group_count,
        "folds": run.fold_count,
        "protocol": run.protocol,
        "seed": evaluation.seed,
        "draws": evaluation.draws,
        "recipes": dict(run.recipes),
        "versions": dict(run.versions),
        "commands": list(run.commands),
        "missing": dict(sorted(Counter(name for names in run.missing for name in names).items())),
        "notes": evaluation.notes,
    }
    if evaluation.headline is not None:
        values["headline"] = _json_value(evaluation.headline)
    if evaluation.inflation is not None:
        values["inflation"] = _json_fields(evaluation.inflation, _INFLATION_KEYS)
    if evaluation.audit is not None:
        values["audit"] = _json_value(evaluation.audit)
    return {
        **values,
        "paired": [{**_json_fields(test), "sentence": test.sentence} for test in evaluation.paired],
        "shapley": _json_value(evaluation.importance),
        "results": [_result_values(scored, leaky=bool(evaluation.marker)) for scored in evaluation.scored],
    }


def _rounded(value: float) -> float | None:
    """Round to 12 decimals, so that the last bits of a library do not show; `None` for NaN."""
    return None if math.isnan(value) else round(float(value), 12)


def _json_value(record: object, keys: Mapping[str, str] = _FIELD_NAMES) -> object:
    """Convert a record to JSON types: an interval to its ends, dataclasses to their fields, NaN to null."""
    if isinstance(record, Interval):
        return [_rounded(record.low), _rounded(record.high)]
    if is_dataclass(record):
        return _json_fields(record, keys)
    if isinstance(record, tuple | list):
        return [_json_value(value, keys) for value in record]
    return _rounded(record) if isinstance(record, float) else record


def _json_fields(record: Any, keys: Mapping[str, str] = _FIELD_NAMES) -> dict[str, object]:
    """The fields of a dataclass, under their names or those that `keys` has for them."""
    names = [field.name for field in fields(record)]
    return {keys.get(name, name): _json_value(getattr(record, name), keys) for name in names}


def _result_values(scored: ResultScore, *, leaky: bool) -> dict[str, object]:
    complete = scored.complete
    return {
        "sources": list(scored.result.sources),
        "head": scored.result.head,
        "level": scored.result.level,
        **_score_values(scored.score),
        "per_fold": _json_value(scored.per_fold),
        "per_class": _json_value(scored.per_class),
        "calibration": _json_value(scored.calibration),
        "repeated": _json_value(scored.repeated),
        "complete": None if complete is None else {"clips": complete.clips, **_score_values(complete)},
        "confusion_matrix": scored.score.confusion_matrix.tolist(),
        "notes": _marked_notes(scored, leaky=leaky),
    }


def _score_values(score: Score) -> dict[str, object]:
    """Every metric, each followed by its interval."""
    return {key: _json_value(getattr(score, key)) for name in METRICS for key in (name, f"{name}_ci95")}


def _marked_notes(scored: ResultScore, *, leaky: bool) -> list[str]:
    return list(dict.fromkeys([LEAKY_MARK] * leaky + list(scored.result.notes)))


def metrics_csv(evaluation: Evaluation) -> str:
    """Content of `metrics.csv`: one row per result, in the order of the run; empty where not defined.

    `corrected` and its interval are set in the row of the best result only. `protocol` is ``LEAKY`` for a
    leaky run.
    """
    text = io.StringIO()
    rows = [_csv_row(evaluation, scored) for scored in evaluation.scored]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(evaluation: Evaluation, scored: ResultScore) -> dict[str, object]:
    row: dict[str, object] = {
        "sources": "+".join(scored.result.sources),
        "head": scored.result.head,
        "level": scored.result.level,
        "protocol": evaluation.marker or evaluation.run.protocol,
    }
    for name in METRICS:
        row |= _csv_values(name, getattr(scored.score, name), getattr(scored.score, f"{name}_ci95"))
    headline, repeated = evaluation.headline, scored.repeated
    corrected = repeated_accuracy = (math.nan, UNDEFINED)
    if headline is not None and headline.result == scored.result.name:
        corrected = (headline.corrected, headline.corrected_ci95)
    if repeated is not None:
        repeated_accuracy = (repeated.accuracy, repeated.ci95)
    return {
        **row,
        **_csv_values("corrected", *corrected),
        "repeats": repeated.repeats if repeated else None,
        **_csv_values("repeated_accuracy", *repeated_accuracy),
        "clips": scored.score.clips,
        "notes": "; ".join(_marked_notes(scored, leaky=bool(evaluation.marker))),
    }


def _csv_values(name: str, value: float, interval: Interval) -> dict[str, float | None]:
    ends = {f"{name}_ci95_low": _rounded(interval.low), f"{name}_ci95_high": _rounded(interval.high)}
    return {name: _rounded(value), **ends}
