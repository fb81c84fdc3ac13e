"""Files of features: ``.npz``, ``.npy`` with ids, ``.csv`` or ``.parquet``. Never a pickle."""

import fnmatch
import json
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from moodfuse.cache.console import first_few, short_repr
from moodfuse.cache.csv_rows import check_columns, check_encoding, csv_rows
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
class Columns:
    """The columns of a table that are read, and those that are ignored.

    `guessed` are the columns of the embedding that the user did not name in full.
    """

    embedding: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class of each column of logits; `None` where there are none."""
        return tuple(name.removeprefix(LOGIT) for name in self.logits) or None

    def lines(self) -> list[str]:
        """One line for each use of columns."""
        uses = {
            "columns of the embedding": self.embedding,
            "index columns ignored": self.index,
            "columns ignored": self.ignored,
        }
        return [f"{use}: {first_few(names, count=MAX_LISTED)}" for use, names in uses.items() if names]


@dataclass(frozen=True)
class Features:
    """The content of a file of features.

    `arrays` are ``embedding`` [N, D] and, if any, ``logits`` [N, C], all float32 and finite. `classes` has
    the class of each column of the logits where the file names them. `columns` is empty where the file holds
    arrays, not columns.
    """

    file: Path
    ids: Sequence[str]
    arrays: Mapping[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    columns: Columns = Columns()


def read_features(file: Path, *, ids: Path | None = None, columns: Sequence[str] = ()) -> Features:
    """Features from a file, by its suffix.

    Parameters
    ----------
    file : Path
        ``.npz``: arrays ``id``, ``embedding`` and, if any, ``logits`` and ``classes``. ``.csv`` and
        ``.parquet``: a column ``id``, embedding columns (see `choose_columns`) and, if any,
        ``logit:<class>``; ``.parquet`` also lists in ``embedding`` and ``logits``. ``.npy``: the embedding.
    ids : Path, optional
        For ``.npy`` only: one id per line, or a ``.npy`` of strings; in the order of the rows.
    columns : sequence of str
        For tables only: the columns of the embedding.
    """
    suffix = file.suffix.lower()
    if suffix not in _EXPECTED:
        raise InputError(f"{file}: unknown suffix {suffix!r}; expected .npy, .npz, .csv or .parquet")
    if (ids is None) == (suffix == ".npy"):
        raise InputError(
            f"{file}: a .npy has no ids; add --ids FILE, one id per line in the order of the rows"
            if ids is None
            else f"{file}: --ids goes with a .npy only; this file has its own ids"
        )
    if columns and suffix not in (".csv", ".parquet"):
        raise InputError(f"{file}: --columns goes with .csv and .parquet; an array is imported whole")
    try:
        check_regular(file)
        if suffix == ".csv":
            return _read_csv(file, columns)
        if suffix == ".parquet":
            return _read_parquet(file, columns)
        return _read_npz(file) if ids is None else _read_npy(file, ids)
    except MoodfuseError:
        raise
    except Exception as error:
        cause = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        message = f"{file}: cannot be read as {suffix} ({cause}); expected {_EXPECTED[suffix]}"
        raise InputError(message) from error


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
    if len(set(ids)) < len(ids):
        first = short_repr(next(name for name, count in Counter(ids).items() if count > 1))
        count = len(ids) - len(set(ids))
        raise InputError(f"{file}: {count} id(s) occur twice (first: {first}); keep one row per clip")
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


# NumPy


def _read_npy(file: Path, ids: Path) -> Features:
    embedding = np.load(file, allow_pickle=False)
    if not isinstance(embedding, np.ndarray):
        raise InputError(f"{file}: holds several arrays; expected {_EXPECTED['.npy']}")
    check_regular(ids)
    if ids.suffix.lower() == ".npy":
        return _check_features(
            Features(file, _read_texts(np.load(ids, allow_pickle=False), ids), {"embedding": embedding})
        )
    data = read_regular(ids)
    check_encoding(data, ids)
    lines = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").removesuffix("\n")
    return _check_features(Features(file, lines.split("\n"), {"embedding": embedding}))


def _read_npz(file: Path) -> Features:
    if not zipfile.is_zipfile(file):
        raise InputError(f"{file}: is not an archive; expected {_EXPECTED['.npz']} (see --ids for a .npy)")
    with np.load(file, allow_pickle=False) as archive:
        if missing := [name for name in ("id", "embedding") if name not in archive]:
            raise InputError(
                f"{file}: has no array {' and '.join(missing)}, only {', '.join(archive) or 'nothing'}; "
                f"expected {_EXPECTED['.npz']}"
            )
        names = ("id", "embedding", "logits", "classes")
        arrays = {name: archive[name] for name in names if name in archive}
    ids = _read_texts(arrays.pop("id"), file)
    classes = arrays.pop("classes", None)
    if classes is None or "logits" not in arrays:
        return _check_features(Features(file, ids, arrays))
    return _check_features(Features(file, ids, arrays, tuple(classes.astype(str).tolist())))


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


def choose_columns(
    file: Path,
    names: Sequence[str],
    patterns: Sequence[str],
    *,
    index: Collection[str],
    texts: Collection[str],
) -> Columns:
    """Choose the columns of the embedding and of the logits.

    The embedding is what `patterns` match: names, patterns, or several of these separated by commas. Without
    them it is ``e0``, ``e1``, ... or, where there is no ``e0``, all columns of numbers that are neither an
    index nor a column of an export. `index` and `texts` are columns known to be an index, or to hold text.
    """
    check_columns(file, names, ("id",))
    candidates = [name for name in names if name != "id" and not name.startswith(LOGIT)]
    indexes = {name for name in candidates if name in index or _INDEX.fullmatch(name)}
    excluded = {*indexes, *texts, *(name for name in candidates if name.lower() in NO_FEATURES)}
    numeric = [name for name in candidates if name not in excluded]
    guessed: Collection[str] = ()
    if patterns:
        embedding, guessed = _match_patterns(file, patterns, candidates, numeric)
    elif "e0" in candidates:
        count = sum(re.fullmatch(r"e\d+", name) is not None for name in candidates)
        embedding = tuple(f"e{number}" for number in range(count))
        if missing := [name for name in embedding if name not in candidates]:
            raise InputError(
                f"{file}: column {missing[0]} is missing among e0 ... of {count} embedding columns"
            )
    else:
        embedding = guessed = tuple(numeric)
    if not embedding:
        raise InputError(f"{file}: has no embedding column; expected numbers in columns e0, e1, ...")
    return Columns(
        embedding=embedding,
        logits=tuple(name for name in names if name.startswith(LOGIT)),
        index=tuple(name for name in candidates if name in indexes - set(embedding)),
        ignored=tuple(name for name in candidates if name not in indexes | set(embedding)),
        guessed=frozenset(guessed),
    )


def _match_patterns(
    file: Path, patterns: Sequence[str], names: Sequence[str], numeric: Sequence[str]
) -> tuple[tuple[str, ...], set[str]]:
    """The columns that the user asks for, and those of them that only a pattern matched.

    A pattern matches only columns that would be used without it; a full name can be any column.
    """
    matched: dict[str, None] = {}
    in_full: set[str] = set()
    for part in filter(None, (part.strip() for text in patterns for part in text.split(","))):
        if part in names:
            in_full.add(part)
            matched[part] = None
        elif columns := fnmatch.filter(numeric, part):
            matched |= dict.fromkeys(columns)
        else:
            known = first_few(names, count=MAX_LISTED)
            raise InputError(f"{file}: --columns: unknown column {part!r}; known: {known}")
    return tuple(matched), set(matched) - in_full


def _make_features(file: Path, ids: Sequence[str], columns: Columns, values: np.ndarray) -> Features:
    """Features from the values [N, D + C] of the columns of the embedding and of the logits.

    Guessed columns that number the rows, 0 to N-1 or 1 to N in any order, move to the index.
    """
    width = len(columns.embedding)
    names = np.array(columns.embedding, dtype=object)
    is_guessed = np.array([name in columns.guessed for name in names])
    is_index = is_guessed & np.array([_numbers_rows(column) for column in values[:, :width].T])
    if is_index.all():
        raise InputError(
            f"{file}: its only numeric columns number the rows ({first_few(names)}); add the features, or "
            "name these columns with --columns"
        )
    kept, index = tuple(names[~is_index]), (*columns.index, *names[is_index])
    columns = replace(columns, embedding=kept, index=index, guessed=columns.guessed - set(index))
    arrays = {"embedding": values[:, :width][:, ~is_index]}
    if columns.logits:
        arrays["logits"] = values[:, width:]
    return _check_features(Features(file, ids, arrays, columns.classes, columns))


def _numbers_rows(values: np.ndarray) -> bool:
    if len(values) < MIN_ROWS or (first := values.min()) not in (0, 1):
        return False
    return np.array_equal(np.sort(values), np.arange(first, first + len(values)))


def _read_csv(file: Path, patterns: Sequence[str]) -> Features:
    rows = csv_rows(file)
    _, names = next(rows)
    lines = list(rows)
    first = lines[0][1] if lines else []
    texts = {names[index] for index, cell in enumerate(first) if _is_text(cell)}
    columns = choose_columns(file, names, patterns, index=(), texts=texts)
    indices = [names.index(name) for name in (*columns.embedding, *columns.logits)]
    values = np.zeros((len(lines), len(indices)))
    for row, (line, cells) in enumerate(lines):
        try:
            values[row] = [float(cells[index]) for index in indices]
        except ValueError:
            index = next(index for index in indices if _is_text(cells[index]))
            raise InputError(
                f"{file}, line {line}: column {names[index]!r} is {cells[index][:60]!r}; expected a number "
                "(choose the columns of the embedding with --columns, or name them e0, e1, ...)"
            ) from None
    ids = [cells[names.index("id")] for _, cells in lines]
    return _make_features(file, ids, columns, values)


def _is_text(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return True
    return False


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
    names = schema.names
    check_columns(file, names, ("id",))
    has_lists = "embedding" in names and not patterns
    if has_lists:
        lists = tuple(name for name in ("embedding", "logits") if name in names)
        logits = tuple(name for name in names if name.startswith(LOGIT) and "logits" not in names)
        ignored = (name for name in names if name not in ("id", *lists, *logits, *NO_FEATURES))
        columns = Columns((), logits, ignored=tuple(ignored))
    else:
        lists = ()
        index = (schema.pandas_metadata or {}).get("index_columns", ())  # a plain range is a dict, not a name
        texts = {field.name for field in schema if not _is_numeric(field.type)}
        columns = choose_columns(
            file, names, patterns, index=[name for name in index if isinstance(name, str)], texts=texts
        )
    table = arrow.parquet.read_table(file, columns=["id", *lists, *columns.embedding, *columns.logits])
    ids = table["id"].to_pylist()
    if not all(isinstance(name, str | bytes) for name in ids):
        raise InputError(
            f"{file}: column 'id' is {table['id'].type}; expected strings, without missing values"
        )
    if not has_lists:
        values = _stack_columns(table, (*columns.embedding, *columns.logits), file)
        return _make_features(file, _decode(ids), columns, values)
    arrays = {name: _flatten_lists(table[name], f"{file}: {name}") for name in lists}
    if columns.logits:
        arrays["logits"] = _stack_columns(table, columns.logits, file)
    classes = columns.classes
    if "logits" in lists and CLASSES_KEY in (schema.metadata or {}):
        classes = tuple(json.loads(schema.metadata[CLASSES_KEY]))
    return _check_features(Features(file, _decode(ids), arrays, classes, columns))


def _is_numeric(kind: Any) -> bool:
    types = import_pyarrow().types
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _stack_columns(table: Any, names: Sequence[str], file: Path) -> np.ndarray:
    for name in names:
        if not _is_numeric(table[name].type):
            raise InputError(f"{file}: column {name!r} is {table[name].type}; expected numbers")
    return np.column_stack([table[name].to_numpy() for name in names])


def _flatten_lists(column: Any, where: str) -> np.ndarray:
    """A column of lists of equal length as an array [N, D]."""
    compute = import_pyarrow().compute
    lengths = compute.unique(compute.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
        raise InputError(
            f"{where}: expected the same number of values in every row; found {lengths} (None: missing)"
        )
    return compute.list_flatten(column).to_numpy().reshape(len(column), lengths[0])
