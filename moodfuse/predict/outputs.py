"""Rows of predictions, their text in each format, and output files that a later run can resume.

Rows are appended as JSON lines: to the output itself, or, for CSV and Parquet, to `FILE.journal`, from which
the output is written at the end. The journal stays, so that a later run can add files or retry refused ones.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any, TextIO

from moodfuse.cache.console import printable
from moodfuse.cache.errors import InputError
from moodfuse.cache.files import write_atomic
from moodfuse.model.predictions import MODALITY_NAMES, LabelRequest, Prediction, Refusal
from moodfuse.predict import PredictSettings

Row = dict[str, Any]


def make_row(result: Prediction | Refusal, request: LabelRequest, *, model: str, threshold: float) -> Row:
    """Return a prediction or a refusal as JSON types; `docs/predict.md` describes the keys."""
    row: Row = {"file": request.file}
    if is_window(request):
        row |= {"start_s": request.start_s, "end_s": request.end_s}
    if isinstance(result, Refusal):
        return row | {"error": result.code, "detail": result.detail, "model": model}

    def by_label(values: Iterable[float]) -> dict[str, float]:
        return dict(zip(result.classes, map(float, values), strict=True))

    probabilities = by_label(result.probabilities)
    row |= {
        "label": result.label,
        "confidence": result.confidence,
        "uncertain": result.is_uncertain(threshold),
        "probabilities": probabilities,
    }
    row |= {name: getattr(result, name) for name in ("missing", "partial") if getattr(result, name)}
    row["sources"] = {}
    for source in result.sources:
        without = by_label(source.without)
        row["sources"][source.source] = {
            "own": None if source.own is None else by_label(source.own),
            "without": without,
            "adds": probabilities[result.label] - without[result.label],
        }
    return row | {"model": model}


def is_window(request: LabelRequest) -> bool:
    """Whether a window is requested that is not the first 30 s."""
    return bool(request.start_s) or request.end_s is not None


# Text


def format_json(row: Row) -> str:
    """Return a row as a JSON line."""
    return json.dumps(row, allow_nan=False) + "\n"


def list_columns(classes: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the columns of CSV and Parquet outputs."""
    first = ["file", "start_s", "end_s", "label", "confidence", "uncertain", "missing", "partial"]
    probabilities = [f"probability:{label}" for label in classes]
    contributions = [f"{column}:{source}" for source in sources for column in ("own", "adds")]
    return [*first, *probabilities, *contributions, "error", "detail", "windows", "model"]


def flatten(row: Row) -> Row:
    """Return a row for CSV or Parquet: one value per column, text as valid Unicode."""
    flat: Row = {name: _as_unicode(value) if isinstance(value, str) else value for name, value in row.items()}
    flat |= {f"probability:{label}": value for label, value in flat.pop("probabilities", {}).items()}
    for source, contribution in flat.pop("sources", {}).items():
        own = contribution["own"]
        flat |= {f"own:{source}": own and max(own, key=own.get), f"adds:{source}": contribution["adds"]}
    return flat


def _as_unicode(name: str) -> str:
    """Escape bytes of a file name that are not UTF-8, as in ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


def format_csv(cells: Iterable[Any]) -> str:
    """Return cells as a CSV line."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)  # quotes each character of the line end
    return line.getvalue().removesuffix("\r\n") + "\n"


def format_csv_row(row: Row, columns: Sequence[str]) -> str:
    """Return a row as a CSV line."""
    flat = flatten(row)
    return format_csv(flat.get(name, "") for name in columns)


def format_table(row: Row, *, width: int, why: bool, line_width: int | None = None) -> str:
    """Return a row as a line for people; with `why` followed by a line per source.

    `width` is that of the column of file names. Lines longer than `line_width` get a shorter name, then lose
    the other labels, and then are wrapped.
    """
    name, others = printable(_as_unicode(row["file"])), ""
    if line_width is not None:
        width = min(width, line_width // 2)
        if len(name) > width:
            name = f"{name[: width // 2]}…{name[width // 2 + 1 - width :]}"
    if "error" in row:
        text = f"REFUSED {row['error']}: {row['detail']}"
    else:
        ranked = sorted(row["probabilities"].items(), key=lambda pair: -pair[1])
        others = "  (" + ", ".join(f"{label} {value:.2f}" for label, value in ranked[1:3]) + ")"
        text = f"{row['label']} {row['confidence']:.2f}{' uncertain' * row['uncertain']}"
    marks = f"  without {MODALITY_NAMES[row['missing']]}" if "missing" in row else ""
    marks += f"  partial: {row['partial']}" if "partial" in row else ""
    window = (
        f"  {_format_time(row['start_s'])}-{_format_time(row['end_s'])}"
        if row.get("end_s") is not None
        else ""
    )
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
    return "".join(f"{line}\n" for line in lines)


def _format_time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}" if rest % 1 else f"{int(minutes)}:{int(rest):02d}"


def _explain_source(source: str, contribution: Row, label: str) -> str:
    own, without = contribution["own"], contribution["without"]
    alone = "not in this file" if own is None else f"by itself {_format_top_label(own)}"
    adds = f"{label} {without[label]:.2f} ({contribution['adds']:+.2f})"
    return f"{source}: {alone}; without it {_format_top_label(without)}, {adds}"


def _format_top_label(probabilities: dict[str, float]) -> str:
    label = max(probabilities, key=probabilities.__getitem__)
    return f"{label} {probabilities[label]:.2f}"


def _parquet_table(rows: Iterable[Row], columns: Sequence[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    types = dict.fromkeys(columns, pyarrow.string())
    for name in columns:
        if name in ("start_s", "end_s", "confidence") or name.startswith(("probability:", "adds:")):
            types[name] = pyarrow.float64()
    types |= {"uncertain": pyarrow.bool_(), "windows": pyarrow.int64()}
    table = pyarrow.Table.from_pylist(list(map(flatten, rows)), schema=pyarrow.schema(list(types.items())))
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, stream)
    return stream.getvalue().to_pybytes()


# Outputs


@dataclass(frozen=True)
class Output:
    """Where rows are written to: a stream, after `to_text`, and then `finish` is called.

    `done` are the requests that the output already has, and `refused` those of them that were refused.
    """

    stream: TextIO
    to_text: Callable[[Row], str]
    done: frozenset[LabelRequest] = frozenset()
    refused: frozenset[LabelRequest] = frozenset()
    finish: Callable[[], None] | None = None

    def write(self, row: Row) -> None:
        """Write and flush one row."""
        self.stream.write(self.to_text(row))
        self.stream.flush()

    def close(self) -> None:
        """Finish after the last row."""
        if self.finish is not None:
            self.finish()


def open_output(
    settings: PredictSettings, *, model: str, columns: Sequence[str], requested: frozenset[LabelRequest]
) -> Output:
    """Open the output file, new or to be resumed for the requests of this run.

    Rows that will be written again are removed: incomplete time lines and, to retry them, refused files.
    `model` is the digest that all rows must have, `columns` are those of CSV and Parquet.
    """
    path = settings.output or Path()
    journal = path if settings.format == "jsonl" else path.with_name(f"{path.name}.journal")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; leave --output out to write to the terminal")
    if path.exists() and not journal.exists():
        raise InputError(f"{path}: already exists without its {journal.name}; choose another --output")
    if settings.format == "parquet" and find_spec("pyarrow") is None:
        raise InputError("--format parquet needs pyarrow; install 'moodfuse[parquet]'")
    rows = _read_rows(journal) if journal.exists() else []
    _check_rows(rows, settings, model)
    rows, done, refused = _resume(rows, settings, requested)
    write_atomic(journal.resolve(), "".join(map(format_json, rows)).encode())
    stream = journal.open("a", encoding="utf-8")

    def finish() -> None:
        stream.close()
        if settings.format == "csv":
            lines = [format_csv(columns), *(format_csv_row(row, columns) for row in _read_rows(journal))]
            write_atomic(path.resolve(), "".join(lines).encode())
        elif settings.format == "parquet":
            write_atomic(path.resolve(), _parquet_table(_read_rows(journal), columns))

    return Output(stream, format_json, done, refused, finish)


def _read_rows(path: Path) -> list[Row]:
    """Return the rows of a file without the last one if it was not written completely."""
    *lines, incomplete = path.read_text("utf-8", "surrogateescape").split("\n")
    start = '{"file": '
    try:
        rows = [json.loads(line) for line in lines]
        if all(isinstance(row["file"], str) for row in rows) and start.startswith(incomplete[: len(start)]):
            return rows
    except (ValueError, TypeError, LookupError):
        pass
    raise InputError(f"{path}: has lines that predict did not write; choose another --output")


def _check_rows(rows: Sequence[Row], settings: PredictSettings, model: str) -> None:
    for row in rows:
        if row.get("model") != model:
            different = f"of another model ({row.get('model')}, not {model})"
        elif "uncertain" in row and row["uncertain"] != (row["confidence"] < settings.threshold):
            different = f"with another --threshold than {settings.threshold:g}"
        else:
            continue
        raise InputError(
            f"{settings.output}: has predictions {different}; repeat that, or choose another --output"
        )


def _resume(
    rows: Sequence[Row], settings: PredictSettings, requested: frozenset[LabelRequest]
) -> tuple[list[Row], frozenset[LabelRequest], frozenset[LabelRequest]]:
    """Return the rows to keep, the requests that are complete, and which of them were refused."""

    def is_same_kind(row: Row) -> bool:
        return ("windows" in row or "error" in row) if settings.timeline else "windows" not in row

    own = [(_find_request(row), row) for row in rows if is_same_kind(row)]
    counts = Counter(request for request, _ in own)
    refused = {request for request, row in own if "error" in row}
    incomplete = {request for request, row in own if counts[request] < row.get("windows", 1)}
    again = requested & (incomplete | refused if settings.retry else incomplete)
    kept = [row for row in rows if not (is_same_kind(row) and _find_request(row) in again)]
    return kept, frozenset(counts.keys() - incomplete - again), frozenset(refused - again)


def _find_request(row: Row) -> LabelRequest:
    """Return the request of a row; the windows of a time line have that of their file."""
    if "windows" in row:
        return LabelRequest(row["file"])
    return LabelRequest(row["file"], row.get("start_s") or 0.0, row.get("end_s"))
