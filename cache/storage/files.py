"""Immutable files: written under a temporary name, synced, read back, moved into place. Never appended to or edited.

Every byte of a cache goes through `write_aside`, in five calls of the operating system: open (exclusively, a
name that no listing matches), write, fsync, rename, fsync of the folder. So one order of events has to be
proved: a process that stops after any of them, or a disk that loses what was not synced, leaves the old file
or the new one, never a part of it. No file is locked, so that a shared file system works as well as a local
one.
"""

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from moodfuse.cache.errors import CacheError, DamagedPartError, SchemaError

log = logging.getLogger(__name__)
T = TypeVar("T")
TEMPORARY_PREFIX = ".tmp-"
BAD_SUFFIX = ".bad"
STALE_S = 24 * 3600.0
"""A temporary that is older has no writer any more."""
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


# Writing


def write_aside(path: Path, data: bytes | memoryview, *, check: Callable[[Path], None] | None = None) -> None:
    """Write `data` to a temporary in the folder of `path`, sync it, read it back, and move it into place.

    `check` raises if the temporary does not hold what it should; by default its bytes are compared with
    `data`. If the disk refuses (full, read-only, failing) or gives other bytes back, `path` is unchanged, and
    the error is a `CacheError`.
    """
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    try:
        _make_folder(path.parent)
        try:
            _fill(temporary, memoryview(data))
            if check is not None:
                check(temporary)
            elif temporary.read_bytes() != data:
                raise DamagedPartError(
                    f"{path}: what was read back differs from what was written; check the disk"
                )
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
    """Create a folder and its parents where they are missing, and sync their names as those of files are."""
    if folder.is_dir():
        return
    missing = [parent for parent in (folder, *folder.parents) if not parent.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        sync_folder(parent.parent)


def _fill(path: Path, data: memoryview) -> None:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(handle, data[:_PIECE_BYTES]) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def refused(path: Path, error: OSError) -> CacheError:
    """The error to raise where the operating system refused to write `path`: what, where, what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "remove the cause")
    cause = error.strerror or str(error)
    return CacheError(
        f"{path}: cannot be written ({cause}); {remedy}, then run the command again: nothing that was computed is lost"
    )


def discard(path: Path) -> None:
    """Remove a file if it exists; `CacheError` if the disk refuses."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refused(path, error) from error


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder; a file system that cannot sync folders is left to its own order."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> bool:
    """Replace a small text file; returns whether anything changed. What is not UTF-8 is written escaped."""
    data = text.encode("utf-8", "backslashreplace")
    with suppress(OSError):
        if read_regular(path) == data:
            return False
    write_aside(path, data)
    return True


def set_aside(path: Path, why: str = "") -> None:
    """Rename a damaged file to ``<name>.bad`` and log it. A file that does not exist any more is skipped."""
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


def each_valid(
    files: Iterable[Path], read: Callable[[Path], T], *, skip_newer: bool = False
) -> Iterator[tuple[Path, T]]:
    """Every file with what `read` returns for it; damaged ones are set aside, those of newer versions skipped or raised."""
    for file in files:
        try:
            value = read(file)
        except SchemaError as error:
            if not skip_newer:
                raise
            log.info("skipped: %s", error)
        except DamagedPartError as error:
            set_aside(file, str(error))
        else:
            yield file, value


def remove_temporaries(root: Path) -> None:
    """Remove temporaries older than `STALE_S`."""
    for path in temporaries(root):
        with suppress(OSError):  # its writer or another process was faster
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def temporaries(root: Path) -> Iterator[Path]:
    """Every temporary below a folder."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX):
                yield Path(folder, name)


# Listing and reading


def listing(folder: Path, *, prefix: str = "", suffix: str = "") -> list[Path]:
    """Paths in a folder by name, without names that start with a dot; empty if the folder does not exist.

    Every reader of a cache lists with this: a snapshot or a file manager's hidden files are not part of the
    cache.

    Raises `CacheError` if the folder may not be listed.
    """
    return [
        folder / name
        for name in names_in(folder)
        if name.startswith(prefix) and name.endswith(suffix) and not name.startswith(".")
    ]


def names_in(folder: Path) -> list[str]:
    """Every name in a folder, sorted; empty if it does not exist, `CacheError` if it may not be listed."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise withheld(folder, "listed", error) from error


def facts_of(path: Path) -> os.stat_result | None:
    """The system's record of a file or folder; `None` if it does not exist.

    Raises `CacheError` if the system refuses: a file that may not be read is not a missing one.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise withheld(path, "read", error) from error


def withheld(path: Path, what: str, error: OSError) -> CacheError:
    """The error to raise where `path` cannot be read: `DamagedPartError` if it is not a regular file, else `CacheError`.

    A file that may not be read is not damaged.
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

    Raises `NotRegularFileError` if it is anything else; `OSError` if it does not exist, or may not be read.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        found = kinds.get(stat.S_IFMT(mode), "a device")
        raise NotRegularFileError(errno.EINVAL, f"is {found}; expected a regular file", str(path))


def open_regular(path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a regular file for reading; arguments as for `Path.open`, errors as for `check_regular`."""
    check_regular(path)
    return path.open(mode, **options)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; errors as for `check_regular`."""
    with open_regular(path) as stream:
        data: bytes = stream.read()
    return data
