"""What ships is what was scored: a model of five folds on the sixth's files, beside the run of all six.

Usage: export_equality.py [CLIPS [PATTERN]]; by default the folder of MOODFUSE_CLIPS; PATTERN finds a clip's group in
its id, as in `extract --group-pattern`. Four sources, their heads tuned. The clips of all folds are scored under
cross-fitting; then those of five folds, each in its own, are the whole data set, the model of each result is exported
from them, and it labels the sixth fold's files from their paths. Prints the largest difference of a probability per
result, and how many of the shipped networks were not those that had tested the sixth fold. Exits 1 if a bar is missed.
"""

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from moodfuse.cache.digests import file_digest
from moodfuse.cache.runs import Run, read_run
from moodfuse.cache.store import FeatureCache
from moodfuse.model.folder import ModelCard, read_card
from moodfuse.model.model import Model

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
HEADS = ("softmax", "logistic", "lightgbm", "mean")
FOLDS = 6
BAR = 1e-5


def moodfuse(*arguments: object) -> None:
    """One command; its failure ends the benchmark."""
    subprocess.run(
        [sys.executable, "-m", "moodfuse", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def extract(data: Path, cache: Path, *options: object) -> set[Path]:
    """Tune the heads of all sources; the network files that are there afterwards."""
    named = [word for source in SOURCES for word in ("--source", source)]
    moodfuse("extract", data, "--cache", cache, *named, "--tune", "head", *options)
    return set((cache / "networks").rglob("*.safetensors"))


def fuse(cache: Path, run: str) -> Run:
    """Every head on all sources at once."""
    heads = [word for head in HEADS for word in ("--head", head)]
    levels = ["--level", "logits", "--level", "embedding"]
    moodfuse("fuse", "--cache", cache, "--run", run, "--combine", "+".join(SOURCES), *heads, *levels)
    return read_run(FeatureCache(cache), run)


def five_folds(cache: FeatureCache, table: Path) -> tuple[list[str], list[str]]:
    """Write the clips of all folds but the last, each in its fold; the ids and the files of the last."""
    folds = cache.plan.assignment
    held = [status for status in cache.clips if folds[status.digest] == FOLDS - 1]
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group", "fold"])
        for status in cache.clips:
            if folds[status.digest] < FOLDS - 1:
                writer.writerow([status.clip.path, status.clip.label, status.group, folds[status.digest]])
    return [status.clip.id for status in held], [status.clip.path for status in held]


def strange(card: ModelCard, known: set[str]) -> int:
    """How many of a model's networks are none of some files, by their digests."""
    return sum(
        file.sha256 not in known for place, file in card.files.items() if place.startswith("networks/")
    )


def main(clips: Path, pattern: str) -> int:
    """Print every difference; 1 if one is over the bar, or a network was tuned twice."""
    worst, twice = 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grouped = ["--group-pattern", pattern] if pattern else []
        before = extract(clips, folder / "work", "--folds", FOLDS, *grouped)
        six = fuse(folder / "work", "six")
        ids, files = five_folds(FeatureCache(folder / "work"), folder / "five.csv")
        known = {file_digest(path) for path in before}
        extract(folder / "five.csv", folder / "work", "--for-export")
        five = fuse(folder / "work", "five")
        rows = [six.ids.index(one) for one in ids]
        print(
            f"{len(six.ids)} clips, {len(ids)} of them in the sixth fold; {len(before)} networks of the six folds"
        )
        for result in five.results:
            target = folder / result.name.replace(" ", "-")
            moodfuse(
                "fuse",
                "--cache",
                folder / "work",
                "--run",
                "five",
                "--export",
                result.name,
                "--model",
                target,
            )
            found = Model.load(target).predict_proba(files, jobs=2)
            scored = next(item for item in six.results if item.name == result.name)
            differs = float(np.abs(found - scored.probabilities[rows]).max())
            others = strange(read_card(target), known)
            worst, twice = max(worst, differs), twice + others
            print(
                f"{result.name}: largest difference {differs:.1e}, networks tuned anew {others}", flush=True
            )
    held = worst <= BAR and not twice
    print(
        f"largest of all {worst:.1e}, bar {BAR:.0e}; networks tuned anew {twice}, bar 0: {'met' if held else 'MISSED'}"
    )
    return int(not held)


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    sys.exit(main(Path(given[0]), given[1] if len(given) > 1 else ""))
