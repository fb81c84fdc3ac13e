"""Random labels on the demo corpus: labels permuted between groups, and the fused accuracy that must be chance.

Usage: random_labels.py [SOURCE ...]; default: every source. A leak shows as a mean far above 1/6.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from cache.runs import read_run
from cache.store import FeatureCache
from moodfuse.corpus import ClipSettings, CorpusSettings, make_corpus
from moodfuse.demo import shuffle_table

SEEDS = 5
CHANCE, TOLERANCE = 0.17, 0.08
SOURCES = ("onedmcnn", "twodmcnn", "c3d", "i3d")


def run(*arguments: str) -> None:
    """One moodfuse command; its failure ends the benchmark."""
    subprocess.run([sys.executable, "-m", "moodfuse", *arguments], check=True, stdout=subprocess.DEVNULL)


def main(sources: tuple[str, ...]) -> int:
    """Print each seed's mean fused accuracy and the mean over seeds; 1 if that is off chance."""
    with tempfile.TemporaryDirectory() as folder:
        table = make_corpus(
            Path(folder) / "corpus", settings=CorpusSettings(clips_per_group=(2, 1, 1), clip=ClipSettings())
        )
        means = []
        for seed in range(SEEDS):
            cache = Path(folder) / "cache"
            shuffled = shuffle_table(table, seed=seed)
            options = [item for source in sources for item in ("--source", source)]
            run("extract", str(shuffled), "--cache", str(cache), *options)
            run("fuse", "--cache", str(cache), "--run", f"seed-{seed}", "--combine", "+".join(sources))
            found = read_run(FeatureCache(cache), f"seed-{seed}")
            truth = np.array([found.classes.index(label) for label in found.labels])
            fused = [item for item in found.results if item.head != "network"]
            accuracies = [float((item.probabilities.argmax(axis=1) == truth).mean()) for item in fused]
            means.append(float(np.mean(accuracies)))
            print(f"seed {seed}: mean of {len(fused)} fused results {means[-1]:.3f}", flush=True)
    mean = float(np.mean(means))
    print(f"{'+'.join(sources)}: mean {mean:.3f} over {SEEDS} permutations (chance {CHANCE} +- {TOLERANCE})")
    return int(abs(mean - CHANCE) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or SOURCES))
