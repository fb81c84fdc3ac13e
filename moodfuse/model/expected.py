"""What may be expected of a model: the cross-validated scores of the result that it was made of."""

import numpy as np

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import draw_groups
from moodfuse.evaluate.metrics import METRICS
from moodfuse.evaluate.results import run_labels
from moodfuse.evaluate.scoring import score_draws
from moodfuse.evaluate.selection import corrected_best

DRAWS = 2000


def expected_scores(run: Run, result: Result, *, best: bool) -> dict[str, object]:
    """Cross-validated scores of a result with 95 % intervals, as JSON types, and how many were scored beside it."""
    labels = run_labels(run)
    drawn = draw_groups(run.groups, draws=DRAWS, seed=0)
    score = score_draws(labels, result.probabilities, drawn, classes=run.classes)
    found: dict[str, object] = {
        "clips": score.clips,
        "groups": score.groups,
        "results": len(run.results),
        "best": best,
    }
    for name in METRICS:
        found[name] = _plain(getattr(score, name))
        found[f"{name}_ci95"] = [_plain(end) for end in getattr(score, f"{name}_ci95").ends]
    if len(run.results) > 1:
        table = {item.name: item.probabilities for item in run.results}
        headline = corrected_best(labels, table, drawn)
        found["best_corrected"] = _plain(headline.corrected)
        found["best_corrected_ci95"] = [_plain(end) for end in headline.corrected_ci95.ends]
    return found


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 12)
