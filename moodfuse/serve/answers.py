"""The JSON that a service answers with, and the question that a request asks. Pure; `schema.json` describes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moodfuse.model.predictions import DEFAULT_THRESHOLD, Floats, Prediction, SourceSays, Timeline
from moodfuse.serve.problems import Problem

DEFAULT_HOP_S = 5.0
LEAST_HOP_S, MOST_HOP_S = 0.5, 600.0
WORDS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Question:
    """What a request wants to know.

    Attributes
    ----------
    timeline : bool
        Whether a time line is wanted too.
    hop_s : float
        Seconds between its windows.
    threshold : float
        Under this confidence a prediction is uncertain.
    """

    timeline: bool = False
    hop_s: float = DEFAULT_HOP_S
    threshold: float = DEFAULT_THRESHOLD


def read_question(pairs: Sequence[tuple[str, str]]) -> Question:
    """Read the query parameters of a request.

    Raises
    ------
    Problem
        An unknown one, one that comes twice, or one that is not what it should be.
    """
    given = dict(pairs)
    for name in given:
        if name not in ("timeline", "hop", "threshold"):
            raise Problem(
                "bad_query",
                f"there is a query parameter {name[:40]!r}, expected timeline, hop or threshold; "
                "send the file itself as the body: nothing that a request names is ever opened",
            )
    if len(given) < len(pairs):
        raise Problem("bad_query", "a query parameter comes twice; give each once")
    timeline = given.get("timeline", "false")
    if timeline not in WORDS:
        raise Problem("bad_query", f"timeline is {timeline[:40]!r}, expected true or false; correct it")
    if "hop" in given and not WORDS[timeline]:
        raise Problem("bad_query", "there is a hop but no time line; add timeline=true, or leave hop out")
    return Question(
        timeline=WORDS[timeline],
        hop_s=_number("hop", given, DEFAULT_HOP_S, least=LEAST_HOP_S, most=MOST_HOP_S),
        threshold=_number("threshold", given, DEFAULT_THRESHOLD, least=0.0, most=1.0),
    )


def _number(name: str, given: dict[str, str], default: float, *, least: float, most: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise Problem(
            "bad_query", f"{name} is {text[:40]!r}, expected a number from {least:g} to {most:g}; correct it"
        )
    return value


def prediction_json(prediction: Prediction, *, threshold: float) -> dict[str, Any]:
    """A prediction as the answer gives it, without the name of its file."""
    classes = prediction.classes
    return {
        "label": prediction.label,
        "confidence": prediction.confidence,
        "uncertain": prediction.is_uncertain(threshold),
        "probabilities": _by_label(classes, prediction.probabilities),
        "missing": prediction.missing,
        "window": {"start_s": float(prediction.start_s), "end_s": float(prediction.end_s)},
        "sources": {says.source: _source_json(classes, says) for says in prediction.sources},
    }


def timeline_json(timeline: Timeline, *, hop_s: float) -> dict[str, Any]:
    """A time line as the answer gives it: windows that could not be read have `null` in place of numbers."""
    columns = np.asarray(timeline.probabilities, dtype=np.float64).T
    return {
        "hop_s": hop_s,
        "duration_s": float(timeline.duration_s),
        "missing": timeline.missing,
        "starts_s": [float(value) for value in timeline.starts_s],
        "ends_s": [float(value) for value in timeline.ends_s],
        "labels": [label or None for label in timeline.labels],
        "probabilities": {
            label: [None if math.isnan(value) else float(value) for value in column]
            for label, column in zip(timeline.classes, columns, strict=True)
        },
        "refusals": [
            {"window": int(window), "code": refusal.code, "detail": refusal.detail}
            for window, refusal in timeline.refusals
        ],
    }


def _source_json(classes: tuple[str, ...], says: SourceSays) -> dict[str, Any]:
    own = None if says.own is None else _by_label(classes, says.own)
    return {"own": own, "without": _by_label(classes, says.without)}


def _by_label(classes: tuple[str, ...], values: Floats) -> dict[str, float]:
    return {label: float(value) for label, value in zip(classes, values, strict=True)}
