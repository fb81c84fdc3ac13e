"""Predictions as they are written: rows, their keys, and text that every format can hold."""

import csv
import io
import json
import os
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.errors import MoodfuseError, OutputError
from moodfuse.model.model import Ask
from moodfuse.model.predictions import Prediction, Refusal, SourceSays
from moodfuse.predict.outputs import (
    CsvRows,
    Lines,
    Table,
    Writer,
    as_text,
    csv_columns,
    flattened,
    key_of,
    put,
    row_of,
)

CLASSES = ("calm", "sad")
COLUMNS = csv_columns(CLASSES, ("one", "two"))
FOUND = Prediction(
    "a.mp4",
    CLASSES,
    np.array([0.25, 0.75]),
    0.0,
    30.0,
    "sound",
    (
        SourceSays("one", np.array([0.5, 0.5]), np.array([0.75, 0.25])),
        SourceSays("two", None, np.array([0.25, 0.75])),
    ),
)


def row(
    found: Prediction | Refusal = FOUND, ask: Ask | None = None, threshold: float = 0.5
) -> dict[str, Any]:
    return row_of(found, ask or Ask(found.file), model="m", threshold=threshold)


def test_a_row_says_what_the_model_says() -> None:
    """Label, confidence, whether it is uncertain, and of each source its own answer, the rest's, and the difference."""
    found = row()
    assert (found["label"], found["confidence"], found["uncertain"]) == ("sad", 0.75, False)
    assert found["sources"]["one"]["adds"] == 0.5 and found["sources"]["two"]["own"] is None
    assert row(threshold=0.76)["uncertain"] and "start_s" not in found
    assert row(ask=Ask("a.mp4", 3.0))["start_s"] == 3.0
    assert row(Refusal("b", "truncated", "it ends")) == {
        "file": "b",
        "error": "truncated",
        "detail": "it ends",
        "model": "m",
    }


def test_a_row_and_what_was_asked_have_one_key() -> None:
    """Whole files and windows of them, of any name."""
    for ask in (Ask("a"), Ask("a", 3.0), Ask("a", 0.0, 9.5), Ask("b\udcff")):
        assert key_of(row(Refusal(ask.file, "x", "y"), ask)) == key_of(ask)
    assert len({key_of(ask) for ask in (Ask("a"), Ask("a", 3.0), Ask("a", 0.0, 9.5))}) == 3


def test_names_of_any_bytes_are_text_in_a_table() -> None:
    """A name that is no UTF-8 is escaped alike wherever a row is flat, and JSON gives the very bytes back."""
    name = os.fsdecode(b"caf\xe9\xff.mp4")
    found = row(Refusal(name, "x", f"{name} ends"))
    assert flattened(found)["file"] == as_text(name) == "caf\\udce9\\udcff.mp4" == as_text(as_text(name))
    assert flattened(found)["detail"].encode()
    stream = io.StringIO()
    CsvRows(stream, COLUMNS, header=True).write(found)
    assert next(csv.DictReader(io.StringIO(stream.getvalue())))["file"] == as_text(name)
    stream = io.StringIO()
    Lines(stream).write(found)
    assert os.fsencode(json.loads(stream.getvalue())["file"]) == b"caf\xe9\xff.mp4"


def test_a_flat_row_has_the_columns_of_the_table() -> None:
    """A column for each label, and two for each source."""
    flat = flattened(row())
    assert set(flat) <= set(COLUMNS)
    assert flat["probability:sad"] == 0.75 and flat["own:one"] == "calm" and flat["own:two"] is None


@pytest.mark.parametrize(
    "writer",
    [
        Lines,
        lambda stream: CsvRows(stream, COLUMNS, header=False),
        lambda stream: Table(stream, width=9, why=True),
    ],
    ids=["jsonl", "csv", "table"],
)
def test_a_full_disk_is_said(writer: type[Writer]) -> None:
    """Every writer names what it writes to, the reason, and what to do."""
    with open("/dev/full", "w", encoding="utf-8") as stream:
        with pytest.raises(
            OutputError, match=r"/dev/full: cannot be written \(No space left on device\); make room"
        ):
            writer(stream).write(row())  # type: ignore[call-arg]
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_a_reader_that_has_gone_is_no_fault() -> None:
    """A closed pipe is left to the program's end, which is quiet about it."""
    read, written = os.pipe()
    os.close(read)
    stream = open(written, "w", encoding="utf-8")  # noqa: SIM115 - closing it fails as well
    with pytest.raises(BrokenPipeError) as gone:
        put(stream, "a row")
    assert not isinstance(gone.value, MoodfuseError)
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    stream.close()


def test_control_characters_do_not_reach_a_terminal() -> None:
    """A text table escapes control characters, and CSV does so only on a terminal."""
    name = "a\x1b[2J\r.mp4"
    refused = row(Refusal(name, "x", f"{name}: \x9b31m"))
    stream = io.StringIO()
    Table(stream, width=9, why=True).write(refused)
    Table(stream, width=9, why=True).write(
        {**row(), "label": "sad", "sources": {"\x1b]0;x": row()["sources"]["one"]}}
    )
    assert (
        not {"\x1b", "\x9b", "\r"} & set(stream.getvalue())
        and "a\\x1b[2J\\r.mp4: \\x9b31m\n" in stream.getvalue()
    )
    for terminal in (False, True):
        stream = io.StringIO(newline="")
        stream.isatty = lambda terminal=terminal: terminal  # type: ignore[method-assign, misc]
        CsvRows(stream, COLUMNS, header=True).write(refused)
        (found,) = csv.DictReader(io.StringIO(stream.getvalue(), newline=""))
        assert found["file"] == ("a\\x1b[2J\\r.mp4" if terminal else name)
