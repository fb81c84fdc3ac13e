"""What the process is told before torch works in it."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from extract import runtime

STEPS, MEGABYTES = 20, 64
FAULTS = f"""
import resource
import numpy as np
from extract.runtime import keep_freed_memory
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
    runtime.settle()
    assert os.environ == {"GOMP_SPINCOUNT": runtime.SPINS}


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_the_user_set_stays(chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own choice is not another's default."""
    monkeypatch.setattr(os, "environ", dict(chosen))
    runtime.settle()
    assert os.environ == chosen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked; this is another system")
def test_freed_memory_serves_again() -> None:
    """Filling an array as large as the last touches hardly any fresh page; without asking, every page."""

    def faults(*, keep: bool) -> int:
        code = FAULTS.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    pages = STEPS * (MEGABYTES << 20) // resource.getpagesize()
    assert faults(keep=True) < pages / 100
    assert np.sign(faults(keep=False)) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is asked; this is another system")
def test_kept_memory_is_given_back() -> None:
    """What was kept for the next arrays leaves the process when asked to, and only then."""
    code = FAULTS.format(keep=True) + (
        "from extract.runtime import give_back_freed_memory\n"
        "def held():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() >> 20\n"
        "before = held()\n"
        "give_back_freed_memory()\n"
        "print(before - held())\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(found.split()[1]) > MEGABYTES / 2


def test_torch_is_imported_meanwhile() -> None:
    """It is there once the thread is through; a broken torch is left to whoever needs it."""
    code = (
        "import sys, threading; from extract import runtime; runtime.load_torch_meanwhile(); "
        "[t.join() for t in threading.enumerate() if t.name == 'import torch']; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "True" and not found.stderr
    broken = code.replace("runtime.load_torch", "runtime.importlib.import_module = {}.get; runtime.load_torch")
    found = subprocess.run([sys.executable, "-c", broken], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "False" and not found.stderr
