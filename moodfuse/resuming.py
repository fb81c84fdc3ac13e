"""An output file that a stopped `predict` goes on with: what is in it already, and a writer that adds the rest."""

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cache.errors import InputError
from cache.files import write_aside
from moodfuse.outputs import CsvRows, Lines, Row, Writer, as_text, csv_columns, flattened, key_of

Key = tuple[str, float, float | None]


@dataclass(frozen=True)
class Output:
    """Where rows go, what is there already, and how many files of that were refused."""

    writer: Writer
    done: frozenset[Key]
    refused: int = 0

    def has_file(self, file: str) -> bool:
        """Whether all rows of a time line of a file are there."""
        return any(key[0] == as_text(file) for key in self.done)


@dataclass(frozen=True)
class Target:
    """An output file: its format, and the model that all its rows must be of."""

    path: Path
    format: str
    model: str
    classes: Sequence[str]
    sources: Sequence[str]


def open_output(target: Target) -> Output:
    """Open an output file to add to it; a last line that was left half written is cut off.

    Raises
    ------
    InputError
        If it holds rows of another model, or is no such output.
    """
    try:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        return _OPENERS[target.format](target)
    except OSError as error:
        raise InputError(f"{target.path}: cannot be written ({error.strerror or error})") from error


def _open_lines(target: Target) -> Output:
    kept = _whole_lines(target.path)
    rows = [_parsed(target.path, number, line) for number, line in enumerate(kept, start=1)]
    return Output(Lines(_appending(target.path, "".join(kept))), *_state(target, rows))


def _open_csv(target: Target) -> Output:
    columns = csv_columns(target.classes, target.sources)
    kept = _whole_lines(target.path)
    records, ends = [], [0]
    reader = csv.reader(kept)
    for record in reader:
        records.append(record)
        ends.append(reader.line_num)
    if records and len(records[-1]) != len(records[0]):
        records.pop()
        ends.pop()
    if records and records[0] != columns:
        raise InputError(f"{target.path}: its columns are not those of this model; choose another --output")
    rows = [_from_csv(dict(zip(columns, record, strict=True))) for record in records[1:]]
    stream = _appending(target.path, "".join(kept[: ends[-1]]))
    return Output(CsvRows(stream, columns, header=not records), *_state(target, rows))


def _from_csv(flat: dict[str, str]) -> Row:
    row: Row = {name: value for name, value in flat.items() if value != ""}
    return row | {name: float(row[name]) for name in ("start_s", "end_s") if name in row}


class _ParquetRows:
    """Rows in a journal until all are there; then one Parquet file."""

    def __init__(self, target: Target, journal: Path, rows: list[Row]) -> None:
        self.target, self.journal, self.rows = target, journal, rows
        self.lines = Lines(_appending(journal, "".join(json.dumps(row) + "\n" for row in rows)))

    def write(self, row: Row) -> None:
        """Take one row."""
        flat = flattened(row)
        self.rows.append(flat)
        self.lines.write(flat)

    def close(self) -> None:
        """Write the table and remove the journal."""
        import pyarrow
        import pyarrow.parquet

        columns = csv_columns(self.target.classes, self.target.sources)
        rows = [{**row, "file": as_text(row["file"])} for row in self.rows]
        fields = [pyarrow.field(name, getattr(pyarrow, _type_of(name))()) for name in columns]
        table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields))
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink)
        write_aside(self.target.path, sink.getvalue().to_pybytes())
        self.lines.stream.close()
        self.journal.unlink(missing_ok=True)


def _type_of(column: str) -> str:
    if column == "uncertain":
        return "bool_"
    numbers = column in ("start_s", "end_s", "confidence") or column.startswith(("probability:", "adds:"))
    return "float64" if numbers else "string"


def _open_parquet(target: Target) -> Output:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("--format parquet needs pyarrow; install 'moodfuse[parquet]'") from error
    journal = target.path.with_name(f"{target.path.name}.journal")
    kept = _whole_lines(journal)
    rows: list[Row] = [_parsed(journal, number, line) for number, line in enumerate(kept, start=1)]
    if not rows and target.path.exists():
        try:
            table = pyarrow.parquet.read_table(target.path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{target.path}: is there, and no Parquet file ({error}); choose another") from error
        rows = [{name: value for name, value in row.items() if value is not None} for row in table]
    return Output(_ParquetRows(target, journal, rows), *_state(target, rows))


_OPENERS = {"jsonl": _open_lines, "csv": _open_csv, "parquet": _open_parquet}


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file that end in a line feed."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return [line for line in stream if line.endswith("\n")]


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row["file"], str):
            raise ValueError("no row of a prediction")
    except (ValueError, KeyError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: is none of predict's ({error}); choose another --output") from error
    return row


def _state(target: Target, rows: list[Row]) -> tuple[frozenset[Key], int]:
    """What is done, and how much of it was refused; a time line counts once all its windows are there."""
    if strange := next((row for row in rows if row.get("model") != target.model), None):
        raise InputError(
            f"{target.path}: holds predictions of another model ({strange.get('model')}, not {target.model}); choose "
            "another --output"
        )
    there = Counter(row["file"] for row in rows if "windows" in row)
    whole = [row for row in rows if "windows" not in row or there[row["file"]] >= int(row["windows"])]
    return frozenset(key_of(row) for row in whole), len({row["file"] for row in whole if "error" in row})


def _appending(path: Path, kept: str) -> TextIO:
    """The file cut after what is kept, open for more."""
    stream = path.open("r+" if path.exists() else "w+", encoding="utf-8", errors="surrogateescape", newline="")
    stream.seek(0)
    stream.truncate(len(kept.encode("utf-8", "surrogateescape")))
    stream.seek(0, os.SEEK_END)
    return stream
