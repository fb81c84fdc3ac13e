"""Rows of predictions and their text in each format."""

import csv
import io
import json
import os
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.errors import MoodfuseError, OutputError
from moodfuse.model.predictions import LabelRequest, Prediction, Refusal, SourceContribution
from moodfuse.predict.outputs import (
    Output,
    as_text,
    csv_columns,
    csv_line,
    csv_row,
    flattened,
    json_line,
    key_of,
    row_of,
    table_line,
)

CLASSES = ("calm", "sad")
COLUMNS = csv_columns(CLASSES, ("one", "two"))
SOURCES = (
    SourceContribution("one", np.array([0.5, 0.5]), np.array([0.75, 0.25])),
    SourceContribution("two", None, np.array([0.25, 0.75])),
)
PREDICTION = Prediction("a.mp4", CLASSES, np.array([0.25, 0.75]), 0.0, 30.0, "sound", SOURCES)


def row(
    result: Prediction | Refusal = PREDICTION, request: LabelRequest | None = None, threshold: float = 0.5
) -> dict[str, Any]:
    return row_of(result, request or LabelRequest(result.file), model="m", threshold=threshold)


def test_a_row_has_the_prediction_or_the_reason() -> None:
    """Label, confidence and contributions, with the window if one was requested; or the error."""
    found = row()
    assert (found["label"], found["confidence"], found["uncertain"]) == ("sad", 0.75, False)
    assert found["sources"]["one"]["adds"] == 0.5 and found["sources"]["two"]["own"] is None
    assert row(threshold=0.76)["uncertain"] and "start_s" not in found
    assert row(request=LabelRequest("a.mp4", 3.0))["start_s"] == 3.0
    expected = {"file": "b", "error": "truncated", "detail": "it ends", "model": "m"}
    assert row(Refusal("b", "truncated", "it ends")) == expected


def test_a_row_has_the_key_of_its_request() -> None:
    """For whole files and windows of any name; different windows have different keys."""
    for request in (
        LabelRequest("a"),
        LabelRequest("a", 3.0),
        LabelRequest("a", 0.0, 9.5),
        LabelRequest("b\udcff"),
    ):
        assert key_of(row(Refusal(request.file, "x", "y"), request)) == key_of(request)
    assert (
        len(
            {
                key_of(request)
                for request in (LabelRequest("a"), LabelRequest("a", 3.0), LabelRequest("a", 0.0, 9.5))
            }
        )
        == 3
    )


def test_file_names_of_any_bytes() -> None:
    """CSV escapes bytes that are not UTF-8; JSON lines give the very bytes back."""
    name = os.fsdecode(b"caf\xe9\xff.mp4")
    found = row(Refusal(name, "x", f"{name} ends"))
    assert flattened(found)["file"] == as_text(name) == "caf\\udce9\\udcff.mp4" == as_text(as_text(name))
    text = csv_line(COLUMNS) + csv_row(found, COLUMNS)
    assert text.encode() and next(csv.DictReader(io.StringIO(text)))["file"] == as_text(name)
    assert os.fsencode(json.loads(json_line(found))["file"]) == b"caf\xe9\xff.mp4"


def test_a_flat_row_has_the_columns_of_the_table() -> None:
    """One column per label and two per source."""
    flat = flattened(row())
    assert set(flat) <= set(COLUMNS)
    assert flat["probability:sad"] == 0.75 and flat["own:one"] == "calm" and flat["own:two"] is None


def test_a_full_disk_is_an_error_and_a_closed_pipe_is_not() -> None:
    """The error names the output and the reason; a closed pipe is left to the command line."""
    with open("/dev/full", "w", encoding="utf-8") as stream:
        with pytest.raises(OutputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
            Output(stream, json_line).write(row())
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    read, written = os.pipe()
    os.close(read)
    stream = open(written, "w", encoding="utf-8")  # noqa: SIM115 - closing it fails as well
    with pytest.raises(BrokenPipeError) as gone:
        Output(stream, json_line).put("a row")
    assert not isinstance(gone.value, MoodfuseError)
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    stream.close()


def test_control_characters_do_not_reach_a_terminal() -> None:
    """The table escapes control characters; CSV does so only for a terminal, and quotes a carriage return."""
    name = "a\x1b[2J\r.mp4"
    refused = row(Refusal(name, "x", f"{name}: \x9b31m"))
    source = row()["sources"]["one"]
    shown = table_line(refused, width=9, why=True)
    shown += table_line({**row(), "sources": {"\x1b]0;x": source}}, width=9, why=True)
    assert not {"\x1b", "\x9b", "\r"} & set(shown) and "a\\x1b[2J\\r.mp4: \\x9b31m\n" in shown
    for escape in (False, True):
        text = csv_line(COLUMNS) + csv_row(refused, COLUMNS, escape=escape)
        (found,) = csv.DictReader(io.StringIO(text, newline=""))
        assert found["file"] == ("a\\x1b[2J\\r.mp4" if escape else name)
