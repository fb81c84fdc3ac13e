"""A catalogue of which 30 % is bad in every way: one pass names every file, and costs little more than the good ones.

Usage: bad_catalogue.py [FILES]; 1 000 unless told otherwise. The kinds are those of `tests/extract/odd_files.py`, each
file with bytes of its own. `extract` reads the good files alone, then all of them. Exits 1 if a file is not named, a
good one has other features than without the bad ones, the exit code is not 3, the second pass takes over 1.25 times the
first and the deadlines that were used up, or anything is left in the folder for temporary files.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from moodfuse.cache.store import FeatureCache

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/extract"))
from odd_files import READ, REFUSED, Odd

FILES, BAD_SHARE, BAR = 1000, 0.3, 1.25
DEADLINE_S = 10.0
GOOD = ("usual.mp4", "usual.mkv", "usual.webm", "usual.avi", "usual.flv")
LABELS = ("excited", "sad")
SOURCE = "onedmcnn"


def make(kinds: Sequence[Odd], count: int, folder: Path) -> list[Path]:
    """So many files of some kinds in turn; those that have bytes get bytes of their own behind them."""
    folder.mkdir()
    models = {
        kind.name: folder / f"model-{number}{Path(kind.name).suffix}" for number, kind in enumerate(kinds)
    }
    for kind in kinds:
        kind.make(models[kind.name])
    found = []
    for number, kind in enumerate(islice(cycle(kinds), count)):
        path = folder / f"{number:04d}-{kind.name}"
        model = models[kind.name]
        if model.is_file() and not model.is_symlink() and model.stat().st_size and not number < len(kinds):
            shutil.copy(model, path)
            with path.open("ab") as stream:
                stream.write(b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
        else:
            kind.make(path)
        found.append(path)
    for model in models.values():
        shutil.rmtree(model) if model.is_dir() and not model.is_symlink() else model.unlink(missing_ok=True)
    return found


def extract(files: Sequence[Path], folder: Path, cache: Path) -> tuple[float, int]:
    """Seconds and exit code of stage one on some files."""
    table = cache.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        # Two copies of one odd file may be the same bytes, which must not have two labels.
        writer.writerows([str(path), LABELS[len(path.name.split("-", 1)[1]) % 2]] for path in files)
    command = [
        sys.executable,
        "-m",
        "moodfuse",
        "extract",
        str(table),
        "--cache",
        str(cache),
        "--source",
        SOURCE,
    ]
    options = ["--tune", "frozen", "--folds", "2", "--deadline", str(DEADLINE_S)]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr[-2000:])
    return time.perf_counter() - start, done.returncode


def features(cache: Path) -> dict[str, np.ndarray]:
    """The embedding of each clip."""
    block = FeatureCache(cache).block(SOURCE, "*")
    return dict(zip(block.ids, block.embedding, strict=True))


def main(count: int) -> int:
    """Print what came of the files, and the times; 1 if a bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        temporary = folder / "temporary"
        temporary.mkdir()
        bad_count = round(count * BAD_SHARE)
        kinds = [kind for kind in REFUSED if kind.window_s is None and kind.code]
        good = make([kind for kind in READ if kind.name in GOOD], count - bad_count, folder / "good")
        bad = make(kinds, bad_count, folder / "bad")
        mixed = [*good, *bad]
        np.random.default_rng(0).shuffle(mixed)  # type: ignore[arg-type]
        good_s, good_code = extract(good, temporary, folder / "good-cache")
        all_s, all_code = extract(mixed, temporary, folder / "all-cache")
        with (folder / "all-cache/clips.csv").open(newline="", encoding="utf-8") as stream:
            rows = {row["path"]: row for row in csv.DictReader(stream)}
        alone, among = features(folder / "good-cache"), features(folder / "all-cache")
        left = sorted(path.name for path in temporary.rglob("*"))
    named = {path for path, row in rows.items() if row["status"] == "ok" or row["reason"]}
    reasons = Counter(rows[str(path)]["reason"] or "read" for path in bad if str(path) in rows)
    same = set(alone) <= set(among) and all(np.array_equal(alone[key], among[key]) for key in alone)
    deadlines_s = reasons["timeout"] * (DEADLINE_S + 60.0)
    print(f"{len(good)} good files alone: {good_s:.1f} s; with {len(bad)} bad ones: {all_s:.1f} s")
    print(f"bad files by reason: {', '.join(f'{value} {key}' for key, value in reasons.most_common())}")
    ratio = (all_s - deadlines_s) / good_s
    bars = {
        f"every file named: {len(named)} of {len(mixed)}": len(named) == len(mixed),
        f"good ones complete, the same bits: {len(alone)} of {len(good)}": same and len(alone) == len(good),
        f"exit codes 0 and 3: {good_code}, {all_code}": (good_code, all_code) == (0, 3),
        f"time over the good ones alone, less {deadlines_s:.0f} s of deadlines: {ratio:.2f}, bar {BAR}": ratio
        <= BAR,
        f"left in the folder for temporary files: {len(left)} {left[:3]}": not left,
    }
    for what, met in bars.items():
        print(f"{what}{'' if met else ' MISSED'}")
    return int(not all(bars.values()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else FILES))
