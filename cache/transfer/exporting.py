"""Export the features of a source to a file: `moodfuse cache export`, ``.npz``, ``.csv`` or ``.parquet``.

Importing the file restores every value bit for bit.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Holdout
from moodfuse.cache.storage.files import write_atomic
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.readers import CLASSES_KEY, LOGIT, import_pyarrow

Texts = Mapping[str, Sequence[object]]
"""Columns ``id``, ``label``, ``group``, ``fold`` and ``digest``, each of length N."""
Arrays = Mapping[str, np.ndarray]
"""``embedding`` float32 [N, D] and, if any, ``logits`` float32 [N, C]."""


@dataclass(frozen=True)
class ExportSummary:
    """What `cache export` wrote: clips, columns of each array, and clips without features (`left_out`)."""

    clips: int
    widths: Mapping[str, int]
    left_out: int


def export_features(
    cache: FeatureCache, source: str, holdout: Holdout | None, output: Path, *, force: bool = False
) -> ExportSummary:
    """Write the features of a source under one holdout, in the format of the suffix of `output`.

    A holdout of `None` is ``*``, which only a source that saw no label has. With `force`, an existing file is
    replaced.
    """
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"{output}: unknown suffix {suffix!r}; expected one of {', '.join(WRITERS)}")
    if output.exists() and not force:
        raise InputError(f"{output} exists; name another --output, or replace it with --force")
    if holdout is None and cache.recipe(source).sees_labels:
        raise InputError(f"{source} has features of several holdouts; name one, such as --holdout '{{0}}'")
    block = cache.block(source, holdout or Holdout.frozen())
    rows = [row for row, digest in enumerate(block.digests) if digest not in block.absent]
    clips = [cache.clips[row] for row in rows]
    texts: Texts = {
        "id": [status.clip.id for status in clips],
        "label": [status.clip.label for status in clips],
        "group": [status.group for status in clips],
        "fold": [cache.plan.assignment[status.digest] for status in clips],
        "digest": [status.digest for status in clips],
    }
    arrays = {"embedding": block.embedding[rows]}
    if block.logits is not None:
        arrays["logits"] = block.logits[rows]
    stream = io.BytesIO()
    WRITERS[suffix](stream, texts, arrays, cache.classes if "logits" in arrays else ())
    write_atomic(output, stream.getbuffer())
    widths = {name: values.shape[1] for name, values in arrays.items()}
    return ExportSummary(len(clips), widths, left_out=len(block.ids) - len(clips))


def _write_npz(stream: BinaryIO, texts: Texts, arrays: Arrays, classes: Sequence[str]) -> None:
    columns = {name: np.array(values) for name, values in texts.items()}
    names = {"classes": np.array(classes)} if classes else {}
    np.savez(stream, **columns, **arrays, **names)  # type: ignore[arg-type]


def _write_csv(stream: BinaryIO, texts: Texts, arrays: Arrays, classes: Sequence[str]) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    # A carriage return alone would end a row, but the csv module quotes only the cells with its own line end.
    has_return = any("\r" in str(cell) for cells in texts.values() for cell in cells)
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
    numbered = (f"e{number}" for number in range(arrays["embedding"].shape[1]))
    writer.writerow([*texts, *numbered, *(f"{LOGIT}{label}" for label in classes)])
    for cells, values in zip(zip(*texts.values(), strict=True), np.hstack([*arrays.values()]), strict=True):
        # Nine digits identify every float32, also through the float64 that most programs read.
        writer.writerow([*cells, *(f"{value:.9g}" for value in values.tolist())])
    text.detach()


def _write_parquet(stream: BinaryIO, texts: Texts, arrays: Arrays, classes: Sequence[str]) -> None:
    arrow = import_pyarrow()
    try:
        columns = {name: arrow.array(values) for name, values in texts.items()}
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!r:.60} is not UTF-8, as Parquet needs; export to .npz") from error
    for name, values in arrays.items():
        flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    metadata = {CLASSES_KEY: json.dumps(list(classes)).encode()} if classes else None
    arrow.parquet.write_table(arrow.table(columns).replace_schema_metadata(metadata), stream)


WRITERS: dict[str, Callable[[BinaryIO, Texts, Arrays, Sequence[str]], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
"""Writer of each suffix."""
