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
    """Where rows go, and what is there already.

    Attributes
    ----------
    writer : Writer
    done, refused : frozenset of keys
        Files, or windows of files, that have a row; those of them that could not be labelled.
    timelines : frozenset of str
        Files of which every window of a time line is there.
    """

    writer: Writer
    done: frozenset[Key] = frozenset()
    refused: frozenset[Key] = frozenset()
    timelines: frozenset[str] = frozenset()


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
        If it holds rows of another model, is no such output, or another run writes to it.
    """
    try:
        if target.path.exists() and not target.path.is_file():
            raise InputError(f"{target.path}: is no regular file; leave --output out to write to the terminal")
        target.path.parent.mkdir(parents=True, exist_ok=True)
        return _OPENERS[target.format](target)
    except OSError as error:
        raise InputError(f"{target.path}: cannot be written ({error.strerror or error})") from error


def _open_lines(target: Target) -> Output:
    kept = _whole_lines(target.path, begins='{"file": ')
    rows = [_parsed(target.path, number, line) for number, line in enumerate(kept, start=1)]
    state = _state(target, rows)
    return Output(Lines(_appending(target.path, "".join(kept))), *state)


def _open_csv(target: Target) -> Output:
    columns = csv_columns(target.classes, target.sources)
    kept = _whole_lines(target.path, begins="file,start_s,")
    records, ends = [], [0]
    reader = csv.reader(kept, strict=True)
    try:
        for record in reader:
            records.append(record)
            ends.append(reader.line_num)
    except csv.Error as error:
        if "unexpected end" not in str(error):
            raise _strange(target.path, reader.line_num, str(error)) from error
    if records and records[0] != columns:
        raise InputError(f"{target.path}: its columns are not those of this model; choose another --output")
    rows = []
    for record, end in zip(records[1:], ends[2:], strict=True):
        if len(record) != len(columns):
            raise _strange(target.path, end, f"{len(record)} cells, not {len(columns)}")
        rows.append(_from_csv(target.path, end, dict(zip(columns, record, strict=True))))
    state = _state(target, rows)
    stream = _appending(target.path, "".join(kept[: ends[-1]]))
    return Output(CsvRows(stream, columns, header=not records), *state)


def _from_csv(path: Path, line: int, flat: dict[str, str]) -> Row:
    row: Row = {name: value for name, value in flat.items() if value != ""}
    try:
        return row | {name: float(row[name]) for name in ("start_s", "end_s", "windows") if name in row}
    except ValueError as error:
        raise _strange(path, line, str(error)) from error


def _strange(path: Path, line: int, found: str) -> InputError:
    return InputError(f"{path}, line {line}: is none of predict's ({found}); choose another --output")


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
    kept = _whole_lines(journal, begins='{"file": ')
    rows: list[Row] = [_parsed(journal, number, line) for number, line in enumerate(kept, start=1)]
    if not rows and target.path.exists():
        try:
            table = pyarrow.parquet.read_table(target.path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{target.path}: is there, and no Parquet file ({error}); choose another") from error
        rows = [{name: value for name, value in row.items() if value is not None} for row in table]
    return Output(_ParquetRows(target, journal, rows), *_state(target, rows))


_OPENERS = {"jsonl": _open_lines, "csv": _open_csv, "parquet": _open_parquet}


def _whole_lines(path: Path, *, begins: str) -> list[str]:
    """Lines of a file that end in a line feed; refuses one whose only line is none that was left half written here."""
    if not path.exists():
        return []
    lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    torn = lines.pop()
    if torn and not lines and torn[: len(begins)] != begins[: len(torn)]:
        raise _strange(path, 1, torn[:40])
    return [f"{line}\n" for line in lines]


def _parsed(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row["file"], str):
            raise ValueError("no row of a prediction")
    except (ValueError, KeyError, RecursionError) as error:
        raise _strange(path, number, str(error)[:99]) from error
    return row


def _state(target: Target, rows: list[Row]) -> tuple[frozenset[Key], frozenset[Key], frozenset[str]]:
    """What is done, what of it was refused, and the files of which a time line is there whole."""
    if strange := next((row for row in rows if row.get("model") != target.model), None):
        raise InputError(
            f"{target.path}: holds predictions of another model ({strange.get('model')}, not {target.model}); choose "
            "another --output"
        )
    plain = [row for row in rows if "windows" not in row]
    windows = [row for row in rows if "windows" in row]
    there = Counter(as_text(row["file"]) for row in windows)
    whole = {as_text(row["file"]) for row in windows if there[as_text(row["file"])] >= int(row["windows"])}
    keys = (frozenset(map(key_of, some)) for some in (plain, [row for row in plain if "error" in row]))
    return *keys, frozenset(whole)  # type: ignore[return-value]


def _appending(path: Path, kept: str) -> TextIO:
    """The file with what is kept, open for more and for no other run."""
    stream = path.open("r+" if path.exists() else "w+", encoding="utf-8", errors="surrogateescape", newline="")
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as error:
        stream.close()
        raise InputError(f"{path}: another run writes to it; wait for it, or choose another --output") from error
    data = kept.encode("utf-8", "surrogateescape")
    stream.truncate(min(len(data), os.fstat(stream.fileno()).st_size))
    stream.seek(0, os.SEEK_END)
    if stream.tell() < len(data):  # a new journal
        stream.seek(0)
        stream.write(kept)
        stream.flush()
    return stream
