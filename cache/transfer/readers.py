"""Files of features: ``.npz``, ``.npy`` with ids, ``.csv`` or ``.parquet``. Never a pickle."""

import fnmatch
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from moodfuse.cache.console import first_few, short_repr
from moodfuse.cache.csv_rows import check_columns, csv_rows
from moodfuse.cache.errors import InputError, MoodfuseError
from moodfuse.cache.storage.files import check_regular, read_regular

LOGIT = "logit:"
"""Prefix of a column of logits; the class follows."""
CLASSES_KEY = b"moodfuse.classes"
"""Metadata key of a Parquet file with lists of logits: a JSON list, the class of each value in a list."""
NO_FEATURES = frozenset(("label", "group", "fold", "digest", "split", "path", "start_s", "end_s"))
"""Columns of exports and datasets, which are never features unless the user names them."""
MIN_ROWS = 10
"""In fewer rows a feature may number the rows, or determine the labels, by chance."""
MAX_LISTED = 20
"""Messages list no more columns than this."""
_INDEX = re.compile(r"|unnamed: \d+(\.\d+|_level_\d+)*|index|level_\d+|__index_level_\d+__", re.IGNORECASE)
"""Names that pandas or R give to the index of a table."""
_EXPECTED = {
    ".npz": "arrays id [N] of text, embedding [N, D] and, if any, logits [N, C], as numpy.savez writes them",
    ".npy": "an array [N, D] of numbers, as numpy.save writes it",
    ".csv": "columns id, e0, e1, ... in UTF-8",
    ".parquet": "columns id and embedding",
}


@dataclass(frozen=True)
class Features:
    """The content of a file of features.

    `arrays` are ``embedding`` [N, D] and, if any, ``logits`` [N, C], all float32 and finite. `classes` has
    the class of each column of the logits where the file names them. Of a table, `columns` are those of the
    embedding, `guessed` those of them that the user did not name in full, and `ignored` the others.
    """

    file: Path
    ids: Sequence[str]
    arrays: Mapping[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()

    def describe_columns(self) -> list[str]:
        """One line for each use of columns."""
        uses = {"columns of the embedding": self.columns, "columns ignored": self.ignored}
        return [f"{use}: {first_few(names, count=MAX_LISTED)}" for use, names in uses.items() if names]


def read_features(file: Path, *, ids: Path | None = None, columns: Sequence[str] = ()) -> Features:
    """Features from a file, by its suffix.

    Parameters
    ----------
    file : Path
        ``.npz``: arrays ``id``, ``embedding`` and, if any, ``logits`` and ``classes``. ``.csv`` and
        ``.parquet``: a column ``id``, embedding columns and, if any, ``logit:<class>``; ``.parquet`` also
        lists in ``embedding`` and ``logits``. ``.npy``: the embedding.
    ids : Path, optional
        For ``.npy`` only: one id per line, or a ``.npy`` of strings; in the order of the rows.
    columns : sequence of str
        For tables only: the columns of the embedding, as names, patterns, or several of these separated by
        commas. By default ``e0``, ``e1``, ... or, where there is no ``e0``, all columns of numbers that are
        neither an index nor a column of an export.
    """
    suffix = file.suffix.lower()
    if suffix not in _EXPECTED:
        raise InputError(f"{file}: unknown suffix {suffix!r}; expected .npy, .npz, .csv or .parquet")
    if (ids is None) == (suffix == ".npy"):
        raise InputError(
            f"{file}: a .npy has no ids; add --ids FILE, one id per line in the order of the rows"
            if ids is None
            else f"{file}: --ids is for .npy files; this file has its own ids"
        )
    if columns and suffix not in (".csv", ".parquet"):
        raise InputError(f"{file}: --columns is for .csv and .parquet files; an array is imported whole")
    try:
        check_regular(file)
        if suffix == ".csv":
            features = _read_csv(file, columns)
        elif suffix == ".parquet":
            features = _read_parquet(file, columns)
        else:
            features = _read_npz(file) if ids is None else _read_npy(file, ids)
        return _check_features(features)
    except MoodfuseError:
        raise
    except Exception as error:
        cause = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        remedy = f"expected {_EXPECTED[suffix]}"
        if "Object arrays" in cause:  # what pandas gives for a column of text
            remedy = "save texts as values.astype(str), rows of numbers as np.stack(rows).astype('float32')"
        raise InputError(f"{file}: cannot be read as {suffix} ({cause}); {remedy}") from error


def _check_features(features: Features) -> Features:
    """The features as float32, after a check of shapes, types, values and ids."""
    file, ids = features.file, features.ids
    for name, values in features.arrays.items():
        if values.dtype.kind not in "iuf":
            raise InputError(
                f"{file}: {name} is {values.dtype}; expected numbers, as .astype('float32') gives them"
            )
        if values.ndim != 2 or len(values) != len(ids) or not values.shape[1]:
            raise InputError(
                f"{file}: {name} is {list(values.shape)}, with {len(ids)} ids; expected [{len(ids)}, D], "
                "one row per clip and at least one column"
            )
    if features.classes is not None:
        logits = features.arrays.get("logits")
        if logits is None or len(features.classes) != logits.shape[1]:
            raise InputError(f"{file}: classes do not match the columns of logits")
    if repeated := [name for name, count in Counter(ids).items() if count > 1]:
        raise InputError(
            f"{file}: {len(repeated)} id(s) occur twice (first: {short_repr(repeated[0])}); keep one row per "
            "clip"
        )
    arrays = {}
    for name, values in features.arrays.items():
        with np.errstate(over="ignore", invalid="ignore"):
            arrays[name] = values.astype(np.float32)
        if not (finite := np.isfinite(arrays[name])).all():
            row, column = np.argwhere(~finite)[0].tolist()
            raise InputError(
                f"{file}: {name} of clip {short_repr(ids[row])} is {values[row, column]} in column {column}; "
                "expected a finite float32: correct it"
            )
    return replace(features, arrays=arrays)


def check_label_columns(features: Features, rows: Sequence[int], labels: Sequence[str]) -> None:
    """Check that no guessed column encodes the label: a code for each label, or 0 and 1 for one label.

    `labels` are those of `rows`. Such a column has few different values, and either each value has one label
    or each label has one value.
    """
    names, codes = np.unique(labels, return_inverse=True)
    if len(rows) < MIN_ROWS or len(names) < 2:
        return
    embedding = features.arrays["embedding"][rows]
    encoding = []
    for column, name in enumerate(features.columns):
        values, value_codes = np.unique(embedding[:, column], return_inverse=True)
        pairs = len(np.unique(value_codes * len(names) + codes))
        is_code = 2 <= len(values) <= len(rows) // 2 and pairs in (len(values), len(names))
        encoding += [name] if is_code and name in features.guessed else []
    if encoding:
        raise InputError(
            f"{features.file}: {len(encoding)} column(s) encode the label in all {len(rows)} clips, or "
            "whether it is one of the labels, so heads would learn it from there: "
            f"{first_few(encoding, count=MAX_LISTED)}; remove them, or name them in full with --columns if "
            "they are features"
        )


# NumPy


def _read_npy(file: Path, ids: Path) -> Features:
    data = read_regular(ids)
    if ids.suffix.lower() == ".npy":
        names = _read_texts(np.load(io.BytesIO(data), allow_pickle=False), ids)
    else:
        lines = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").removesuffix("\n")
        names = lines.split("\n")
    return Features(file, names, {"embedding": np.load(file, allow_pickle=False)})


def _read_npz(file: Path) -> Features:
    with np.load(file, allow_pickle=False) as archive:
        if missing := [name for name in ("id", "embedding") if name not in archive]:
            raise InputError(
                f"{file}: has no array {' and '.join(missing)}, only {', '.join(archive) or 'nothing'}; "
                f"expected {_EXPECTED['.npz']}"
            )
        arrays = {name: archive[name] for name in ("embedding", "logits") if name in archive}
        has_classes = "logits" in archive and "classes" in archive
        classes = tuple(archive["classes"].astype(str).tolist()) if has_classes else None
        return Features(file, _read_texts(archive["id"], file), arrays, classes)


def _read_texts(values: np.ndarray, file: Path) -> list[str]:
    if values.dtype.kind not in "US" or values.ndim != 1:
        raise InputError(
            f"{file}: the ids are {values.dtype}{list(values.shape)}; expected strings, [N], as .astype(str) "
            "gives them"
        )
    return _decode(values.tolist())


def _decode(values: Sequence[str | bytes]) -> list[str]:
    """Texts; bytes that are not UTF-8 are decoded as file names are."""
    return [value if isinstance(value, str) else value.decode("utf-8", "surrogateescape") for value in values]


# Tables


@dataclass(frozen=True)
class _Table:
    """A table with a column ``id``: the names of its columns, those that may be features, and its reader.

    `read` returns columns as an array [N, K].
    """

    file: Path
    ids: Sequence[str]
    names: Sequence[str]
    numeric: Collection[str]
    read: Callable[[Sequence[str]], np.ndarray]


def _select_columns(table: _Table, patterns: Sequence[str]) -> Features:
    """The features in columns of numbers.

    Guessed columns that number the rows, 0 to N-1 or 1 to N in any order, are an index and ignored.
    """
    names = [name for name in table.names if name != "id" and not name.startswith(LOGIT)]
    numeric = [
        name
        for name in names
        if name in table.numeric and name.lower() not in NO_FEATURES and not _INDEX.fullmatch(name)
    ]
    guessed: Collection[str] = ()
    if patterns:
        chosen, guessed = _match_patterns(table.file, patterns, names, numeric)
    elif "e0" in names:
        chosen = sorted(
            (name for name in names if re.fullmatch(r"e\d+", name)), key=lambda name: int(name[1:])
        )
    else:
        chosen = guessed = numeric
    values = table.read(chosen)
    kept = [
        number
        for number, name in enumerate(chosen)
        if name not in guessed or not _numbers_rows(values[:, number])
    ]
    if not kept:
        raise InputError(
            f"{table.file}: has no embedding column, or only some that number the rows; expected numbers in "
            "columns e0, e1, ..., or named with --columns"
        )
    embedding = tuple(chosen[number] for number in kept)
    features = Features(
        table.file,
        table.ids,
        {"embedding": values[:, kept]},
        columns=embedding,
        guessed=frozenset(guessed) & set(embedding),
        ignored=tuple(name for name in names if name not in embedding),
    )
    return _add_logits(table, features)


def _match_patterns(
    file: Path, patterns: Sequence[str], names: Sequence[str], numeric: Sequence[str]
) -> tuple[list[str], set[str]]:
    """The columns that the user asks for, and those of them that only a pattern matched.

    A pattern matches only columns that would be used without it; a full name can be any column.
    """
    matched: dict[str, None] = {}
    named: set[str] = set()
    for part in filter(None, (part.strip() for text in patterns for part in text.split(","))):
        if part in names:
            named.add(part)
            matched[part] = None
        elif columns := fnmatch.filter(numeric, part):
            matched |= dict.fromkeys(columns)
        else:
            known = first_few(names, count=MAX_LISTED)
            raise InputError(f"{file}: --columns: unknown column {part!r}; known: {known}")
    return list(matched), set(matched) - named


def _numbers_rows(values: np.ndarray) -> bool:
    if len(values) < MIN_ROWS or (first := values.min()) not in (0, 1):
        return False
    return np.array_equal(np.sort(values), np.arange(first, first + len(values)))


def _add_logits(table: _Table, features: Features) -> Features:
    """The features with the logits in columns ``logit:<class>``, if there are any."""
    names = [name for name in table.names if name.startswith(LOGIT)]
    if not names:
        return features
    classes = tuple(name.removeprefix(LOGIT) for name in names)
    return replace(features, arrays={**features.arrays, "logits": table.read(names)}, classes=classes)


def _read_csv(file: Path, patterns: Sequence[str]) -> Features:
    (_, names), *rows = csv_rows(file)
    check_columns(file, names, ("id",))

    def read(wanted: Sequence[str]) -> np.ndarray:
        indices = [names.index(name) for name in wanted]
        values = np.zeros((len(rows), len(indices)))
        for row, (line, cells) in enumerate(rows):
            try:
                values[row] = [float(cells[index]) for index in indices]
            except ValueError:
                index = next(index for index in indices if not _is_number(cells[index]))
                raise InputError(
                    f"{file}, line {line}: column {names[index]!r} is {cells[index][:60]!r}; expected a "
                    "number (select the embedding with --columns, or name its columns e0, e1, ...)"
                ) from None
        return values

    first = rows[0][1] if rows else ["0"] * len(names)
    numeric = [name for name, cell in zip(names, first, strict=True) if _is_number(cell)]
    ids = [cells[names.index("id")] for _, cells in rows]
    return _select_columns(_Table(file, ids, names, numeric, read), patterns)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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
    content = arrow.parquet.ParquetFile(file).read()
    schema, names = content.schema, content.column_names
    check_columns(file, names, ("id",))
    ids = content["id"].to_pylist()
    if not all(isinstance(name, str | bytes) for name in ids):
        raise InputError(f"{file}: column 'id' is {schema.field('id').type}; expected strings in every row")
    numeric = {field.name for field in schema if _holds_numbers(arrow, field.type)}

    def read(wanted: Sequence[str]) -> np.ndarray:
        for name in wanted:
            if name not in numeric:
                raise InputError(f"{file}: column {name!r} is {schema.field(name).type}; expected numbers")
        return np.array([content[name].to_numpy() for name in wanted]).T

    index = (schema.pandas_metadata or {}).get("index_columns", ())  # a plain range is a dict, not a name
    features = numeric.difference(name for name in index if isinstance(name, str))
    table = _Table(file, _decode(ids), names, features, read)
    if "embedding" not in names or patterns:
        return _select_columns(table, patterns)
    arrays = {name: _flatten_lists(content[name], name) for name in ("embedding", "logits") if name in names}
    if "logits" not in arrays:
        return _add_logits(table, Features(file, table.ids, arrays))
    classes = (schema.metadata or {}).get(CLASSES_KEY)
    return Features(file, table.ids, arrays, tuple(json.loads(classes)) if classes else None)


def _holds_numbers(arrow: ModuleType, kind: Any) -> bool:
    return bool(arrow.types.is_floating(kind) or arrow.types.is_integer(kind))


def _flatten_lists(column: Any, name: str) -> np.ndarray:
    """A column of lists of equal length as an array [N, D]."""
    compute = import_pyarrow().compute
    lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise ValueError(f"{name} does not have the same number of values in every row")
    return compute.list_flatten(column).to_numpy().reshape(len(column), lengths[0])
