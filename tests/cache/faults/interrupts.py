"""A process that is killed, or a write that fails, at any call that changes a folder."""

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


class Killed(BaseException):
    """The process ends here: no later call changes anything."""


@contextmanager
def interrupted(at: int | None = None, error: OSError | None = None) -> Iterator[list[str]]:
    """Record the calls that change files; call number `at` raises `error`, or kills the process.

    A kill at the sync of a file leaves half of the file. The yielded list holds the name of each call:
    ``open`` (of a new file), ``fsync``, ``sync`` (of a folder), ``mkdir``, ``replace``, ``unlink``.
    """
    calls: list[str] = []

    def count(name: str, handle: int | None = None) -> None:
        calls.append(name)
        number = len(calls) - 1
        if at is None or number < at or (error is not None and number > at):
            return
        if error is not None:
            raise error
        if number == at and name == "fsync" and handle is not None:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
        raise Killed

    def wrap(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            count(name)
            return original(*arguments, **options)

        return call

    def fsync(handle: int) -> None:
        count("sync" if stat.S_ISDIR(os.fstat(handle).st_mode) else "fsync", handle)

    original_open = io.open

    def open_file(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "x" in mode:
            count("open")
        return original_open(path, mode, *arguments, **options)

    wrapped = {name: wrap(name) for name in ("mkdir", "replace", "unlink")}
    with patch.multiple(os, fsync=fsync, **wrapped), patch.object(io, "open", open_file):
        yield calls
