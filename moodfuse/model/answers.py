"""Answers as flat rows, for tables, CSV and pandas, and the JSON Schema of answers."""

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.resources import files
from typing import Any

from moodfuse.cache.errors import InputError
from moodfuse.model.predictions import DEFAULT_THRESHOLD, Answer, Prediction, Refusal, Timeline

FIRST_COLUMNS = ("file", "start_s", "end_s", "label", "confidence", "uncertain", "missing", "partial")
LAST_COLUMNS = ("error", "detail", "model", "model_digest", "schema")


def read_answer_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of answers."""
    schema: dict[str, Any] = json.loads((files("moodfuse.model") / "answer.schema.json").read_text("utf-8"))
    return schema


def list_windows(answer: Answer) -> list[Answer]:
    """Return an answer for each window of a timeline; any other answer as it is."""
    if "timeline" not in answer:
        return [answer]
    common = {name: answer[name] for name in ("schema", "file", "model")}
    common["missing"] = answer["timeline"]["missing"]
    return [common | window for window in answer["timeline"]["windows"]]


def list_columns(classes: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the columns of flat rows."""
    probabilities = [f"probability:{label}" for label in classes]
    contributions = [f"{column}:{source}" for source in sources for column in ("own", "contribution")]
    return [*FIRST_COLUMNS, *probabilities, *contributions, *LAST_COLUMNS]


def flatten(answer: Answer) -> Answer:
    """Return the answer for one window with one value per column, without `None`.

    `start_s` and `end_s` are the window that was read, or was requested where none could be read; `own` is
    the most probable label of a source alone.
    """
    names = ("file", "label", "confidence", "uncertain", "missing", "partial", "schema")
    row = {name: answer.get(name) for name in names}
    row |= answer["window"] if "window" in answer else answer["requested"]
    row |= {"model": answer["model"]["name"], "model_digest": answer["model"]["digest"]}
    row |= {f"probability:{label}": value for label, value in answer.get("probabilities", {}).items()}
    for source, values in answer.get("sources", {}).items():
        own = values["own"]
        row |= {
            f"own:{source}": own and max(own, key=own.get),
            f"contribution:{source}": values["contribution"],
        }
    if "error" in answer:
        row |= {"error": answer["error"]["code"], "detail": answer["error"]["detail"]}
    return {name: value for name, value in row.items() if value is not None}


def to_dataframe(
    results: Iterable[Prediction | Refusal | Timeline], *, threshold: float = DEFAULT_THRESHOLD
) -> Any:
    """Return results of `Model.label` and `Model.timeline` as a pandas DataFrame.

    Parameters
    ----------
    results : iterable of Prediction, Refusal or Timeline
    threshold : float
        A prediction with a lower confidence is uncertain.

    Returns
    -------
    pandas.DataFrame
        A row for each prediction, refusal, and window of a timeline, with the columns of `predict --format
        csv` (`docs/predict.md`).

    Raises
    ------
    InputError
        If pandas is not installed.
    """
    try:
        pandas = import_module("pandas")  # not a dependency of moodfuse
    except ImportError as error:
        raise InputError("to_dataframe needs pandas; run: pip install pandas") from error
    answers = (result.to_dict(threshold=threshold) for result in results)
    rows = [flatten(window) for answer in answers for window in list_windows(answer)]
    names = dict.fromkeys(name for row in rows for name in row)
    varying = [name for name in names if name not in {*FIRST_COLUMNS, *LAST_COLUMNS}]
    return pandas.DataFrame(rows, columns=[*FIRST_COLUMNS, *varying, *LAST_COLUMNS])
