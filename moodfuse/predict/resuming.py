"""An output file that a stopped `predict` goes on with: what is in it already, and a writer that adds the rest."""

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from pathlib import Path
from typing import TextIO

from moodfuse.cache.errors import InputError
from moodfuse.cache.files import read_regular, write_aside
from moodfuse.model.predictions import DEFAULT_THRESHOLD
from moodfuse.predict.outputs import CsvRows, Key, Lines, Row, Writer, csv_columns, flattened, key_of


@dataclass(frozen=True)
class Output:
    """Where rows go, and what is there already.

    Attributes
    ----------
    writer : Writer
    done, refused : frozenset of keys
        What was asked for and has all its rows; that of it which could not be labelled.
    """

    writer: Writer
    done: frozenset[Key] = frozenset()
    refused: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Target:
    """An output file, and what all its rows must be.

    Attributes
    ----------
    path : Path
    format : str
    model : str
        Digest of the model that all rows are of.
    classes, sources : sequence of str
        Of the model.
    threshold : float
        By which all rows were judged.
    hop_s : float or None
        Seconds between the windows of time lines; `None` where files are labelled as such.
    asked : frozenset of keys
        What is asked for now.
    retry : bool
        Whether that of it which was refused is tried again.
    """

    path: Path
    format: str
    model: str
    classes: Sequence[str]
    sources: Sequence[str]
    threshold: float = DEFAULT_THRESHOLD
    hop_s: float | None = None
    asked: frozenset[Key] = frozenset()
    retry: bool = False


@dataclass(frozen=True)
class _Held:
    """What the rows of an output come to: which of them stay, what is done, and what of that was refused."""

    stays: Sequence[bool]
    done: frozenset[Key]
    refused: frozenset[Key]


def open_output(target: Target) -> Output:
    """Open an output file to add to it; a last line that was left half written is cut off.

    Of what is asked for, a time line that lacks windows, and under `Target.retry` what was refused, is taken out.

    Raises
    ------
    InputError
        If it holds rows of another model, threshold or hop, is no such output, or another run writes to it.
    """
    try:
        if target.path.exists() and not target.path.is_file():
            raise InputError(
                f"{target.path}: is no regular file; leave --output out to write to the terminal"
            )
        target.path.parent.mkdir(parents=True, exist_ok=True)
        return _OPENERS[target.format](target)
    except OSError as error:
        raise InputError(f"{target.path}: cannot be written ({error.strerror or error})") from error


def _open_lines(target: Target) -> Output:
    kept = _whole_lines(target.path, begins='{"file": ')
    rows = [_parsed(target.path, number, line) for number, line in enumerate(kept, start=1)]
    held = _held(target, rows)
    stream = _appending(target.path, "".join(compress(kept, held.stays)))
    return Output(Lines(stream), held.done, held.refused)


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
        flat = {name: cell for name, cell in zip(columns, record, strict=True) if cell != ""}
        rows.append(_with_numbers(target.path, end, flat))
    held = _held(target, rows)
    texts = ["".join(kept[start:end]) for start, end in pairwise(ends)]
    stream = _appending(target.path, "".join([*texts[:1], *compress(texts[1:], held.stays)]))
    return Output(CsvRows(stream, columns, header=not records), held.done, held.refused)


def _with_numbers(path: Path, line: int, row: Row) -> Row:
    """A row whose numbers are such, as those of a CSV are not."""
    try:
        return row | {name: kind(row[name]) for name, kind in _NUMBERS.items() if row.get(name) is not None}
    except (ValueError, TypeError, OverflowError) as error:
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
        fields = [pyarrow.field(name, getattr(pyarrow, _type_of(name))()) for name in columns]
        table = pyarrow.Table.from_pylist(self.rows, schema=pyarrow.schema(fields))
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink)
        write_aside(self.target.path, sink.getvalue().to_pybytes())
        self.lines.stream.close()
        self.journal.unlink(missing_ok=True)


def _type_of(column: str) -> str:
    numbers = column in ("start_s", "end_s", "confidence") or column.startswith(("probability:", "adds:"))
    return {"uncertain": "bool_", "windows": "int64"}.get(column, "float64" if numbers else "string")


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
            raise InputError(
                f"{target.path}: is there, and no Parquet file ({error}); choose another"
            ) from error
        rows = [{name: value for name, value in row.items() if value is not None} for row in table]
    held = _held(target, rows)
    return Output(_ParquetRows(target, journal, list(compress(rows, held.stays))), held.done, held.refused)


_NUMBERS = {"start_s": float, "end_s": float, "confidence": float, "windows": int}
_OPENERS = {"jsonl": _open_lines, "csv": _open_csv, "parquet": _open_parquet}


def _whole_lines(path: Path, *, begins: str) -> list[str]:
    """Lines of a file that end in a line feed; refuses one whose only line is none that was left half written here."""
    if not path.exists():
        return []
    lines = read_regular(path).decode("utf-8", "surrogateescape").split("\n")
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
    return _with_numbers(path, number, row)


def _held(target: Target, rows: Sequence[Row]) -> _Held:
    """What rows come to; those of a time line stay or go together, as they came from one pass over its file."""
    for row in rows:
        _check_row(target, row)
    if timeline := target.hop_s is not None:
        _check_hop(target, rows)
    ours = [("windows" in row or "error" in row) if timeline else "windows" not in row for row in rows]
    keys = [_asked_by(row) for row in rows]
    own = list(compress(zip(keys, rows, strict=True), ours))
    there = Counter(key for key, _ in own)
    refused = {key for key, row in own if "error" in row}
    torn = {key for key, row in own if there[key] < row.get("windows", 1)}
    gone = target.asked & (torn | refused if target.retry else torn)
    stays = [not (mine and key in gone) for mine, key in zip(ours, keys, strict=True)]
    return _Held(stays, frozenset(there.keys() - torn - gone), frozenset(refused - gone))


def _asked_by(row: Row) -> Key:
    """Key of what was asked for: of a time line's window the whole file."""
    return key_of({"file": row["file"]} if "windows" in row else row)


def _check_row(target: Target, row: Row) -> None:
    """Refuse a row that this run would not have written."""
    if row.get("model") != target.model:
        raise InputError(
            f"{target.path}: holds predictions of another model ({row.get('model')}, not {target.model}); choose "
            "another --output"
        )
    if "confidence" in row and str(row.get("uncertain")) != str(row["confidence"] < target.threshold):
        said = "uncertain" if row["confidence"] >= target.threshold else "not uncertain"
        raise InputError(
            f"{target.path}: holds predictions judged by another --threshold than {target.threshold:g} (one of "
            f"confidence {row['confidence']:.3f} is {said}); give the threshold of before, or choose another --output"
        )


def _check_hop(target: Target, rows: Sequence[Row]) -> None:
    """Refuse time lines of another hop: the second of three windows or more starts after one."""
    hops_s: dict[str, float] = {}
    for row in rows:
        if row.get("windows", 1) > 2 and (start_s := row.get("start_s", 0.0)) > 0:
            hops_s[row["file"]] = min(start_s, hops_s.get(row["file"], start_s))
    if strange := set(hops_s.values()) - {target.hop_s}:
        raise InputError(
            f"{target.path}: holds time lines of another --hop ({min(strange):g} s, not {target.hop_s:g} s); give the "
            "hop of before, or choose another --output"
        )


def _locked(path: Path) -> TextIO:
    """The file, open for reading and writing here and for writing in no other run."""
    stream = path.open(
        "r+" if path.exists() else "w+", encoding="utf-8", errors="surrogateescape", newline=""
    )
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError as error:
        stream.close()
        raise InputError(
            f"{path}: another run writes to it; wait for it, or choose another --output"
        ) from error
    return stream


def _appending(path: Path, kept: str) -> TextIO:
    """The file with what is kept and nothing else, open for more."""
    stream, data = _locked(path), kept.encode("utf-8", "surrogateescape")
    if path.read_bytes()[: len(data)] == data:
        stream.truncate(len(data))
    else:  # rows in the middle go, or the journal is new
        write_aside(path.resolve(), data)
        stream.close()
        stream = _locked(path)
    stream.seek(0, os.SEEK_END)
    return stream
