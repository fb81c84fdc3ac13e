"""Permuted labels on the demo corpus: out-of-sample accuracy must be chance, leaky accuracy must not.

Usage: random_labels.py [SEEDS [FIRST]]; default 20, from seed 0. Two sources are tuned at the head: a video
one, whose embedding is tuned too, and an audio one. Each permutation tunes 22 networks a source and fuses
under both protocols.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from moodfuse.cache.runs import Run, read_run
from moodfuse.cache.store import FeatureCache
from moodfuse.demo import shuffle_table
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

SEEDS = 20
LEVELS = ("logits", "embedding")
LEAK = 0.15
"""By how much the leaky protocol must exceed chance."""
RECIPE = """
name = "heads"
[c3d]
depth = "head"
head = { optimizer = "adamw", learning_rate = 1e-4, epochs = 6, patience = 3, batch = 16, weight_decay = 0.1 }
[twodmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 5e-4, epochs = 40, patience = 8, batch = 8, weight_decay = 0.1 }
"""


def run_command(*arguments: str) -> None:
    """One moodfuse command; its failure ends the benchmark."""
    subprocess.run([sys.executable, "-m", "moodfuse", *arguments], check=True, stdout=subprocess.DEVNULL)


def accuracy(run: Run, level: str) -> float:
    """Mean accuracy of a run's fused results of one level."""
    y_true = np.array([run.classes.index(label) for label in run.labels])
    fused = [result for result in run.results if len(result.sources) > 1 and result.level == level]
    return float(np.mean([(result.probabilities.argmax(axis=1) == y_true).mean() for result in fused]))


def permutation(base: Path, table: Path, recipe: Path, work: Path) -> dict[tuple[str, str], float]:
    """Accuracy by protocol and level of one permutation."""
    shutil.copytree(base, work)
    sources = ["--source", "c3d", "--source", "twodmcnn", "--recipe", str(recipe), "--replan"]
    run_command("extract", str(table), "--cache", str(work), *sources, "--leaky")
    accuracies = {}
    for protocol, name in (("crossfit", "correct"), ("leaky", "leaky")):
        options = ["--protocol", protocol, "--combine", "c3d@heads+twodmcnn@heads", "--repeats", "1"]
        run_command("fuse", "--cache", str(work), "--run", name, *options)
        accuracies |= {
            (protocol, level): accuracy(read_run(FeatureCache(work), name), level) for level in LEVELS
        }
    shutil.rmtree(work)
    return accuracies


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of the seeds' values, and its 95 % t interval."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def main(seeds: int, first: int) -> int:
    """Print each seed's accuracies and their means with intervals; 1 if a bar is missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = CorpusSettings(clips_per_group=(2, 1, 1), clip=ClipSettings())
        table = make_corpus(folder / "corpus", settings=settings)
        recipe = folder / "heads.toml"
        recipe.write_text(RECIPE)
        frozen = ["--source", "c3d", "--source", "twodmcnn", "--tune", "frozen"]
        run_command("extract", str(table), "--cache", str(folder / "base"), *frozen)
        per_seed = []
        for seed in range(first, first + seeds):
            shuffled = shuffle_table(table, seed=seed)
            per_seed.append(permutation(folder / "base", shuffled, recipe, folder / "work"))
            print(
                f"seed {seed}: "
                + ", ".join(f"{' '.join(key)} {value:.3f}" for key, value in per_seed[-1].items()),
                flush=True,
            )
    chance, missed = 1 / len(settings.labels), 0
    for protocol, level in per_seed[0]:
        mean, low, high = interval(np.array([item[protocol, level] for item in per_seed]))
        good = low <= chance <= high if protocol == "crossfit" else mean >= chance + LEAK
        bar = "chance inside the interval" if protocol == "crossfit" else f"{LEAK} above chance"
        missed += not good
        verdict = f"{bar}: {'met' if good else 'MISSED'}"
        print(f"{protocol} {level}: {mean:.3f} [{low:.3f}, {high:.3f}], chance {chance:.3f}; {verdict}")
    return int(bool(missed))


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    sys.exit(main(given[0] if given else SEEDS, given[1] if len(given) > 1 else 0))
