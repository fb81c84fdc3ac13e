"""The report of an evaluation: `metrics.json`, `metrics.csv`, figures, Markdown, LaTeX and an HTML page.

Nothing written holds a time, and numbers are rounded to 12 decimals, so the same run gives the same bytes.
"""

import csv
import io
import json
import math
from collections import Counter
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from moodfuse.cache.files import write_text
from moodfuse.cache.runs import PREDICTION_COLUMNS, list_predictions
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.difference import Difference
from moodfuse.evaluate.evaluation import Evaluation, ResultScore
from moodfuse.evaluate.figures import draw_figures
from moodfuse.evaluate.intervals import UNDEFINED, Interval
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.published import Comparison, comparison_csv
from moodfuse.evaluate.report.documents import latex_class_table, latex_table, markdown_report
from moodfuse.evaluate.report.page import detailed_results, read_thumbnails, render_page
from moodfuse.evaluate.report.text import (
    print_comparison,
    print_difference,
    print_evaluation,
)
from moodfuse.evaluate.scoring import Score

__all__ = [
    "PAGE",
    "difference_values",
    "metrics_csv",
    "metrics_values",
    "predictions_csv",
    "predictions_name",
    "print_comparison",
    "print_difference",
    "print_evaluation",
    "write_report",
]
SCHEMA = 2
DIFFERENCE_SCHEMA = 1
PREDICTION_ROWS = 500_000
"""With more rows, `predictions.csv` has only the results that the page shows in detail."""
PAGE = "report.html"


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
    write_text(folder / "table_classes.tex", latex_class_table(evaluation))
    write_text(folder / PAGE, page)
    write_text(folder / "metrics.csv", metrics_csv(evaluation))
    write_text(folder / predictions_name(evaluation), predictions_csv(evaluation))
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
    optional = {"headline": evaluation.headline, "inflation": evaluation.inflation, "audit": evaluation.audit}
    values |= {name: _json_value(record) for name, record in optional.items() if record is not None}
    return {
        **values,
        "modalities": _json_value(evaluation.modalities),
        "planned": [{**_json_fields(test), "sentence": test.sentence} for test in evaluation.planned],
        "paired": _json_value(evaluation.paired),
        "shapley": _json_value(evaluation.importance),
        "results": [_result_values(evaluation, scored) for scored in evaluation.scored],
    }


def _rounded(value: float) -> float | None:
    """Round to 12 decimals, so that the last bits of a library do not show; `None` for NaN."""
    return None if math.isnan(value) else round(float(value), 12)


def _json_value(record: object) -> object:
    """Convert a record to JSON types: an interval to its ends, dataclasses to their fields, NaN to null."""
    if isinstance(record, Interval):
        return [_rounded(record.low), _rounded(record.high)]
    if is_dataclass(record):
        return _json_fields(record)
    if isinstance(record, tuple | list):
        return [_json_value(value) for value in record]
    return _rounded(record) if isinstance(record, float) else record


def _json_fields(record: Any) -> dict[str, object]:
    return {field.name: _json_value(getattr(record, field.name)) for field in fields(record)}


def _result_values(evaluation: Evaluation, scored: ResultScore) -> dict[str, object]:
    complete = scored.complete
    return {
        "sources": list(scored.result.sources),
        "head": scored.result.head,
        "level": scored.result.level,
        "settings": [dict(settings) for settings in scored.result.settings],
        **_score_values(scored.score),
        "per_fold": _json_value(scored.per_fold),
        "per_class": _json_value(scored.per_class),
        "calibration": _json_value(scored.calibration),
        "repeated": _json_value(scored.repeated),
        "complete": None if complete is None else {"clips": complete.clips, **_score_values(complete)},
        "series_accuracy": scored.series_accuracy,
        "confusion_matrix": scored.score.confusion_matrix.tolist(),
        "notes": evaluation.marked_notes(scored),
    }


def _score_values(score: Score) -> dict[str, object]:
    """Every metric, each followed by its interval."""
    return {key: _json_value(getattr(score, key)) for name in METRICS for key in (name, f"{name}_ci95")}


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
    result, headline, repeated = scored.result, evaluation.headline, scored.repeated
    row: dict[str, object] = {
        "sources": "+".join(result.sources),
        "head": result.head,
        "level": result.level,
        "protocol": evaluation.marker or evaluation.run.protocol,
    }
    for name in METRICS:
        row |= _csv_values(name, getattr(scored.score, name), getattr(scored.score, f"{name}_ci95"))
    if headline is not None and headline.result == result.name:
        row |= _csv_values("corrected", headline.corrected, headline.corrected_ci95)
    else:
        row |= _csv_values("corrected", math.nan, UNDEFINED)
    row["repeats"] = repeated.repeats if repeated else None
    accuracy = (repeated.accuracy, repeated.ci95) if repeated else (math.nan, UNDEFINED)
    row |= _csv_values("repeated_accuracy", *accuracy)
    row["repeated_log_loss"] = _rounded(repeated.log_loss) if repeated else None
    notes = "; ".join(evaluation.marked_notes(scored))
    return {**row, "clips": scored.score.clips, "notes": notes}


def _csv_values(name: str, value: float, interval: Interval) -> dict[str, float | None]:
    ends = {f"{name}_ci95_low": _rounded(interval.low), f"{name}_ci95_high": _rounded(interval.high)}
    return {name: _rounded(value), **ends}


def predictions_name(evaluation: Evaluation) -> str:
    """Name of the file of out-of-fold probabilities, marked for a leaky run."""
    return "-".join(filter(None, ("predictions", evaluation.marker))) + ".csv"


def predictions_csv(evaluation: Evaluation) -> str:
    """Content of `predictions.csv`: a row per result and clip, with out-of-fold probabilities by class.

    They are those of the first fold plan, with six significant digits.
    """
    run, scored = evaluation.run, evaluation.scored
    if len(scored) * len(run.ids) > PREDICTION_ROWS:
        scored = detailed_results(evaluation)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*PREDICTION_COLUMNS, *run.classes])
    for facts, probabilities in list_predictions(run, [one.result for one in scored]):
        writer.writerow([*facts, *(f"{value:.6g}" for value in probabilities)])
    return text.getvalue()


def difference_values(difference: Difference) -> dict[str, object]:
    """Values of a difference for JSON: an interval is its ends, and what is not defined is null."""
    return {"schema": DIFFERENCE_SCHEMA, "sentence": difference.sentence, **_json_fields(difference)}
