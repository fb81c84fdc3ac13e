"""Rows of predictions in each format, and output files that a later run resumes."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.model.predictions import LabelRequest, Prediction, Refusal, SourceContribution
from moodfuse.predict import PredictSettings
from moodfuse.predict.outputs import (
    Output,
    flatten,
    format_csv,
    format_csv_row,
    format_json,
    format_table,
    list_columns,
    make_row,
    open_output,
)

FORMATS = ("jsonl", "csv", "parquet")
MODEL = "0" * 16
CLASSES = ("calm", "sad")
COLUMNS = list_columns(CLASSES, ("one", "two"))
SOURCES = (
    SourceContribution("one", np.array([0.5, 0.5]), np.array([0.75, 0.25])),
    SourceContribution("two", None, np.array([0.25, 0.75])),
)


def predicted(file: str, start_s: float = 0.0) -> dict[str, Any]:
    """A row with a prediction."""
    prediction = Prediction(file, CLASSES, np.array([0.25, 0.75]), start_s, start_s + 30, "sound", SOURCES)
    return make_row(prediction, LabelRequest(file, start_s), model=MODEL, threshold=0.5)


def refused(file: str) -> dict[str, Any]:
    """A row of a file that cannot be labelled."""
    return make_row(
        Refusal(file, "truncated", f"{file} ends"), LabelRequest(file), model=MODEL, threshold=0.5
    )


def open_with(path: Path, *, model: str = MODEL, requested: tuple[str, ...] = (), **options: Any) -> Output:
    settings = PredictSettings((), format=path.suffix[1:], output=path, **options)
    requests = frozenset(map(LabelRequest, requested))
    return open_output(settings, model=model, columns=COLUMNS, requested=requests)


def write(path: Path, *rows: dict[str, Any], **options: Any) -> None:
    output = open_with(path, **options)
    for row in rows:
        output.write(row)
    output.close()


def names_in(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["file"] for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return [row["file"] for row in csv.DictReader(stream)]
    return list(pyarrow.parquet.read_table(path)["file"].to_pylist())


def test_a_row_has_the_prediction_or_the_reason() -> None:
    """Label, confidence and contributions, with the window if one was requested; or the error."""
    row = predicted("a.mp4")
    assert (row["label"], row["confidence"], row["uncertain"]) == ("sad", 0.75, False)
    assert row["sources"]["one"]["adds"] == 0.5 and row["sources"]["two"]["own"] is None
    assert "start_s" not in row and predicted("a.mp4", start_s=3.0)["start_s"] == 3.0
    assert refused("b") == {"file": "b", "error": "truncated", "detail": "b ends", "model": MODEL}
    flat = flatten(row)
    assert set(flat) <= set(COLUMNS)
    assert flat["probability:sad"] == 0.75 and flat["own:one"] == "calm" and flat["own:two"] is None


def test_file_names_of_any_bytes() -> None:
    """CSV escapes bytes that are not UTF-8 and quotes line ends; JSON lines give the very bytes back."""
    name = os.fsdecode(b"caf\xe9\r\xff.mp4")
    text = format_csv(COLUMNS) + format_csv_row(refused(name), COLUMNS)
    assert text.count("\n") == 2
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["file"] == "caf\\udce9\r\\udcff.mp4"
    assert os.fsencode(json.loads(format_json(refused(name)))["file"]) == b"caf\xe9\r\xff.mp4"


def test_the_table_shows_uncertainty_and_contributions() -> None:
    """With `why` a line for each source; control characters of file names and sources are escaped."""
    assert format_table(predicted("a.mp4") | {"uncertain": True}, width=6, why=True) == (
        "a.mp4   sad 0.75 uncertain  (calm 0.25)  without audio\n"
        "          one: by itself calm 0.50; without it calm 0.75, sad 0.25 (+0.50)\n"
        "          two: not in this file; without it sad 0.75, sad 0.75 (+0.00)\n"
    )
    row = predicted("a.mp4", start_s=65.5) | {"end_s": 95.5}
    window = format_table(row, width=6, why=False)
    assert window == "a.mp4   1:05.5-1:35.5  sad 0.75  (calm 0.25)  without audio\n"
    row = predicted("a\x1b[2J\r.mp4")
    row["sources"]["\x1b]0;x"] = row["sources"]["one"]
    text = format_table(row, width=9, why=True)
    assert not {"\x1b", "\r"} & set(text) and text.startswith("a\\x1b[2J\\r.mp4 ")


@pytest.mark.parametrize("form", FORMATS)
def test_a_stopped_run_continues(form: str, tmp_path: Path) -> None:
    """After the last complete row; files and windows are told apart, and refused files are known."""
    path = tmp_path / f"out.{form}"
    write(path, predicted("a\nb"), predicted("a\nb", start_s=3.0))
    stopped = open_with(path)
    stopped.write(refused("b"))
    stopped.stream.write('{"file": "c"')
    stopped.stream.close()
    output = open_with(path)
    assert output.done == {LabelRequest("a\nb"), LabelRequest("a\nb", 3.0), LabelRequest("b")}
    assert output.refused == {LabelRequest("b")}
    output.write(predicted("c"))
    output.close()
    assert names_in(path) == ["a\nb", "a\nb", "b", "c"]


def test_rows_of_other_settings_are_never_mixed(tmp_path: Path) -> None:
    """Another model or threshold is an error, and the output stays as it is."""
    path = tmp_path / "out.jsonl"
    write(path, predicted("a"), refused("d"))
    before = path.read_bytes()
    with pytest.raises(InputError, match="of another model .*, or choose another --output"):
        open_with(path, model="1" * 16)
    with pytest.raises(InputError, match="another --threshold than 0.8; repeat that"):
        open_with(path, threshold=0.8)
    assert path.read_bytes() == before
    assert open_with(path, threshold=0.75).done


@pytest.mark.parametrize("text", ["my notes\n", '{"important": "my only copy"}', '{"file": 3}\n'])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_of_another_program_is_left_as_it_is(form: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes.{form}"
    path.write_text(text)
    with pytest.raises(InputError, match="choose another"):
        open_with(path)
    assert path.read_text() == text


@pytest.mark.parametrize("form", FORMATS)
def test_refused_files_are_removed_to_try_them_again(form: str, tmp_path: Path) -> None:
    """Only refused rows of requested files are removed."""
    path = tmp_path / f"out.{form}"
    write(path, refused("x"), predicted("a"), refused("not requested"), refused("y"))
    output = open_with(path, requested=("x", "y", "a"), retry=True)
    assert output.done == {LabelRequest("a"), LabelRequest("not requested")}
    output.close()
    assert names_in(path) == ["a", "not requested"]


def test_an_incomplete_time_line_is_removed(tmp_path: Path) -> None:
    """One that has all of its windows stays, and so do rows of whole files."""
    path = tmp_path / "out.jsonl"
    windows = [predicted("a") | {"start_s": start_s, "windows": 2} for start_s in (0.0, 5.0)]
    write(path, predicted("b"), *windows, {**windows[0], "file": "b"}, timeline=True)
    output = open_with(path, requested=("a", "b"), timeline=True)
    assert output.done == {LabelRequest("a")} and names_in(path) == ["b", "a", "a"]
