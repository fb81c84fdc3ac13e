"""Features in Parquet, through pyarrow, which is an extra: read whole, written a group of rows at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from moodfuse.cache.csv_rows import check_columns
from moodfuse.cache.errors import InputError
from moodfuse.cache.storage.files import check_regular
from moodfuse.cache.transfer.features import WIDEST_BYTES, Features, plain_id
from moodfuse.cache.transfer.readers import (
    BESIDE,
    LOGIT,
    check_size,
    choose_columns,
    readable,
    table_features,
)

CLASSES_KEY = b"moodfuse.classes"
"""Key of the metadata of a file of lists: a JSON list, the class of each value in the lists of logits."""
_VALUES_AT_ONCE = 1 << 23


def pyarrow() -> ModuleType:
    """The library, with its Parquet part.

    Raises
    ------
    InputError
        If it is not installed; the message has the command.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "Parquet needs pyarrow, which is not here; run: pip install 'moodfuse[parquet]'"
        ) from error
    return pyarrow


@contextmanager
def _arrow_readable(file: Path) -> Iterator[None]:
    with readable(file):
        try:
            yield
        except (pyarrow().ArrowException, IndexError) as error:
            raise ValueError(str(error)) from error


def read_parquet(file: Path, wanted: Sequence[str] = ()) -> Features:
    """Features from a column ``id`` and a column ``embedding`` of lists (and ``logits``), or flat columns as in a CSV.

    Parameters
    ----------
    file : Path
    wanted : sequence of str
        Flat columns of the embedding, as `choose_columns` takes them.

    Raises
    ------
    InputError
        If pyarrow is missing, or the file holds no features.
    """
    arrow = pyarrow()
    with _arrow_readable(file):
        check_regular(file)
    with _arrow_readable(file), arrow.parquet.ParquetFile(file) as source:
        _check_size(file, source.metadata)
        schema = source.schema_arrow
        if doubled := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            raise InputError(f"{file}: column {doubled[0]!r} occurs twice; remove one")
        kinds = dict(zip(schema.names, schema.types, strict=True))
        _check_texts(file, kinds.get("id"))
        if "embedding" in kinds and not wanted:
            return _read_lists(file, source, kinds)
        return _read_flat(file, source, kinds, wanted)


def _check_size(file: Path, metadata: Any) -> None:
    """Refuse a file whose values would take much more memory than it has bytes.

    The largest of three estimates counts: lists have more values than rows, text has more bytes than a number for each
    value, and the metadata of a damaged file may count fewer values than rows.
    """
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    values = sum(max(column.num_values * WIDEST_BYTES, column.total_uncompressed_size) for column in columns)
    rows = metadata.num_rows * metadata.num_columns * WIDEST_BYTES
    check_size(file, max(values, rows), "write it with compression='none' and use_dictionary=False")


def _check_texts(file: Path, kind: Any) -> None:
    """Refuse ids that would take much more memory than the file has bytes: a long one is stored once for many rows."""
    arrow = pyarrow()
    if kind not in (arrow.string(), arrow.large_string(), arrow.binary(), arrow.large_binary()):
        return
    with arrow.parquet.ParquetFile(file, read_dictionary=["id"]) as source:
        column = source.read(columns=["id"])["id"]
    lengths = (
        arrow.compute.max(arrow.compute.binary_length(chunk.dictionary)).as_py() for chunk in column.chunks
    )
    check_size(
        file, len(column) * max((length or 0 for length in lengths), default=0), "give each row a short id"
    )


def _read_lists(file: Path, source: Any, kinds: dict[str, Any]) -> Features:
    check_columns(file, tuple(kinds), ("id",))
    named = tuple(name for name in kinds if name.startswith(LOGIT) and "logits" not in kinds)
    lists = [name for name in ("embedding", "logits") if name in kinds]
    table = source.read(columns=["id", *lists, *named])
    arrays = {name: _matrix(table[name], f"{file}: {name}") for name in lists}
    logits = _side_by_side(table, named, file) if named else arrays.get("logits")
    others = tuple(name for name in kinds if name not in ("id", *lists, *named, *BESIDE))
    classes = tuple(name.removeprefix(LOGIT) for name in named) or None
    if "logits" in arrays:
        classes = _classes(source.schema_arrow.metadata or {}, file)
    return Features(file, _texts(table["id"], file), arrays["embedding"], logits, classes, others)


def _classes(metadata: Mapping[bytes, bytes], file: Path) -> tuple[str, ...] | None:
    """Class of each value in the lists of logits, where the file says it."""
    if CLASSES_KEY not in metadata:
        return None
    found = json.loads(metadata[CLASSES_KEY])
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise InputError(f"{file}: {CLASSES_KEY.decode()} in its metadata is no list of labels")
    return tuple(found)


def _read_flat(file: Path, source: Any, kinds: dict[str, Any], wanted: Sequence[str]) -> Features:
    texts = {name for name, kind in kinds.items() if not _is_number(kind)}
    columns = choose_columns(
        file, tuple(kinds), wanted, index=_pandas_index(source.schema_arrow), texts=texts
    )
    table = source.read(columns=["id", *columns.embedding, *columns.logits])
    embedding = _side_by_side(table, columns.embedding, file)
    logits = _side_by_side(table, columns.logits, file) if columns.logits else None
    return table_features(file, _texts(table["id"], file), columns, embedding, logits)


def _pandas_index(schema: Any) -> set[str]:
    """Columns that pandas wrote as the index of a table; a plain range of numbers is a dict there, and no column."""
    metadata = schema.pandas_metadata
    index = metadata.get("index_columns", ()) if isinstance(metadata, dict) else ()
    return {name for name in index if isinstance(name, str)}


def _is_number(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _side_by_side(table: Any, names: Sequence[str], file: Path) -> np.ndarray:
    """Flat columns of numbers as an array [N, D]."""
    for name in names:
        if not _is_number(kind := table[name].type):
            raise InputError(f"{file}: column {name!r} is {kind}; expected float or whole numbers")
        _refuse_nulls(table[name], f"{file}: column {name!r}")
    return np.column_stack([table[name].to_numpy() for name in names])


def _refuse_nulls(column: Any, where: str) -> None:
    if column.null_count:
        raise InputError(
            f"{where}: {column.null_count} value(s) are missing (null); fill them, or drop the rows"
        )


def _texts(column: Any, file: Path) -> list[str]:
    arrow = pyarrow()
    _refuse_nulls(column, f"{file}: column 'id'")
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    names = (
        "is_string",
        "is_large_string",
        "is_string_view",
        "is_binary",
        "is_large_binary",
        "is_binary_view",
    )
    if not any(getattr(arrow.types, name)(kind) for name in names):
        raise InputError(f"{file}: column 'id' is {kind}; expected strings")
    texts: list[str | bytes] = column.to_pylist()
    return [
        plain_id(text, file) if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
        for text in texts
    ]


def _matrix(column: Any, where: str) -> np.ndarray:
    """A column of lists of one length as an array [N, D]."""
    arrow = pyarrow()
    kind = column.type
    lists = any(
        getattr(arrow.types, name)(kind) for name in ("is_list", "is_large_list", "is_fixed_size_list")
    )
    if not lists or not _is_number(kind.value_type):
        raise InputError(f"{where} is {kind}; expected a list of float or whole numbers in each row")
    _refuse_nulls(column, where)
    pieces: list[np.ndarray] = []
    for chunk in column.chunks:
        values = chunk.flatten()
        _refuse_nulls(values, where)
        lengths = np.unique(arrow.compute.list_value_length(chunk).to_numpy(zero_copy_only=False))
        if len(lengths) > 1 or (pieces and len(lengths) and lengths[0] != pieces[0].shape[1]):
            raise InputError(
                f"{where}: lists of different lengths; expected one number of values in every row"
            )
        if len(lengths):
            pieces.append(values.to_numpy(zero_copy_only=False).reshape(len(chunk), int(lengths[0])))
    return np.concatenate(pieces) if pieces else np.zeros((0, 1), dtype=np.float32)


def write_parquet(
    stream: BinaryIO, columns: dict[str, np.ndarray | Sequence[str]], *, classes: Sequence[str] = ()
) -> None:
    """Write columns [N] and [N, D]: text (as bytes where some of it is no UTF-8), numbers, and lists of float.

    `classes`, one of each value in the lists of logits, stand in the file's metadata.
    """
    arrow = pyarrow()
    kinds = {name: _kind(values) for name, values in columns.items()}
    schema = arrow.schema(
        kinds, metadata={CLASSES_KEY: json.dumps(list(classes)).encode()} if classes else None
    )
    rows = len(columns["id"])
    step = max(
        1, _VALUES_AT_ONCE // sum(values.shape[1] for values in columns.values() if _is_matrix(values))
    )
    with arrow.parquet.ParquetWriter(stream, schema) as writer:
        for start in range(0, rows, step):
            piece = {name: values[start : start + step] for name, values in columns.items()}
            arrays = [_arrow_array(values, kinds[name]) for name, values in piece.items()]
            writer.write_table(arrow.table(arrays, schema=schema))


def _is_matrix(values: np.ndarray | Sequence[str]) -> TypeGuard[np.ndarray]:
    return isinstance(values, np.ndarray) and values.ndim == 2


def _kind(values: np.ndarray | Sequence[str]) -> Any:
    arrow = pyarrow()
    if isinstance(values, np.ndarray):
        return arrow.list_(arrow.float32()) if _is_matrix(values) else arrow.int64()
    return arrow.string() if all(_is_utf8(text) for text in values) else arrow.binary()


def _arrow_array(values: np.ndarray | Sequence[str], kind: Any) -> Any:
    arrow = pyarrow()
    if not isinstance(values, np.ndarray):
        binary = arrow.types.is_binary(kind)
        return arrow.array(
            [text.encode("utf-8", "surrogateescape") if binary else text for text in values], kind
        )
    if values.ndim == 1:
        return arrow.array(values, kind)
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return arrow.ListArray.from_arrays(ends, np.ascontiguousarray(values).reshape(-1))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
