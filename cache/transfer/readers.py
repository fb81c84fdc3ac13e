"""Reading features that were made elsewhere: ``.npz``, ``.npy`` with ids, ``.csv``, ``.parquet``. Never a pickle.

A CSV, or a Parquet file of flat columns, has a column ``id``, embedding columns ``e0``, ``e1``, ... and, if any, logits
in columns ``logit:<class>``. Without an ``e0``, and where the user names no columns, every other numeric column is one
of the embedding, but for those that an export adds (label, group, fold and digest) and those that number the rows.
"""

import fnmatch
import lzma
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np

from moodfuse.cache.csv_rows import check_columns, check_encoding, csv_rows
from moodfuse.cache.errors import InputError
from moodfuse.cache.storage.files import open_regular, read_regular
from moodfuse.cache.transfer.features import Features, listed, narrowed, plain_id

LOGIT = "logit:"
BESIDE = ("label", "group", "fold", "digest", "split", "path", "start_s", "end_s")
"""Columns of exports and data sets that are no features."""
_NUMBERED = re.compile(r"e(0|[1-9][0-9]*)")
_INDEX = re.compile(r"|unnamed: \d+(\.\d+|_level_\d+)*|index|level_\d+|__index_level_\d+__", re.IGNORECASE)
"""Names that the index of a table has when pandas or R writes it."""
FEWEST_ROWS = 10
"""In fewer rows the numbers of a real feature may number the rows, or go with the labels, by chance."""
_VALUES_AT_ONCE = 1 << 20
UNPACKED_RATIO = 100
"""A compressed file may become so many times its size in memory; features of a network compress to a half at best."""
UNPACKED_BYTES = 1 << 26
"""Below so many bytes a file may be compressed as it likes."""
_NPY = b"\x93NUMPY"
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, SyntaxError),
    tokenize.TokenError,
)
"""What NumPy, zipfile and Arrow raise at files that are damaged, foreign, or larger than memory."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Attributes
    ----------
    embedding, logits, passed_over, index : tuple of str
        `index` are the columns that number the rows.
    guessed : frozenset of str
        Columns of the embedding that the user did not name.
    """

    embedding: tuple[str, ...]
    logits: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class of each column of logits; `None` where there are none."""
        return tuple(name.removeprefix(LOGIT) for name in self.logits) or None


def choose_columns(
    file: Path,
    names: Sequence[str],
    wanted: Sequence[str] = (),
    *,
    index: Collection[str] = (),
    texts: Collection[str] = (),
) -> Columns:
    """Columns of the embedding and the logits, from the names in a table; ``id`` must be one of them.

    Parameters
    ----------
    file : Path
    names : sequence of str
        All columns of the table.
    wanted : sequence of str
        What the user asks for: names, patterns, or several of these separated by commas.
    index, texts : collection of str
        Columns that are known to be an index of the table, or to hold no numbers.

    Raises
    ------
    InputError
        If there is no ``id`` or no embedding, a number is left out of ``e0``, ``e1``, ..., or a name or pattern in
        `wanted` matches no column.
    """
    check_columns(file, names, ("id",))
    logits = tuple(name for name in names if name.startswith(LOGIT))
    others = [name for name in names if name not in ("id", *logits)]
    indexes = {name for name in others if name in index or _INDEX.fullmatch(name)}
    numbers = [
        name for name in others if name.lower() not in BESIDE and name not in indexes and name not in texts
    ]
    guessed: Collection[str] = ()
    if wanted:
        embedding, guessed = _wanted_columns(file, wanted, others, numbers)
    elif "e0" in others:
        embedding = _numbered_columns(file, others)
    else:
        embedding = guessed = tuple(numbers)
    if not embedding:
        raise InputError(f"{file}: has no column of an embedding; expected numbers in columns e0, e1, ...")
    taken = set(embedding)
    left = [name for name in dict.fromkeys(others) if name not in taken]
    return Columns(
        embedding,
        logits,
        passed_over=tuple(name for name in left if name not in indexes),
        index=tuple(name for name in left if name in indexes),
        guessed=frozenset(guessed),
    )


def _numbered_columns(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    numbered = [name for name in names if _NUMBERED.fullmatch(name)]
    embedding = tuple(f"e{number}" for number in range(len(numbered)))
    if lacking := sorted(set(embedding) - set(numbered)):
        raise InputError(
            f"{file}: column {lacking[0]} is missing among e0 ... of {len(numbered)} embedding columns"
        )
    return embedding


def _wanted_columns(
    file: Path, wanted: Sequence[str], names: Sequence[str], numbers: Sequence[str]
) -> tuple[tuple[str, ...], set[str]]:
    """The columns that the user asks for, and those of them that only a pattern names.

    A pattern finds what would be taken without `wanted`; in full any column can be named.
    """
    found: list[str] = []
    in_full: set[str] = set()
    for text in wanted:
        parts = (
            [text] if text in names else [part.strip() for part in text.split(",")]
        )  # a name may hold a comma
        for part in filter(None, parts):
            if part in names:
                found.append(part)
                in_full.add(part)
            elif matches := fnmatch.filter(numbers, part):
                found += matches
            else:
                raise InputError(f"{file}: --columns: unknown column {part!r}; known: {listed(names)}")
    return tuple(dict.fromkeys(found)), set(found) - in_full


def table_features(
    file: Path, ids: Sequence[str], columns: Columns, embedding: np.ndarray, logits: np.ndarray | None
) -> Features:
    """Features of a table, without the guessed columns that number its rows.

    Raises
    ------
    InputError
        If no column is left, or the features cannot be used.
    """
    index = {
        name
        for row, name in enumerate(columns.embedding)
        if name in columns.guessed and _numbers_rows(embedding[:, row])
    }
    if index:
        kept = [name not in index for name in columns.embedding]
        if not any(kept):
            raise InputError(
                f"{file}: its only columns of numbers number the rows ({listed(sorted(index))}); add the features, or "
                "name these with --columns"
            )
        embedding = embedding[:, kept]
    taken = tuple(name for name in columns.embedding if name not in index)
    return Features(
        file,
        ids,
        embedding,
        logits,
        classes=columns.classes,
        passed_over=columns.passed_over,
        columns=taken,
        index_columns=(*columns.index, *(name for name in columns.embedding if name in index)),
        guessed=columns.guessed - index,
    )


def _numbers_rows(values: np.ndarray) -> bool:
    """Whether values [N] are 0 to N-1, or 1 to N, in any order."""
    if len(values) < FEWEST_ROWS:
        return False
    first = values.min()
    if first not in (0, 1) or values.max() != first + len(values) - 1:
        return False
    return np.array_equal(np.sort(values), np.arange(first, first + len(values)))


def read_features(file: Path, *, ids: Path | None = None, columns: Sequence[str] = ()) -> Features:
    """Features from a file, by its suffix.

    Parameters
    ----------
    file : Path
    ids : Path, optional
        For ``.npy`` alone: one id a line, or a ``.npy`` of strings; in the order of the rows.
    columns : sequence of str
        For tables alone: the columns of the embedding; without it they are chosen as `choose_columns` says.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no features; the message says what was expected.
    """
    suffix = file.suffix.lower()
    if suffix not in (".npy", ".npz", *TABLES):
        raise InputError(
            f"{file}: suffix {suffix!r} is not known; expected .npy, .npz, {' or '.join(TABLES)}"
        )
    if ids is not None and suffix != ".npy":
        raise InputError(f"{file}: --ids goes with a .npy alone; this file has its own")
    if suffix in TABLES:
        return TABLES[suffix](file, columns)
    if columns:
        raise InputError(f"{file}: --columns goes with {' and '.join(TABLES)}; an array is imported whole")
    return _read_npy(file, ids) if suffix == ".npy" else _read_npz(file)


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what libraries raise at a bad file into an error that names it."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        cause = getattr(error, "strerror", None) or str(error).splitlines()[:1] or type(error).__name__
        cause = cause if isinstance(cause, str) else cause[0]
        raise InputError(f"{file}: cannot be read as {file.suffix.lower()} ({cause})") from error


def _read_npy(file: Path, ids: Path | None) -> Features:
    if ids is None:
        raise InputError(
            f"{file}: a .npy holds no ids; add --ids FILE, one id a line in the order of the rows"
        )
    with readable(file):
        embedding = _array(file, "embedding")
    return Features(file, _read_ids(ids), embedding)


@contextmanager
def _no_objects(file: Path, what: str) -> Iterator[None]:
    """Name the array that NumPy refuses because it holds Python objects, which only a pickle could bring back."""
    try:
        yield
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        remedy = (
            "np.stack({0}).astype('float32')"
            if what in ("embedding", "logits")
            else "np.array({0}).astype(str)"
        )
        raise InputError(
            f"{file}: {what} is an array of Python objects (dtype object), which is not read; save "
            f"{remedy.format(what)}"
        ) from error


def _array(file: Path, what: str) -> np.ndarray:
    with open_regular(file) as stream:
        if stream.read(len(_NPY)) == _NPY:
            stream.seek(0)
            check_npy_header(stream, file.stat().st_size, f"{file}: the array")
        stream.seek(0)
        with _no_objects(file, what):
            found = np.load(stream, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise InputError(f"{file}: is an .npz, not one array; give it the suffix .npz")
    return found


def check_npy_header(stream: IO[bytes], size: int, what: str) -> None:
    """Check that the array that a ``.npy`` declares is not larger than the `size` bytes of the file.

    NumPy allocates what the header declares before it reads a value.

    Raises
    ------
    InputError
    """
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version} of the format; expected 1.0 or 2.0")
    shape, _, dtype = _NPY_HEADERS[version](stream)
    declared, left = math.prod(shape) * max(1, dtype.itemsize), size - stream.tell()
    if not dtype.hasobject and declared > left:
        raise InputError(
            f"{what} is declared as {dtype}{list(shape)}, {declared} bytes, but {max(0, left)} follow; the file is cut "
            "short or damaged: write it again with numpy.save or numpy.savez"
        )


def check_size(file: Path, unpacked: int, remedy: str) -> None:
    """Refuse a compressed file that would take much more memory than it has bytes.

    Parameters
    ----------
    file : Path
    unpacked : int
        Bytes of its arrays in memory.
    remedy : str
        How to write it otherwise.

    Raises
    ------
    InputError
    """
    limit = max(UNPACKED_BYTES, UNPACKED_RATIO * file.stat().st_size)
    if unpacked > limit:
        raise InputError(
            f"{file}: {file.stat().st_size} bytes that become {unpacked}; expected {UNPACKED_RATIO} times the file, or "
            f"{UNPACKED_BYTES >> 20} MiB, at most: {remedy}"
        )


def _read_ids(file: Path) -> list[str]:
    """Ids of a text file or a ``.npy``."""
    with readable(file):
        if file.suffix.lower() == ".npy":
            return texts_of(_array(file, "ids"), "ids", file)
        data = read_regular(file)
        check_encoding(data, file)
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    texts = [line.removesuffix(b"\r").decode("utf-8", "surrogateescape") for line in lines]
    return texts[:-1] if not texts[-1] else texts


def texts_of(values: object, what: str, file: Path) -> list[str]:
    """The strings of an array [N] of text or bytes, in the form that the manifest has.

    Raises
    ------
    InputError
        If it is no such array.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "US" or values.ndim != 1:
        found = f"{values.dtype}{list(values.shape)}" if isinstance(values, np.ndarray) else "no array"
        raise InputError(
            f"{file}: {what} is {found}; expected strings, [N], as {what}.astype(str) gives them"
        )
    if values.dtype.kind == "S":
        return [text.decode("utf-8", "surrogateescape") for text in values.tolist()]
    return [plain_id(text, file) for text in values.tolist()]


def _class_names(values: np.ndarray, file: Path) -> list[str]:
    """Names of classes, which `np.unique` of labels gives as numbers where the labels are numbers."""
    is_number = isinstance(values, np.ndarray) and values.dtype.kind in "iufb"
    return texts_of(values.astype(str) if is_number else values, "classes", file)


def _read_npz(file: Path) -> Features:
    wanted = ("id", "embedding", "logits", "classes")
    with readable(file), open_regular(file) as stream:
        found = np.load(stream, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise InputError(f"{file}: is one array, no .npz; give it the suffix .npy, and --ids FILE")
        with found:
            if missing := [name for name in wanted[:2] if name not in found.files]:
                raise InputError(
                    f"{file}: lacks {' and '.join(missing)}, holds {', '.join(found.files) or 'nothing'}; expected "
                    "id [N], embedding [N, D] and, if any, logits [N, C]"
                )
            _check_members(file, found.zip, wanted)
            arrays = {}
            for name in (name for name in wanted if name in found.files):
                with _no_objects(file, name):
                    arrays[name] = found[name]
    for name in arrays.keys() - {"id", "classes"}:
        if not isinstance(arrays[name], np.ndarray):
            raise InputError(f"{file}: {name} is no array")
    ids = texts_of(arrays["id"], "id", file)
    logits = arrays.get("logits")
    named = logits is not None and "classes" in arrays
    classes = tuple(_class_names(arrays["classes"], file)) if named else None
    return Features(file, ids, arrays["embedding"], logits, classes)


def _check_members(file: Path, archive: zipfile.ZipFile, wanted: Sequence[str]) -> None:
    """Check the arrays of an ``.npz`` that are read, before any is."""
    names = {*wanted, *(f"{name}.npy" for name in wanted)}
    members = [member for member in archive.infolist() if member.filename in names]
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{file}: {member.filename} is compressed by method {member.compress_type}; expected what numpy.savez "
                "or numpy.savez_compressed writes"
            )
    check_size(file, sum(member.file_size for member in members), "write it uncompressed, with numpy.savez")
    for member in members:
        with archive.open(member) as stream:
            if stream.read(len(_NPY)) == _NPY:
                stream.seek(0)
                check_npy_header(stream, member.file_size, f"{file}: {member.filename}")


def _read_csv(file: Path, names_wanted: Sequence[str]) -> Features:
    rows = csv_rows(file)
    _, names = next(rows)
    first_row = list(islice(rows, 1))
    texts = {
        name for _, cells in first_row for name, cell in zip(names, cells, strict=True) if _is_text(cell)
    }
    columns = choose_columns(file, names, names_wanted, texts=texts)
    place = names.index("id")
    wanted = [names.index(name) for name in (*columns.embedding, *columns.logits)]
    ids: list[str] = []
    pieces: list[np.ndarray] = []
    waiting: list[float] = []

    def keep() -> None:
        first = len(ids) - len(waiting) // len(wanted)
        values = np.array(waiting, dtype=np.float64).reshape(-1, len(wanted))
        pieces.append(narrowed(values, f"{file}: row", lambda row: ids[first + row]))
        waiting.clear()

    for line, cells in chain(first_row, rows):
        ids.append(cells[place])
        try:
            waiting += [_number(cells[column]) for column in wanted]
        except ValueError as error:
            raise _no_number(f"{file}, line {line}", names, cells, wanted) from error
        if len(waiting) >= _VALUES_AT_ONCE:
            keep()
    keep()
    values = np.concatenate(pieces)
    width = len(columns.embedding)
    return table_features(
        file, ids, columns, values[:, :width], values[:, width:] if columns.logits else None
    )


def _number(text: str) -> float:
    """A number as others write it: Python alone reads ``1_000``, or digits of other scripts, as one."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _is_text(cell: str) -> bool:
    """Whether a cell is a word, not a number or something like a number."""
    try:
        _number(cell)
    except ValueError:
        return any(char.isalpha() for char in cell)
    return False


def _no_number(where: str, names: Sequence[str], cells: Sequence[str], wanted: Sequence[int]) -> InputError:
    """Names the first cell of a row that is no number."""
    for column in wanted:
        try:
            _number(cells[column])
        except ValueError:
            break
    return InputError(
        f"{where}: column {names[column]!r} is {cells[column][:60]!r}; expected a number (choose the columns of the "
        "embedding with --columns, or call them e0, e1, ...)"
    )


def _read_parquet(file: Path, wanted: Sequence[str]) -> Features:
    from moodfuse.cache.transfer.parquet import read_parquet

    return read_parquet(file, wanted)


TABLES: dict[str, Callable[[Path, Sequence[str]], Features]] = {".csv": _read_csv, ".parquet": _read_parquet}
"""Reader of each suffix whose files have named columns; it takes those that are wanted."""
