"""What a command and its children open and connect to, recorded by strace."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CALLS = "trace=open,openat,openat2,socket,connect"
_OPEN = re.compile(
    r'^\d+ +open(?:at|at2)?\((?:AT_FDCWD, |\d+, )?"((?:[^"\\]|\\.)*)", (?:\{flags=)?([A-Z_|]+)'
)
_SOCKET = re.compile(r"^\d+ +(?:socket\(|connect\(\d+, \{sa_family=)(AF_\w+)")


@dataclass(frozen=True)
class Trace:
    """What was seen of a command.

    Attributes
    ----------
    output, errors : str
        What it printed, and what it wrote to standard error.
    opened : tuple of Path
        Files that it tried to open to read them, folders apart.
    families : tuple of str
        Of the sockets that it made or connected, such as ``"AF_INET"``.
    """

    output: str
    errors: str
    opened: tuple[Path, ...]
    families: tuple[str, ...]


def find_strace() -> str:
    """Path of a strace that works; where there is none the test is skipped, or fails if one is required."""
    path = shutil.which("strace")
    reason = "no strace is installed (Debian: apt-get install strace)"
    if path is not None:
        tried = subprocess.run(
            [path, "-f", "--seccomp-bpf", "-o", os.devnull, "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        if not tried.returncode:
            return path
        reason = f"strace cannot trace here: {tried.stderr.strip()}"
    if os.environ.get("MOODFUSE_STRACE") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def traced(arguments: list[str], *, folder: Path, log: Path, timeout_s: float = 120.0) -> Trace:
    """Run Python in a folder under strace; its standard input is a pipe in which nothing comes.

    Raises
    ------
    AssertionError
        If it fails, but for refused clips.
    subprocess.TimeoutExpired
        If it waits for ever.
    """
    options = f"-f --seccomp-bpf -s 4096 -e {CALLS} -e signal=none -o".split()
    command = [find_strace(), *options, str(log)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "1000"}
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [*command, sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=reader,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    finally:
        os.close(reader)
        os.close(writer)
    if done.returncode not in (0, 3):
        raise AssertionError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
    return Trace(done.stdout, done.stderr, *read_log(log.read_text(errors="surrogateescape"), folder))


def read_log(text: str, folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Read from a log of strace the files that a command in a folder opened, and the families of its sockets."""
    opened, families = [], []
    for line in text.splitlines():
        if (match := _OPEN.match(line)) and not {"O_DIRECTORY", "O_WRONLY"} & set(match[2].split("|")):
            name = match[1].encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
            opened.append(folder / os.fsdecode(name))
        elif match := _SOCKET.match(line):
            families.append(match[1])
    return tuple(opened), tuple(families)
