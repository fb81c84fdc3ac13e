"""Predictions as they are written: one at a time, in their order, so that a run that was stopped can go on.

JSON lines and CSV grow line by line; a last line that a stopped run left half written is cut off. Parquet cannot grow:
its rows stand in a journal of JSON lines beside it until all are there. Each row names the model, so rows of two models
are never mixed.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from moodfuse.cache.console import printable
from moodfuse.cache.errors import OutputError
from moodfuse.model.model import Ask
from moodfuse.model.predictions import Prediction, Refusal

FORMATS = ("table", "jsonl", "csv", "parquet")
Row = dict[str, Any]
Key = tuple[str, float, float | None]
"""File and window."""


def row_of(found: Prediction | Refusal, ask: Ask, *, model: str, threshold: float) -> Row:
    """A prediction, or why there is none, as JSON types; see `docs/predict.md`."""
    asked: Row = {"file": ask.file} | ({"start_s": ask.start_s, "end_s": ask.end_s} if is_window(ask) else {})
    if isinstance(found, Refusal):
        return {**asked, "error": found.code, "detail": found.detail, "model": model}
    rounded = {label: float(share) for label, share in zip(found.classes, found.probabilities, strict=True)}
    return {
        **asked,
        "label": found.label,
        "confidence": found.confidence,
        "uncertain": found.is_uncertain(threshold),
        "probabilities": rounded,
        **({"missing": found.missing} if found.missing else {}),
        **({"partial": found.partial} if found.partial else {}),
        "sources": {item.source: _source(item.own, item.without, found) for item in found.sources},
        "model": model,
    }


def _source(own: Any, without: Any, found: Prediction) -> Row:
    def by_label(shares: Any) -> dict[str, float] | None:
        return None if shares is None else dict(zip(found.classes, map(float, shares), strict=True))

    place = found.classes.index(found.label)
    return {
        "own": by_label(own),
        "without": by_label(without),
        "adds": float(found.probabilities[place] - without[place]),
    }


def is_window(ask: Ask) -> bool:
    """Whether some other window is asked for than the first 30 s."""
    return bool(ask.start_s) or ask.end_s is not None


def key_of(row: Mapping[str, Any] | Ask) -> Key:
    """What a row is about: file and window."""
    if isinstance(row, Ask):
        return as_text(row.file), row.start_s, row.end_s
    return as_text(row["file"]), row.get("start_s") or 0.0, row.get("end_s")


def as_text(name: str) -> str:
    """A file's name in Unicode; bytes that are none are written out, as in ``\\udcff``."""
    return name.encode("utf-8", "backslashreplace").decode()


class Writer(Protocol):
    """Where rows go."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def close(self) -> None:
        """There are no more."""


def put(stream: TextIO, text: str) -> None:
    """Write text and see it out. A pipe whose reader has gone is left to whoever ends the program.

    Raises
    ------
    OutputError
        If it cannot be written, as on a full disk.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"{stream.name}: cannot be written ({error.strerror or error}); make room, or write elsewhere, and run the "
            "command again"
        ) from error


class Lines:
    """JSON lines on a stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, row: Row) -> None:
        """Write one row and see it out."""
        put(self.stream, json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n")

    def close(self) -> None:
        """Nothing is left to do."""


class Table:
    """Lines for people, with the probabilities of the likeliest labels."""

    def __init__(self, stream: TextIO, *, width: int, why: bool) -> None:
        self.stream, self.width, self.why = stream, width, why

    def write(self, row: Row) -> None:
        """Write one line."""
        name = printable(as_text(row["file"]))
        if "error" in row:
            text = f"REFUSED {row['error']}: {row['detail']}"
        else:
            ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])
            others = ", ".join(f"{label} {share:.2f}" for label, share in ranked[1:3])
            text = f"{row['label']} {row['confidence']:.2f}{' uncertain' if row['uncertain'] else ''}  ({others})"
            if row.get("missing"):
                text += f"  without {row['missing']}"
            if row.get("partial"):
                text += f"  partial: {row['partial']}"
        place = f"  {_clock(row['start_s'])}-{_clock(row['end_s'])}" if row.get("end_s") is not None else ""
        lines = [f"{name:<{self.width}}{place}  {printable(text)}\n"]
        for source, says in row.get("sources", {}).items() if self.why else ():
            reason = printable(f"{source}: {_reason(row['label'], says)}")
            lines.append(f"{'':<{self.width}}    {reason}\n")
        put(self.stream, "".join(lines))

    def close(self) -> None:
        """Nothing is left to do."""


def _clock(seconds: float) -> str:
    whole, rest = divmod(seconds, 60)
    return f"{int(whole)}:{rest:04.1f}" if rest % 1 else f"{int(whole)}:{int(rest):02d}"


def _reason(label: str, says: Row) -> str:
    """What a source says by itself, and what the answer would be without it."""
    own, without = says["own"], says["without"]
    alone = "not in this file" if own is None else f"by itself {_likeliest(own)}"
    return f"{alone}; without it {_likeliest(without)}, {label} {without[label]:.2f} ({says['adds']:+.2f})"


def _likeliest(shares: dict[str, float]) -> str:
    label = max(shares, key=lambda name: shares[name])
    return f"{label} {shares[label]:.2f}"


class CsvRows:
    """A CSV table; its columns follow from the classes and sources of the model."""

    def __init__(self, stream: TextIO, columns: Sequence[str], *, header: bool) -> None:
        self.stream, self.columns = stream, columns
        if header:
            self._put(columns)

    def write(self, row: Row) -> None:
        """Write one row."""
        flat = flattened(row)
        self._put([flat.get(name, "") for name in self.columns])

    def _put(self, cells: Sequence[Any]) -> None:
        if self.stream.isatty():
            cells = [printable(cell) if isinstance(cell, str) else cell for cell in cells]
        text = io.StringIO()
        returns = any(
            "\r" in cell for cell in cells if isinstance(cell, str)
        )  # which the writer would leave bare
        csv.writer(
            text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        ).writerow(cells)
        put(self.stream, text.getvalue())

    def close(self) -> None:
        """Nothing is left to do."""


def csv_columns(classes: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Columns of the CSV and Parquet tables."""
    head = ["file", "start_s", "end_s", "label", "confidence", "uncertain", "missing", "partial"]
    shares = [f"probability:{label}" for label in classes]
    reasons = [f"{what}:{source}" for source in sources for what in ("own", "adds")]
    return [*head, *shares, *reasons, "error", "detail", "windows", "model"]


def flattened(row: Row) -> Row:
    """A row without nesting: a column a label; of each source its own likeliest label and what it adds.

    Its text is Unicode, which CSV and Parquet demand and JSON does not: a file's name may be any bytes.
    """
    flat = {name: value for name, value in row.items() if name not in ("probabilities", "sources")}
    flat = {name: as_text(value) if isinstance(value, str) else value for name, value in flat.items()}
    flat |= {f"probability:{label}": share for label, share in row.get("probabilities", {}).items()}
    for source, says in row.get("sources", {}).items():
        flat[f"own:{source}"] = None if says["own"] is None else max(says["own"], key=says["own"].get)
        flat[f"adds:{source}"] = says["adds"]
    return flat
