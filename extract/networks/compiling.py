"""Whether networks can be compiled: torch writes C++ or CUDA code, and has the system's compiler translate it."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from moodfuse.cache.errors import InputError


def check_compiler(device: str, *, asked: str = "--compile", otherwise: str = "leave --compile out") -> None:
    """Refuse to compile where there is no compiler, or where Python's headers are missing.

    Parameters
    ----------
    device : str
        For ``"cpu"`` torch needs a C++ compiler; for ``"cuda"`` a C compiler, which makes what starts its kernels.
    asked, otherwise : str
        Who wants it, and what to do without.

    Raises
    ------
    InputError
    """
    variable, names = _compilers(device)
    if not any(shutil.which(name) for name in names):
        raise InputError(
            f"{asked}: torch compiles networks with a compiler, and {' or '.join(names)} is not found; install it "
            f"(Debian: apt install g++), name another in the environment variable {variable}, or {otherwise}"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise InputError(
            f"{asked}: torch compiles against Python's headers, and {headers} holds no Python.h; install them "
            f"(Debian: apt install python3-dev), or {otherwise}"
        )


def _compilers(device: str) -> tuple[str, tuple[str, ...]]:
    """The variable that names a compiler, and the names that torch looks for."""
    if device == "cuda":
        return "CC", (os.environ["CC"],) if os.environ.get("CC") else ("clang", "gcc")
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return "CXX", (name,)
