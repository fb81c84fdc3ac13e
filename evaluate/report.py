"""The report of a run: its scores, `metrics.json`, `metrics.csv` and figures.

`evaluate_run` decides and `write_report` acts. Nothing written holds a time, and numbers are rounded to 12 decimals,
so the same run gives the same bytes.
"""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cache import FeatureCache
from cache.errors import InputError
from cache.parts import write_text
from cache.runs import Result, Run, run_folder
from evaluate import metrics
from evaluate.scoring import Score, check_labels, score
from evaluate.uncertainty import DRAWS, Interval, few_groups_warning

SCHEMA = 1
NETWORK = "network"
LEAKY = "leaky"
METRICS_PER_FOLD = {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1, "auc": metrics.auc}
Tick = Callable[[str], None]


@dataclass(frozen=True)
class FoldScore:
    """Metrics of one result on the clips of one fold; `auc` is NaN where it is not defined."""

    fold: int
    clips: int
    accuracy: float
    macro_f1: float
    auc: float


@dataclass(frozen=True)
class ResultScore:
    """A result with its score over all clips and in each fold that has clips."""

    result: Result
    score: Score
    per_fold: tuple[FoldScore, ...]

    @property
    def is_network(self) -> bool:
        """Whether this is one network's own softmax, not a fusion."""
        return self.result.head == NETWORK

    @property
    def rank(self) -> tuple[float, float, str]:
        """Sorts better results first: by accuracy, equals by log loss, then by name."""
        return -self.score.accuracy, self.score.log_loss, self.result.name


@dataclass(frozen=True)
class Evaluation:
    """A scored run.

    Attributes
    ----------
    run : Run
    scored : tuple of ResultScore
        In the order of `run.results`.
    draws, seed : int
        Of the bootstrap.
    """

    run: Run
    scored: tuple[ResultScore, ...]
    draws: int
    seed: int

    @cached_property
    def best(self) -> ResultScore:
        """The result of the highest accuracy, equals told apart by log loss; networks take part."""
        return min(self.scored, key=lambda item: item.rank)

    @property
    def networks(self) -> tuple[ResultScore, ...]:
        """Networks' own rows, better ones first."""
        return tuple(sorted((item for item in self.scored if item.is_network), key=lambda item: item.rank))

    @property
    def fusions(self) -> tuple[ResultScore, ...]:
        """Every other row, better ones first."""
        return tuple(sorted((item for item in self.scored if not item.is_network), key=lambda item: item.rank))

    @property
    def majority(self) -> tuple[str, float]:
        """The commonest label, and the accuracy of always saying it."""
        label, count = min(Counter(self.run.labels).items(), key=lambda item: (-item[1], item[0]))
        return label, count / len(self.run.labels)

    @property
    def group_count(self) -> int:
        """Number of groups."""
        return len(set(self.run.groups))

    @property
    def marker(self) -> str:
        """``"LEAKY"`` for a run that measures a leak, to stand wherever its numbers do; else empty."""
        return "LEAKY" if self.run.protocol == LEAKY else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know, the most serious first."""
        uncalibrated = sum("uncalibrated" in item.result.notes for item in self.scored)
        found = [
            "LEAKY: the networks saw the test clips; these scores are inflated on purpose" if self.marker else None,
            *self.run.notes,
            few_groups_warning(self.group_count),
            f"{uncalibrated} of {len(self.scored)} results are uncalibrated: their settings stayed at the defaults"
            if uncalibrated
            else None,
            f"the best of {len(self.scored)} results is an optimistic pick; its score is not corrected for the choice"
            if len(self.scored) > 1
            else None,
            f"intervals: bootstrap percentiles over {self.group_count} groups, {self.draws} draws, seed {self.seed}",
        ]
        return tuple(dict.fromkeys(note for note in found if note))


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of; `html` is `None` where no page was made."""

    folder: Path
    metrics_json: Path
    metrics_csv: Path
    figures: tuple[Path, ...]
    html: Path | None = None


def evaluate_run(run: Run, *, draws: int = DRAWS, seed: int = 0, tick: Tick | None = None) -> Evaluation:
    """Score every result of a run.

    Parameters
    ----------
    run : Run
    draws, seed : int
        Of the bootstrap; all results share the draws.
    tick : callable of str, optional
        Called with a result's name when it is scored.

    Raises
    ------
    InputError
        If the run has no result, or a result cannot be scored.
    """
    if not run.results:
        raise InputError(f"run {run.name} holds no result; run fuse again under another --run name")
    _, labels = check_labels(run.labels, run.classes, (len(run.ids), len(run.classes)))
    folds = np.asarray(run.folds)
    scored = []
    for result in run.results:
        try:
            total = score(labels, result.probabilities, run.groups, classes=run.classes, draws=draws, seed=seed)
        except InputError as error:
            raise InputError(f"run {run.name}, {result.name}: {error}") from error
        per_fold = [_fold_score(int(fold), labels, result.probabilities, folds == fold) for fold in np.unique(folds)]
        scored.append(ResultScore(result, total, tuple(per_fold)))
        if tick is not None:
            tick(result.name)
    return Evaluation(run, tuple(scored), draws, seed)


def _fold_score(fold: int, labels: np.ndarray, probabilities: np.ndarray, rows: np.ndarray) -> FoldScore:
    values = {name: float(metric(labels[rows], probabilities[rows])) for name, metric in METRICS_PER_FOLD.items()}
    return FoldScore(fold=fold, clips=int(rows.sum()), **values)


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
