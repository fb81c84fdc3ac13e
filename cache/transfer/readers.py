"""Readers of features that were made elsewhere: ``.npz``, ``.npy`` with ids, ``.csv``, ``.parquet``. Never a pickle.

A file may come from anyone, so what it declares is compared with its size before memory is reserved for it.
"""

import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from moodfuse.cache.csv_rows import check_columns, check_encoding, csv_rows
from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.storage.files import check_regular, open_regular, read_regular
from moodfuse.cache.transfer.features import (
    LOGIT,
    NO_FEATURES,
    Columns,
    Features,
    checked_features,
    choose_columns,
    drop_row_numbers,
    to_float32,
)

CLASSES_KEY = b"moodfuse.classes"
"""Metadata key of a Parquet file with lists of logits: a JSON list, the class of each value in a list."""
MAX_RATIO = 100
"""A compressed file may need this many times its size in memory; features compress to a half at best."""
MIN_LIMIT_BYTES = 1 << 26
"""Files that need no more memory than this may be compressed in any way."""
_VALUE_BYTES = 8
_ARRAYS = ("id", "embedding", "logits", "classes")
_TABLES = (".csv", ".parquet")


def read_features(file: Path, *, ids: Path | None = None, columns: Sequence[str] = ()) -> Features:
    """Features from a file, by its suffix.

    Parameters
    ----------
    file : Path
        ``.npz``: arrays ``id`` [N], ``embedding`` [N, D] and, if any, ``logits`` [N, C] and ``classes`` [C].
        ``.csv``: a column ``id``, embedding columns (see `choose_columns`) and, if any, ``logit:<class>``.
        ``.parquet``: the same, or ``embedding`` and ``logits`` as columns of lists. ``.npy``: the embedding.
    ids : Path, optional
        For ``.npy`` only: one id per line, or a ``.npy`` of strings; in the order of the rows.
    columns : sequence of str
        For tables only: the columns of the embedding.
    """
    suffix = file.suffix.lower()
    if suffix not in (".npy", ".npz", *_TABLES):
        raise InputError(f"{file}: unknown suffix {suffix!r}; expected .npy, .npz, .csv or .parquet")
    if ids is not None and suffix != ".npy":
        raise InputError(f"{file}: --ids goes with a .npy only; this file has its own ids")
    if columns and suffix not in _TABLES:
        raise InputError(f"{file}: --columns goes with .csv and .parquet; an array is imported whole")
    with _readable(file):
        check_regular(file)
        if suffix == ".csv":
            return _read_csv(file, columns)
        if suffix == ".parquet":
            return _read_parquet(file, columns)
        return _read_npz(file) if suffix == ".npz" else _read_npy(file, ids)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn the error of a library on a damaged or foreign file into one that names the file."""
    try:
        yield
    except MoodfuseError:
        raise
    except Exception as error:
        reasons = [getattr(error, "strerror", None), *str(error).splitlines(), type(error).__name__]
        cause = next(filter(None, reasons))
        raise InputError(f"{file}: cannot be read as {file.suffix.lower()} ({cause})") from error


def _check_memory(file: Path, unpacked: int, remedy: str) -> None:
    """Refuse a compressed file whose values need much more memory than the file has bytes."""
    size = file.stat().st_size
    if unpacked > max(MIN_LIMIT_BYTES, MAX_RATIO * size):
        raise InputError(
            f"{file}: {size} bytes that become {unpacked} in memory; expected at most {MAX_RATIO} times the file, or "
            f"{MIN_LIMIT_BYTES >> 20} MiB: {remedy}"
        )


# NumPy


def _read_npy(file: Path, ids: Path | None) -> Features:
    if ids is None:
        raise InputError(
            f"{file}: a .npy has no ids; add --ids FILE, one id per line in the order of the rows"
        )
    with open_regular(file) as stream:
        embedding = _read_array(stream, file.stat().st_size, f"{file}: embedding")
    with _readable(ids):
        return checked_features(file, _read_ids(ids), {"embedding": embedding})


def _read_ids(file: Path) -> list[str]:
    if file.suffix.lower() == ".npy":
        with open_regular(file) as stream:
            return _strings(_read_array(stream, file.stat().st_size, f"{file}: ids"), f"{file}: ids")
    data = read_regular(file)
    check_encoding(data, file)
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    texts = [line.removesuffix(b"\r").decode("utf-8", "surrogateescape") for line in lines]
    return texts if texts[-1] else texts[:-1]


def _read_npz(file: Path) -> Features:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{file}: is no archive as numpy.savez writes it ({error}); see --ids for a .npy"
        ) from error
    with archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if missing := [name for name in ("id", "embedding") if name not in members]:
            raise InputError(
                f"{file}: has no array {' and '.join(missing)}, only {', '.join(members) or 'nothing'}; expected id [N], "
                "embedding [N, D] and, if any, logits [N, C]"
            )
        members = {name: members[name] for name in _ARRAYS if name in members}
        for member in members.values():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(
                    f"{file}: {member.filename} is compressed by method {member.compress_type}; expected an archive as "
                    "numpy.savez or numpy.savez_compressed writes it"
                )
        unpacked = sum(member.file_size for member in members.values())
        _check_memory(file, unpacked, "write it uncompressed, with numpy.savez")
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as stream:
                arrays[name] = _read_array(stream, member.file_size, f"{file}: {name}")
    ids = _strings(arrays.pop("id"), f"{file}: id")
    classes = arrays.pop("classes", None)
    if classes is None or "logits" not in arrays:
        return checked_features(file, ids, arrays)
    is_number = classes.dtype.kind in "iufb"  # as np.unique gives them where labels are numbers
    names = tuple(_strings(classes.astype(str) if is_number else classes, f"{file}: classes"))
    return checked_features(file, ids, arrays, names)


def _read_array(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """One array in NumPy's format; NumPy itself reserves the declared memory before it reads a value."""
    version = np.lib.format.read_magic(stream)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:
        raise ValueError(f"version {version} of the format; expected 1.0 or 2.0")
    shape, _, dtype = headers[version](stream)
    if dtype.hasobject:
        name = where.rpartition(": ")[2]
        values = name in ("embedding", "logits")
        remedy = f"np.stack({name}).astype('float32')" if values else f"np.array({name}).astype(str)"
        raise InputError(
            f"{where} is an array of Python objects (dtype object), which is not read; save {remedy}"
        )
    declared, stored = math.prod(shape) * max(1, dtype.itemsize), size - stream.tell()
    if declared > stored:
        raise InputError(
            f"{where} is declared as {dtype}{list(shape)}, {declared} bytes, but {max(0, stored)} follow; the file is "
            "truncated or damaged: write it again with numpy.save or numpy.savez"
        )
    stream.seek(0)
    array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _strings(values: np.ndarray, where: str) -> list[str]:
    """The strings of an array [N] of text or bytes."""
    if values.dtype.kind not in "US" or values.ndim != 1:
        name = where.rpartition(": ")[2]
        raise InputError(
            f"{where} is {values.dtype}{list(values.shape)}; expected strings, [N], as {name}.astype(str) gives them"
        )
    return [_text(value, where) for value in values.tolist()]


def _text(value: str | bytes, where: str) -> str:
    """A string in the form that all ids have: bytes that are not UTF-8 as ``surrogateescape`` decodes them."""
    if isinstance(value, str):
        try:
            value = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where}: {value!r:.60} has half of a surrogate pair, which is no text"
            ) from error
    return value.decode("utf-8", "surrogateescape")


# CSV


def _read_csv(file: Path, patterns: Sequence[str]) -> Features:
    rows = csv_rows(file)
    _, names = next(rows)
    first = list(islice(rows, 1))
    texts = {name for _, cells in first for name, cell in zip(names, cells, strict=True) if _is_text(cell)}
    columns = choose_columns(file, names, patterns, texts=texts)
    places = {name: place for place, name in enumerate(names)}
    wanted = [places[name] for name in (*columns.embedding, *columns.logits)]
    ids: list[str] = []
    values: list[np.ndarray] = []
    for line, cells in chain(first, rows):
        ids.append(cells[places["id"]])
        numbers = [_number(cells[place]) for place in wanted]
        if None in numbers:
            place = wanted[numbers.index(None)]
            raise InputError(
                f"{file}, line {line}: column {names[place]!r} is {cells[place][:60]!r}; expected a number (choose the "
                "columns of the embedding with --columns, or name them e0, e1, ...)"
            )
        values.append(to_float32(np.array([numbers], dtype=np.float64), ids[-1:], f"{file}: row"))
    table = np.concatenate([np.zeros((0, len(wanted)), np.float32), *values])
    width = len(columns.embedding)
    columns, embedding = drop_row_numbers(file, columns, table[:, :width])
    arrays = {"embedding": embedding} | ({"logits": table[:, width:]} if columns.logits else {})
    return checked_features(file, ids, arrays, columns.classes, columns)


def _number(text: str) -> float | None:
    """A number as every program writes it; Python alone reads ``1_000``, or digits of other scripts, as one."""
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _is_text(text: str) -> bool:
    return _number(text) is None and any(char.isalpha() for char in text)


# Parquet


def import_pyarrow() -> ModuleType:
    """pyarrow with its compute and Parquet modules; an optional dependency."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("Parquet needs pyarrow; run: pip install 'moodfuse[parquet]'") from error
    return pyarrow


def _read_parquet(file: Path, patterns: Sequence[str]) -> Features:
    arrow = import_pyarrow()
    schema = arrow.parquet.read_schema(file)
    names = tuple(schema.names)
    check_columns(file, names, ("id",))
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file}: column {repeated[0]!r} occurs twice; remove one")
    with arrow.parquet.ParquetFile(file, read_dictionary=["id"]) as source:
        _check_memory(file, _unpacked_bytes(source.metadata), "write it without compression and dictionaries")
        if "embedding" in names and not patterns:
            return _read_lists(file, source, schema)
        return _read_flat(file, source, schema, patterns)


def _read_lists(file: Path, source: Any, schema: Any) -> Features:
    lists = [name for name in ("embedding", "logits") if name in schema.names]
    logits = tuple(name for name in schema.names if name.startswith(LOGIT) and "logits" not in lists)
    table = source.read(columns=["id", *lists, *logits])
    arrays = {name: _list_column(table[name], f"{file}: {name}") for name in lists}
    classes = _classes(schema.metadata or {}, file) if "logits" in lists else None
    ignored = (name for name in schema.names if name not in ("id", *lists, *logits, *NO_FEATURES))
    columns = Columns(logits=logits, ignored=tuple(ignored))
    if logits:
        arrays["logits"] = _flat_columns(table, logits, file)
    ids = _arrow_strings(table["id"], f"{file}: column 'id'")
    return checked_features(file, ids, arrays, classes or columns.classes, columns)


def _read_flat(file: Path, source: Any, schema: Any, patterns: Sequence[str]) -> Features:
    texts = {field.name for field in schema if not _is_numeric(field.type)}
    columns = choose_columns(file, schema.names, patterns, index=_pandas_index(schema), texts=texts)
    table = source.read(columns=["id", *columns.embedding, *columns.logits])
    ids = _arrow_strings(table["id"], f"{file}: column 'id'")
    columns, embedding = drop_row_numbers(file, columns, _flat_columns(table, columns.embedding, file))
    arrays = {"embedding": embedding}
    if columns.logits:
        arrays["logits"] = _flat_columns(table, columns.logits, file)
    return checked_features(file, ids, arrays, columns.classes, columns)


def _unpacked_bytes(metadata: Any) -> int:
    """An upper estimate of the memory for all columns."""
    # Lists have more values than rows, texts more bytes than numbers, and damaged files fewer values than rows.
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    values = sum(max(column.num_values * _VALUE_BYTES, column.total_uncompressed_size) for column in columns)
    return int(max(values, metadata.num_rows * metadata.num_columns * _VALUE_BYTES))


def _classes(metadata: dict[bytes, bytes], file: Path) -> tuple[str, ...] | None:
    if CLASSES_KEY not in metadata:
        return None
    classes = json.loads(metadata[CLASSES_KEY])
    if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
        raise InputError(f"{file}: {CLASSES_KEY.decode()} in its metadata is not a list of labels")
    return tuple(classes)


def _pandas_index(schema: Any) -> set[str]:
    """Columns that pandas wrote as the index of a table; a plain range is a dict in its metadata, not a column."""
    metadata = schema.pandas_metadata
    index = metadata.get("index_columns", ()) if isinstance(metadata, dict) else ()
    return {name for name in index if isinstance(name, str)}


def _is_numeric(kind: Any) -> bool:
    types = import_pyarrow().types
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _flat_columns(table: Any, names: Sequence[str], file: Path) -> np.ndarray:
    """Columns of numbers as an array [N, D]."""
    for name in names:
        if not _is_numeric(kind := table[name].type):
            raise InputError(f"{file}: column {name!r} is {kind}; expected float or whole numbers")
        _refuse_nulls(table[name], f"{file}: column {name!r}")
    return np.column_stack([table[name].to_numpy() for name in names])


def _list_column(column: Any, where: str) -> np.ndarray:
    """A column of lists of equal length as an array [N, D]."""
    arrow = import_pyarrow()
    is_list = str(column.type).removeprefix("large_").startswith(("list<", "fixed_size_list<"))
    if not is_list or not _is_numeric(column.type.value_type):
        raise InputError(f"{where} is {column.type}; expected a list of float or whole numbers in each row")
    values = arrow.compute.list_flatten(column)
    for checked in (column, values):
        _refuse_nulls(checked, where)
    lengths = np.unique(arrow.compute.list_value_length(column).to_numpy())
    if len(lengths) > 1:
        raise InputError(
            f"{where}: lists of different lengths; expected the same number of values in every row"
        )
    return values.to_numpy().reshape(len(column), int(lengths[0]) if len(lengths) else 1)


def _refuse_nulls(column: Any, where: str) -> None:
    if column.null_count:
        raise InputError(
            f"{where}: {column.null_count} value(s) are missing (null); fill them, or remove the rows"
        )


def _arrow_strings(column: Any, where: str) -> list[str]:
    """The texts of a column; rows with one text share it, since a long one may be stored once for many rows."""
    arrow = import_pyarrow()
    _refuse_nulls(column, where)
    if not arrow.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    kind = str(column.type.value_type)
    if kind.removeprefix("large_").removesuffix("_view") not in ("string", "binary"):
        raise InputError(f"{where} is {kind}; expected strings")
    texts: list[str] = []
    for chunk in column.chunks:
        known = [_text(value, where) for value in chunk.dictionary.to_pylist()]
        texts += [known[place] for place in chunk.indices.to_pylist()]
    return texts
