"""What torch is told before it is loaded: how to take memory, and how its threads wait beside decoding processes.

Neither changes a bit of any result. What the user's environment says already, stays.
"""

import os
from pathlib import Path

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def settle() -> None:
    """Set what torch and its OpenMP runtime read from the environment when they start.

    * Pages of 2 MB, where Linux gives them: each layer of a video network fills tens of megabytes anew, and touching
      those in pages of 4 kB costs up to a third of its time.
    * Threads that wait for others sleep after some microseconds: while one of them is kept from its core by a decoder,
      the others would spin and keep the decoder from theirs.
    """
    if _has_huge_pages():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = "5000"


def _has_huge_pages() -> bool:
    try:
        return "[never]" not in HUGE_PAGES.read_text(encoding="ascii")
    except OSError:
        return False
