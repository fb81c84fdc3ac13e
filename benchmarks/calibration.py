"""Calibration of heads and of exported models, on made data and on a run.

Usage: calibration.py [DATA_SETS [CACHE]]; default: 10 data sets a setting, and no cache.

Every data set has two sources: frozen features, or made networks, scikit-learn's `MLPClassifier` fitted on
the clips outside each holdout, as `extract` does. Out-of-fold probabilities come from `run_ablation`. The
model of each result is fitted on the whole data set and labels new rows of the same classes. Over all data
sets of a setting, the columns are:

* accuracy, log loss and shift out of fold, under class weights ``none`` and ``balanced``; the shift is the
  largest difference between the mean probability of a class and its frequency, in points;
* `ece ratio`: calibration error over that of a perfectly calibrated model;
* `gap`: accuracy minus mean confidence in points, out of fold; `model` and `corrected`: the same of the model
  on new rows, before and after the correction of its temperature, with the standard `error` of the latter.

With a CACHE, the shift of the results of its newest run is printed too. Exits with 1 if a limit is exceeded.
"""

import sys
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import derived_seed, digest
from moodfuse.cache.folds import GROUP_RULE, assign_folds, clip_groups, pair_holdouts, single_holdouts
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Clip, ClipStatus, Holdout, Plan
from moodfuse.cache.runs import Result, read_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import run_labels
from moodfuse.evaluate.metrics import (
    Floats,
    Labels,
    accuracy,
    ece_if_calibrated,
    expected_calibration_error,
    is_correct,
    log_loss,
)
from moodfuse.fuse.ablation import run_ablation
from moodfuse.fuse.final_fit import ScoredResult, fit_final_model
from moodfuse.fuse.inference import NetworkOutput, check_level
from moodfuse.fuse.settings import AblationSettings

FOLDS, SOURCES, NEW_ROWS = 6, ("s0", "s1"), 1500
MAX_SHIFT, MAX_GAP, MAX_ECE_RATIO = 2.0, 1.0, 2.0
"""Limits of the shift and of a model's gap, in points, and of the calibration error of `logistic`."""
FITTED = ("softmax", "logistic", "lightgbm")
COLUMNS = {
    "accuracy": ".3f",
    "log loss": ".3f",
    "shift": ".1f",
    "ece ratio": ".1f",
    "balanced accuracy": ".3f",
    "balanced log loss": ".3f",
    "balanced shift": ".1f",
    "gap": "+.1f",
    "model": "+.1f",
    "corrected": "+.1f",
    "error": ".1f",
}
"""Columns of the table, with the format of their figures."""


@dataclass(frozen=True)
class Setting:
    """Classes of a made data set by their frequencies, and how far apart they are in `width` columns."""

    name: str
    frequencies: tuple[float, ...]
    clips: int
    distance: float
    width: int


SETTINGS = (
    Setting("10/90", (0.1, 0.9), 300, 1.5, 30),
    Setting("long tail", (0.4, 0.25, 0.15, 0.1, 0.06, 0.04), 404, 1.8, 40),
    Setting("equal", (1 / 6,) * 6, 360, 1.8, 40),
)


@dataclass
class MadeData:
    """A cache of made features, and new rows of the same classes with the networks that embed them."""

    cache: FeatureCache
    new_labels: Labels
    new_rows: dict[str, Floats]
    networks: dict[tuple[str, str], MLPClassifier] = field(default_factory=dict)


def draw_rows(setting: Setting, means: Floats, labels: Labels, rng: np.random.Generator) -> Floats:
    """Rows [N, width] of classes [N]: their class's mean plus normal noise."""
    noise = rng.normal(size=(len(labels), setting.width))
    return np.asarray(means[labels] * setting.distance / np.sqrt(setting.width) + noise)


def make_statuses(labels: Labels) -> tuple[ClipStatus, ...]:
    """A readable clip for each label, in a group of its own."""
    statuses = []
    for number, label in enumerate(labels):
        name = f"{number:04d}.mp4"
        clip = Clip(id=name, path=name, label=f"class{label}", group=name)
        sha256, clip_digest = digest(name), digest(f"{name}:0")
        statuses.append(
            ClipStatus(clip, digest=clip_digest, file_sha256=sha256, group=name, ok=True, missing="")
        )
    return tuple(statuses)


def make_data(folder: Path, setting: Setting, seed: int, *, tuned: bool) -> MadeData:
    """A cache of two sources: frozen features, or networks for every holdout of cross-fitting."""
    rng, classes = np.random.default_rng(seed), len(setting.frequencies)
    counts = np.round(np.array(setting.frequencies) * setting.clips).astype(int)
    labels = rng.permutation(np.repeat(np.arange(classes), counts))
    statuses, cache = make_statuses(labels), FeatureCache(folder, create=True)
    assignment = assign_folds(clip_groups(statuses), folds=FOLDS, seed=seed, placed={})
    cache.write_plan(Plan(FOLDS, seed, GROUP_RULE, assignment, (table_name(statuses),)), statuses)
    new_labels = rng.choice(classes, size=NEW_ROWS, p=counts / counts.sum())
    data = MadeData(cache, new_labels, {})
    for source in SOURCES:
        means = rng.normal(size=(classes, setting.width))
        rows = draw_rows(setting, means, labels, rng)
        data.new_rows[source] = draw_rows(setting, means, new_labels, rng)
        write_source(data, source, rows, [status.digest for status in statuses], tuned=tuned)
    return data


def write_source(data: MadeData, source: str, rows: Floats, digests: list[str], *, tuned: bool) -> None:
    """Write the blocks of a source, and keep its networks."""
    cache, tuning = data.cache, Tuning("adam", 3e-3, 60) if tuned else None
    recipe = Recipe(source, source, 1, "random", "{}", "full" if tuned else "frozen", tuning, tuned)
    cache.write_recipe(recipe)
    cache.select([recipe])
    if not tuned:
        cache.write_block_part(recipe, None, digests, {"embedding": rows.astype(np.float32)})
        return
    labels = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
    for holdout in (*single_holdouts(FOLDS), *pair_holdouts(FOLDS), Holdout.of(())):
        training_clips = cache.training_clips(recipe, holdout)
        assert training_clips is not None
        training = np.isin(digests, [digest for digest, _, _ in training_clips])
        seed = derived_seed(cache.plan.seed, source, str(holdout)) % 2**32
        network = MLPClassifier((32,), alpha=1e-2, max_iter=60, learning_rate_init=3e-3, random_state=seed)
        network.fit(rows[training], labels[training])
        data.networks[source, str(holdout)] = network
        cache.write_training_clips(recipe, training_clips)
        cache.write_block_part(recipe, training_clips, digests, pass_network(network, rows))


def pass_network(network: MLPClassifier | None, rows: Floats) -> dict[str, np.ndarray]:
    """Embedding and logits, float32, of rows; frozen features are the embedding itself."""
    if network is None:
        return {"embedding": rows.astype(np.float32)}
    hidden = np.maximum(rows @ network.coefs_[0] + network.intercepts_[0], 0)
    logits = hidden @ network.coefs_[1] + network.intercepts_[1]
    if logits.shape[1] == 1:  # one score for two classes
        logits = np.hstack([-logits, logits]) / 2
    return {"embedding": hidden.astype(np.float32), "logits": logits.astype(np.float32)}


def predict_new_rows(data: MadeData, result: Result, *, corrected: bool) -> Floats:
    """Probabilities of the new rows by the model of a result."""
    level = check_level(result.level)
    scored = ScoredResult(result.sources, result.head, level, "crossfit", run_sources=SOURCES)
    final = fit_final_model(data.cache, scored, result.probabilities[None] if corrected else None)
    by_source = []
    for source in result.sources:
        networks = [data.networks.get((source, str(holdout))) for holdout in final.networks[source]]
        arrays = [pass_network(network, data.new_rows[source]) for network in networks]
        by_source.append(
            [
                [NetworkOutput(**{name: values[row] for name, values in one.items()}) for one in arrays]
                for row in range(NEW_ROWS)
            ]
        )
    rows = []
    for outputs in zip(*by_source, strict=True):
        values = [final.fusion.values(number, output) for number, output in enumerate(outputs)]
        rows.append(final.fusion.probabilities(values))
    return np.stack(rows)


def confidence_gap(labels: Labels, probabilities: Floats) -> float:
    """Accuracy minus mean confidence, in points."""
    return 100 * float(np.mean(is_correct(labels, probabilities) - probabilities.max(axis=1)))


def largest_shift(labels: Labels, probabilities: Floats) -> float:
    """Largest difference between the mean probability of a class and its frequency, in points."""
    frequency = np.bincount(labels, minlength=probabilities.shape[1]) / len(labels)
    return 100 * float(np.abs(probabilities.mean(axis=0) - frequency).max())


@dataclass
class Measured:
    """What was measured of one result of a setting, a list entry for each data set."""

    labels: list[Labels] = field(default_factory=list)
    unweighted: list[Floats] = field(default_factory=list)
    balanced: list[Floats] = field(default_factory=list)
    new_gaps: list[tuple[float, float]] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """The figures over all data sets."""
        labels, p = np.concatenate(self.labels), np.concatenate(self.unweighted)
        weighted = np.concatenate(self.balanced)
        gaps = np.array(self.new_gaps)
        perfect = float(ece_if_calibrated(p, draws=200).mean())
        return {
            "accuracy": float(accuracy(labels, p)),
            "log loss": float(log_loss(labels, p)),
            "shift": largest_shift(labels, p),
            "balanced accuracy": float(accuracy(labels, weighted)),
            "balanced log loss": float(log_loss(labels, weighted)),
            "balanced shift": largest_shift(labels, weighted),
            "ece ratio": float(expected_calibration_error(labels, p)) / perfect,
            "gap": confidence_gap(labels, p),
            "model": float(gaps[:, 0].mean()),
            "corrected": float(gaps[:, 1].mean()),
            "error": float(gaps[:, 1].std(ddof=1) / np.sqrt(len(gaps))),
        }


def measure(setting: Setting, data_sets: int, *, tuned: bool) -> dict[tuple[str, str], Measured]:
    """Fit every head and model of a setting; by head and level."""
    measured: dict[tuple[str, str], Measured] = defaultdict(Measured)
    for seed in range(data_sets):
        with tempfile.TemporaryDirectory() as folder:
            data = make_data(Path(folder) / "cache", setting, seed, tuned=tuned)
            settings = AblationSettings(combine=("+".join(SOURCES),), repeats=1, jobs=1, keep=False)
            run = run_ablation(data.cache, settings)
            balanced = run_ablation(data.cache, replace(settings, class_weight="balanced"))
            labels = run_labels(run)
            for result, weighted in zip(run.results, balanced.results, strict=True):
                if len(result.sources) == 1:
                    continue
                one = measured[result.head, result.level]
                one.labels.append(labels)
                one.unweighted.append(result.probabilities)
                one.balanced.append(weighted.probabilities)
                new = [predict_new_rows(data, result, corrected=corrected) for corrected in (False, True)]
                one.new_gaps.append(tuple(confidence_gap(data.new_labels, p) for p in new))
    return measured


def check_limits(head: str, figures: dict[str, float]) -> list[str]:
    """The limits that a row exceeds; those of class weights and shift hold for heads that are fitted."""
    exceeded = []
    if head in FITTED and figures["shift"] > MAX_SHIFT:
        exceeded.append("shift")
    if head == "logistic" and figures["ece ratio"] > MAX_ECE_RATIO:
        exceeded.append("ece ratio")
    if abs(figures["corrected"]) > MAX_GAP + 2 * figures["error"]:
        exceeded.append("gap")
    return exceeded


def shift_if_calibrated(probabilities: Floats, rng: np.random.Generator) -> float:
    """95th percentile of the shift of labels that are drawn from the probabilities themselves."""
    draws = rng.random((500, len(probabilities), 1)) > probabilities.cumsum(axis=1)[:, :-1]
    return float(np.quantile([largest_shift(labels, probabilities) for labels in draws.sum(axis=2)], 0.95))


def print_run(path: Path) -> int:
    """Print the shift of each result of the newest run of a cache; the number of heads above the limit.

    The limit here is what a calibrated model with the same probabilities shows on as many clips.
    """
    run, rng = read_run(FeatureCache(path)), np.random.default_rng(0)
    labels, shifts, limits = run_labels(run), [], []
    for result in run.results:
        shift, limit = (
            largest_shift(labels, result.probabilities),
            shift_if_calibrated(result.probabilities, rng),
        )
        print(f"{result.name}: shift {shift:.1f}, of a calibrated model up to {limit:.1f}")
        if result.head in FITTED:
            shifts.append(shift)
            limits.append(limit)
    above = sum(shift > limit for shift, limit in zip(shifts, limits, strict=True))
    print(
        f"{run.name}, {len(shifts)} results of fitted heads: median shift {np.median(shifts):.1f}, of a "
        f"calibrated model up to {np.median(limits):.1f}; above that: {above}"
    )
    return above


def main(data_sets: int, cache: Path | None) -> int:
    """Print the table; 1 if a limit is exceeded."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    failed = 0
    print(" " * 40 + "".join(f"  {title}" for title in COLUMNS))
    for tuned in (False, True):
        for setting in SETTINGS:
            for (head, level), measured in measure(setting, data_sets, tuned=tuned).items():
                figures = measured.row()
                exceeded = check_limits(head, figures)
                failed += len(exceeded)
                name = f"{'networks' if tuned else 'frozen'}, {setting.name}, {head} {level}"
                columns = "".join(
                    f"{format(figures[title], form):>{len(title) + 2}}" for title, form in COLUMNS.items()
                )
                print(f"{name:<40}{columns}  {' '.join(exceeded)}".rstrip(), flush=True)
    if cache is not None:
        failed += print_run(cache)
    print(f"{data_sets} data sets a setting; limits exceeded: {failed}")
    return int(failed > 0)


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else 10, Path(given[1]) if len(given) > 1 else None))
