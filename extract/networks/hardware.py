"""The device that networks run on, and whether it supports bfloat16 and compiling with torch."""

import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path

from moodfuse.cache.errors import InputError

DEVICES = ("auto", "cpu", "cuda")
# Names of the bfloat16 instructions in Linux's /proc/cpuinfo, on x86 and on Arm.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` is CUDA if available. torch is imported only for an NVIDIA device."""
    if device not in DEVICES:
        raise InputError(f"--device {device!r} is unknown; known: {', '.join(DEVICES)}")
    if device == "cpu" or (device == "auto" and not os.path.exists("/dev/nvidiactl")):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError("--device cuda: torch finds no CUDA device; use --device cpu")
    return "cpu"


def has_bfloat16(device: str) -> bool:
    """Whether a device has instructions for bfloat16; without them it is many times slower than float32."""
    if device == "cuda":
        import torch

        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    return not _BFLOAT16_FLAGS.isdisjoint(_cpu_flags())


@cache
def _cpu_flags() -> frozenset[str]:
    """Flags of the first processor; none on systems without /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(flags.partition(":")[2].split())


def check_precision(precision: str, device: str) -> None:
    """Raise `InputError` for ``"bf16"`` on a device that has no instructions for it."""
    if precision == "bf16" and not has_bfloat16(device):
        raise InputError(
            f"--precision bf16: the {device} here has no instructions for bfloat16 (AVX512-BF16 or "
            "AMX, on Arm BF16), so it would be many times slower than float32; use --precision fp32"
        )


def check_compiler(device: str, *, asked: str = "--compile", otherwise: str = "leave --compile out") -> None:
    """Check that torch can compile networks here; the message names the option and what to do instead.

    For ``"cpu"`` torch needs a C++ compiler, for ``"cuda"`` a C compiler, for the code that launches kernels.
    """
    variable, names = ("CC", ["clang", "gcc"]) if device == "cuda" else ("CXX", ["g++"])
    if sys.platform == "darwin" and device == "cpu":
        names = ["clang++"]
    if os.environ.get(variable):
        names = [os.environ[variable]]
    if not any(shutil.which(name) for name in names):
        raise InputError(
            f"{asked}: torch compiles networks with a compiler, and {' or '.join(names)} is not found; "
            f"install it (Debian: apt install g++), name another in the environment variable "
            f"{variable}, or {otherwise}"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise InputError(
            f"{asked}: torch compiles against Python's headers, and {headers} holds no Python.h; "
            f"install them (Debian: apt install python3-dev), or {otherwise}"
        )
