"""Speed of `moodfuse fuse` against a plain loop over scikit-learn and LightGBM, and whether the scores agree.

Usage: fuse_speed.py [ours|times|scores]. Synthetic features of 503 clips, six classes, four sources of 512,
1024, 256 and 160 columns, imported as `*` sources with declared folds (so there is one plan); the command is
`moodfuse fuse --combine all --head softmax --head logistic --head lightgbm --level embedding --jobs 2`.

The plain loop: for every combination, head and fold a Pipeline of StandardScaler, the same scale for every
source, and LogisticRegression (under OneVsRestClassifier for `logistic`), C chosen from the same grid on the
same inner grouped folds by the same loss, and LGBMClassifier, once with our settings and the same search for
its leaves and rounds, once with its defaults on all threads. It runs on one fold of six and on every third of
the 15 combinations, and is scaled up by folds and columns; the command's time is that of the whole process.
Wall time and CPU time are both given, as others may use the machine. Then scores are compared on three
synthetic datasets, and on real clips where MOODFUSE_CLIPS names a folder (audio only, frozen networks). Exits
1 if a bar is missed.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from lightgbm import LGBMClassifier
from side_by_side import Row, report
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from moodfuse.cache.records import Holdout
from moodfuse.cache.runs import Run, read_run
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.importing import ImportSettings, import_features
from moodfuse.fuse.design import DesignInputs, assemble
from moodfuse.fuse.heads import make_head
from moodfuse.fuse.leak_guard import make_clip_rows

CLIPS, CLASSES, FOLDS = 503, 6, 6
WIDTHS = {"c3d": 512, "i3d": 1024, "onedmcnn": 256, "twodmcnn": 160}
LABELS = ("excited", "fear", "neutral", "relaxation", "sad", "tension")
HEADS = ("softmax", "logistic", "lightgbm")
FOLD_TIMED, EVERY = 0, 3
COMPARED = ("i3d", "twodmcnn")
"""Combination on which log loss and macro F1 are compared, over all folds."""
WORSE = (0.02, 0.03)
"""Ours may have so much more log loss, and so much less macro F1, and still count as no worse."""
BAR_RATIO, BAR_LOGITS, BAR_CACHED_S = 6.0, 10.0, 2.0
KINDS = ("wall", "cpu")
EQUAL = 1e-3
"""Probabilities before their temperature may differ by so much where the settings are the same."""
Floats = np.ndarray


# Synthetic data


def shared_means(random: np.random.Generator, y: np.ndarray) -> dict[str, Floats]:
    """Classes are shifted normal clouds; every source sees each class a little."""
    return {
        name: (random.normal(size=(CLASSES, width)) * 0.12)[y] + random.normal(size=(len(y), width))
        for name, width in WIDTHS.items()
    }


def rectified_latent(random: np.random.Generator, y: np.ndarray) -> dict[str, Floats]:
    """Rectified mixtures of a few latent directions, like pooled activations: correlated, sparse, skewed."""
    latent = (random.normal(size=(CLASSES, 24)) * 0.7)[y] + random.normal(size=(len(y), 24))
    features = {}
    for name, width in WIDTHS.items():
        mixed = latent @ random.normal(size=(24, width)) / 5
        features[name] = np.maximum(mixed + random.normal(size=(len(y), width)) * 0.5, 0)
    return features


def few_columns(random: np.random.Generator, y: np.ndarray) -> dict[str, Floats]:
    """A dozen informative columns per source, by threshold or mean; the others are heavy-tailed noise."""
    features = {}
    for name, width in WIDTHS.items():
        x = random.standard_t(3, size=(len(y), width))
        x[:, :12] += (random.normal(size=(CLASSES, 12)) * 0.8)[y]
        x[:, 6:12] = np.abs(x[:, 6:12])
        features[name] = x
    return features


DATA: dict[str, Callable[[np.random.Generator, np.ndarray], dict[str, Floats]]] = {
    "shared means": shared_means,
    "rectified latent": rectified_latent,
    "few columns": few_columns,
}


def make_cache(folder: Path, name: str) -> FeatureCache:
    """A cache of imported sources: groups of two clips, folds declared by group."""
    random = np.random.default_rng(list(DATA).index(name))
    group = np.arange(CLIPS) // 2
    y = group % CLASSES
    features = DATA[name](random, y)
    folder.mkdir(parents=True)
    ids = np.array([f"clip{row:04d}" for row in range(CLIPS)])
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "label", "group", "fold"))
        writer.writerows(
            (ids[row], LABELS[y[row]], f"g{group[row]}", group[row] // CLASSES % FOLDS)
            for row in range(CLIPS)
        )
    for source, x in features.items():
        np.savez(folder / f"{source}.npz", id=ids, embedding=x.astype(np.float32))
        file, labels = folder / f"{source}.npz", folder / "labels.csv"
        import_features(ImportSettings(folder / "cache", file, source, Holdout.frozen(), labels=labels))
    return FeatureCache(folder / "cache")


# Ours


@dataclass
class Clock:
    """Wall time, and CPU time of this process and its children, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> "Clock":
        self._start = time.monotonic(), sum(os.times()[:4])
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.monotonic() - self._start[0]
        self.cpu += sum(os.times()[:4]) - self._start[1]

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s CPU)"


def fuse(cache: FeatureCache, run: str, *options: str) -> Clock:
    """Time of the command."""
    call = ["fuse", "--cache", str(cache.path), "--run", run, "--jobs", "2", *options]
    with Clock() as clock:
        run_quietly(call, check=True)
    return clock


def run_quietly(arguments: Sequence[str], *, check: bool = False) -> None:
    """Run a command of moodfuse."""
    call = [sys.executable, "-m", "moodfuse", *arguments]
    subprocess.run(call, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# The plain loop


@dataclass(frozen=True)
class Fold:
    """Arrays of one combination under one outer fold, as a user has them."""

    x: Floats
    y: np.ndarray
    test: np.ndarray
    inner: np.ndarray
    widths: tuple[int, ...]

    def inner_folds(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows to fit on and rows to score, among the training rows."""
        for number in np.unique(self.inner):
            yield self.inner != number, self.inner == number


def make_fold(cache: FeatureCache, sources: tuple[str, ...], fold: int) -> Fold:
    """The same rows, outer fold and inner grouped folds as ours."""
    blocks = [cache.block(source, "*") for source in sources]
    rows = make_clip_rows(cache.plan, cache.clips)
    design = assemble(DesignInputs(rows, blocks, "embedding", fold, seed=cache.plan.seed))
    inner = np.full(len(design.y), -1)
    for number, inner_fold in enumerate(design.inner):
        inner[inner_fold.held_out] = number
    y = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
    return Fold(design.x, y, design.test, inner[~design.test], design.widths)


def mean_loss(probabilities: Floats, y_true: np.ndarray) -> float:
    """Log loss."""
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # sums of trees are nearly 1
    return float(log_loss(y_true, probabilities, labels=range(CLASSES)))


def linear(head: str, penalty: float, widths: tuple[int, ...], tol: float) -> Any:
    """A Pipeline that scales the sources alike, as ours does."""
    scale = np.sqrt(len(widths) * np.repeat(widths, widths))
    model: Any = LogisticRegression(C=penalty, tol=tol, max_iter=5000)
    model = OneVsRestClassifier(model) if head == "logistic" else model
    return make_pipeline(StandardScaler(), FunctionTransformer(lambda x: x / scale), model)


def fit_plain(head: str, fold: Fold) -> Floats:
    """Probabilities of the test rows: the plain loop for one head, combination and fold."""
    x, y, held = fold.x[~fold.test], fold.y[~fold.test], fold.x[fold.test]
    if head == "lightgbm defaults":
        return LGBMClassifier(verbosity=-1).fit(x, y).predict_proba(held)

    ours = make_head(head)

    def make(candidate: Mapping[str, float]) -> Any:
        if head != "lightgbm":
            return linear(head, candidate["C"], fold.widths, 1e-4)
        return LGBMClassifier(**ours.settings(x.shape[1], candidate) | {"n_jobs": os.cpu_count()})

    losses = []
    for candidate in ours.grid:
        probabilities = np.zeros((len(y), CLASSES))
        for fit, score in fold.inner_folds():
            probabilities[score] = make(candidate).fit(x[fit], y[fit]).predict_proba(x[score])
        losses.append(mean_loss(probabilities, y))
    return make(ours.grid[int(np.argmin(np.round(losses, 9)))]).fit(x, y).predict_proba(held)


def fit_exact(head: str, fold: Fold, penalty: float) -> Floats:
    """scikit-learn's solution at a small tolerance."""
    model = linear(head, penalty, fold.widths, 1e-9)
    return model.fit(fold.x[~fold.test], fold.y[~fold.test]).predict_proba(fold.x[fold.test])


# Measuring


def score(probabilities: Floats, y: np.ndarray) -> tuple[float, float]:
    """Log loss and macro F1."""
    loss = log_loss(y, probabilities, labels=range(CLASSES))
    return float(loss), float(f1_score(y, probabilities.argmax(axis=1), average="macro"))


def machine() -> str:
    """How busy the machine is."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def all_sources(cache: FeatureCache) -> list[tuple[str, ...]]:
    """Every combination."""
    names = cache.sources()
    return [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]


def make_options(heads: tuple[str, ...], level: str) -> list[str]:
    """Options of the command."""
    return ["--combine", "all", *(f"--head={head}" for head in heads), "--level", level]


def time_plain(cache: FeatureCache) -> tuple[dict[str, Clock], dict[tuple[str, tuple[str, ...]], Floats]]:
    """Time of the plain loop per head, scaled up to all folds and combinations, and its probabilities."""
    clocks, predicted = {head: Clock() for head in (*HEADS, "lightgbm defaults")}, {}
    every = all_sources(cache)
    timed = every[::EVERY]
    for sources in timed:
        fold = make_fold(cache, sources, FOLD_TIMED)
        for head, clock in clocks.items():
            with clock:
                predicted[head, sources] = fit_plain(head, fold)
    columns = [sum(WIDTHS[source] for sources in part for source in sources) for part in (every, timed)]
    scale = FOLDS * columns[0] / columns[1]
    return {head: Clock(clock.wall * scale, clock.cpu * scale) for head, clock in clocks.items()}, predicted


def agreement(
    cache: FeatureCache, run: Run, predicted: dict[tuple[str, tuple[str, ...]], Floats]
) -> tuple[float, float]:
    """Greatest difference from the plain loop's trees, and from exact linear fits with our C."""
    trees, lines = [], []
    for result in run.results:
        if (
            result.head not in HEADS
            or (result.head, result.sources) not in predicted
            or result.unscaled is None
        ):
            continue
        fold = make_fold(cache, result.sources, FOLD_TIMED)
        ours = result.unscaled[fold.test]
        if result.head == "lightgbm":
            trees.append(np.abs(ours - predicted[result.head, result.sources]).max())
        else:
            penalties = [candidate["C"] for candidate in make_head(result.head).grid]
            lines.append(
                min(np.abs(ours - fit_exact(result.head, fold, penalty)).max() for penalty in penalties)
            )
    return float(max(trees)), float(max(lines))


def compare(cache: FeatureCache, run: Run, sources: tuple[str, ...], name: str) -> int:
    """Print log loss and macro F1 of ours and of the plain loop; returns how many are worse."""
    y = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
    folds = [make_fold(cache, sources, fold) for fold in range(cache.plan.folds)]
    worse = 0
    for head in HEADS:
        (ours,) = [result for result in run.results if (result.sources, result.head) == (sources, head)]
        theirs = np.zeros((len(y), len(cache.classes)))
        for fold in folds:
            theirs[fold.test] = fit_plain("lightgbm defaults" if head == "lightgbm" else head, fold)
        (loss, f1), (their_loss, their_f1) = score(ours.probabilities, y), score(theirs, y)
        bad = loss > their_loss + WORSE[0] or f1 < their_f1 - WORSE[1]
        worse += bad
        print(
            f"{name}, {'+'.join(sources)} {head}: log loss {loss:.3f} against {their_loss:.3f}, "
            f"macro F1 {f1:.3f} against {their_f1:.3f}{'  WORSE' if bad else ''}",
            flush=True,
        )
    return worse


def real_cache(folder: Path) -> FeatureCache | None:
    """Frozen audio networks on the real clips, where there are any."""
    clips, weights = os.environ.get("MOODFUSE_CLIPS"), os.environ.get("MOODFUSE_WEIGHTS")
    if not clips:
        print("real clips: left out, MOODFUSE_CLIPS names no folder")
        return None
    files = sorted(Path(weights).rglob("*choi*.hdf5")) if weights else []
    sources = ["--source", "onedmcnn", "--source", "twodmcnn", "--tune", "frozen", "--no-keep-media"]
    sources += ["--weights", f"twodmcnn={files[0]}"] if files else []
    groups = ["--group-pattern", r"DEAP_(DB_FEARR|DB_HR|DBW_EXT)"]
    run_quietly(["extract", clips, "--cache", str(folder), *sources, *groups])
    return FeatureCache(folder)


def times(cache: FeatureCache, *, with_loop: bool) -> int:
    """Print the time of the command, and of the plain loop; returns how many bars are missed."""
    options = make_options(HEADS, "embedding")
    ours = fuse(cache, "first", *options)
    again = fuse(cache, "again", *options)
    logits = fuse(cache, "logits", *make_options(HEADS, "logits"))
    met = again.wall <= BAR_CACHED_S
    bar = f"under {BAR_CACHED_S:g} s"
    rows = [Row("fuse, 45 results, all cached", str(again), str(ours), [ours.wall / again.wall], bar, met)]
    print(f"fuse, logits level, 45 results: {logits}, {logits.wall / ours.wall:.2f} of the embedding level")
    if not with_loop:
        return report(rows)
    clocks, predicted = time_plain(cache)
    for head, clock in clocks.items():
        print(f"plain loop, scaled up, {head}: {clock} ({machine()})", flush=True)
    for what, trees in (("the same settings", "lightgbm"), ("LightGBM's defaults", "lightgbm defaults")):
        wall, cpu = (
            sum(getattr(clocks[head], kind) for head in ("softmax", "logistic", trees)) for kind in KINDS
        )
        print(f"plain loop with {what}: {wall:.0f} s, {cpu / ours.cpu:.1f} times our CPU time")
        for level, clock, ratio in (("embeddings", ours, BAR_RATIO), ("logits", logits, BAR_LOGITS)):
            name = f"fuse, 45 results, {level}, loop with {what}"
            faster = wall / clock.wall
            rows.append(Row(name, str(clock), f"{wall:.0f} s", [faster], f"{ratio:g} times", faster >= ratio))
    missed = report(rows)
    trees, linear = agreement(cache, read_run(cache, "first"), predicted)
    print(
        f"greatest difference of a probability: trees {trees:.1e}, linear heads {linear:.1e}, bar {EQUAL:.0e}"
    )
    return missed + (max(trees, linear) > EQUAL)


def compared(folder: Path) -> int:
    """Print scores of ours and the plain loop on synthetic and real data; returns how many are worse."""
    worse = 0
    options = make_options(HEADS, "embedding")[2:]
    for name in DATA:
        cache = make_cache(folder / f"compared {name}", name)
        fuse(cache, "compared", "--combine", "+".join(COMPARED), *options)
        worse += compare(cache, read_run(cache, "compared"), COMPARED, name)
    real = real_cache(folder / "real")
    if real is not None:
        fuse(real, "compared", "--combine", "all", "--repeats", "1", *options)
        worse += compare(real, read_run(real, "compared"), real.sources(), f"{len(real.clips)} real clips")
    return worse


def main(part: str) -> int:
    """Print everything, or a part; 1 if a bar is missed."""
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        if part != "scores":
            missed += times(make_cache(Path(folder) / "timed", "shared means"), with_loop=part != "ours")
        if part in ("scores", "all"):
            missed += compared(Path(folder))
    return int(missed > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", default="all", choices=("ours", "times", "scores", "all"))
    sys.exit(main(parser.parse_args().part))
