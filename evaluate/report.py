"""The report of a run: its scores, `metrics.json`, `metrics.csv` and figures.

`metrics_values` decides and `write_report` acts. Nothing written holds a time, and numbers are rounded to 12 decimals,
so the same run gives the same bytes.
"""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

from cache import FeatureCache
from cache.parts import write_text
from cache.runs import Run, run_folder
from evaluate.evaluation import METRICS_PER_FOLD, Evaluation, ResultScore, Tick
from evaluate.records import FoldScore, Interval

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


def _ends(interval: Interval) -> list[float | None]:
    return [_plain(interval.low), _plain(interval.high)]


def metrics_values(evaluation: Evaluation) -> dict[str, object]:
    """Content of `metrics.json`; results in the order of the run."""
    run = evaluation.run
    return {
        "schema": SCHEMA,
        "run": run.name,
        "classes": list(run.classes),
        "clips": len(run.ids),
        "groups": evaluation.group_count,
        "folds": run.fold_count,
        "protocol": run.protocol,
        "notes": list(evaluation.notes),
        "results": [_result_values(item) for item in evaluation.scored],
    }


def _result_values(item: ResultScore) -> dict[str, object]:
    total = item.score
    folds = ({key: getattr(fold, key) for key in ("fold", "clips")} | _fold_values(fold) for fold in item.per_fold)
    return {
        "sources": list(item.result.sources),
        "head": item.result.head,
        "level": item.result.level,
        "accuracy": _plain(total.accuracy),
        "accuracy_ci95": _ends(total.accuracy_ci95),
        "macro_f1": _plain(total.macro_f1),
        "macro_f1_ci95": _ends(total.macro_f1_ci95),
        "auc": _plain(total.auc),
        "auc_ci95": _ends(total.auc_ci95),
        "log_loss": _plain(total.log_loss),
        "log_loss_ci95": _ends(total.log_loss_ci95),
        "ece": _plain(total.ece),
        "per_fold": list(folds),
        "confusion_matrix": total.confusion_matrix.tolist(),
        "notes": list(item.result.notes),
    }


def _fold_values(fold: FoldScore) -> dict[str, float | None]:
    return {name: _plain(getattr(fold, name)) for name in METRICS_PER_FOLD}


def metrics_table(evaluation: Evaluation) -> str:
    """Content of `metrics.csv`: one row a result, in the order of the run; empty where not defined."""
    rows = []
    for item in evaluation.scored:
        values = _result_values(item)
        row: dict[str, object] = {
            "sources": "+".join(item.result.sources),
            "head": item.result.head,
            "level": item.result.level,
        }
        for name in ("accuracy", "macro_f1", "auc", "log_loss"):
            interval: Interval = getattr(item.score, f"{name}_ci95")
            low, high = _ends(interval)
            row |= {name: values[name], f"{name}_ci95_low": low, f"{name}_ci95_high": high}
        rows.append({**row, "ece": values["ece"], "clips": item.score.clips, "notes": "; ".join(item.result.notes)})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
        from evaluate.plots import draw_figures

        for name, files in draw_figures(evaluation, folder):
            drawn.extend(files)
            if tick is not None:
                tick(name)
    table, values = folder / "metrics.csv", folder / "metrics.json"
    write_text(table, metrics_table(evaluation))
    write_text(values, json.dumps(metrics_values(evaluation), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return ReportFiles(folder=folder, metrics_json=values, metrics_csv=table, figures=tuple(drawn))
