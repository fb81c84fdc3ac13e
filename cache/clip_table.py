"""The table of a dataset's clips as the arrays of one part; `cache/FORMAT.md` names them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import content_digest
from moodfuse.cache.errors import DamagedPartError, InputError
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.storage.parts import check_dtypes

ATTRIBUTES: dict[str, object] = {"format": "moodfuse-clips"}
TEXTS = ("id", "path", "digest", "file_sha256", "group", "declared_group")
"""Columns stored row by row: `<name>` holds the bytes of all rows, `<name>_ends` where each row ends."""
CODED = ("label", "split", "reason", "detail", "decoder", "missing")
"""Columns with few different values: the same two arrays, and in `<name>_row` the value of each row."""
NUMBERS: dict[str, Any] = {
    "grouped": np.bool_,
    "start_s": np.float64,
    "end_s": np.float64,
    "declared_fold": np.int64,
    "ok": np.bool_,
    "duration_s": np.float64,
}
"""Columns of numbers; `end_s` is NaN and `declared_fold` -1 where the dataset declares none."""
_DTYPES = (
    dict.fromkeys((*TEXTS, *CODED), ("|u1", 1))
    | {f"{name}_ends": ("<i8", 1) for name in (*TEXTS, *CODED)}
    | {f"{name}_row": ("<i4", 1) for name in CODED}
    | {name: (np.dtype(dtype).str, 1) for name, dtype in NUMBERS.items()}
)
_CLIP_COLUMNS = ("id", "path", "label", "start_s", "split")
_STATUS_COLUMNS = tuple(field.name for field in fields(ClipStatus) if field.name != "clip")


def table_arrays(statuses: Iterable[ClipStatus]) -> dict[str, np.ndarray]:
    """The arrays of the part: a row per clip, sorted by id."""
    rows = [_row(status) for status in sorted(statuses, key=lambda status: status.clip.id)]
    arrays = {name: np.array([row[name] for row in rows], dtype) for name, dtype in NUMBERS.items()}
    for name in TEXTS:
        arrays[name], arrays[f"{name}_ends"] = pack_texts([row[name] for row in rows])
    for name in CODED:
        values = sorted({row[name] for row in rows})
        index = {value: number for number, value in enumerate(values)}
        arrays[name], arrays[f"{name}_ends"] = pack_texts(values)
        arrays[f"{name}_row"] = np.array([index[row[name]] for row in rows], np.int32)
    return arrays


def table_name(statuses: Iterable[ClipStatus]) -> str:
    """Name of the table of clips, for `Plan.records`: the first 16 digits of its content digest."""
    return content_digest(table_arrays(statuses), ATTRIBUTES)[:16]


def statuses_from(file: Path, arrays: Mapping[str, np.ndarray]) -> tuple[ClipStatus, ...]:
    """The clips in a part's arrays, by id; `file` is named in errors.

    Raises `DamagedPartError` if an array is missing, has another dtype or length, or a row is not a valid
    clip.
    """
    check_dtypes(file, arrays, _DTYPES)
    try:
        columns: dict[str, Sequence[Any]] = {name: arrays[name].tolist() for name in NUMBERS}
        for name in TEXTS:
            columns[name] = unpack_texts(arrays[name], arrays[f"{name}_ends"])
        for name in CODED:
            values = dict(enumerate(unpack_texts(arrays[name], arrays[f"{name}_ends"])))
            columns[name] = [values[number] for number in arrays[f"{name}_row"].tolist()]
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return tuple(map(_status, rows))
    except (ValueError, KeyError, InputError) as error:
        raise DamagedPartError(f"{file}: {error}") from error


def pack_texts(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts as their UTF-8 bytes one after the other, and where each ends.

    A file name may be any bytes: Python's ``surrogateescape`` keeps those that are not UTF-8.
    """
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends


def unpack_texts(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[str]:
    """The texts that `pack_texts` packed; `ValueError` if `ends` do not fit `data`."""
    edges = [0, *ends.tolist()]
    if edges != sorted(edges) or edges[-1] != len(data):
        raise ValueError("the ends of its texts do not fit their bytes")
    whole = data.tobytes()
    return [whole[start:end].decode("utf-8", "surrogateescape") for start, end in pairwise(edges)]


def _row(status: ClipStatus) -> dict[str, Any]:
    clip = status.clip
    return {
        **{name: getattr(clip, name) for name in _CLIP_COLUMNS},
        **{name: getattr(status, name) for name in _STATUS_COLUMNS},
        "declared_group": clip.group or "",
        "grouped": clip.group is not None,
        "end_s": np.nan if clip.end_s is None else clip.end_s,
        "declared_fold": -1 if clip.fold is None else clip.fold,
    }


def _status(row: Mapping[str, Any]) -> ClipStatus:
    clip = Clip(
        **{name: row[name] for name in _CLIP_COLUMNS},
        group=row["declared_group"] if row["grouped"] else None,
        end_s=None if np.isnan(row["end_s"]) else row["end_s"],
        fold=None if row["declared_fold"] == -1 else row["declared_fold"],
    )
    return ClipStatus(clip, **{name: row[name] for name in _STATUS_COLUMNS})
