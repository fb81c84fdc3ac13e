"""Functions that harm the worker process that runs them; workers import them by name."""

import builtins
import ctypes
import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable

from moodfuse.extract.media.pool import DecodeRequest


class UnpicklableError(Exception):
    """An error that is pickled well, but cannot be read again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__("shy")


def work(task: DecodeRequest) -> object:
    """Do what the name of the file asks for."""
    return DEEDS[task.path.stem.split("-")[0]](task)


def _fine(task: DecodeRequest) -> str:
    return "fine"


def _allocate(task: DecodeRequest) -> None:
    kept = []
    while True:
        kept.append(bytearray(64 << 20))


def _sleep(task: DecodeRequest) -> None:
    time.sleep(60.0)


def _stay_in_c(task: DecodeRequest) -> None:
    """Stay in C for minutes, as a decoder may that finds no end."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)


def _segfault(task: DecodeRequest) -> None:
    ctypes.string_at(0)


def _killed(task: DecodeRequest) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise(task: DecodeRequest) -> None:
    raise UnpicklableError(1, 2)


def _bug(task: DecodeRequest) -> None:
    """Fail as a wrong call does, or a missing package."""
    raise getattr(builtins, task.path.stem.split("-")[1])("a bug")


def _limits(task: DecodeRequest) -> dict[str, tuple[int, int]]:
    names = ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_AS")
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


DEEDS: dict[str, Callable[[DecodeRequest], object]] = {
    "fine": _fine,
    "allocate": _allocate,
    "sleep": _sleep,
    "stuck": _stay_in_c,
    "segfault": _segfault,
    "killed": _killed,
    "raise": _raise,
    "bug": _bug,
    "limits": _limits,
}
