"""Process settings for torch: threads that wait, and freed memory."""

import os
import subprocess
import sys

import pytest

from moodfuse.extract import runtime

PAGE_FAULTS = """
import resource
import numpy as np
from moodfuse.extract.runtime import keep_freed_memory, release_freed_memory
keep_freed_memory()
for step in range(21):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(64 << 17, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}])
def test_idle_threads_sleep_soon_unless_the_user_decided(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(chosen))
    runtime.limit_spinning()
    assert os.environ == (chosen or {"GOMP_SPINCOUNT": runtime.SPINS})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_reused() -> None:
    """Filling an array of 64 MB again touches few fresh pages, unless glibc is set in the environment."""

    def count_faults(**environment: str) -> int:
        command, variables = [sys.executable, "-c", PAGE_FAULTS], {**os.environ, **environment}
        return int(subprocess.run(command, check=True, capture_output=True, env=variables).stdout)

    assert count_faults() < count_faults(MALLOC_TRIM_THRESHOLD_="65536") / 10
