"""Answers: one schema in Python, JSON lines and HTTP, and flat rows of them."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from answer_schema import check_answer

from moodfuse.cache.errors import InputError
from moodfuse.extract.media.limits import MediaError
from moodfuse.model.answers import flatten, list_columns, list_windows, read_answer_schema, to_dataframe
from moodfuse.model.model import Model
from moodfuse.model.predictions import (
    SCHEMA,
    LabelRequest,
    ModelId,
    Prediction,
    Refusal,
    SourceContribution,
    Timeline,
    make_refusal,
)
from moodfuse.synthetic_corpus import make_clip

QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"
CLASSES = ("calm", "sad")
MODEL = ModelId("m", "0" * 16)
SHARES = np.array([0.25, 0.75])
SOURCES = (
    SourceContribution("one", np.array([0.5, 0.5]), np.array([0.75, 0.25])),
    SourceContribution("two", None, SHARES),
)
PREDICTION = Prediction("a.mp4", CLASSES, SHARES, 3.0, 33.0, "audio", SOURCES, model=MODEL)
REFUSAL = Refusal("b.mp4", "truncated", "it ends", start_s=3.0, model=MODEL)
TIMELINE = Timeline(
    "c.mp4",
    CLASSES,
    np.array([0.0, 5.0]),
    np.array([30.0, 35.0]),
    np.array([[0.25, 0.75], [np.nan, np.nan]]),
    ((1, Refusal("c.mp4", "truncated", "it ends")),),
    35.0,
    hop_s=5.0,
    model=MODEL,
)


def test_answers_of_records() -> None:
    """Keys and values of a prediction, a refusal and a timeline, which follow the schema."""
    answer = PREDICTION.to_dict(threshold=0.8)
    check_answer(answer)
    assert answer["schema"] == SCHEMA == read_answer_schema()["$defs"]["schema"]["const"]
    assert answer["model"] == {"name": "m", "digest": "0" * 16} and answer["missing"] == "audio"
    assert (answer["label"], answer["confidence"], answer["uncertain"]) == ("sad", 0.75, True)
    assert answer["requested"] == {"start_s": 3.0, "end_s": None}
    assert answer["window"] == {"start_s": 3.0, "end_s": 33.0}
    assert answer["sources"]["one"]["contribution"] == 0.5 and answer["sources"]["two"]["own"] is None
    refusal = REFUSAL.to_dict()
    check_answer(refusal, "refusal")
    assert refusal["error"] == {"code": "truncated", "detail": "it ends"}
    timeline = TIMELINE.to_dict()
    check_answer(timeline, "timeline_answer")
    read, unread = timeline["timeline"]["windows"]
    assert {name: answer[name] for name in ("label", "confidence", "probabilities")}.items() <= read.items()
    assert unread == {"window": {"start_s": 5.0, "end_s": 35.0}, "error": refusal["error"]}


def test_the_schema_check_of_the_tests_finds_faults() -> None:
    """A missing, unknown or wrong value fails it."""
    answer = PREDICTION.to_dict()
    lacking = {name: value for name, value in answer.items() if name != "label"}
    for wrong in (lacking, {**answer, "more": 1}, {**answer, "missing": "sound"}, {**answer, "schema": True}):
        with pytest.raises(AssertionError):
            check_answer(wrong)


def test_flat_rows() -> None:
    """One value per column, without those that are null; a row for each window of a timeline."""
    row = flatten(PREDICTION.to_dict())
    assert set(row) <= set(list_columns(CLASSES, ("one", "two"))) and row["model_digest"] == "0" * 16
    assert (row["start_s"], row["probability:sad"], row["own:one"], row["contribution:one"]) == (
        3,
        0.75,
        "calm",
        0.5,
    )
    assert "own:two" not in row and "partial" not in row
    refused = flatten(REFUSAL.to_dict())
    assert (refused["error"], refused["detail"], refused["start_s"]) == ("truncated", "it ends", 3.0)
    rows = [flatten(window) for window in list_windows(TIMELINE.to_dict())]
    assert [row.get("label") for row in rows] == ["sad", None] and rows[1]["error"] == "truncated"


def test_a_data_frame_has_the_flat_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With columns in the order of CSV; without pandas the error says what to install."""
    made: list[Any] = []
    pandas = SimpleNamespace(DataFrame=lambda rows, columns: made.append((rows, columns)))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    to_dataframe([REFUSAL, PREDICTION, TIMELINE], threshold=0.8)
    ((rows, columns),) = made
    assert [row["file"] for row in rows] == ["b.mp4", "a.mp4", "c.mp4", "c.mp4"]
    assert columns == [name for name in list_columns(CLASSES, ("one", "two")) if name != "own:two"]
    assert rows[1]["uncertain"] is True
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        to_dataframe([])


def test_python_json_lines_and_http_have_the_same_answers(
    trained: Any,
    models: Callable[..., Path],
    predict: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Field by field, of a prediction, an imputed one, a refusal and a timeline."""
    pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")
    from running_service import FORM, form, form_of, served

    from moodfuse.serve.messages import Limits

    monkeypatch.chdir(tmp_path)
    shutil.copy(trained.held[0], "good.mp4")
    make_clip(Path("silent.mp4"), audio=False)
    Path("bad.mp4").write_text("not a video")
    names = ["good.mp4", "silent.mp4", "bad.mp4"]
    folder = models(QUICK, impute=True)
    model = Model.load(folder)

    python = [result.to_dict(threshold=0.9) for result in model.label(map(LabelRequest, names))]
    assert python[0]["missing"] is None and python[1]["missing"] == "audio" and "error" in python[2]
    for answer in python:
        check_answer(answer)
    assert predict("--model", folder, "--threshold", 0.9, "--output", "out.jsonl", *names) == 3
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    with served(model, limits=Limits(), temporary=uploads) as running:
        kind = {"Content-Type": FORM}
        files = {name: Path(name).read_bytes() for name in names}
        single = [
            running.predict(form(data, name=name), "?threshold=0.9", FORM).json
            for name, data in files.items()
        ]
        batch = running.ask("POST", "/predict/batch?threshold=0.9", form_of(files), kind).json["answers"]
        data = form(files["good.mp4"], name="good.mp4")
        with_timeline = running.predict(data, "?threshold=0.9&timeline=true&hop=2", FORM).json
    assert python == lines == single == batch

    timelines: list[Any] = []
    for name in names:
        try:
            timelines.append(model.timeline(name, hop_s=2.0).to_dict(threshold=0.9))
        except MediaError as error:
            timelines.append(make_refusal(LabelRequest(name), error, model.id).to_dict())
        check_answer(timelines[-1])
    options = ("--threshold", 0.9, "--timeline", "--hop", 2, "--output", "time.jsonl")
    assert predict("--model", folder, *options, *names) == 3
    assert [json.loads(line) for line in Path("time.jsonl").read_text().splitlines()] == timelines
    assert with_timeline == {**python[0], **timelines[0]} and with_timeline["timeline"]["windows"]
