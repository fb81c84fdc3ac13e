"""Rows of predictions, and how they are written: JSON lines, CSV, Parquet, or a table for people."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TextIO

from moodfuse.cache.console import printable
from moodfuse.cache.errors import OutputError
from moodfuse.model.predictions import MODALITY_NAMES, LabelRequest, Prediction, Refusal, SourceContribution

Row = dict[str, Any]
Key = tuple[str, float, float | None]
"""File and window."""


def row_of(result: Prediction | Refusal, request: LabelRequest, *, model: str, threshold: float) -> Row:
    """Return a prediction or a refusal as JSON types; `docs/predict.md` describes the keys."""
    row: Row = {"file": request.file} | (
        {"start_s": request.start_s, "end_s": request.end_s} if is_window(request) else {}
    )
    if isinstance(result, Refusal):
        return row | {"error": result.code, "detail": result.detail, "model": model}
    row |= {
        "label": result.label,
        "confidence": result.confidence,
        "uncertain": result.is_uncertain(threshold),
        "probabilities": _by_label(result.classes, result.probabilities),
    }
    row |= {name: getattr(result, name) for name in ("missing", "partial") if getattr(result, name)}
    sources = {item.source: _source(item, result) for item in result.sources}
    return row | {"sources": sources, "model": model}


def _source(item: SourceContribution, result: Prediction) -> Row:
    index = result.classes.index(result.label)
    return {
        "own": None if item.own is None else _by_label(result.classes, item.own),
        "without": _by_label(result.classes, item.without),
        "adds": float(result.probabilities[index] - item.without[index]),
    }


def _by_label(classes: Sequence[str], probabilities: Iterable[float]) -> dict[str, float]:
    return dict(zip(classes, map(float, probabilities), strict=True))


def is_window(request: LabelRequest) -> bool:
    """Whether a window is requested that is not the first 30 s."""
    return bool(request.start_s) or request.end_s is not None


def key_of(row: Mapping[str, Any] | LabelRequest) -> Key:
    """Return the file and window of a row or of a request."""
    if isinstance(row, LabelRequest):
        return as_text(row.file), row.start_s, row.end_s
    return as_text(row["file"]), row.get("start_s") or 0.0, row.get("end_s")


def as_text(name: str) -> str:
    """Return a file name as valid Unicode; other bytes are escaped, as in ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


def csv_columns(classes: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the columns of CSV and Parquet outputs."""
    first = ["file", "start_s", "end_s", "label", "confidence", "uncertain", "missing", "partial"]
    probabilities = [f"probability:{label}" for label in classes]
    contributions = [f"{what}:{source}" for source in sources for what in ("own", "adds")]
    return [*first, *probabilities, *contributions, "error", "detail", "windows", "model"]


def flattened(row: Row) -> Row:
    """Return a row for CSV or Parquet: one value per column, text as valid Unicode."""
    flat: Row = {name: as_text(item) if isinstance(item, str) else item for name, item in row.items()}
    flat |= {f"probability:{label}": value for label, value in flat.pop("probabilities", {}).items()}
    for source, item in flat.pop("sources", {}).items():
        flat[f"own:{source}"] = None if item["own"] is None else _likeliest(item["own"])
        flat[f"adds:{source}"] = item["adds"]
    return flat


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


# Text


def json_line(row: Row) -> str:
    """Return a row as a JSON line."""
    return json.dumps(row, allow_nan=False) + "\n"


def csv_line(cells: Iterable[Any], *, escape: bool = False) -> str:
    """Return cells as a CSV line; `escape` control characters for a terminal."""
    cells = [printable(cell) if escape and isinstance(cell, str) else cell for cell in cells]
    # Before Python 3.13 the csv module does not quote a lone carriage return.
    has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
    writer.writerow(cells)
    return line.getvalue()


def csv_row(row: Row, columns: Sequence[str], *, escape: bool = False) -> str:
    """Return a row as a CSV line."""
    flat = flattened(row)
    return csv_line((flat.get(name, "") for name in columns), escape=escape)


def table_line(row: Row, *, width: int, why: bool) -> str:
    """Return a row as a line for people; with `why` followed by a line per source."""
    name = printable(as_text(row["file"]))
    if "error" in row:
        text = f"REFUSED {row['error']}: {row['detail']}"
    else:
        ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])
        others = ", ".join(f"{label} {value:.2f}" for label, value in ranked[1:3])
        text = f"{row['label']} {row['confidence']:.2f}{' uncertain' * row['uncertain']}  ({others})"
        text += f"  without {MODALITY_NAMES[row['missing']]}" if "missing" in row else ""
        text += f"  partial: {row['partial']}" if "partial" in row else ""
    window = f"  {_clock(row['start_s'])}-{_clock(row['end_s'])}" if row.get("end_s") is not None else ""
    lines = [f"{name:<{width}}{window}  {printable(text)}\n"]
    for source, item in row.get("sources", {}).items() if why else ():
        lines.append(f"{'':<{width}}    {printable(_contribution(source, item, row['label']))}\n")
    return "".join(lines)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f}" if rest % 1 else f"{int(minutes)}:{int(rest):02d}"


def _contribution(source: str, item: Row, label: str) -> str:
    own, without = item["own"], item["without"]
    alone = "not in this file" if own is None else f"by itself {_with_value(own)}"
    rest = f"without it {_with_value(without)}, {label} {without[label]:.2f} ({item['adds']:+.2f})"
    return f"{source}: {alone}; {rest}"


def _with_value(probabilities: dict[str, float]) -> str:
    label = _likeliest(probabilities)
    return f"{label} {probabilities[label]:.2f}"


# Writing


@dataclass(frozen=True)
class Output:
    """Where rows are written to: a stream, after `to_text`, and then `finish` is called.

    `done` are the keys that the output already has, and `refused` those of them that were refused.
    """

    stream: TextIO
    to_text: Callable[[Row], str]
    done: frozenset[Key] = frozenset()
    refused: frozenset[Key] = frozenset()
    finish: Callable[[], None] | None = None

    def write(self, row: Row) -> None:
        """Write and flush one row."""
        self.put(self.to_text(row))

    def put(self, text: str) -> None:
        """Write and flush text. A closed pipe is left to the command line."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise not_written(self.stream.name, error) from error

    def close(self) -> None:
        """Finish after the last row."""
        if self.finish is not None:
            self.finish()


def not_written(name: object, error: OSError) -> OutputError:
    """Return the error for an output that cannot be written, as on a full disk."""
    return OutputError(
        f"{name}: cannot be written ({error.strerror or error}); make room, or choose another output, and "
        "run the command again"
    )


def write_csv(stream: IO[bytes], rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write a CSV file."""
    stream.write(csv_line(columns).encode())
    stream.writelines(csv_row(row, columns).encode() for row in rows)


def write_parquet(stream: IO[bytes], rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    numbers = ("start_s", "end_s", "confidence")
    types = {
        name: pyarrow.float64()
        if name in numbers or name.startswith(("probability:", "adds:"))
        else pyarrow.string()
        for name in columns
    } | {"uncertain": pyarrow.bool_(), "windows": pyarrow.int64()}
    table = pyarrow.Table.from_pylist(list(map(flattened, rows)), schema=pyarrow.schema(list(types.items())))
    pyarrow.parquet.write_table(table, stream)
