"""What the process is told before torch works in it: how threads wait beside decoders, and that freed memory stays.

Nothing here changes a bit of any result. What the user's environment says already of either, stays.
"""

import ctypes
import importlib
import os
import threading
from contextlib import suppress

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SPINS = "5000"
"""Some microseconds; by itself GNU's OpenMP spins for milliseconds."""
ALLOCATING = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST_TRIM = 2**31 - 1
_MOST_MMAP = (1 << 30, 32 << 20)
"""What to ask for; older versions of glibc take no more than the second."""


def settle() -> None:
    """Let threads that wait for others soon sleep; read from the environment when torch is loaded.

    While one thread of a layer is kept from its core by a decoder, the others would spin and keep the decoder from
    theirs.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def keep_freed_memory() -> None:
    """Have glibc keep large arrays that were freed for the next ones, rather than give each back to the system.

    Each layer of a video network fills tens of megabytes; fresh from the system these are zeroed first, which costs up
    to a third of a pass. It is held on to until `give_back_freed_memory`. Other C libraries are left alone.
    """
    if not any(name in os.environ for name in ALLOCATING):
        with suppress(AttributeError, OSError):
            mallopt = ctypes.CDLL(None).mallopt
            if any(mallopt(_MMAP_THRESHOLD, most) for most in _MOST_MMAP):
                mallopt(_TRIM_THRESHOLD, _MOST_TRIM)


def give_back_freed_memory() -> None:
    """Have glibc give back what `keep_freed_memory` has it keep: between networks, whose layers need other sizes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def load_torch_meanwhile() -> None:
    """Begin to import torch in a thread of its own, where this one is about to wait for other processes.

    Torch alone: of the program's own modules none is imported in two threads at once.
    """
    threading.Thread(target=_load_torch, name="import torch").start()


def _load_torch() -> None:
    with suppress(Exception):  # whoever needs it imports it again, and says what is wrong
        importlib.import_module("torch")
