"""Rows of predictions in each format, and output files that a later run resumes."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from moodfuse.cache.errors import InputError
from moodfuse.model.answers import list_columns
from moodfuse.model.predictions import (
    LabelRequest,
    ModelId,
    Prediction,
    Refusal,
    SourceContribution,
    Timeline,
)
from moodfuse.predict import PredictSettings
from moodfuse.predict.outputs import (
    Output,
    format_csv,
    format_csv_rows,
    format_json,
    format_table,
    lock_output,
    open_output,
)

FORMATS = ("jsonl", "csv", "parquet")
MODEL = ModelId("m", "0" * 16)
CLASSES = ("calm", "sad")
COLUMNS = list_columns(CLASSES, ("one", "two"))
SOURCES = (
    SourceContribution("one", np.array([0.5, 0.5]), np.array([0.75, 0.25])),
    SourceContribution("two", None, np.array([0.25, 0.75])),
)


def predicted(file: str, end_s: float | None = None) -> dict[str, Any]:
    """The answer with a prediction."""
    probabilities = np.array([0.25, 0.75])
    return Prediction(
        file, CLASSES, probabilities, 0.0, end_s or 30.0, "audio", SOURCES, requested_end_s=end_s, model=MODEL
    ).to_dict()


def refused(file: str) -> dict[str, Any]:
    """The answer of a file that cannot be labelled."""
    return Refusal(file, "truncated", f"{file} ends", model=MODEL).to_dict()


def timed(file: str, *, lost: bool = False) -> dict[str, Any]:
    """The answer with a timeline of two windows."""
    refusals = ((1, Refusal(file, "truncated", "it ends")),) if lost else ()
    starts_s = np.array([0.0, 65.5])
    rows = np.array([[0.25, 0.75], [0.5, 0.5]])
    return Timeline(file, CLASSES, starts_s, starts_s + 30, rows, refusals, 99.0, model=MODEL).to_dict()


def open_with(
    path: Path, *, model: str = MODEL.digest, requested: tuple[str, ...] = (), **options: Any
) -> Output:
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


def test_file_names_of_any_bytes() -> None:
    """CSV escapes bytes that are not UTF-8 and quotes line ends; JSON lines give the very bytes back."""
    name = os.fsdecode(b"caf\xe9\r\xff.mp4")
    text = format_csv(COLUMNS) + format_csv_rows(refused(name), COLUMNS)
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
    window = format_table(predicted("a.mp4", end_s=20.5), width=6, why=False)
    assert window == "a.mp4   0:00-0:20.5  sad 0.75  (calm 0.25)  without audio\n"
    assert format_table(timed("a.mp4", lost=True), width=6, why=False) == (
        "a.mp4   0:00-0:30  sad 0.75  (calm 0.25)\na.mp4   1:05.5-1:35.5  REFUSED truncated: it ends\n"
    )
    row = predicted("a\x1b[2J\r.mp4")
    row["sources"]["\x1b]0;x"] = row["sources"]["one"]
    text = format_table(row, width=9, why=True)
    assert not {"\x1b", "\r"} & set(text) and text.startswith("a\\x1b[2J\\r.mp4 ")


@pytest.mark.parametrize("form", FORMATS)
def test_a_stopped_run_continues(form: str, tmp_path: Path) -> None:
    """After the last complete row; files and windows are told apart, and refused files are known."""
    path = tmp_path / f"out.{form}"
    write(path, predicted("a\nb"), predicted("a\nb", end_s=20.0))
    stopped = open_with(path)
    stopped.write(refused("b"))
    stopped.stream.write('{"schema": 1, "file": "c"')
    stopped.stream.close()
    output = open_with(path)
    assert output.done == {LabelRequest("a\nb"), LabelRequest("a\nb", 0.0, 20.0), LabelRequest("b")}
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
    with pytest.raises(InputError, match="another --threshold than 0.8; use that one"):
        open_with(path, threshold=0.8)
    assert path.read_bytes() == before
    assert open_with(path, threshold=0.75).done


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_output_of_an_earlier_version_is_left_as_it_is(form: str, tmp_path: Path) -> None:
    """Its rows have no schema number; the error says to choose another output."""
    path = tmp_path / f"out.{form}"
    row = {"file": "a.mp4", "error": "truncated", "detail": "it ends", "model": MODEL.digest}
    journal = path if form == "jsonl" else path.with_name("out.csv.journal")
    journal.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="written by another version of moodfuse.*; choose another --output"):
        open_with(path)
    assert json.loads(journal.read_text()) == row


@pytest.mark.parametrize("text", ["my notes\n", '{"important": "my only copy"}', '{"file": 3}\n'])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_of_another_program_is_left_as_it_is(form: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"notes.{form}"
    path.write_text(text)
    with pytest.raises(InputError, match="choose another"):
        open_with(path)
    assert path.read_text() == text


HOLDER = """
import sys, time
from pathlib import Path
from moodfuse.predict.outputs import lock_output
with lock_output(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_runs_do_not_write_to_one_output(tmp_path: Path) -> None:
    """The second is refused until the first has ended, even by SIGKILL; a link is the same output."""
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        for name in (path, link):
            message = f"{name.name}: another predict is writing to this file"
            with pytest.raises(InputError, match=message), lock_output(name):
                pass
        with lock_output(tmp_path / "other.jsonl"):
            process.kill()
    with lock_output(path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["link.jsonl"]


def test_the_lock_of_an_output_leaves_other_files(tmp_path: Path) -> None:
    """A file of another program that ends with .lock keeps its bytes; a pipe is written without a lock."""
    (tmp_path / "poetry.lock").write_text("keep")
    os.mkfifo(tmp_path / "pipe")
    with lock_output(tmp_path / "poetry"), lock_output(tmp_path / "pipe"):
        pass
    assert (tmp_path / "poetry.lock").read_text() == "keep"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pipe", "poetry.lock"]


@pytest.mark.parametrize("form", FORMATS)
def test_refused_files_are_removed_to_try_them_again(form: str, tmp_path: Path) -> None:
    """Only refused rows of requested files are removed."""
    path = tmp_path / f"out.{form}"
    write(path, refused("x"), predicted("a"), refused("not requested"), refused("y"))
    output = open_with(path, requested=("x", "y", "a"), retry=True)
    assert output.done == {LabelRequest("a"), LabelRequest("not requested")}
    output.close()
    assert names_in(path) == ["a", "not requested"]


def test_time_lines_and_predictions_in_one_output(tmp_path: Path) -> None:
    """Each is resumed on its own; a timeline with refused windows can be tried again."""
    path = tmp_path / "out.jsonl"
    write(path, predicted("a"), timed("a", lost=True), timed("b"))
    assert open_with(path, timeline=True).refused == {LabelRequest("a")}
    assert open_with(path).done == {LabelRequest("a")} and not open_with(path).refused
    output = open_with(path, requested=("a", "b"), timeline=True, retry=True)
    assert output.done == {LabelRequest("b")} and names_in(path) == ["a", "b"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_time_line_is_a_row_per_window(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{form}"
    write(path, timed("a", lost=True), timeline=True)
    assert names_in(path) == ["a", "a"]
