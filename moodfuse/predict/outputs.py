"""Answers as text in each format, and output files that a later run can resume.

They are appended as JSON lines: to the output itself, or, for CSV and Parquet, to `FILE.journal`, from which
the output is written at the end. The journal stays, so that a later run can add files or retry refused ones.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any, TextIO

from moodfuse.cache.console import printable
from moodfuse.cache.errors import InputError
from moodfuse.cache.files import write_atomic
from moodfuse.model.answers import flatten, list_windows
from moodfuse.model.predictions import SCHEMA, Answer, LabelRequest
from moodfuse.predict import PredictSettings

FIRST_WINDOW = {"start_s": 0.0, "end_s": None}


def is_window(request: LabelRequest) -> bool:
    """Whether a window is requested that is not the first 30 s."""
    return bool(request.start_s) or request.end_s is not None


# Text


def format_json(answer: Answer) -> str:
    """Return an answer as a JSON line."""
    return json.dumps(answer, allow_nan=False) + "\n"


def list_rows(answer: Answer) -> list[Answer]:
    """Return the flat rows of an answer, one for each window, with text as valid Unicode."""
    rows = map(flatten, list_windows(answer))
    return [
        {name: _as_unicode(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]


def _as_unicode(name: str) -> str:
    """Escape bytes of a file name that are not UTF-8, as in ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


def format_csv(cells: Iterable[Any]) -> str:
    """Return cells as a CSV line."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # quotes each character of the line end
    return line.getvalue().removesuffix("\r\n") + "\n"


def format_csv_rows(answer: Answer, columns: Sequence[str]) -> str:
    """Return an answer as CSV lines, one for each window."""
    return "".join(format_csv(row.get(name, "") for name in columns) for row in list_rows(answer))


def format_table(
    answer: Answer, *, width: int, why: bool, line_width: int | None = None, skipped: int = 0
) -> str:
    """Return an answer as a line for each window; with `why` followed by a line per source.

    `width` is that of the column of file names, without their first `skipped` characters. Lines longer than
    `line_width` get a shorter name, then lose the other labels, and then are wrapped.
    """
    lines = [
        line
        for row in list_windows(answer)
        for line in _format_window(row, width=width, why=why, line_width=line_width, skipped=skipped)
    ]
    return "".join(f"{line}\n" for line in lines)


def _format_window(row: Answer, *, width: int, why: bool, line_width: int | None, skipped: int) -> list[str]:
    name, others, marks = printable(_as_unicode(row["file"][skipped:])), "", ""
    if line_width is not None:
        width = min(width, line_width // 2)
        if len(name) > width:
            name = f"{name[: width // 2]}…{name[width // 2 + 1 - width :]}"
    if "error" in row:
        text = f"REFUSED {row['error']['code']}: {row['error']['detail']}"
    else:
        ranked = sorted(row["probabilities"].items(), key=lambda pair: -pair[1])
        others = "  (" + ", ".join(f"{label} {value:.2f}" for label, value in ranked[1:3]) + ")"
        text = f"{row['label']} {row['confidence']:.2f}{' uncertain' * row['uncertain']}"
        marks = f"  without {row['missing']}" if row["missing"] else ""
        marks += f"  partial: {row['partial']}" if row.get("partial") else ""
    window = ""
    if row.get("requested") != FIRST_WINDOW:
        shown = row.get("window") or row["requested"]
        window = "  " + "-".join(_format_time(time_s) for time_s in shown.values() if time_s is not None)
    line = f"{name:<{width}}{window}  {printable(text + others + marks)}"
    if line_width is not None and len(line) > line_width:
        line = f"{name:<{width}}{window}  {printable(text + marks)}"
    lines = [line]
    for source, contribution in row.get("sources", {}).items() if why else ():
        explanation = _explain_source(source, contribution, row["label"])
        indent = "" if line_width is not None else f"{'':<{width}}"
        lines.append(f"{indent}    {printable(explanation)}")
    if line_width is not None:
        lines = [part for line in lines for part in wrap(line, line_width, subsequent_indent=" " * 6)]
    return lines


def _format_time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}" if rest % 1 else f"{int(minutes)}:{int(rest):02d}"


def _explain_source(source: str, contribution: Answer, label: str) -> str:
    own, without = contribution["own"], contribution["without"]
    alone = "not in this file" if own is None else f"by itself {_format_top_label(own)}"
    adds = f"{label} {without[label]:.2f} ({contribution['contribution']:+.2f})"
    return f"{source}: {alone}; without it {_format_top_label(without)}, {adds}"


def _format_top_label(probabilities: dict[str, float]) -> str:
    label = max(probabilities, key=probabilities.__getitem__)
    return f"{label} {probabilities[label]:.2f}"


def _parquet_table(answers: Iterable[Answer], columns: Sequence[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    types = dict.fromkeys(columns, pyarrow.string())
    for name in columns:
        if name in ("start_s", "end_s", "confidence") or name.startswith(("probability:", "contribution:")):
            types[name] = pyarrow.float64()
    types |= {"uncertain": pyarrow.bool_(), "schema": pyarrow.int64()}
    rows = [row for answer in answers for row in list_rows(answer)]
    table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(list(types.items())))
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue().to_pybytes()


# Outputs


@contextmanager
def lock_output(path: Path | None) -> Iterator[None]:
    """Raise InputError if another run writes to the same output, where the system can lock files.

    The lock is on `.FILE.predict-lock`, as the output itself is replaced. It ends with the process, even if
    that is killed.
    """
    is_file = path is not None and (path.is_file() or not path.exists())  # not a pipe
    if path is None or not is_file or find_spec("fcntl") is None:  # Windows
        yield
        return
    import fcntl

    target = path.resolve()
    lock = target.with_name(f".{target.name}.predict-lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    busy = InputError(
        f"{path}: another predict is writing to this file; wait for it, or choose another --output"
    )
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:  # a file system without locks
            pass
        if not os.fstat(stream.fileno()).st_nlink:  # the other run has removed it since it was opened
            raise busy
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


@dataclass(frozen=True)
class Output:
    """Where answers are written to: a stream, after `to_text`, and then `finish` is called.

    `path` is the file that the stream writes, if any. `done` are the requests that the output already has,
    and `refused` those of them that were refused.
    """

    stream: TextIO
    to_text: Callable[[Answer], str]
    done: frozenset[LabelRequest] = frozenset()
    refused: frozenset[LabelRequest] = frozenset()
    finish: Callable[[], None] | None = None
    path: Path | None = None

    def write(self, answer: Answer) -> None:
        """Write and flush one answer."""
        self.stream.write(self.to_text(answer))
        self.stream.flush()

    def close(self) -> None:
        """Finish after the last answer."""
        if self.finish is not None:
            self.finish()


def open_output(
    settings: PredictSettings, *, model: str, columns: Sequence[str], requested: frozenset[LabelRequest]
) -> Output:
    """Open the output file, new or to be resumed for the requests of this run.

    To retry refused files, their answers are removed. `model` is the digest that all answers must have,
    `columns` are those of CSV and Parquet.
    """
    path = settings.output or Path()
    journal = path if settings.format == "jsonl" else path.with_name(f"{path.name}.journal")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; leave --output out to write to the terminal")
    if path.exists() and not journal.exists():
        raise InputError(
            f"{path}: already exists, but not {journal.name}, from which predict resumes; "
            "choose another --output"
        )
    if settings.format == "parquet" and find_spec("pyarrow") is None:
        raise InputError("--format parquet needs pyarrow; install 'moodfuse[parquet]'")
    answers = _read_answers(journal) if journal.exists() else []
    _check_answers(answers, settings, model)
    answers, done, refused = _resume(answers, settings, requested)
    write_atomic(journal.resolve(), "".join(map(format_json, answers)).encode())
    stream = journal.open("a", encoding="utf-8")

    def finish() -> None:
        stream.close()
        if settings.format == "csv":
            rows = (format_csv_rows(answer, columns) for answer in _read_answers(journal))
            write_atomic(path.resolve(), "".join([format_csv(columns), *rows]).encode())
        elif settings.format == "parquet":
            write_atomic(path.resolve(), _parquet_table(_read_answers(journal), columns))

    return Output(stream, format_json, done, refused, finish, journal)


def _read_answers(path: Path) -> list[Answer]:
    """Return the answers in a file without the last one if it was not written completely."""
    *lines, incomplete = path.read_text("utf-8", "surrogateescape").split("\n")
    start = f'{{"schema": {SCHEMA}, "file": '
    foreign = InputError(f"{path}: has lines that predict did not write; choose another --output")
    try:
        answers = [json.loads(line) for line in lines]
        if not all(isinstance(answer["file"], str) for answer in answers):
            raise foreign
    except (ValueError, TypeError, LookupError) as error:
        raise foreign from error
    if any(answer.get("schema") != SCHEMA for answer in answers):
        raise InputError(
            f"{path}: written by another version of moodfuse, in another form; choose another --output"
        )
    if not start.startswith(incomplete[: len(start)]):
        raise foreign
    return answers


def _check_answers(answers: Sequence[Answer], settings: PredictSettings, model: str) -> None:
    for answer in answers:
        digest = answer["model"]["digest"]
        if digest != model:
            different = f"of another model ({digest}, not {model})"
        elif any(
            row["uncertain"] != (row["confidence"] < settings.threshold)
            for row in list_windows(answer)
            if "label" in row
        ):
            different = f"with another --threshold than {settings.threshold:g}"
        else:
            continue
        raise InputError(
            f"{settings.output}: has predictions {different}; use that one, or choose another --output"
        )


def _resume(
    answers: Sequence[Answer], settings: PredictSettings, requested: frozenset[LabelRequest]
) -> tuple[list[Answer], frozenset[LabelRequest], frozenset[LabelRequest]]:
    """Return the answers to keep, the requests that are done, and which of them were refused."""

    def is_same_kind(answer: Answer) -> bool:
        return "error" in answer or ("timeline" in answer) == settings.timeline

    own = [(_find_request(answer), answer) for answer in answers if is_same_kind(answer)]
    refused = {request for request, answer in own if any("error" in row for row in list_windows(answer))}
    again = requested & refused if settings.retry else set()
    kept = [answer for answer in answers if not (is_same_kind(answer) and _find_request(answer) in again)]
    return kept, frozenset({request for request, _ in own} - again), frozenset(refused - again)


def _find_request(answer: Answer) -> LabelRequest:
    return LabelRequest(answer["file"], answer["requested"]["start_s"], answer["requested"]["end_s"])
