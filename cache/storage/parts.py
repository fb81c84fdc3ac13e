"""Parts: immutable HDF5 files of arrays, each named by the digest of its content.

`cache/FORMAT.md` is the published form.

A part begins with a header of 512 bytes, HDF5's user block, with the digest of every byte behind it. It is
checked before HDF5 opens the file, on the first read in a process: damaged HDF5 can end a process or ask for
any amount of memory. The author of a malicious file can write matching digests, so links, storage and size
of an array are checked too, before its first value is read: HDF5 can link to other files, or declare an array
that is far larger than the file.
"""

import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from moodfuse._version import __version__
from moodfuse.cache.digests import canonical_json, content_digest, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, MoodfuseError, SchemaError
from moodfuse.cache.storage.files import check_regular, read_error, write_atomic

SCHEMA = 2
HEADER_BYTES = 512
KIND = "moodfuse-hdf5"
MAX_CHUNKED_BYTES = 1 << 24
"""Maximum bytes of an array in chunks, which need not be stored; a waveform has 1.9 million."""
FileState = tuple[str, int, int, int]
"""What changes when a file is replaced: path, inode, time of change in nanoseconds, and size."""


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

    def to_bytes(self) -> bytes:
        """The header as it is in the file: canonical JSON with its own digest, spaces, a line feed."""
        values = asdict(self)
        text = canonical_json({**values, "check": digest16(values)})
        return text.encode().ljust(HEADER_BYTES - 1) + b"\n"


_HEADER_KEYS = {field.name for field in fields(Header)}
_verified: dict[FileState, Header] = {}


def read_header(path: Path) -> Header:
    """Header of a part; the bytes behind it are not checked.

    Raises `DamagedPartError` if it is not a header, or the file has another size than the header states;
    `SchemaError` if another version wrote it; `CacheError` if the file cannot be read.
    """
    with _open(path) as stream:
        return _parse_header(path, stream)


def _parse_header(path: Path, stream: IO[bytes]) -> Header:
    """The header at the start of a file; unknown keys are skipped."""
    try:
        values = json.loads(stream.read(HEADER_BYTES))
        if values.pop("check") != digest16(values) or values["kind"] != KIND:
            raise ValueError("its own digest does not match")
        if values["schema"] != SCHEMA:
            raise schema_error(path, values["schema"], values.get("written_by"))
        header = Header(**{name: value for name, value in values.items() if name in _HEADER_KEYS})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedPartError(f"{path}: has no valid header ({error})") from error
    if (size := os.fstat(stream.fileno()).st_size) != header.size:
        raise DamagedPartError(f"{path}: {size} bytes, not the {header.size} that were written")
    return header


def schema_error(path: Path, schema: int, writer: object) -> SchemaError:
    """The error of a cache or a part of another schema, with the version that wrote it if known."""
    if schema < SCHEMA:
        return SchemaError(
            f"{path}: schema {schema} was never released and cannot be read; run extract again into another "
            "--cache folder"
        )
    package = f"'moodfuse>={writer}'" if writer else "--upgrade moodfuse"
    return SchemaError(
        f"{path}: schema {schema} is newer than the {SCHEMA} that this moodfuse reads; upgrade "
        f"(pip install {package})"
    )


@contextmanager
def _open(path: Path) -> Iterator[io.BufferedReader]:
    """A part's bytes; errors as for `read_header`."""
    file_state(path)
    try:
        with path.open("rb") as stream:
            yield stream
    except CacheError:
        raise
    except OSError as error:
        raise read_error(path, "read", error) from error


def file_state(path: Path) -> FileState:
    """State of a part's file; `DamagedPartError` if it is missing or not a regular file."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise DamagedPartError(f"{path}: is missing") from error
    except OSError as error:
        raise read_error(path, "read", error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedPartError(f"{path}: is not a regular file")
    return str(path), status.st_ino, status.st_mtime_ns, status.st_size


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
        write_atomic(path, encode_part(arrays, attributes, digest=digest, packed=packed))
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
    header = Header(digest, body, len(data), len(arrays.get("clip", ())), written_by=__version__)
    data[:HEADER_BYTES] = header.to_bytes()
    return data


# Checking and reading


def check_part(path: Path, *, again: bool = False) -> Header:
    """Check a part's bytes and its name, once per process and file unless `again`; returns its header.

    Raises `DamagedPartError` if a byte, or the length, differs from what was written; `CacheError` if the
    file cannot be read.
    """
    state = file_state(path)
    if again or state not in _verified:
        with _open(path) as stream:
            header = _parse_header(path, stream)
            if hashlib.file_digest(stream, "sha256").hexdigest() != header.body:
                raise DamagedPartError(f"{path}: its bytes differ from those that were written")
        content = str(header.content)[:16]
        if content != path.stem.rsplit("-", 1)[-1]:
            raise DamagedPartError(f"{path}: has content {content}, not the one in its name")
        _verified[state] = header
    return _verified[state]


@contextmanager
def open_part(path: Path) -> Iterator[tuple[dict[str, h5py.Dataset], dict[str, Any]]]:
    """The arrays of a part for reading, and its attributes; its bytes and the form of its arrays are checked.

    Raises `DamagedPartError` if it does not match its name, or an array is not as `check_array` demands;
    `CacheError` if it cannot be read.
    """
    check_part(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = {name: get_member(file, name) for name in file}
            for name, array in arrays.items():
                check_array(array, name)
            attributes = json.loads(file.attrs["attributes"])
            if not isinstance(attributes, dict):
                raise ValueError("its attributes are not a JSON object")
            yield arrays, attributes
    except MoodfuseError:
        raise
    except ValueError as error:
        raise DamagedPartError(f"{path}: {error}") from error
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise DamagedPartError(f"{path}: cannot be read as HDF5 ({error})") from error


def read_part(
    path: Path, *, names: tuple[str, ...] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays (all, or those of `names` that it has) and attributes of a part; errors as for `open_part`."""
    with open_part(path) as (arrays, attributes):
        wanted = [name for name in arrays if names is None or name in names]
        return {name: read_array(arrays[name]) for name in wanted}, attributes


def verify_part(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Check a part down to its arrays, and return them with its attributes; `DamagedPartError` if wrong."""
    header = check_part(path, again=True)
    arrays, attributes = read_part(path)
    content, rows = content_digest(arrays, attributes), len(arrays.get("clip", ()))
    if (content, rows) != (header.content, header.rows):
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


# Any HDF5 file that is not trusted


def open_hdf5(path: Path) -> h5py.File:
    """Open a regular HDF5 file for reading, without a lock; `OSError` if it is anything else."""
    check_regular(path)
    return h5py.File(path, "r", locking=False)


def get_member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    """The member of a group; `KeyError` if there is none, `ValueError` if it is not a hard link."""
    link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
    if link.type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a soft or external link, which is not followed; expected an array")
    return group[name]


def check_array(array: object, name: str) -> int:
    """Check that a member is an array of plain values that are all in this file; returns its bytes.

    Raises `ValueError`, with `name`, if it is a group, is stored in another file, is not of numbers or bytes,
    or declares more bytes than are stored, in chunks more than `MAX_CHUNKED_BYTES`.
    """
    if not isinstance(array, h5py.Dataset):
        raise ValueError(f"{name} is a group or a type; expected an array")
    properties = array.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(
            f"{name} is stored in another file, which is not read; expected an array in the file itself"
        )
    dtype, shape = array.dtype, array.shape
    if dtype.kind not in "biufS" or not dtype.itemsize or shape is None:
        raise ValueError(f"{name} is {dtype} of shape {shape}; expected an array of numbers or bytes")
    size = math.prod(shape) * dtype.itemsize
    stored = array.id.get_storage_size()
    if array.chunks is None and stored != size:
        raise ValueError(f"{name} of shape {shape} needs {size} bytes, but {stored} are stored")
    if array.chunks is not None and size > MAX_CHUNKED_BYTES:
        raise ValueError(f"{name} has {size} bytes in chunks; expected {MAX_CHUNKED_BYTES} at most")
    return size


def read_array(array: h5py.Dataset) -> np.ndarray:
    """The values of an array that `check_array` has passed."""
    return np.asarray(array[()])
