"""What the process is told before torch works in it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from moodfuse.extract import runtime

STEPS, MEGABYTES = 20, 64
FAULTS = f"""
import resource
import numpy as np
from moodfuse.extract.runtime import keep_freed_memory
if {{keep}}:
    keep_freed_memory()
def step():
    np.full({MEGABYTES} << 17, 1.0)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_waiting_threads_sleep_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the environment from which torch's threads take it."""
    monkeypatch.setattr(os, "environ", {})
    runtime.limit_spinning()
    assert os.environ == {"GOMP_SPINCOUNT": runtime.SPINS}


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_set_stays(chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own choice is not another's default."""
    monkeypatch.setattr(os, "environ", dict(chosen))
    runtime.limit_spinning()
    assert os.environ == chosen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked; this is another system")
def test_freed_memory_serves_again() -> None:
    """Filling an array as large as the last touches hardly any fresh page; without asking, many times as many."""

    def faults(*, keep: bool) -> int:
        code = FAULTS.format(keep=keep)
        return int(
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        )

    assert faults(keep=True) < faults(keep=False) / 10


def test_who_set_how_to_allocate_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's settings of glibc, or Dask's for its workers, stay; older versions are asked for less."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        runtime.ctypes,
        "CDLL",
        lambda name: SimpleNamespace(mallopt=lambda *said: asked.append(said) or accepts(*said)),
    )

    def accepts(what: int, value: int) -> int:
        return int(value <= 32 << 20 or what == -1)

    monkeypatch.setattr(os, "environ", {"MALLOC_TRIM_THRESHOLD_": "65536"})
    runtime.keep_freed_memory()
    assert not asked
    monkeypatch.setattr(os, "environ", {})
    runtime.keep_freed_memory()
    assert asked == [(-3, 1 << 30), (-3, 32 << 20), (-1, 2**31 - 1)]
    monkeypatch.setattr(runtime, "_MAX_MMAP", (1 << 30,))
    asked.clear()
    runtime.keep_freed_memory()
    assert asked == [(-3, 1 << 30)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked; this is another system")
def test_kept_memory_is_given_back() -> None:
    """What was kept for the next arrays leaves the process when asked to, and only then."""
    code = FAULTS.format(keep=True) + (
        "from moodfuse.extract.runtime import release_freed_memory\n"
        "def held():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() >> 20\n"
        "before = held()\n"
        "release_freed_memory()\n"
        "print(before - held())\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(found.split()[1]) > MEGABYTES / 2


def test_torch_is_imported_meanwhile() -> None:
    """It is there once the thread is through; a broken torch is left to whoever needs it."""
    code = (
        "import sys, threading; from moodfuse.extract import runtime; runtime.import_torch_in_background(); "
        "[t.join() for t in threading.enumerate() if t.name == 'import torch']; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "True" and not found.stderr
    broken = code.replace(
        "runtime.import_torch", "runtime.importlib.import_module = {}.__getitem__; runtime.import_torch"
    )
    found = subprocess.run([sys.executable, "-c", broken], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False" and not found.stderr
