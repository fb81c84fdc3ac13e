"""Growth of time and memory of `moodfuse fuse` and `moodfuse evaluate` from 500 to 64 000 clips.

Usage: scaling.py [MOST] [--columns 512]. Synthetic features of one source that saw no label, imported with
declared folds, so that there is one plan; `fuse --head softmax --level embedding` (the network's own row
comes with it), then `evaluate`, two worker processes at most. Every command is run whole in a process of its
own: its wall time and CPU time, as others may use the machine, and the greatest memory that one of its
processes held (`ru_maxrss`, as VmHWM). The exponent is that of a power law, fitted by least squares to the
logarithms from `FROM` clips on, where starting Python counts for less; what memory grows by, from the least
to the most clips, is held against the features' float32 bytes. Exits 1 if a bar is missed.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from side_by_side import Row, report

from moodfuse.cache.records import Holdout
from moodfuse.cache.transfer.importing import ImportSettings, import_features

LEAST, FROM, FOLDS = 500, 4000, 6
LABELS = ("excited", "fear", "neutral", "relaxation", "sad", "tension")
BAR_EXPONENT, BAR_MEMORY = 1.1, 3.0


@dataclass(frozen=True)
class Cost:
    """Wall time and CPU time of a command in seconds, and the greatest memory of one process in bytes."""

    seconds: float
    cpu: float
    peak: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.cpu:.1f} s CPU), {self.peak / 2**20:.0f} MiB"


def make_cache(folder: Path, clips: int, columns: int) -> Path:
    """A cache of a number of clips in groups of two, folds declared by group."""
    random = np.random.default_rng(clips)
    group = np.arange(clips) // 2
    y = group % len(LABELS)
    folder.mkdir()
    ids = np.array([f"clip{row:06d}" for row in range(clips)])
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "label", "group", "fold"))
        for row in range(clips):
            writer.writerow((ids[row], LABELS[y[row]], f"g{group[row]}", group[row] // len(LABELS) % FOLDS))
    x = (random.normal(size=(len(LABELS), columns)) * 0.3)[y] + random.normal(size=(clips, columns))
    np.savez(folder / "made.npz", id=ids, embedding=x.astype(np.float32))
    features, labels = folder / "made.npz", folder / "labels.csv"
    import_features(ImportSettings(folder / "cache", features, "made", Holdout.frozen(), labels=labels))
    return folder / "cache"


WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
found = resource.getrusage(resource.RUSAGE_CHILDREN)
print(found.ru_maxrss * 1024, found.ru_utime + found.ru_stime)
sys.exit(done.returncode)
"""


def cost(*words: str) -> Cost:
    """Run a command of moodfuse and measure it."""
    start = time.monotonic()
    call = [sys.executable, "-c", WATCH, sys.executable, "-m", "moodfuse", *words]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    peak, cpu = done.stdout.split()
    return Cost(time.monotonic() - start, float(cpu), int(peak))


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Exponent of the power law that is fitted to times."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main(most: int, columns: int) -> int:
    """Print a line a size, and the exponents; 1 if a bar is missed."""
    sizes = [LEAST * 2**power for power in range(20) if LEAST * 2**power <= most]
    costs_of: dict[str, list[Cost]] = {"fuse": [], "evaluate": []}
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for clips in sizes:
            cache = str(make_cache(Path(temporary) / str(clips), clips, columns))
            heads = ("--head", "softmax", "--level", "embedding", "--jobs", "2")
            costs_of["fuse"].append(cost("fuse", "--cache", cache, *heads))
            costs_of["evaluate"].append(cost("evaluate", "--cache", cache))
            line = "; ".join(f"{name} {costs[-1]}" for name, costs in costs_of.items())
            print(f"{clips} clips: {line} (load {os.getloadavg()[0]:.1f})", flush=True)
    rows: list[Row] = []
    large = [index for index, clips in enumerate(sizes) if clips >= FROM]
    for name, costs in costs_of.items():
        large_sizes = [sizes[index] for index in large]
        power = exponent(large_sizes, [costs[index].seconds for index in large])
        worked = exponent(large_sizes, [costs[index].cpu for index in large])
        growth = (costs[-1].peak - costs[0].peak) / (4 * columns * (sizes[-1] - sizes[0]))
        missed += power > BAR_EXPONENT or growth > BAR_MEMORY
        print(
            f"{name}: exponent {power:.2f} (of CPU time {worked:.2f}), bar {BAR_EXPONENT}; memory grows by "
            f"{growth:.1f} times the features, bar {BAR_MEMORY:.0f}"
        )
        span = f"{name}, {{}} to {sizes[-1]} clips of {columns} columns"
        last = costs[-1]
        rows += [
            Row(
                f"{span.format(large_sizes[0])}: exponent of time",
                f"{last.seconds:.0f} s",
                f"{costs[0].seconds:.1f} s",
                [power],
                f"at most {BAR_EXPONENT:g}",
                power <= BAR_EXPONENT,
            ),
            Row(
                f"{span.format(sizes[0])}: memory over features",
                f"{last.peak / 1e6:.0f} MB",
                f"{costs[0].peak / 1e6:.0f} MB",
                [growth],
                f"under {BAR_MEMORY:g}",
                growth < BAR_MEMORY,
            ),
        ]
    report(rows)
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("most", nargs="?", type=int, default=64_000)
    parser.add_argument("--columns", type=int, default=512)
    options = parser.parse_args()
    sys.exit(main(options.most, options.columns))
