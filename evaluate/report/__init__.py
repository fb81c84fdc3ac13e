"""The report of an evaluation: `metrics.json`, `metrics.csv`, figures, Markdown, LaTeX and an HTML page.

Nothing written holds a time, and numbers are rounded to 12 decimals, so the same run gives the same bytes.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

from moodfuse.cache.files import write_text
from moodfuse.cache.runs import LEAKY_MARK
from moodfuse.evaluate.evaluation import Evaluation, Tick
from moodfuse.evaluate.figures import draw_figures
from moodfuse.evaluate.intervals import UNDEFINED, Interval
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.paired import Inflation
from moodfuse.evaluate.published import Comparison, comparison_csv
from moodfuse.evaluate.report.page import render_page
from moodfuse.evaluate.report.text import latex_table, markdown_report
from moodfuse.evaluate.results import ResultScore
from moodfuse.evaluate.scoring import Score

SCHEMA = 1
PAGE, MARKDOWN, LATEX = "report.html", "report.md", "table.tex"
Thumbnails = Callable[[Tick | None], dict[int, str]]


def write_report(
    evaluation: Evaluation,
    folder: Path,
    *,
    comparison: Comparison | None = None,
    thumbnails: Thumbnails | None = None,
    tick: Tick | None = None,
) -> list[str]:
    """Write a report, each file whole or not at all, and return the names of its figures.

    `thumbnails` returns the data URIs of clips by row of the run. It is given `tick`, which is called with the name of
    each finished figure and clip.
    """
    figures = []
    for name in draw_figures(evaluation, folder):
        figures.append(name)
        if tick is not None:
            tick(name)
    page = render_page(evaluation, comparison=comparison, thumbnails=thumbnails(tick) if thumbnails else None)
    if comparison is not None:
        write_text(folder / comparison.file_name, comparison_csv(comparison))
    write_text(folder / MARKDOWN, markdown_report(evaluation))
    write_text(folder / LATEX, latex_table(evaluation))
    write_text(folder / PAGE, page)
    write_text(folder / "metrics.csv", metrics_csv(evaluation))
    write_text(folder / "metrics.json", metrics_json(evaluation))
    return figures


def metrics_json(evaluation: Evaluation) -> str:
    """Content of `metrics.json`."""
    values = metrics_values(evaluation)
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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
        "notes": list(evaluation.notes),
    }
    if evaluation.headline is not None:
        values["headline"] = _value(evaluation.headline)
    if evaluation.inflation is not None:
        values["inflation"] = _inflation_values(evaluation.inflation)
    if evaluation.audit is not None:
        values["audit"] = _value(evaluation.audit)
    return {
        **values,
        "paired": [{**_fields(test), "sentence": test.sentence} for test in evaluation.paired],
        "shapley": [_value(row) for row in evaluation.importance],
        "results": [_result_values(item, leaky=bool(evaluation.marker)) for item in evaluation.scored],
    }


def _rounded(value: float) -> float | None:
    """Round to 12 decimals, so that the last bits of a library do not show; `None` for NaN."""
    return None if math.isnan(value) else round(float(value), 12)


def _value(record: object) -> object:
    """Convert a record to JSON types: an interval to its two ends, other dataclasses to their fields, NaN to null."""
    if isinstance(record, Interval):
        return [_rounded(record.low), _rounded(record.high)]
    if is_dataclass(record):
        return _fields(record)
    if isinstance(record, tuple | list):
        return [_value(item) for item in record]
    return _rounded(record) if isinstance(record, float) else record


def _fields(record: object) -> dict[str, object]:
    return {field.name: _value(getattr(record, field.name)) for field in fields(record)}  # type: ignore[arg-type]


def _inflation_values(inflation: Inflation) -> dict[str, object]:
    return {
        "honest_run": inflation.run,
        "leaky_run": inflation.leaky_run,
        "rows": [
            {
                "result": row.result,
                "honest": _rounded(row.accuracy),
                "leaky": _rounded(row.leaky_accuracy),
                "points": _rounded(row.gain),
                "points_ci95": _value(row.gain_ci95),
            }
            for row in inflation.rows
        ],
        "mean_points": _rounded(inflation.mean_gain),
        "mean_points_ci95": _value(inflation.mean_gain_ci95),
    }


def _result_values(item: ResultScore, *, leaky: bool) -> dict[str, object]:
    complete = item.complete
    return {
        "sources": list(item.result.sources),
        "head": item.result.head,
        "level": item.result.level,
        **_score_values(item.score),
        "per_fold": _value(item.per_fold),
        "per_class": _value(item.per_class),
        "calibration": _value(item.calibration),
        "repeated": _value(item.repeated),
        "complete": None if complete is None else {"clips": complete.clips, **_score_values(complete)},
        "confusion_matrix": item.score.confusion_matrix.tolist(),
        "notes": _notes(item, leaky=leaky),
    }


def _score_values(score: Score) -> dict[str, object]:
    """Every metric, each followed by its interval."""
    return {key: _value(getattr(score, key)) for name in METRICS for key in (name, f"{name}_ci95")}


def _notes(item: ResultScore, *, leaky: bool) -> list[str]:
    return list(dict.fromkeys([*([LEAKY_MARK] if leaky else []), *item.result.notes]))


def metrics_csv(evaluation: Evaluation) -> str:
    """Content of `metrics.csv`: one row per result, in the order of the run; empty where not defined.

    `corrected` and its interval are set in the row of the best result only. `protocol` is ``LEAKY`` for a leaky run.
    """
    text = io.StringIO()
    rows = [_csv_row(evaluation, item) for item in evaluation.scored]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(evaluation: Evaluation, item: ResultScore) -> dict[str, object]:
    row: dict[str, object] = {
        "sources": "+".join(item.result.sources),
        "head": item.result.head,
        "level": item.result.level,
        "protocol": evaluation.marker or evaluation.run.protocol,
    }
    for name in METRICS:
        row |= _csv_values(name, getattr(item.score, name), getattr(item.score, f"{name}_ci95"))
    headline, repeated = evaluation.headline, item.repeated
    if headline is not None and headline.result == item.result.name:
        row |= _csv_values("corrected", headline.corrected, headline.corrected_ci95)
    else:
        row |= _csv_values("corrected", math.nan, UNDEFINED)
    row["repeats"] = repeated.repeats if repeated else None
    if repeated is not None:
        row |= _csv_values("repeated_accuracy", repeated.accuracy, repeated.ci95)
    else:
        row |= _csv_values("repeated_accuracy", math.nan, UNDEFINED)
    notes = _notes(item, leaky=bool(evaluation.marker))
    return {**row, "clips": item.score.clips, "notes": "; ".join(notes)}


def _csv_values(name: str, value: float, interval: Interval) -> dict[str, float | None]:
    ends = {f"{name}_ci95_low": _rounded(interval.low), f"{name}_ci95_high": _rounded(interval.high)}
    return {name: _rounded(value), **ends}
