"""Which numbers a device computes in: bfloat16 only where its processor has instructions for it."""

from functools import cache
from pathlib import Path

from moodfuse.cache.errors import InputError

_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""As Linux names them: of x86, and of Arm."""


def has_bfloat16(device: str) -> bool:
    """Whether a device has instructions for bfloat16; without them it is many times slower than float32."""
    if device == "cuda":
        import torch

        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_cpu_flags() & _INSTRUCTIONS)


@cache
def _cpu_flags() -> frozenset[str]:
    """What the first processor says of itself; nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(flags.partition(":")[2].split())


def check_precision(precision: str, device: str) -> None:
    """Refuse bfloat16 where it would be slower than float32.

    Raises
    ------
    InputError
    """
    if precision == "bf16" and not has_bfloat16(device):
        raise InputError(
            f"--precision bf16: the {device} here has no instructions for bfloat16 (AVX512-BF16 or AMX, on Arm BF16), "
            "so it would be many times slower than float32; use --precision fp32"
        )
