"""A model of five folds predicts the files of the sixth as the run of all six folds did.

Usage: export_equality.py [CLIPS [PATTERN]]; by default the folder of MOODFUSE_CLIPS. PATTERN finds a
clip's group in its id, as in `extract --group-pattern`. Four sources are used, with fine-tuned heads.
The clips of all folds are scored under cross-fitting. Then the clips of five folds are the whole
dataset, the model of each result is exported from them, and it labels the files of the sixth fold.
A model's temperature is corrected by the out-of-fold probabilities of the five folds; so are the
probabilities of the six-fold run here, before they are compared.
Prints the largest difference of a probability per result, and how many networks of the model were not
those that had tested the sixth fold. Exits 1 if a limit is exceeded.
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
from moodfuse.evaluate.evaluation import run_labels
from moodfuse.fuse.fitting import fit_temperature
from moodfuse.fuse.inference import apply_temperature
from moodfuse.model.folder import ModelCard, read_card
from moodfuse.model.model import Model

SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")
HEADS = ("softmax", "logistic", "lightgbm", "mean")
FOLDS = 6
LIMIT = 1e-5


def moodfuse(*arguments: object) -> None:
    """Run a command; its failure ends the benchmark."""
    subprocess.run(
        [sys.executable, "-m", "moodfuse", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def extract(data: Path, cache: Path, *options: object) -> set[Path]:
    """Fine-tune the heads of all sources, and return the network files."""
    named = [word for source in SOURCES for word in ("--source", source)]
    moodfuse("extract", data, "--cache", cache, *named, "--tune", "head", *options)
    return set((cache / "networks").rglob("*.safetensors"))


def fuse(cache: Path, run: str) -> Run:
    """Fit every head on all sources together."""
    heads = [word for head in HEADS for word in ("--head", head)]
    levels = ["--level", "logits", "--level", "embedding"]
    moodfuse("fuse", "--cache", cache, "--run", run, "--combine", "+".join(SOURCES), *heads, *levels)
    return read_run(FeatureCache(cache), run)


def five_folds(cache: FeatureCache, table: Path) -> tuple[list[str], list[str]]:
    """Write the clips of all folds but the last to a table; return ids and files of the last fold."""
    folds = cache.plan.assignment
    held = [status for status in cache.clips if folds[status.digest] == FOLDS - 1]
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group", "fold"])
        for status in cache.clips:
            if folds[status.digest] < FOLDS - 1:
                writer.writerow([status.clip.path, status.clip.label, status.group, folds[status.digest]])
    return [status.clip.id for status in held], [status.clip.path for status in held]


def count_unknown(card: ModelCard, known: set[str]) -> int:
    """Number of a model's networks whose digests are not in `known`."""
    networks = [file for name, file in card.files.items() if name.startswith("networks/")]
    return sum(file.sha256 not in known for file in networks)


def main(clips: Path, pattern: str) -> int:
    """Print every difference; 1 if one is over the limit, or a network was fine-tuned twice."""
    largest, tuned_again = 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = folder / "work"
        group_options = ["--group-pattern", pattern] if pattern else []
        networks = extract(clips, work, "--folds", FOLDS, *group_options)
        six = fuse(work, "six")
        ids, files = five_folds(FeatureCache(work), folder / "five.csv")
        known = {file_digest(path) for path in networks}
        extract(folder / "five.csv", work, "--for-export")
        five = fuse(work, "five")
        rows = [six.ids.index(clip_id) for clip_id in ids]
        print(
            f"{len(six.ids)} clips, {len(ids)} in the sixth fold; {len(networks)} networks of the six folds"
        )
        for result in five.results:
            target = folder / result.name.replace(" ", "-")
            export = ["--export", result.name, "--force", "--model", target]
            moodfuse("fuse", "--cache", work, "--run", "five", *export)
            probabilities = Model.load(target).predict_proba(files, jobs=2)
            scored = next(scored for scored in six.results if scored.name == result.name)
            card = read_card(target)
            correction = fit_temperature(result.probabilities, run_labels(five)) if card.chosen else 1.0
            expected = apply_temperature(scored.probabilities[rows], correction)
            difference = float(np.abs(probabilities - expected).max())
            unknown = count_unknown(card, known)
            largest, tuned_again = max(largest, difference), tuned_again + unknown
            print(f"{result.name}: largest difference {difference:.1e}, new networks {unknown}", flush=True)
    passed = largest <= LIMIT and not tuned_again
    verdict = "met" if passed else "EXCEEDED"
    print(f"largest of all {largest:.1e}, limit {LIMIT:.0e}; new networks {tuned_again}, limit 0: {verdict}")
    return int(not passed)


if __name__ == "__main__":
    given = sys.argv[1:] or [os.environ.get("MOODFUSE_CLIPS", "")]
    if not given[0]:
        print("skipped: MOODFUSE_CLIPS names no folder of clips")
        sys.exit(0)
    sys.exit(main(Path(given[0]), given[1] if len(given) > 1 else ""))
