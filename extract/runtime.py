"""Process settings for torch: how long idle threads spin, and that freed memory is kept. Results stay the
same.

Settings of the user's environment have precedence.
"""

import ctypes
import os
from contextlib import suppress

_THREAD_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SPINS = "5000"  # some microseconds; GNU's OpenMP spins for milliseconds by default
_MEMORY_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MAX_TRIM = 2**31 - 1
_MAX_MMAP = (1 << 30, 32 << 20)  # older versions of glibc accept the second at most


def limit_spinning() -> None:
    """Let idle threads sleep soon; torch reads this from the environment when it is loaded.

    While a decoder occupies the core of one thread of a layer, the other threads would spin and slow the
    decoder down.
    """
    if not any(name in os.environ for name in _THREAD_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def keep_freed_memory() -> None:
    """Have glibc reuse large arrays instead of returning each to the system, until `release_freed_memory`.

    Each layer of a video network fills tens of megabytes; memory from the system is zeroed first, which takes
    up to a third of a pass. Other C libraries are left alone.
    """
    if not any(name in os.environ for name in _MEMORY_VARIABLES):
        with suppress(AttributeError, OSError):
            mallopt = ctypes.CDLL(None).mallopt
            if any(mallopt(_MMAP_THRESHOLD, most) for most in _MAX_MMAP):
                mallopt(_TRIM_THRESHOLD, _MAX_TRIM)


def release_freed_memory() -> None:
    """Return freed memory to the system, between networks, whose layers need other sizes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
