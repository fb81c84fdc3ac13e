"""Parts: immutable HDF5 files of arrays, each named by the digest of its whole content.

A part begins with a header of 512 bytes, HDF5's user block, that holds the digest of every byte behind it. It is
checked before HDF5 sees the file, on first read in a process: damaged HDF5 can end a process or ask for any amount of
memory, and a checked file is what was written. `cache/FORMAT.md` is the published form.
"""

import hashlib
import io
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.errors import CacheError, DamagedPartError, SchemaError
from cache.files import withheld, write_aside
from cache.identity import canonical_json, content_digest, digest16

SCHEMA = 2
HEADER_BYTES = 512
KIND = "moodfuse-hdf5"
_PIECE_BYTES = 1 << 20
FileState = tuple[str, int, int, int]
_verified: set[FileState] = set()


@dataclass(frozen=True)
class Header:
    """The first 512 bytes of a part.

    Attributes
    ----------
    content : str
        Digest of the arrays and attributes, 64 hexadecimal digits; the first 16 stand in the file's name.
    body : str
        SHA-256 of every byte behind the header.
    size : int
        Bytes of the whole file.
    rows : int
        Length of the first axis of the array ``clip``, 0 where there is none: a listing need not open HDF5.
    schema : int
    kind : str
    """

    content: str
    body: str
    size: int
    rows: int
    schema: int = SCHEMA
    kind: str = KIND

    def __post_init__(self) -> None:
        kinds = [type(value) for value in (self.content, self.body, self.size, self.rows, self.schema, self.kind)]
        if kinds != [str, str, int, int, int, str] or self.rows < 0:
            raise ValueError("its values are of other kinds")

    def to_bytes(self) -> bytes:
        """The header as it stands in the file: canonical JSON with a digest of its own, spaces, a line feed."""
        return _padded(asdict(self))


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
            filters = {"shuffle": True, "compression": "gzip", "compression_opts": 4} if name in packed else {}
            file.create_dataset(name, data=np.ascontiguousarray(arrays[name]), track_times=False, **filters)
    data = image.getbuffer()
    body = hashlib.sha256(data[HEADER_BYTES:]).hexdigest()
    data[:HEADER_BYTES] = Header(digest, body, len(data), _row_count(arrays)).to_bytes()
    return data


def _row_count(arrays: Mapping[str, np.ndarray]) -> int:
    return len(arrays["clip"]) if "clip" in arrays else 0


def _recheck(temporary: Path, digest: str, path: Path) -> None:
    """Read back what was just written, down to the arrays."""
    try:
        check_bytes(temporary)
        found = content_digest(*_load(temporary, None))
    except (DamagedPartError, OSError, ValueError, KeyError) as error:
        raise DamagedPartError(f"{path}: what was read back differs from what was written; check the disk") from error
    if found != digest:
        raise DamagedPartError(f"{path}: HDF5 gave other arrays back than were written; please report this")


def read_header(path: Path) -> Header:
    """Header of a part, its own form checked but not what stands behind it.

    Raises
    ------
    DamagedPartError
        If it is no header.
    SchemaError
        If a newer version wrote it.
    CacheError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    return _parse_header(path, data, size)


def _parse_header(path: Path, data: bytes, size: int) -> Header:
    try:
        values = json.loads(data)
        del values["check"]
        if _padded(values) != data or values["kind"] != KIND:
            raise ValueError("its own digest is another")
        if values["schema"] > SCHEMA:
            raise SchemaError(
                f"{path}: part of schema {values['schema']}, newer than the {SCHEMA} that this moodfuse reads; upgrade "
                "moodfuse"
            )
        header = Header(**values)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedPartError(f"{path}: has no header of a part ({error})") from error
    if size != header.size:
        raise DamagedPartError(f"{path}: {size} bytes, not the {header.size} that were written")
    return header


def _padded(values: Mapping[str, Any]) -> bytes:
    return canonical_json({**values, "check": digest16(values)}).encode().ljust(HEADER_BYTES - 1) + b"\n"


def _unreadable(path: Path, error: OSError) -> CacheError:
    if isinstance(error, FileNotFoundError):
        return DamagedPartError(f"{path}: is gone")
    return withheld(path, "read", error)


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
        with path.open("rb", buffering=0) as stream:
            header = _parse_header(path, stream.read(HEADER_BYTES), os.fstat(stream.fileno()).st_size)
            while count := stream.readinto(piece):
                state.update(memoryview(piece)[:count])
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise _unreadable(path, error) from error
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
        If it is gone, or no plain file.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(facts.st_mode):
        raise DamagedPartError(f"{path}: is no plain file")  # to open a pipe would be to wait for ever
    return str(path), facts.st_ino, facts.st_mtime_ns, facts.st_size


@contextmanager
def open_part(path: Path) -> Iterator[h5py.File]:
    """A part's HDF5 file for reading, checked before; no lock is taken.

    Raises
    ------
    DamagedPartError
        If it is not what its name says.
    """
    check_part(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError as error:
        raise DamagedPartError(f"{path}: is gone") from error
    except (OSError, KeyError, RuntimeError) as error:
        if isinstance(error, CacheError):
            raise
        raise DamagedPartError(f"{path}: cannot be read as HDF5 ({error})") from error


def _load(path: Path, names: tuple[str, ...] | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with h5py.File(path, "r", locking=False) as file:
        attributes = json.loads(file.attrs["attributes"])
        return {name: np.asarray(file[name][()]) for name in file if names is None or name in names}, attributes


def read_part(path: Path, *, names: tuple[str, ...] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays (all, or those of some names that it has) and attributes of a part, its bytes checked before.

    Raises
    ------
    DamagedPartError
        If the file is not what its name says.
    CacheError
        If it cannot be read.
    """
    check_part(path)
    try:
        return _load(path, names)
    except FileNotFoundError as error:
        raise DamagedPartError(f"{path}: is gone") from error
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise DamagedPartError(f"{path}: cannot be read as HDF5 ({error})") from error


def verify_part(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Check a part down to its arrays, which are returned with its attributes: bytes, name, digest of the content.

    Raises
    ------
    DamagedPartError
    """
    header = check_bytes(path)
    if header.content[:16] != path.stem.rsplit("-", 1)[-1]:
        raise DamagedPartError(f"{path}: holds content {header.content[:16]}, not the one in its name")
    try:
        arrays, attributes = _load(path, None)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise DamagedPartError(f"{path}: cannot be read as HDF5 ({error})") from error
    if content_digest(arrays, attributes) != header.content or header.rows != _row_count(arrays):
        raise DamagedPartError(f"{path}: its arrays are not those of its header")
    return arrays, attributes


def is_intact(path: Path) -> bool:
    """Whether a part is there and holds what its name says."""
    try:
        check_part(path)
    except DamagedPartError:
        return False
    return True
