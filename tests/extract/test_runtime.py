"""Process settings for torch: threads that wait, and freed memory."""

import os
import subprocess
import sys

import pytest

from moodfuse.extract import runtime

STEPS, MEGABYTES = 20, 64
PAGE_FAULTS = f"""
import resource
import numpy as np
from moodfuse.extract.runtime import keep_freed_memory, release_freed_memory
keep_freed_memory()
def step():
    np.full({MEGABYTES} << 17, 1.0)
def held():
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() >> 20
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
before = held()
release_freed_memory()
print(before - held())
"""


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_idle_threads_sleep_soon_unless_the_user_decided(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is in the environment, where torch reads it; the user's own stays."""
    monkeypatch.setattr(os, "environ", dict(chosen))
    runtime.limit_spinning()
    assert os.environ == (chosen or {"GOMP_SPINCOUNT": runtime.SPINS})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused_and_then_released() -> None:
    """Filling an array as large as the last one touches few fresh pages; released memory leaves the process.

    Settings of glibc in the environment, as Dask makes for its workers, stay.
    """

    def measured(**environment: str) -> tuple[int, int]:
        result = subprocess.run(
            [sys.executable, "-c", PAGE_FAULTS],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        faults, released = result.stdout.split()
        return int(faults), int(released)

    faults, released = measured()
    assert faults < measured(MALLOC_TRIM_THRESHOLD_="65536")[0] / 10 and released > MEGABYTES / 2
