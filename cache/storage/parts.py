"""Parts: immutable HDF5 files of arrays, each named by the digest of its content.

A part begins with a header of 512 bytes, HDF5's user block, with the digest of every byte behind it. It is
checked before HDF5 opens the file, on the first read in a process: damaged HDF5 can end a process or ask for
any amount of memory. `cache/FORMAT.md` is the published form.
"""

import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moodfuse._version import __version__
from moodfuse.cache.digests import canonical_json, content_digest, digest16, stream_digest
from moodfuse.cache.errors import CacheError, DamagedPartError, MoodfuseError, SchemaError
from moodfuse.cache.storage.files import check_regular, open_regular, read_error, write_aside
from moodfuse.cache.storage.hdf5 import checked_arrays, open_hdf5, read_array

SCHEMA = 2
HEADER_BYTES = 512
KIND = "moodfuse-hdf5"
FileState = tuple[str, int, int, int]
_verified: set[FileState] = set()


@dataclass(frozen=True)
class Header:
    """The first 512 bytes of a part.

    `content` is the digest of the arrays and attributes (the file's name has its first 16 digits), `body` the
    SHA-256 of every byte after the header, `size` that of the whole file, and `rows` the length of the array
    ``clip``, 0 without one, so that a listing need not open HDF5. `written_by` is a version of moodfuse.
    """

    content: str
    body: str
    size: int
    rows: int
    schema: int = SCHEMA
    kind: str = KIND
    written_by: str = ""

    def __post_init__(self) -> None:
        types = [type(getattr(self, field.name)) for field in fields(self)]
        if types != [str, str, int, int, int, str, str] or self.rows < 0:
            raise ValueError("its values are of other types")

    def to_bytes(self) -> bytes:
        """The header as it is in the file: canonical JSON with its own digest, spaces, a line feed."""
        return _header_bytes(asdict(self))


def _header_bytes(values: Mapping[str, Any]) -> bytes:
    return canonical_json({**values, "check": digest16(values)}).encode().ljust(HEADER_BYTES - 1) + b"\n"


def read_header(path: Path) -> Header:
    """Header of a part; the bytes behind it are not checked.

    Raises `DamagedPartError` if it is not a header, or the file has another size than the header states;
    `SchemaError` if another version wrote it; `CacheError` if the file cannot be read.
    """
    with _read_errors(path), open_regular(path) as stream:
        return _parse_header(path, stream.read(HEADER_BYTES), os.fstat(stream.fileno()).st_size)


def _parse_header(path: Path, data: bytes, size: int) -> Header:
    """The header in the first bytes of a file of `size` bytes; unknown keys are skipped."""
    try:
        values = json.loads(data)
        del values["check"]
        if _header_bytes(values) != data or values["kind"] != KIND:
            raise ValueError("its own digest does not match")
        if values["schema"] != SCHEMA:
            raise schema_error(path, values["schema"], values.get("written_by"))
        known = {field.name for field in fields(Header)}
        header = Header(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedPartError(f"{path}: has no header of a part ({error})") from error
    if size != header.size:
        raise DamagedPartError(f"{path}: {size} bytes, not the {header.size} that were written")
    return header


def schema_error(path: Path, schema: int, writer: object) -> SchemaError:
    """The error of a cache or a part of another schema, with the version that wrote it if known."""
    if schema < SCHEMA:
        return SchemaError(
            f"{path}: schema {schema} was never released and cannot be read; run extract again into another "
            "--cache folder"
        )
    package = f"'moodfuse>={writer}'" if isinstance(writer, str) and writer else "--upgrade moodfuse"
    return SchemaError(
        f"{path}: schema {schema} is newer than the {SCHEMA} that this moodfuse reads; upgrade "
        f"(pip install {package})"
    )


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Raise `CacheError` for an error of the operating system; a missing file counts as damaged."""
    try:
        yield
    except CacheError:
        raise
    except FileNotFoundError as error:
        raise DamagedPartError(f"{path}: is missing") from error
    except OSError as error:
        raise read_error(path, "read", error) from error


# Writing


def write_part(
    folder: Path,
    stem: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
    *,
    packed: Collection[str] = (),
) -> Path:
    """Write one part, ``<stem>-<digest16>.h5``, and return its path; an equal part that exists stays.

    Arrays named in `packed` are compressed with HDF5's filters shuffle and deflate. `CacheError` if the write
    fails.
    """
    digest = content_digest(arrays, attributes)
    path = folder / f"{stem}-{digest[:16]}.h5"
    try:
        check_part(path)
    except DamagedPartError:
        write_aside(path, encode_part(arrays, attributes, digest=digest, packed=packed))
    return path


def encode_part(
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
    *,
    digest: str,
    packed: Collection[str] = (),
) -> memoryview:
    """The bytes of a part; equal content gives equal bytes under one version of HDF5."""
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=HEADER_BYTES, libver=("v110", "v110")) as file:
        file.attrs["attributes"] = canonical_json(dict(attributes))
        for name in sorted(arrays):
            filters = (
                {"shuffle": True, "compression": "gzip", "compression_opts": 4} if name in packed else {}
            )
            file.create_dataset(name, data=np.ascontiguousarray(arrays[name]), track_times=False, **filters)
    data = image.getbuffer()
    body = hashlib.sha256(data[HEADER_BYTES:]).hexdigest()
    header = Header(digest, body, len(data), _row_count(arrays), written_by=__version__)
    data[:HEADER_BYTES] = header.to_bytes()
    return data


def _row_count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(arrays["clip"]) if "clip" in arrays else 0


# Checking and reading


def check_bytes(path: Path) -> Header:
    """Check every byte of a part against its header.

    Raises `DamagedPartError` if a byte, or the length, differs from what was written; `CacheError` if the
    file cannot be read.
    """
    with _read_errors(path), open_regular(path) as stream:
        header = _parse_header(path, stream.read(HEADER_BYTES), os.fstat(stream.fileno()).st_size)
        body = stream_digest(stream)
    if body != header.body:
        raise DamagedPartError(f"{path}: its bytes differ from those that were written")
    return header


def check_part(path: Path) -> Header:
    """Check a part's bytes and its name, once per process and file; `DamagedPartError` if wrong."""
    state = file_state(path)
    if state in _verified:
        return read_header(path)
    header = check_bytes(path)
    if header.content[:16] != path.stem.rsplit("-", 1)[-1]:
        raise DamagedPartError(f"{path}: has content {header.content[:16]}, not the one in its name")
    _verified.add(state)
    return header


def file_state(path: Path) -> FileState:
    """What changes when a file is replaced: its path, inode, time of change in nanoseconds, and size.

    Raises `DamagedPartError` if it does not exist, or is not a regular file.
    """
    with _read_errors(path):
        check_regular(path)
        facts = os.stat(path)
    return str(path), facts.st_ino, facts.st_mtime_ns, facts.st_size


@contextmanager
def open_part(path: Path) -> Iterator[tuple[dict[str, h5py.Dataset], dict[str, Any]]]:
    """The arrays of a part for reading, and its attributes; its bytes and the form of its arrays are checked.

    Raises `DamagedPartError` if it does not match its name, or an array is not as `hdf5.check_array` demands;
    `CacheError` if it cannot be read.
    """
    check_part(path)
    try:
        with open_hdf5(path) as file:
            yield checked_arrays(file), _attributes(file)
    except MoodfuseError:
        raise
    except ValueError as error:
        raise DamagedPartError(f"{path}: {error}") from error
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise DamagedPartError(f"{path}: cannot be read as HDF5 ({error})") from error


def _attributes(file: h5py.File) -> dict[str, Any]:
    try:
        attributes = json.loads(file.attrs["attributes"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its attributes are not JSON ({error})") from error
    if not isinstance(attributes, dict):
        raise ValueError("its attributes are not a JSON object")
    return attributes


def read_part(
    path: Path, *, names: tuple[str, ...] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays (all, or those of `names` that it has) and attributes of a part; errors as for `open_part`."""
    with open_part(path) as (arrays, attributes):
        wanted = [name for name in arrays if names is None or name in names]
        return {name: read_array(arrays[name]) for name in wanted}, attributes


def verify_part(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Check a part down to its arrays, and return them with its attributes; `DamagedPartError` if wrong."""
    _verified.discard(file_state(path))
    header = check_part(path)
    arrays, attributes = read_part(path)
    if content_digest(arrays, attributes) != header.content or header.rows != _row_count(arrays):
        raise DamagedPartError(f"{path}: its arrays are not those of its header")
    return arrays, attributes


def check_dtypes(
    path: Path, arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[str, int]]
) -> None:
    """Check that a part has arrays of a dtype and a number of axes each; `DamagedPartError` if not."""
    for name, (dtype, ndim) in expected.items():
        if name not in arrays:
            raise DamagedPartError(f"{path}: has no array {name!r}")
        if arrays[name].dtype != dtype or arrays[name].ndim != ndim:
            form = f"{arrays[name].dtype}{list(arrays[name].shape)}"
            raise DamagedPartError(f"{path}: {name} is {form}; expected {np.dtype(dtype)} with {ndim} axes")
