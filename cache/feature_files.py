"""Reading features that were made elsewhere: ``.npz``, ``.npy`` with ids, ``.csv``, ``.parquet``. Never a pickle.

A CSV, or a Parquet file of flat columns, has a column ``id``, embedding columns ``e0``, ``e1``, ... and, if any, logits
in columns ``logit:<class>``. Without an ``e0`` every other numeric column is one of the embedding, but for those that
an export adds: label, group, fold and digest.
"""

import lzma
import math
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cache.csv_rows import check_columns, check_encoding, csv_rows
from cache.errors import InputError
from cache.features import Features, narrowed, plain_id
from cache.files import open_regular, read_regular

LOGIT = "logit:"
BESIDE = ("label", "group", "fold", "digest")
"""Columns that an export writes beside the features."""
_NUMBERED = re.compile(r"e(0|[1-9][0-9]*)")
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
    embedding, logits, passed_over : tuple of str
    """

    embedding: tuple[str, ...]
    logits: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class of each column of logits; `None` where there are none."""
        return tuple(name.removeprefix(LOGIT) for name in self.logits) or None


def choose_columns(file: Path, names: Sequence[str]) -> Columns:
    """Columns of the embedding and the logits, from the names in a table; ``id`` must be one of them.

    Raises
    ------
    InputError
        If there is no ``id`` or no embedding, or a number is left out of ``e0``, ``e1``, ...
    """
    check_columns(file, names, ("id",))
    logits = tuple(name for name in names if name.startswith(LOGIT))
    beside = tuple(name for name in names if name in BESIDE)
    others = [name for name in names if name not in ("id", *beside, *logits)]
    numbered = [name for name in others if _NUMBERED.fullmatch(name)]
    if "e0" not in numbered:
        if not others:
            raise InputError(f"{file}: has no column of an embedding; expected numbers in columns e0, e1, ...")
        return Columns(tuple(others), logits, beside)
    embedding = tuple(f"e{number}" for number in range(len(numbered)))
    if lacking := sorted(set(embedding) - set(numbered)):
        raise InputError(f"{file}: column {lacking[0]} is missing among e0 ... of {len(numbered)} embedding columns")
    return Columns(embedding, logits, tuple(name for name in others if name not in numbered))


def read_features(file: Path, *, ids: Path | None = None) -> Features:
    """Features from a file, by its suffix.

    Parameters
    ----------
    file : Path
    ids : Path, optional
        For ``.npy`` alone: one id a line, or a ``.npy`` of strings; in the order of the rows.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no features; the message says what was expected.
    """
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return _read_npy(file, ids)
    if suffix not in READERS:
        raise InputError(f"{file}: suffix {suffix!r} is not known; expected .npy or one of {', '.join(READERS)}")
    if ids is not None:
        raise InputError(f"{file}: --ids goes with a .npy alone; this file has its own")
    return READERS[suffix](file)


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
        raise InputError(f"{file}: a .npy holds no ids; add --ids FILE, one id a line in the order of the rows")
    with readable(file):
        embedding = _array(file)
    return Features(file, _read_ids(ids), embedding)


def _array(file: Path) -> np.ndarray:
    with open_regular(file) as stream:
        if stream.read(len(_NPY)) == _NPY:
            stream.seek(0)
            check_npy_header(stream, file.stat().st_size, f"{file}: the array")
        stream.seek(0)
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
            return texts_of(_array(file), "ids", file)
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
        raise InputError(f"{file}: {what} is {found}; expected strings, [N]")
    if values.dtype.kind == "S":
        return [text.decode("utf-8", "surrogateescape") for text in values.tolist()]
    return [plain_id(text, file) for text in values.tolist()]


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
            arrays = {name: found[name] for name in wanted if name in found.files}
    for name in arrays.keys() - {"id", "classes"}:
        if not isinstance(arrays[name], np.ndarray):
            raise InputError(f"{file}: {name} is no array")
    ids = texts_of(arrays["id"], "id", file)
    logits = arrays.get("logits")
    named = logits is not None and "classes" in arrays
    classes = tuple(texts_of(arrays["classes"], "classes", file)) if named else None
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


def _read_csv(file: Path) -> Features:
    rows = csv_rows(file)
    _, names = next(rows)
    columns = choose_columns(file, names)
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

    for line, cells in rows:
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
    logits = values[:, width:] if columns.logits else None
    return Features(file, ids, values[:, :width], logits, columns.classes, columns.passed_over, columns.embedding)


def _number(text: str) -> float:
    """A number as others write it: Python alone reads ``1_000``, or digits of other scripts, as one."""
    if "_" in text or not text.isascii():
        raise ValueError(text)
    return float(text)


def _no_number(where: str, names: Sequence[str], cells: Sequence[str], wanted: Sequence[int]) -> InputError:
    """Names the first cell of a row that is no number."""
    for column in wanted:
        try:
            _number(cells[column])
        except ValueError:
            break
    return InputError(
        f"{where}: column {names[column]!r} is {cells[column][:60]!r}; expected a number (call the columns of the "
        "embedding e0, e1, ... where others stand beside them)"
    )


def _read_parquet(file: Path) -> Features:
    from cache.parquet import read_parquet

    return read_parquet(file)


READERS: dict[str, Callable[[Path], Features]] = {
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Reader of each suffix but ``.npy``, which is read with its ids."""
