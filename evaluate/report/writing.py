"""The report of a run: its scores, `metrics.json`, `metrics.csv` and figures.

`metrics_values` decides and `write_report` acts. Nothing written holds a time, and numbers are rounded to 12 decimals,
so the same run gives the same bytes.
"""

import csv
import io
import json
import math
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from moodfuse.cache import FeatureCache
from moodfuse.cache.files import write_text
from moodfuse.cache.runs import LEAKY_MARK, Run, run_folder
from moodfuse.evaluate.evaluation import Evaluation, Tick
from moodfuse.evaluate.intervals import METRICS, UNDEFINED
from moodfuse.evaluate.records import FoldScore, Interval
from moodfuse.evaluate.results import METRICS_PER_FOLD, ResultScore
from moodfuse.evaluate.scoring import Score

SCHEMA = 1


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of; `html` is `None` where no page was made."""

    folder: Path
    metrics_json: Path
    metrics_csv: Path
    figures: tuple[Path, ...]
    html: Path | None = None


def _plain(value: float) -> float | None:
    """A number as JSON has it: rounded, so that no library's last bit shows; `None` for NaN."""
    return None if math.isnan(value) else round(float(value), 12)


def _value(found: object) -> object:
    """A record as JSON has it: an interval as its two ends, any other by its fields, NaN as null."""
    if isinstance(found, Interval):
        return [_plain(end) for end in found.ends]
    if is_dataclass(found):
        return {field.name: _value(getattr(found, field.name)) for field in fields(found)}
    if isinstance(found, tuple | list):
        return [_value(item) for item in found]
    return _plain(found) if isinstance(found, float) else found


def metrics_values(evaluation: Evaluation) -> dict[str, object]:
    """Content of `metrics.json`; results in the order of the run, no key where a record is `None`."""
    run = evaluation.run
    leaky = bool(evaluation.marker)
    found = {"headline": evaluation.headline, "inflation": evaluation.inflation, "audit": evaluation.audit}
    return {
        "schema": SCHEMA,
        "run": run.name,
        **({"leaky": True} if leaky else {}),
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
        "missing": dict(sorted(Counter(view for views in run.missing for view in views).items())),
        "notes": list(evaluation.notes),
        **{name: _value(record) for name, record in found.items() if record is not None},
        "paired": [{**_fields(test), "sentence": test.sentence} for test in evaluation.paired],
        "shapley": [_fields(worth) for worth in evaluation.worth],
        "results": [_result_values(item, leaky=leaky) for item in evaluation.scored],
    }


def _fields(record: object) -> dict[str, object]:
    return dict(_value(record))  # type: ignore[call-overload]


def _result_values(item: ResultScore, *, leaky: bool) -> dict[str, object]:
    folds = (
        {key: getattr(fold, key) for key in ("fold", "clips")} | _fold_values(fold) for fold in item.per_fold
    )
    return {
        "sources": list(item.result.sources),
        "head": item.result.head,
        "level": item.result.level,
        **_score_values(item.score),
        "per_fold": list(folds),
        "per_class": _value(item.per_class),
        "calibration": _value(item.calibration),
        "repeated": _value(item.repeated),
        "complete": None
        if item.complete is None
        else {"clips": item.complete.clips, **_score_values(item.complete)},
        "confusion_matrix": item.score.confusion_matrix.tolist(),
        "notes": _notes(item, leaky=leaky),
    }


def _score_values(score: Score) -> dict[str, object]:
    """Every metric and its interval."""
    return {
        key: value
        for name in METRICS
        for key, value in (
            (name, _plain(getattr(score, name))),
            (f"{name}_ci95", _value(getattr(score, f"{name}_ci95"))),
        )
    }


def _notes(item: ResultScore, *, leaky: bool) -> list[str]:
    return list(dict.fromkeys([*([LEAKY_MARK] if leaky else []), *item.result.notes]))


def _fold_values(fold: FoldScore) -> dict[str, float | None]:
    return {name: _plain(getattr(fold, name)) for name in METRICS_PER_FOLD}


def metrics_table(evaluation: Evaluation) -> str:
    """Content of `metrics.csv`: one row a result, in the order of the run; empty where not defined.

    `corrected` and its interval stand in the row of the best result only: they are what choosing it is worth.
    `protocol` is ``LEAKY`` where the run measures a leak.
    """
    text = io.StringIO()
    rows = [_row(evaluation, item) for item in evaluation.scored]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(evaluation: Evaluation, item: ResultScore) -> dict[str, object]:
    leaky = bool(evaluation.marker)
    row: dict[str, object] = {
        "sources": "+".join(item.result.sources),
        "head": item.result.head,
        "level": item.result.level,
        "protocol": evaluation.marker or evaluation.run.protocol,
    }
    for name in METRICS:
        row |= {
            name: _plain(getattr(item.score, name)),
            **_end_columns(name, getattr(item.score, f"{name}_ci95")),
        }
    headline = evaluation.headline
    chosen = headline is not None and headline.result == item.result.name
    corrected = (
        (headline.corrected, headline.corrected_ci95) if headline and chosen else (math.nan, UNDEFINED)
    )
    row |= {"corrected": _plain(corrected[0]), **_end_columns("corrected", corrected[1])}
    repeated = item.repeated
    row |= {"repeats": repeated.repeats if repeated else None}
    row |= {"repeated_accuracy": _plain(repeated.accuracy if repeated else math.nan)}
    row |= _end_columns("repeated_accuracy", repeated.ci95 if repeated else UNDEFINED)
    return {**row, "clips": item.score.clips, "notes": "; ".join(_notes(item, leaky=leaky))}


def _end_columns(name: str, interval: Interval) -> dict[str, float | None]:
    return {
        f"{name}_ci95_{side}": _plain(end) for side, end in zip(("low", "high"), interval.ends, strict=True)
    }


def default_folder(cache: FeatureCache, run: Run) -> Path:
    """Where a run's report goes unless told otherwise."""
    return run_folder(cache, run.name) / "report"


def write_report(
    evaluation: Evaluation, folder: Path, *, figures: bool = True, tick: Tick | None = None
) -> ReportFiles:
    """Write the report; each file whole or not at all, `metrics.json` last.

    Parameters
    ----------
    evaluation : Evaluation
    folder : Path
        Made where it is missing; other files in it are left alone.
    figures : bool
        Whether to draw.
    tick : callable of str, optional
        Called with a figure's name when it is written.

    Raises
    ------
    CacheError
        If the disk refuses.
    """
    drawn: list[Path] = []
    if figures:
        from moodfuse.evaluate.report.plots import draw_figures

        for name, files in draw_figures(evaluation, folder):
            drawn.extend(files)
            if tick is not None:
                tick(name)
    table, values = folder / "metrics.csv", folder / "metrics.json"
    write_text(table, metrics_table(evaluation))
    write_text(
        values, json.dumps(metrics_values(evaluation), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )
    return ReportFiles(folder=folder, metrics_json=values, metrics_csv=table, figures=tuple(drawn))
