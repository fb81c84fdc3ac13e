"""A source's features as one file for others: `moodfuse cache export`, to ``.npz``, ``.csv`` or ``.parquet``.

Every value comes back bit for bit when the file is imported.
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
from moodfuse.cache.storage.files import write_aside
from moodfuse.cache.storage.layout import UNKNOWN, is_ours, kind_of
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.features import LOGIT
from moodfuse.cache.transfer.readers import CLASSES_KEY, import_pyarrow

Exported = Mapping[str, Sequence[str] | np.ndarray]
"""Columns: text [N], ``fold`` int64 [N], ``embedding`` float32 [N, D] and, if any, ``logits`` float32 [N, C]."""


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

    Parameters
    ----------
    cache : FeatureCache
    source : str
    holdout : Holdout or None
        `None` for ``*``, which only a source that saw no label has.
    output : Path
    force : bool
        Replace an existing file.
    """
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"{output}: unknown suffix {suffix!r}; expected one of {', '.join(WRITERS)}")
    if output.exists() and not force:
        raise InputError(f"{output} exists; name another --output, or replace it with --force")
    _check_outside(cache.path, output)
    if holdout is None and cache.recipe(source).sees_labels:
        raise InputError(f"{source} has features of several holdouts; name one, such as --holdout '{{0}}'")
    block = cache.block(source, holdout or Holdout.frozen())
    kept = [row for row, digest in enumerate(block.digests) if digest not in block.absent]
    clips = [cache.clips[row] for row in kept]
    arrays = {"embedding": block.embedding} | ({} if block.logits is None else {"logits": block.logits})
    columns: Exported = {
        "id": [status.clip.id for status in clips],
        "label": [status.clip.label for status in clips],
        "group": [status.group for status in clips],
        "fold": np.array([cache.plan.assignment[status.digest] for status in clips], dtype=np.int64),
        "digest": [status.digest for status in clips],
        **{name: values[kept] for name, values in arrays.items()},
    }
    stream = io.BytesIO()
    WRITERS[suffix](stream, columns, cache.classes if "logits" in arrays else ())
    write_aside(output.resolve() if output.is_symlink() else output, stream.getbuffer())
    widths = {name: values.shape[1] for name, values in arrays.items()}
    return ExportSummary(len(clips), widths, left_out=len(block.ids) - len(clips))


def _check_outside(root: Path, output: Path) -> None:
    """Refuse a path of the cache's own files."""
    try:
        place = output.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return
    if kind_of(place) != UNKNOWN or is_ours(place.split("/")[0]):
        raise InputError(f"{output}: is a path of the cache's own files; name an --output outside of {root}")


def _write_npz(stream: BinaryIO, columns: Exported, classes: Sequence[str]) -> None:
    arrays = {
        name: np.array(values, dtype=np.str_) if isinstance(values, list) else values
        for name, values in columns.items()
    }
    if classes:
        arrays["classes"] = np.array(classes, dtype=np.str_)
    np.savez(stream, **arrays)  # type: ignore[arg-type]


def _write_csv(stream: BinaryIO, columns: Exported, classes: Sequence[str]) -> None:
    names = [name for name in columns if name not in ("embedding", "logits")]
    arrays = [np.asarray(columns[name]) for name in columns if name not in names]
    numbered = [f"e{number}" for number in range(arrays[0].shape[1])]
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    # csv.writer does not quote a carriage return of its own accord.
    returns = any("\r" in str(cell) for name in names for cell in columns[name])
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow([*names, *numbered, *(f"{LOGIT}{label}" for label in classes)])
    for cells in zip(*(columns[name] for name in names), *arrays, strict=True):
        # Nine digits give every float32 back, also through the float64 that most programs read.
        numbers = (f"{value:.9g}" for values in cells[len(names) :] for value in values.tolist())
        writer.writerow([*cells[: len(names)], *numbers])
    text.detach()


def _write_parquet(stream: BinaryIO, columns: Exported, classes: Sequence[str]) -> None:
    arrow = import_pyarrow()
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
            arrays[name] = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
        elif isinstance(values, np.ndarray):
            arrays[name] = arrow.array(values)
        else:
            encoded = arrow.array(
                [text.encode("utf-8", "surrogateescape") for text in values], arrow.binary()
            )
            try:
                arrays[name] = encoded.cast(arrow.string())
            except arrow.ArrowInvalid:  # some id is not UTF-8
                arrays[name] = encoded
    metadata = {CLASSES_KEY: json.dumps(list(classes)).encode()} if classes else None
    arrow.parquet.write_table(arrow.table(arrays).replace_schema_metadata(metadata), stream)


WRITERS: dict[str, Callable[[BinaryIO, Exported, Sequence[str]], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
"""Writer of each suffix."""
