"""Immutable files: written aside, synced, read back, renamed. Never appended to, never edited.

A part is HDF5 whose name ends in the digest of its whole content; a record is JSON named by its digest, or a small
file replaced whole. A reader never meets a half-written one: temporaries have names that no listing matches.
"""

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.errors import CacheError, DamagedPartError
from cache.identity import canonical_json, content_digest

log = logging.getLogger(__name__)
_TEMPORARY_PREFIX = ".tmp-"
_STALE_S = 24 * 3600.0
_verified: set[tuple[str, int, int]] = set()


def write_aside(path: Path, write: Callable[[Path], None], check: Callable[[Path], None] | None = None) -> None:
    """Let `write` fill a temporary beside `path`, sync it, `check` it, and move it into place.

    Raises
    ------
    CacheError
        If the disk refuses (full, read-only, failing); nothing at `path` has changed then.
    """
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        write(temporary)
        _sync(temporary)
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(
            f"{path}: cannot be written ({error}); free space or permissions, then run the command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> bool:
    """Replace a small text file whole; returns whether anything changed."""
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return False
    write_aside(path, lambda temporary: _fill(temporary, data))
    return True


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises
    ------
    DamagedPartError
        If it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error})") from error
    except ValueError as error:
        raise DamagedPartError(f"{path}: not JSON ({error}); move it away and run extract again") from error


def write_part(folder: Path, stem: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> Path:
    """Write one part, ``<stem>-<digest16>.h5``, and return its path; an equal part that exists is left alone."""
    digest = content_digest(arrays, attributes)
    path = folder / f"{stem}-{digest[:16]}.h5"
    if path.exists() and is_intact(path):
        return path

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:
            file.attrs["attributes"] = canonical_json(dict(attributes))
            for name in sorted(arrays):
                file.create_dataset(name, data=np.ascontiguousarray(arrays[name]), track_times=False)

    def check(temporary: Path) -> None:
        if _read_digest(temporary) != digest:
            raise DamagedPartError(f"{path}: what was read back differs from what was written; check the disk")

    write_aside(path, write, check)
    return path


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with h5py.File(path, "r") as file:
        attributes = json.loads(file.attrs["attributes"])
        arrays = {name: np.asarray(file[name][()]) for name in file}
    return arrays, attributes


def _read_digest(path: Path) -> str:
    return content_digest(*_load(path))


def read_part(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and attributes of a part, checked against the digest in its name on first read in this process.

    Raises
    ------
    DamagedPartError
        If the file is not HDF5, or its content is not what its name says.
    """
    try:
        stat = path.stat()
        arrays, attributes = _load(path)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise DamagedPartError(f"{path}: cannot be read ({error}); run extract again to compute it anew") from error
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _verified:
        found = content_digest(arrays, attributes)[:16]
        if found != path.stem.rsplit("-", 1)[-1]:
            raise DamagedPartError(f"{path}: content digest is {found}, not the one in its name; run extract again")
        _verified.add(key)
    return arrays, attributes


def is_intact(path: Path) -> bool:
    """Whether a part holds what its name says."""
    try:
        read_part(path)
    except DamagedPartError:
        return False
    return True


def set_aside(path: Path) -> None:
    """Rename a damaged file to ``<name>.bad`` and say so; nothing else is touched."""
    log.warning("%s is damaged; set aside as %s.bad", path, path.name)
    try:
        os.replace(path, path.with_name(path.name + ".bad"))
    except OSError as error:
        raise CacheError(f"{path}: damaged, and cannot be set aside ({error})") from error


def sweep_temporaries(root: Path) -> int:
    """Remove temporaries that no writer has touched for a day; returns how many."""
    stale = [path for path in root.rglob(f"{_TEMPORARY_PREFIX}*") if time.time() - path.stat().st_mtime > _STALE_S]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)
