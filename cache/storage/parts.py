"""Parts: immutable HDF5 files of arrays, each named by the digest of its whole content.

A part begins with a header of 512 bytes, HDF5's user block, that holds the digest of every byte behind it. It is
checked before HDF5 sees the file, on first read in a process: damaged HDF5 can end a process or ask for any amount of
memory, and a checked file is what was written. `cache/FORMAT.md` is the published form.
"""

import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moodfuse.cache.digests import canonical_json, content_digest
from moodfuse.cache.errors import CacheError, DamagedPartError, MoodfuseError
from moodfuse.cache.storage.files import check_regular, open_regular, write_aside
from moodfuse.cache.storage.hdf5 import checked_arrays, open_hdf5, read_array
from moodfuse.cache.storage.headers import (
    HEADER_BYTES,
    SCHEMA,
    Header,
    parse_header,
    read_header,
    unreadable,
    writer_version,
)

_PIECE_BYTES = 1 << 20
FileState = tuple[str, int, int, int]
_verified: set[FileState] = set()


def write_part(
    folder: Path,
    stem: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
    *,
    packed: Collection[str] = (),
) -> Path:
    """Write one part, ``<stem>-<digest16>.h5``, and return its path; an equal part that exists is left alone.

    Arrays named in `packed` are stored by HDF5's filters shuffle and deflate; whoever reads them sees no difference.

    Raises
    ------
    CacheError
        If the disk refuses, or gives other bytes back.
    """
    digest = content_digest(arrays, attributes)
    path = folder / f"{stem}-{digest[:16]}.h5"
    if not is_intact(path):
        data = encode_part(arrays, attributes, digest=digest, packed=packed)
        write_aside(path, data, check=lambda file: _recheck(file, digest, path))
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
    header = Header(digest, body, len(data), _row_count(arrays), SCHEMA, written_by=writer_version())
    data[:HEADER_BYTES] = header.to_bytes()
    return data


def _row_count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(arrays["clip"]) if "clip" in arrays else 0


def _recheck(temporary: Path, digest: str, path: Path) -> None:
    """Read back what was just written, down to the arrays."""
    try:
        check_bytes(temporary)
        found = content_digest(*_load(temporary, None))
    except (DamagedPartError, OSError, ValueError, KeyError) as error:
        raise DamagedPartError(
            f"{path}: what was read back differs from what was written; check the disk"
        ) from error
    if found != digest:
        raise DamagedPartError(f"{path}: HDF5 gave other arrays back than were written; please report this")


def check_bytes(path: Path) -> Header:
    """Hold every byte of a part to its header.

    Raises
    ------
    DamagedPartError
        If a byte, or the length, is not what was written.
    CacheError
        If the file cannot be read.
    """
    state = hashlib.sha256()
    piece = bytearray(_PIECE_BYTES)
    try:
        with open_regular(path, buffering=0) as stream:
            header = parse_header(path, stream.read(HEADER_BYTES), os.fstat(stream.fileno()).st_size)
            while count := stream.readinto(piece):  # type: ignore[attr-defined]
                state.update(memoryview(piece)[:count])
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise unreadable(path, error) from error
    if state.hexdigest() != header.body:
        raise DamagedPartError(f"{path}: its bytes are not the ones that were written")
    return header


def check_part(path: Path) -> Header:
    """Check a part's bytes and its name, once a process as long as the file is not replaced.

    Raises
    ------
    DamagedPartError
        If it is not what its name says.
    """
    state = file_state(path)
    if state in _verified:
        return read_header(path)
    header = check_bytes(path)
    if header.content[:16] != path.stem.rsplit("-", 1)[-1]:
        raise DamagedPartError(f"{path}: holds content {header.content[:16]}, not the one in its name")
    _verified.add(state)
    return header


def file_state(path: Path) -> FileState:
    """What changes when a file is replaced: its path, inode, time of change in nanoseconds, and size.

    Raises
    ------
    DamagedPartError
        If it is gone, or not a regular file.
    """
    try:
        check_regular(path)
        facts = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return str(path), facts.st_ino, facts.st_mtime_ns, facts.st_size


@contextmanager
def open_part(path: Path) -> Iterator[tuple[dict[str, h5py.Dataset], dict[str, Any]]]:
    """The arrays of a part for reading, and its attributes; its bytes and the form of its arrays are checked before.

    No lock is taken.

    Raises
    ------
    DamagedPartError
        If it is not what its name says, or an array is not as `moodfuse.cache.storage.hdf5.check_array` demands.
    CacheError
        If it cannot be read.
    """
    check_part(path)
    with _opened(path) as part:
        yield part


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, h5py.Dataset], dict[str, Any]]]:
    try:
        with open_hdf5(path) as file:
            yield checked_arrays(file), _attributes(file)
    except FileNotFoundError as error:
        raise DamagedPartError(f"{path}: is gone") from error
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
    """Arrays (all, or those of some names that it has) and attributes of a part, its bytes checked before.

    Raises
    ------
    DamagedPartError
        If the file is not what its name says.
    CacheError
        If it cannot be read.
    """
    check_part(path)
    return _load(path, names)


def _load(path: Path, names: tuple[str, ...] | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with _opened(path) as (arrays, attributes):
        return {
            name: read_array(arrays[name]) for name in arrays if names is None or name in names
        }, attributes


def verify_part(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Check a part down to its arrays, which are returned with its attributes: bytes, name, digest of the content.

    Raises
    ------
    DamagedPartError
    """
    _verified.discard(file_state(path))
    header = check_part(path)
    arrays, attributes = _load(path, None)
    if content_digest(arrays, attributes) != header.content or header.rows != _row_count(arrays):
        raise DamagedPartError(f"{path}: its arrays are not those of its header")
    return arrays, attributes


def check_dtypes(
    path: Path, arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[str, int]]
) -> None:
    """Check that a part has some arrays, each of a dtype and a number of axes; further arrays may be there.

    Raises
    ------
    DamagedPartError
    """
    for name, (dtype, ndim) in expected.items():
        if name not in arrays:
            raise DamagedPartError(f"{path}: has no array {name!r}")
        if arrays[name].dtype != dtype or arrays[name].ndim != ndim:
            raise DamagedPartError(
                f"{path}: {name} is {arrays[name].dtype}{list(arrays[name].shape)}; expected {np.dtype(dtype)} with "
                f"{ndim} axes"
            )


def is_intact(path: Path) -> bool:
    """Whether a part is there and holds what its name says."""
    try:
        check_part(path)
    except DamagedPartError:
        return False
    return True
