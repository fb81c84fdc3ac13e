"""Immutable files: written aside, synced, read back, moved into place. Never appended to, never edited.

Every byte that a cache holds goes through `write_aside`, in five calls of the operating system: open (exclusively, a
name that no listing matches), write, fsync, rename, fsync of the folder. So there is one order of events to prove:
a process that stops after any of them, or a disk that loses what was not synced, leaves the old file or the new one,
never a part of it. No file is locked, so that a shared file system serves as well as a local one.
"""

import errno
import json
import logging
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from moodfuse.cache.errors import CacheError, DamagedPartError

log = logging.getLogger(__name__)
TEMPORARY_PREFIX = ".tmp-"
BAD_SUFFIX = ".bad"
STALE_S = 24 * 3600.0
"""A temporary that nobody has touched for so long has no writer any more."""
_PIECE_BYTES = 1 << 24
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free space (moodfuse cache prune --media frees the most)",
    errno.EDQUOT: "the disk quota is used up: free space (moodfuse cache prune --media frees the most)",
    errno.EACCES: "the folder may not be written: correct its permissions or owner",
    errno.EPERM: "the folder may not be written: correct its permissions or owner",
    errno.EROFS: "the file system is read-only: mount it for writing, or name another --cache folder",
    errno.EIO: "the disk reports an error: check it before you trust it, or name another --cache folder",
    errno.ENAMETOOLONG: "the path is too long: name a --cache folder nearer to the root",
}


def write_aside(path: Path, data: bytes | memoryview, *, check: Callable[[Path], None] | None = None) -> None:
    """Write `data` to a temporary beside `path`, sync it, read it back, and move it into place.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    data : bytes
    check : callable of Path, optional
        Raises where the temporary does not hold what it should; by default its bytes are compared with `data`.

    Raises
    ------
    CacheError
        If the disk refuses (full, read-only, failing) or gives other bytes back; nothing at `path` has changed then.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    try:
        _make_folder(path.parent)
        try:
            _fill(temporary, memoryview(data))
            (check or _same_bytes(path, data))(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, CacheError):
            raise
        raise refused(path, error) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, and make their names last as those of files do."""
    if folder.is_dir():
        return
    missing = [item for item in (folder, *folder.parents) if not item.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for item in missing:
        sync_folder(item.parent)


def _fill(path: Path, data: memoryview) -> None:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(handle, data[:_PIECE_BYTES]) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _same_bytes(path: Path, data: bytes | memoryview) -> Callable[[Path], None]:
    def check(temporary: Path) -> None:
        if temporary.read_bytes() != data:
            raise DamagedPartError(
                f"{path}: what was read back differs from what was written; check the disk"
            )

    return check


def refused(path: Path, error: OSError) -> CacheError:
    """The error to raise where the operating system refused to write `path`: what, where, what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "see to the cause")
    cause = error.strerror or str(error)
    return CacheError(
        f"{path}: cannot be written ({cause}); {remedy}, then run the command again: nothing that was computed is lost"
    )


def discard(path: Path) -> None:
    """Remove a file that is needed no more, where it is there.

    Raises
    ------
    CacheError
        If the disk refuses.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refused(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last; a file system that cannot sync folders is left to its own order."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> bool:
    """Replace a small text file whole; returns whether anything changed. What is no UTF-8 is written escaped."""
    data = text.encode("utf-8", "backslashreplace")
    with suppress(OSError):
        if read_regular(path) == data:
            return False
    write_aside(path, data)
    return True


def listing(folder: Path, *, prefix: str = "", suffix: str = "") -> list[Path]:
    """What stands in a folder, by name, but for names that start with a dot; a folder that is not there holds nothing.

    Every reader of a cache lists by this: a snapshot or what a file manager leaves is none of a cache's files.

    Raises
    ------
    CacheError
        If the folder may not be listed.
    """
    return [
        folder / name
        for name in names_in(folder)
        if name.startswith(prefix) and name.endswith(suffix) and not name.startswith(".")
    ]


def names_in(folder: Path) -> list[str]:
    """Every name in a folder, sorted; none where it is not there.

    Raises
    ------
    CacheError
        If the folder may not be listed.
    """
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise withheld(folder, "listed", error) from error


def facts_of(path: Path) -> os.stat_result | None:
    """What the system says of a file or folder; `None` where there is none.

    Raises
    ------
    CacheError
        If the system does not say: a file that nobody may look at is not a missing one.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise withheld(path, "read", error) from error


def withheld(path: Path, what: str, error: OSError) -> CacheError:
    """Return `DamagedPartError` if `path` is not a regular file, else `CacheError`.

    A file that cannot be read is not damaged.
    """
    if isinstance(error, NotRegularFileError):
        return DamagedPartError(f"{path}: {error.strerror}")
    return CacheError(
        f"{path}: cannot be {what} ({error.strerror or error}); correct that, then run the command again"
    )


class NotRegularFileError(OSError):
    """A path leads to a pipe, a folder, a socket or a device; opening a pipe would wait for its writer."""

    def __str__(self) -> str:
        return str(self.strerror)


def check_regular(path: Path) -> None:
    """Check that a path leads to a regular file, before a library opens it.

    Raises
    ------
    NotRegularFileError
        If it is anything else.
    OSError
        If there is no such file, or it cannot be looked at.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        found = kinds.get(stat.S_IFMT(mode), "a device")
        raise NotRegularFileError(errno.EINVAL, f"is {found}; expected a regular file", str(path))


def open_regular(path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a regular file for reading; `mode` and `options` as for `Path.open`.

    Raises
    ------
    NotRegularFileError
        If it is anything else; a pipe is not waited for.
    OSError
        If it cannot be opened.
    """
    check_regular(path)
    return path.open(mode, **options)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; raises as `open_regular`."""
    with open_regular(path) as stream:
        data: bytes = stream.read()
    return data


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises
    ------
    CacheError
        If the file cannot be read.
    DamagedPartError
        If it is not JSON, or not a regular file.
    """
    try:
        return json.loads(read_regular(path).decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise withheld(path, "read", error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedPartError(
            f"{path}: not JSON ({error}); run extract again, or moodfuse cache verify"
        ) from error


def _finite(text: str) -> float:
    """Only finite numbers are written, and no digest can be made of others."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def set_aside(path: Path, why: str = "") -> None:
    """Rename a damaged file to ``<name>.bad`` and say so; nothing else is touched. One that is gone is passed over."""
    try:
        os.replace(path, path.with_name(path.name + BAD_SUFFIX))
    except FileNotFoundError:  # another process has set it aside, or pruned it
        return
    except OSError as error:
        raise CacheError(
            f"{path}: damaged, and cannot be set aside ({error.strerror or error}); move it away, then run the "
            "command again"
        ) from error
    log.warning("%s is damaged%s; set aside as %s%s", path, f" ({why})" if why else "", path.name, BAD_SUFFIX)


def sweep_temporaries(root: Path, *, older_than_s: float = STALE_S) -> tuple[Path, ...]:
    """Remove temporaries that no writer has touched for so long; returns what went."""
    gone = []
    for path in temporaries(root):
        with suppress(OSError):  # its writer, or another sweeper, was quicker
            if time.time() - path.stat().st_mtime > older_than_s:
                path.unlink()
                gone.append(path)
    return tuple(gone)


def temporaries(root: Path) -> Iterator[Path]:
    """Every temporary below a folder; what vanishes meanwhile is passed over."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX):
                yield Path(folder, name)
