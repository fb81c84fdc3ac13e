"""Output files of `predict` that a later run can resume.

Rows are appended as JSON lines: to the output itself, or, for CSV and Parquet, to `FILE.journal`, from which
the output is written at the end. The journal stays, so that a later run can add files or retry refused ones.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import compress
from pathlib import Path
from typing import IO, TextIO

from moodfuse.cache.errors import InputError
from moodfuse.predict import PredictSettings
from moodfuse.predict.outputs import (
    Key,
    Output,
    Row,
    json_line,
    key_of,
    not_written,
    write_csv,
    write_parquet,
)


def open_output(
    settings: PredictSettings, *, model: str, columns: Sequence[str], requested: frozenset[Key]
) -> Output:
    """Open the output file, new or to be resumed for the files and windows in `requested`.

    Rows that will be written again are removed: incomplete time lines and, to retry them, refused files.
    `model` is the digest that all rows must have, `columns` are those of CSV and Parquet.
    """
    path = settings.output or Path()
    journal = path if settings.format == "jsonl" else path.with_name(f"{path.name}.journal")
    _check_usable(path, journal, settings.format)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as on_error:
            stream = on_error.enter_context(_locked(journal))
            lines = _complete_lines(journal)
            rows = [_parsed(f"{journal}, line {number}", line) for number, line in enumerate(lines, start=1)]
            _check_rows(rows, settings, model)
            keep, done, refused = _resume(rows, settings, requested)
            kept = "".join(compress(lines, keep)).encode("utf-8", "surrogateescape")
            if kept != journal.read_bytes():
                with _replacing(journal.resolve()) as new:
                    new.write(kept)
                stream = on_error.enter_context(_locked(journal))
            on_error.pop_all()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error

    def finish() -> None:
        if journal != path:
            _write_table(path, journal, write_csv if settings.format == "csv" else write_parquet, columns)
        stream.close()

    return Output(stream, json_line, done, refused, finish)


def _check_usable(path: Path, journal: Path, form: str) -> None:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; leave --output out to write to the terminal")
    if path.exists() and not journal.exists():
        raise InputError(
            f"{path}: already exists, but not {journal.name}, which is needed to resume it; choose another "
            "--output"
        )
    if form == "parquet" and find_spec("pyarrow") is None:
        raise InputError("--format parquet needs pyarrow; install 'moodfuse[parquet]'")


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a file without the last one if it was not written completely."""
    *lines, rest = path.read_text("utf-8", "surrogateescape").split("\n")
    begin = '{"file": '
    if rest and not lines and not begin.startswith(rest[: len(begin)]):
        raise _not_a_row(f"{path}, line 1", rest[:40])
    return [f"{line}\n" for line in lines]


def _parsed(where: str, line: str) -> Row:
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row["file"], str):
            raise ValueError("a row has a file")
        for name in ("start_s", "end_s", "confidence", "windows"):
            float(row.get(name) or 0)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _not_a_row(where, str(error)[:99]) from error
    return row


def _not_a_row(where: str, found: str) -> InputError:
    return InputError(f"{where}: not a row that predict wrote ({found}); choose another --output")


def _check_rows(rows: Sequence[Row], settings: PredictSettings, model: str) -> None:
    """Check that this run would have written the same rows."""
    hops_s: dict[str, float] = {}
    for row in rows:
        if row.get("model") != model:
            raise _different(settings, f"of another model ({row.get('model')}, not {model})")
        if "uncertain" in row and row["uncertain"] != (row.get("confidence", 1.0) < settings.threshold):
            confidence, marked = (
                row.get("confidence", 1.0),
                "uncertain" if row["uncertain"] else "not uncertain",
            )
            raise _different(
                settings,
                f"with another --threshold than {settings.threshold:g} (at a confidence of {confidence:.3f} "
                f"one is {marked})",
            )
        # The second of three or more windows starts after one hop; the last window may start earlier.
        if settings.timeline and row.get("windows", 1) > 2 and row["start_s"] > 0:
            hops_s[row["file"]] = min(row["start_s"], hops_s.get(row["file"], row["start_s"]))
    for hop_s in set(hops_s.values()) - {settings.hop_s}:
        raise _different(settings, f"with another --hop ({hop_s:g} s, not {settings.hop_s:g} s)")


def _different(settings: PredictSettings, what: str) -> InputError:
    return InputError(f"{settings.output}: has predictions {what}; repeat that, or choose another --output")


def _resume(
    rows: Sequence[Row], settings: PredictSettings, requested: frozenset[Key]
) -> tuple[list[bool], frozenset[Key], frozenset[Key]]:
    """Decide which rows to keep, which keys are complete, and which of them were refused."""
    # The windows of a time line have the key of their file: they are written together, and complete together.
    keys = [key_of({"file": row["file"]} if "windows" in row else row) for row in rows]
    same_kind = [
        ("windows" in row or "error" in row) if settings.timeline else "windows" not in row for row in rows
    ]
    own = list(compress(zip(keys, rows, strict=True), same_kind))
    counts = Counter(key for key, _ in own)
    refused = {key for key, row in own if "error" in row}
    incomplete = {key for key, row in own if counts[key] < row.get("windows", 1)}
    again = requested & (incomplete | refused if settings.retry else incomplete)
    keep = [not (same and key in again) for same, key in zip(same_kind, keys, strict=True)]
    return keep, frozenset(counts.keys() - incomplete - again), frozenset(refused - again)


def _locked(path: Path) -> TextIO:
    """Open a file for appending, unless another run has it open."""
    stream = path.open("a", encoding="utf-8", newline="")
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        pass
    except OSError as error:
        stream.close()
        raise InputError(f"{path}: in use by another run; wait for it, or choose another --output") from error
    return stream


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that replaces another one only once it is complete."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_table(
    path: Path,
    journal: Path,
    write: Callable[[IO[bytes], Iterable[Row], Sequence[str]], None],
    columns: Sequence[str],
) -> None:
    """Write the CSV or Parquet file from its journal."""
    try:
        with journal.open(encoding="utf-8") as lines, _replacing(path.resolve()) as stream:
            write(stream, map(json.loads, lines), columns)
    except OSError as error:
        raise not_written(path, error) from error
