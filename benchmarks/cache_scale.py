"""The cache at a million clips: one imported source of 512 float32 a clip, written by parts, listed, opened,
read.

Usage: cache_scale.py [ROWS ...]; default 10 000, 100 000 and 1 000 000 (4.2 GB of disk for the last). Writing
and reading are processes of their own. Reading the block is compared with `numpy.load` of the same array, by
turns in one process; the digest check that comes before the first read is timed apart, and peak memory is
compared with the array's size. Exits 1 if a bar is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COLUMNS = 512
FOLDS = 6
SIZES = (10_000, 100_000, 1_000_000)
LABELS = ("excited", "fear", "neutral", "relaxation", "sad", "tension")
SOURCE = "clip-vit"
LS_BAR_S, OPEN_BAR_S, READ_BAR, MEMORY_BAR, GROWTH_BAR = 2.0, 1.0, 2.0, 1.2, 1.1
PIECE = 16_384


def rows_of(start: int, stop: int) -> np.ndarray:
    """Made-up features of some rows, float32 [n, COLUMNS]: cheap, and different in every row."""
    base = np.arange(start, stop, dtype=np.float32)[:, None]
    return np.ascontiguousarray(base * 1e-3 + np.arange(COLUMNS, dtype=np.float32))


def write(folder: Path, rows: int) -> dict[str, float]:
    """Declare the clips, then write the source's parts and the same array as one `.npy`."""
    from moodfuse.cache.blocks import write_rows
    from moodfuse.cache.clip_table import table_name
    from moodfuse.cache.digests import digest, digest_array
    from moodfuse.cache.recipe import import_recipe
    from moodfuse.cache.records import Clip, ClipStatus, Plan
    from moodfuse.cache.store import FeatureCache

    start = time.perf_counter()
    names = [f"clip-{row:07d}" for row in range(rows)]
    table = [
        ClipStatus(
            Clip(name, "", LABELS[row % 6], fold=row // 6 % FOLDS), digest({"id": name}), "", name, ok=True
        )
        for row, name in enumerate(names)
    ]
    digests = digest_array(status.digest for status in table)
    cache = FeatureCache(folder / "cache", create=True)
    assignment = {status.digest: row // 6 % FOLDS for row, status in enumerate(table)}
    cache.write_plan(Plan(FOLDS, 0, "declared", assignment, (table_name(table),)), table)
    declared = time.perf_counter()
    recipe = import_recipe(SOURCE, sees_labels=False)
    cache.write_recipe(recipe)
    owner = cache.owner(recipe, None)
    for at in range(0, rows, PIECE):
        stop = min(at + PIECE, rows)
        write_rows(owner, digests[at:stop], {"embedding": rows_of(at, stop)})
    cache.select([recipe])
    done = time.perf_counter()
    plain = np.lib.format.open_memmap(
        folder / "plain.npy", mode="w+", dtype=np.float32, shape=(rows, COLUMNS)
    )
    for at in range(0, rows, PIECE):
        plain[at : at + PIECE] = rows_of(at, min(at + PIECE, rows))
    plain.flush()
    return {"declare_s": declared - start, "write_s": done - declared}


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def read(folder: Path, rows: int) -> dict[str, float]:
    """Open the cache, check the parts, read the block; then, by turns, `numpy.load` of the same array and the
    block.

    The check reads every byte once in a process. The files are in the page cache by then; the best of three
    counts.
    """
    from moodfuse.cache.storage.parts import check_part
    from moodfuse.cache.store import FeatureCache

    start = time.perf_counter()
    cache = FeatureCache(folder / "cache")
    clips = len(cache.clips)
    opened = time.perf_counter()
    for file in cache.block_folder(cache.recipe(SOURCE), None).glob("*.h5"):
        check_part(file)
    checked = time.perf_counter()
    block = cache.block(SOURCE, "*")
    peak = peak_bytes()
    assert clips == rows and np.array_equal(block.embedding[-3:], rows_of(rows - 3, rows))
    del block
    timed = {"load_s": lambda: np.load(folder / "plain.npy"), "read_s": lambda: cache.block(SOURCE, "*")}
    np.load(folder / "plain.npy")  # so that neither is the first to fetch its file
    best = dict.fromkeys(timed, np.inf)
    for _ in range(3):
        for name, load in timed.items():
            before = time.perf_counter()
            load()
            best[name] = min(best[name], time.perf_counter() - before)
    return {"open_s": opened - start, "check_s": checked - opened, "peak": peak, **best}


def listed(folder: Path) -> float:
    """Seconds of `moodfuse cache ls`, start-up included."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "moodfuse", "cache", "ls", "--cache", str(folder / "cache")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


STEPS = {"write": write, "read": read}


def apart(step: str, folder: Path, rows: int) -> dict[str, float]:
    """One step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, str(folder), str(rows)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(rows: int) -> dict[str, float]:
    """All steps at one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = apart("write", folder, rows)
        found |= apart("read", folder, rows)
        return found | {"ls_s": min(listed(folder) for _ in range(2))}


def verdict(what: str, figure: float, bar: float) -> int:
    """Print one figure with its bar; 1 if it is missed."""
    print(f"  {what}: {figure:.2f}, bar {bar:.2f}{'' if figure <= bar else ' MISSED'}", flush=True)
    return int(figure > bar)


def main(sizes: list[int]) -> int:
    """Print every size's figures; 1 if a bar is missed."""
    missed = 0
    found: dict[int, dict[str, float]] = {}
    for rows in sizes:
        item = found[rows] = measure(rows)
        array = rows * COLUMNS * 4
        print(
            f"{rows} rows, {array / 1e6:.0f} MB: clips declared in {item['declare_s']:.2f} s, parts "
            f"written in "
            f"{item['write_s']:.2f} s, digest check {item['check_s']:.2f} s, numpy.load "
            f"{item['load_s']:.2f} s, block "
            f"read {item['read_s']:.2f} s, peak {item['peak'] / 1e6:.0f} MB"
        )
        missed += verdict("cache ls, s", item["ls_s"], LS_BAR_S) + verdict(
            "opening, s", item["open_s"], OPEN_BAR_S
        )
        if rows == max(sizes):
            missed += verdict("block read / numpy.load", item["read_s"] / item["load_s"], READ_BAR)
            missed += verdict("peak memory / array", item["peak"] / array, MEMORY_BAR)
    if len(sizes) > 1:
        for name in ("write_s", "read_s", "check_s"):
            ends = found[min(sizes)][name], found[max(sizes)][name]
            exponent = np.log(ends[1] / ends[0]) / np.log(max(sizes) / min(sizes))
            missed += verdict(f"growth of {name} in rows, exponent", float(exponent), GROWTH_BAR)
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("values", nargs="*")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step](Path(given.values[0]), int(given.values[1]))))
        sys.exit(0)
    sys.exit(main([int(value) for value in given.values] or list(SIZES)))
