"""What work in a worker may do to its worker; each stands in a module, so that workers find it."""

import builtins
import ctypes
import gc
import hashlib
import os
import resource
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Task:
    """What to do: the first part of the name of `path`."""

    path: Path
    window_s: float = 0.0


def work(task: Task) -> object:
    """Do what the name of the file asks for."""
    return DEEDS[task.path.stem.split("-")[0]](task)


def _fine(task: Task) -> str:
    return "fine"


def _allocate(task: Task) -> int:
    """Take ever more memory."""
    kept = []
    while True:
        kept.append(bytearray(64 * MEGABYTE))


def _sleep(task: Task) -> None:
    time.sleep(60.0)


def _spin(task: Task) -> None:
    while True:
        pass


def _stuck(task: Task) -> None:
    """Stay in C for minutes, as a decoder may that finds no end."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)


def _many_threads(task: Task) -> None:
    """Compute on several threads, so that more time is used than passes."""
    for _ in range(4):
        threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 1 << 30), daemon=True).start()
    time.sleep(60.0)


def _segfault(task: Task) -> None:
    ctypes.string_at(0)


def _killed(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_while_answering(task: Task) -> None:
    """Die with half of a result written."""
    connection = next(item for item in gc.get_objects() if isinstance(item, Connection) and item.writable)
    os.write(connection.fileno(), (1 << 16).to_bytes(4, "big") + b"half")
    os.kill(os.getpid(), signal.SIGKILL)


def _open(task: Task) -> None:
    """Open ever more files."""
    kept = []
    while True:
        kept.append(open(os.devnull))  # noqa: SIM115 - that none is closed is meant


class _ShyError(Exception):
    """One that is pickled well, and not read again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__("shy")


def _raise(task: Task) -> None:
    raise _ShyError(1, 2)


def _bug(task: Task) -> None:
    """Fail as a wrong call does, or a missing package."""
    raise getattr(builtins, task.path.stem.split("-")[1])("a bug")


def _limits(task: Task) -> dict[str, tuple[int, int]]:
    names = ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_AS")
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


DEEDS = {
    "fine": _fine,
    "allocate": _allocate,
    "sleep": _sleep,
    "spin": _spin,
    "stuck": _stuck,
    "threads": _many_threads,
    "segfault": _segfault,
    "killed": _killed,
    "answering": _killed_while_answering,
    "open": _open,
    "raise": _raise,
    "bug": _bug,
    "limits": _limits,
}
"""Name -> what is done."""
