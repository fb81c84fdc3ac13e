"""Whether networks can be compiled: torch writes C++ for a processor, and has the system's compiler translate it."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from cache.errors import InputError


def check_compiler(device: str) -> None:
    """Refuse to compile for a processor where there is no C++ compiler.

    Raises
    ------
    InputError
    """
    if device != "cpu":
        return
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch chooses it
    if shutil.which(name) is None:
        raise InputError(
            f"--compile: torch compiles networks with a C++ compiler, and {name} is not found; install it (Debian: "
            "apt install g++), name another in the environment variable CXX, or leave --compile out"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise InputError(
            f"--compile: torch compiles against Python's headers, and {headers} holds no Python.h; install them "
            "(Debian: apt install python3-dev), or leave --compile out"
        )
