"""Peak memory of `extract` with few clips and with ten times as many.

Usage: extract_memory.py [CLIPS [TIMES]]; CLIPS is by default the folder of MOODFUSE_CLIPS, TIMES 10. The
larger set holds every clip so often, each copy with some bytes appended, so that it is another file. `extract
--tune frozen` with four sources runs on both, in bfloat16 where this processor computes in it. Memory is the
peak of resident memory that Linux kept of the command's own process, and of the largest of its decoding
processes. Exits 1 if the sum of both differs by 10 % or more.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import Row, list_clips, report

from moodfuse.extract.networks.hardware import has_bfloat16

BAR = 0.10


def peak_mb(process: int) -> float:
    """Peak resident memory of a process so far, megabytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    try:
        found = [
            Path(path, "children").read_text(encoding="ascii")
            for path in Path(f"/proc/{process}/task").iterdir()
        ]
    except OSError:
        return []
    return [int(number) for number in " ".join(found).split()]


def peaks(command: Sequence[str]) -> tuple[float, float]:
    """Peak memory of a command and of the largest of its children, megabytes."""
    own = largest = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None:
            own = max(own, peak_mb(running.pid))
            largest = max([largest, *map(peak_mb, children(running.pid))])
            time.sleep(0.2)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {running.returncode}")
    return own, largest


def main(files: Sequence[Path], times: int) -> int:
    """Print both and the row; 1 if the bar is missed."""
    precision = "bf16" if has_bfloat16("cpu") else "fp32"
    found = []
    for copies in (1, times):
        with tempfile.TemporaryDirectory() as name:
            data = Path(name) / "data"
            for file in files:
                place = data / file.parent.name
                place.mkdir(parents=True, exist_ok=True)
                for number in range(copies):
                    shutil.copyfile(file, place / f"{number} {file.name}")
                    with (place / f"{number} {file.name}").open("ab") as stream:
                        stream.write(os.urandom(8))
            command = [sys.executable, "-m", "moodfuse", "extract", str(data), "--cache", f"{name}/cache"]
            start = time.perf_counter()
            found.append(peaks([*command, "--tune", "frozen", "--precision", precision]))
            print(
                f"{len(files) * copies} clips: {found[-1][0]:.0f} MB, and {found[-1][1]:.0f} MB in a "
                f"decoding process; "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    few, many = map(sum, found)
    what = f"memory of extract, frozen, 4 sources, {len(files)} and {len(files) * times} clips"
    bar = f"differs by less than {BAR:.0%}"
    return report(
        [Row(what, f"{many:.0f} MB", f"{few:.0f} MB", [many / few], bar, abs(many / few - 1) < BAR)]
    )


if __name__ == "__main__":
    sys.exit(main(list_clips(sys.argv[1:2]), int(sys.argv[2]) if len(sys.argv) > 2 else 10))
