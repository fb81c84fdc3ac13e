"""The calls of the operating system that change a folder: recorded, made to fail, made again in another place.

A process that is killed leaves what its calls up to then made, so the states after each of them are all that a kill can
leave. Where a record, made again, gives the tree that is there, nothing else wrote to it.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from moodfuse.cache.storage.files import TEMPORARY_PREFIX

SECTOR_BYTES = 512


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes
    ----------
    kind : str
        ``mkdir``, ``open`` (a new file), ``write``, ``fsync``, ``sync`` (the fsync of a folder), ``rename``,
        ``unlink``, ``truncate``; ``open folder`` (to sync it) and ``read back`` (a temporary) change nothing, and may
        fail.
    path, target : str
        Below the folder that is watched; `target` is a rename's.
    data : bytes
    offset : int
        Where `data` was written; the new size for ``truncate``.
    """

    kind: str
    path: str
    data: bytes = b""
    offset: int = 0
    target: str = ""


CHANGES = frozenset({"mkdir", "open", "write", "fsync", "sync", "rename", "unlink", "truncate"})
Before = Callable[[Call], int | None]
"""Called with each call before it is made: may raise, or say how many bytes of a write are made."""
_WRAPPED = (
    *("open", "write", "fsync", "close", "truncate", "ftruncate"),
    *("mkdir", "replace", "rename", "unlink", "remove"),
)


class Watch:
    """Stands between this process and the calls by which it changes a folder."""

    def __init__(self, root: Path, before: Before | None) -> None:
        self.root = os.path.abspath(root)
        self.calls: list[Call] = []
        self._before = before or (lambda call: None)
        self._files: dict[int, tuple[str, int]] = {}
        self._true = {name: getattr(os, name) for name in _WRAPPED}
        self._true_stream = io.open

    def below(self, path: Any) -> str | None:
        """A path below the folder, relative to it; `None` for one elsewhere."""
        path = os.path.abspath(os.fsdecode(path))
        return os.path.relpath(path, self.root) if f"{path}/".startswith(f"{self.root}/") else None

    def note(self, call: Call) -> int | None:
        """Record a call, unless it is made to fail."""
        allowed = self._before(call)
        self.calls.append(call if allowed is None else replace(call, data=call.data[:allowed]))
        return allowed

    def _note_path(self, kind: str, path: Any, *, target: str = "", offset: int = 0) -> None:
        below = self.below(path)
        if below is not None:
            self.note(Call(kind, below, target=target, offset=offset))

    def os_open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        """A new file, or a folder to sync; a file that is there is never opened for writing."""
        below = self.below(path)
        if below is not None:
            if flags & (os.O_WRONLY | os.O_RDWR) and not flags & os.O_EXCL:
                raise AssertionError(f"{path}: opened to be changed in place")
            self.note(Call("open" if flags & os.O_CREAT else "open folder", below))
        handle: int = self._true["open"](path, flags, *rest, **named)
        if below is not None:
            self._files[handle] = below, 0
        return handle

    def os_write(self, handle: int, data: Any) -> int:
        """Perhaps shorter than was asked for."""
        if handle not in self._files:
            return int(self._true["write"](handle, data))
        path, offset = self._files[handle]
        allowed = self.note(Call("write", path, bytes(data), offset))
        done = int(self._true["write"](handle, data if allowed is None else data[:allowed]))
        self._files[handle] = path, offset + done
        return done

    def os_fsync(self, handle: int) -> None:
        """Of a file or of a folder."""
        if handle in self._files:
            path = self._files[handle][0]
            self.note(Call("sync" if os.path.isdir(os.path.join(self.root, path)) else "fsync", path))
        self._true["fsync"](handle)

    def os_close(self, handle: int) -> None:
        """Changes nothing."""
        self._files.pop(handle, None)
        self._true["close"](handle)

    def os_ftruncate(self, handle: int, size: int) -> None:
        """Of a file that is open."""
        if handle in self._files:
            self.note(Call("truncate", self._files[handle][0], offset=size))
        self._true["ftruncate"](handle, size)

    def os_truncate(self, path: Any, size: int) -> None:
        """By name."""
        self._note_path("truncate", path, offset=size)
        self._true["truncate"](path, size)

    def os_mkdir(self, path: Any, *rest: Any, **named: Any) -> None:
        """Of a folder that is not there, in one that is."""
        if not os.path.isdir(path) and os.path.isdir(os.path.dirname(os.path.abspath(path))):
            self._note_path("mkdir", path)
        self._true["mkdir"](path, *rest, **named)

    def os_replace(self, source: Any, target: Any, **named: Any) -> None:
        """Within the folder."""
        if os.path.lexists(source):
            self._note_path("rename", source, target=self.below(target) or "")
        self._true["replace"](source, target, **named)

    def os_unlink(self, path: Any, **named: Any) -> None:
        """Of a file that is there."""
        if os.path.lexists(path):
            self._note_path("unlink", path)
        self._true["unlink"](path, **named)

    os_rename, os_remove = os_replace, os_unlink

    def stream(self, path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        """What takes the place of `io.open`: a temporary is read back, nothing is written."""
        below = None if isinstance(path, int) else self.below(path)
        if below is not None:
            if set(mode) & set("wax+"):
                raise AssertionError(f"{path}: opened to be changed in place")
            if os.path.basename(below).startswith(TEMPORARY_PREFIX):
                self.note(Call("read back", below))
        return self._true_stream(path, mode, *rest, **named)


@contextmanager
def watched(root: Path, *, before: Before | None = None) -> Iterator[list[Call]]:
    """Record this process's calls that change a folder, or may fail; `before` can make one fail."""
    watch = Watch(root, before)
    wrapped = {name: getattr(watch, f"os_{name}") for name in _WRAPPED}
    with patch.multiple(os, **wrapped), patch.object(io, "open", watch.stream):
        yield watch.calls


def make_again(root: Path, call: Call) -> None:
    """Make a recorded call below another folder; what changes no content is passed over."""
    if call.kind in _AGAIN:
        _AGAIN[call.kind](root / call.path, root / call.target, call)


def _write(path: Path, target: Path, call: Call) -> None:
    with path.open("r+b") as file:
        file.seek(call.offset)
        file.write(call.data)


_AGAIN: dict[str, Callable[[Path, Path, Call], Any]] = {
    "mkdir": lambda path, target, call: path.mkdir(),
    "open": lambda path, target, call: path.touch(exist_ok=False),
    "write": _write,
    "rename": lambda path, target, call: path.replace(target),
    "unlink": lambda path, target, call: path.unlink(),
    "truncate": lambda path, target, call: os.truncate(path, call.offset),
}


def torn(call: Call) -> list[Call]:
    """A write as a kill or a full disk can leave it, shortest first: none, one byte, sector by sector, all but one."""
    size = len(call.data)
    counts = {0, 1, size // 2, size - 1, *range(SECTOR_BYTES, size, SECTOR_BYTES)}
    return [replace(call, data=call.data[:count]) for count in sorted(counts) if count < size]


def linked_copy(source: Path, target: Path) -> Path:
    """A copy of a folder whose files are the same inodes: quick, and safe where no file is changed in place."""
    shutil.copytree(source, target, copy_function=os.link)
    return target


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, temporaries left out, with its bytes; folders with none."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b""
        for path in root.rglob("*")
        if not path.name.startswith(TEMPORARY_PREFIX)
    }
