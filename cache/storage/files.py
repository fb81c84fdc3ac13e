"""Immutable files: written under a temporary name, synced, read back, moved into place. Never edited.

Every file of a cache is written by `write_atomic`. A process that stops at any point, or a power loss, leaves
the old file or the new one, never a part of it. No file is locked, so a shared file system works as well as
a local one.
"""

import errno
import json
import logging
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, TypeVar

from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, SchemaError

log = logging.getLogger(__name__)
T = TypeVar("T")
TEMPORARY_PREFIX = ".tmp-"
BAD_SUFFIX = ".bad"
STALE_S = 24 * 3600.0
"""Older temporaries are considered abandoned."""


# Writing


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write a file completely or not at all: to a temporary in its folder, synced, then moved into place.

    Raises `CacheError`, and leaves `path` unchanged, if the write fails or other bytes are read back.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    try:
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.is_dir()]
        if missing:
            path.parent.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if temporary.read_bytes() != data:
            raise DamagedPartError(
                f"{path}: what was read back differs from what was written; check the disk"
            )
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, CacheError):
            raise _write_error(path, error) from error
        raise


def _write_error(path: Path, error: OSError) -> CacheError:
    remedy = "remove the cause"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "the disk is full: free space (moodfuse cache prune --media frees the most)"
    return CacheError(
        f"{path}: cannot be written ({error.strerror or error}); {remedy}, then run the command again: "
        "nothing that was computed is lost"
    )


def discard(path: Path) -> None:
    """Remove a file if it exists; `CacheError` if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _write_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder, where the file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> bool:
    """Replace a small text file; returns whether it changed. Surrogates are written as escapes."""
    data = text.encode("utf-8", "backslashreplace")
    with suppress(OSError):
        if read_regular(path) == data:
            return False
    write_atomic(path, data)
    return True


def quarantine(path: Path, why: str = "") -> None:
    """Quarantine a damaged file: rename it to ``<name>.bad`` and log it, if it still exists."""
    target = path.with_name(path.name + BAD_SUFFIX)
    try:
        os.replace(path, target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _write_error(target, error) from error
    log.warning("%s is damaged%s; renamed to %s", path, f" ({why})" if why else "", target.name)


def read_valid(
    files: Iterable[Path], read: Callable[[Path], T], *, skip_newer: bool = False
) -> Iterator[tuple[Path, T]]:
    """Each file with what `read` returns for it; damaged ones are quarantined, newer ones may be skipped."""
    for file in files:
        try:
            value = read(file)
        except SchemaError as error:
            if not skip_newer:
                raise
            log.info("skipped: %s", error)
        except DamagedPartError as error:
            quarantine(file, str(error))
        else:
            yield file, value


def remove_temporaries(root: Path) -> None:
    """Remove temporaries older than `STALE_S`."""
    for path in temporaries(root):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def temporaries(root: Path) -> Iterator[Path]:
    """Every temporary below a folder."""
    return root.rglob(f"{TEMPORARY_PREFIX}*")


# Listing and reading


def listing(folder: Path, *, prefix: str = "", suffix: str = "") -> list[Path]:
    """Paths in a folder by name, without hidden ones; empty if the folder does not exist."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise read_error(folder, "listed", error) from error
    visible = (name for name in names if not name.startswith("."))
    return [folder / name for name in visible if name.startswith(prefix) and name.endswith(suffix)]


def file_status(path: Path) -> os.stat_result | None:
    """The status of a file or folder; `None` if it does not exist, `CacheError` if access is denied."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise read_error(path, "read", error) from error


def read_error(path: Path, what: str, error: OSError) -> CacheError:
    """The error to raise for a path that cannot be read: only another kind of file counts as damage."""
    if isinstance(error, NotRegularFileError):
        return DamagedPartError(f"{path}: {error}")
    return CacheError(
        f"{path}: cannot be {what} ({error.strerror or error}); correct that, then run the command again"
    )


class NotRegularFileError(OSError):
    """A path leads to a pipe, a folder, a socket or a device; opening a pipe would wait for its writer."""


def check_regular(path: Path) -> None:
    """Check that a path leads to a regular file; `NotRegularFileError` or another `OSError` if not."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegularFileError("is a pipe, a folder or a device; expected a regular file")


def open_regular(path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a regular file for reading; arguments as for `Path.open`, errors as for `check_regular`."""
    check_regular(path)
    return path.open(mode, **options)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; errors as for `check_regular`."""
    check_regular(path)
    return path.read_bytes()


# JSON, and records in JSON files that are named by the digest of their content


def read_json(path: Path) -> Any:
    """A JSON file's value; `DamagedPartError` if it is not JSON, `CacheError` if it cannot be read."""
    try:
        return json.loads(read_regular(path).decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise read_error(path, "read", error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedPartError(
            f"{path}: not JSON ({error}); run extract again, or moodfuse cache verify"
        ) from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_named(file: Path) -> dict[str, Any]:
    """The JSON object of a file ``<digest16>.json`` or ``<anything>-<digest16>.json``.

    Raises `DamagedPartError` if the content is not an object, or does not match the name.
    """
    values = read_json(file)
    if digest16(values) != file.stem.rsplit("-", 1)[-1]:
        raise DamagedPartError(f"{file}: its content does not match its name")
    if not isinstance(values, dict):
        raise DamagedPartError(f"{file}: is not a JSON object")
    return values


def check_keys(kind: type, values: Mapping[str, Any], file: Path) -> None:
    """Raise `SchemaError` on keys that are not fields of the dataclass `kind`: a newer version wrote them."""
    if unknown := sorted(set(values) - {field.name for field in fields(kind)}):
        raise SchemaError(
            f"{file}: has {unknown[0]!r}, which a newer version wrote; upgrade moodfuse to read it"
        )


def make_record(kind: type[T], values: Mapping[str, Any], file: Path) -> T:
    """The dataclass `kind` made of a JSON object; `DamagedPartError` if keys are missing."""
    check_keys(kind, values, file)
    try:
        return kind(**values)
    except TypeError as error:
        raise DamagedPartError(f"{file}: is not a {kind.__name__} ({error})") from error
