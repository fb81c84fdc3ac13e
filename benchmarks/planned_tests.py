"""False positives and power of the planned tests, by simulation.

Usage: planned_tests.py [DATA_SETS] [COLUMNS]; default: 800 a setting, 24. Prints one table; exits 1 if a bar
is missed.

Six classes, audio and video of COLUMNS normal features each, whose class means are orthogonal; the features
of video are those of two sources. Half of a clip's noise is that of its group where groups have two clips. A
head (shrunken class means) is trained on each source, on video and on all in six-fold cross-validation with
five fold plans, so the results of a data set vary with its training clips as those of a run do. The strength
of video is set by bisection on other data sets: so that it adds nothing to the expected accuracy or log loss
of the head (false positives), or 8 points of accuracy (power).
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import GroupResamples, resample_groups
from moodfuse.evaluate.metrics import clip_losses, is_correct
from moodfuse.evaluate.planned import (
    BEST_SINGLE,
    LEVEL,
    OUTCOMES,
    VIDEO_TO_AUDIO,
    Outcome,
    PlannedTest,
    planned_tests,
)

CLASSES, FOLDS, PLANS = 6, 6, 5
DATA_SETS, COLUMNS = 800, 24
LAYOUTS = ((52, 1), (26, 2), (136, 1), (68, 2), (500, 1), (250, 2))
"""Groups, and clips of each."""
AUDIO_STRENGTH = 2.0
"""Distance of a class mean from the origin, in standard deviations of a feature."""
GAIN = 0.08
CALIBRATION_CLIPS = 15_000
BISECTIONS = 9
BAR = 0.06
NAMES = tuple("abcdef")


@dataclass(frozen=True)
class DataSet:
    """Labels [N], fold plans [R, N] and features [N, D] of audio and of video."""

    labels: np.ndarray
    plans: np.ndarray
    audio: np.ndarray
    video: np.ndarray


def draw(groups: int, clips: int, columns: int, strength: float, seed: int) -> DataSet:
    """A data set whose video has this strength."""
    random = np.random.default_rng(seed)
    member = np.repeat(np.arange(groups), clips)
    labels = member % CLASSES
    features = []
    for distance in (AUDIO_STRENGTH, strength):
        noise = random.standard_normal((len(labels), columns))
        if clips > 1:
            noise = np.sqrt(0.5) * (noise + random.standard_normal((groups, columns))[member])
        features.append(distance * np.eye(CLASSES, columns)[labels] + noise)
    plans = np.stack([assign_folds(groups, random)[member] for _ in range(PLANS)])
    return DataSet(labels, plans, *features)


def assign_folds(groups: int, random: np.random.Generator) -> np.ndarray:
    """Fold of each group; those of a class are spread over the folds."""
    folds, used = np.empty(groups, dtype=int), 0
    for label in range(CLASSES):
        rows = random.permutation(np.flatnonzero(np.arange(groups) % CLASSES == label))
        folds[rows] = (np.arange(len(rows)) + used) % FOLDS
        used += len(rows)
    return folds


def predict(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Out-of-fold probabilities [N, C] of a head on features [N, D]."""
    probabilities = np.empty((len(labels), CLASSES))
    for fold in range(FOLDS):
        train = folds != fold
        x, one_hot = features[train], np.eye(CLASSES)[labels[train]]
        clips = one_hot.sum(axis=0)
        means, center = (one_hot.T @ x) / clips[:, None], x.mean(axis=0)
        variance = ((x - means[labels[train]]) ** 2).sum() / (len(x) - CLASSES) / x.shape[1]
        spread = ((means - center) ** 2).mean() * CLASSES / (CLASSES - 1)
        kept = max(0.05, 1 - variance / clips.mean() / spread)
        means = center + kept * (means - center)
        scores = (features[~train] @ means.T - (means**2).sum(axis=1) / 2) / variance
        scores /= 1 + kept / clips.mean()
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities[~train] = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def mean_gains(data: DataSet) -> tuple[float, float]:
    """Accuracy, and negative log loss, that video adds to audio under the first plan."""
    audio, both = (
        predict(features, data.labels, data.plans[0])
        for features in (data.audio, np.hstack([data.audio, data.video]))
    )
    accuracy = is_correct(data.labels, both) - is_correct(data.labels, audio)
    return float(accuracy.mean()), float(
        (clip_losses(data.labels, audio) - clip_losses(data.labels, both)).mean()
    )


def find_strength(make: Callable[[float, int], DataSet], outcome: Outcome, gain: float) -> float:
    """Strength of video at which it adds `gain` to the expected accuracy or log loss."""
    low, high = 0.0, 5.0
    sets = CALIBRATION_CLIPS // len(make(0.0, 0).labels)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        gains = [mean_gains(make(middle, 1_000_000 + seed)) for seed in range(sets)]
        if np.mean(gains, axis=0)[OUTCOMES.index(outcome)] < gain:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def make_run(data: DataSet, member: np.ndarray) -> Run:
    """The run of a data set: the head on each source, on video and on all, and the mean of the sources."""
    everything = ("audio", "even", "odd")
    features = {
        ("audio",): data.audio,
        ("even",): data.video[:, ::2],
        ("odd",): data.video[:, 1::2],
        ("even", "odd"): data.video,
        everything: np.hstack([data.audio, data.video]),
    }
    tables = {
        sources: np.stack([predict(columns, data.labels, folds) for folds in data.plans])
        for sources, columns in features.items()
    }
    results = [
        Result(sources, "softmax", "embedding", table[0], repeats=table[1:])
        for sources, table in tables.items()
    ]
    mean = np.mean([tables[source,] for source in everything], axis=0)
    results.append(Result(everything, "mean", "logits", mean[0], repeats=mean[1:]))
    return Run(
        name="simulated",
        protocol="crossfit",
        classes=NAMES,
        ids=tuple(map(str, range(len(member)))),
        labels=tuple(NAMES[label] for label in data.labels),
        groups=tuple(map(str, member)),
        folds=tuple(data.plans[0].tolist()),
        fold_count=FOLDS,
        seed=0,
        recipes=(),
        results=tuple(results),
        repeat_folds=tuple(tuple(folds.tolist()) for folds in data.plans[1:]),
        modalities=(("audio", "sound"), ("even", "picture"), ("odd", "picture")),
    )


def first_plan(run: Run) -> Run:
    """The run without its repeats."""
    results = tuple(replace(result, repeats=None) for result in run.results)
    return replace(run, results=results, repeat_folds=())


@dataclass(frozen=True)
class Rates:
    """Fractions of data sets: a single test is significant without correction, any is after Holm's."""

    single: float
    corrected: float


def count(tests: list[tuple[PlannedTest, ...]], outcomes: tuple[Outcome, ...]) -> Rates:
    """How often video, or the fusion against the best source, is called better or worse."""
    video = [
        [test for test in row if test.question == VIDEO_TO_AUDIO and test.outcome in outcomes]
        for row in tests
    ]
    both = [
        [test for test in row if test.question in (VIDEO_TO_AUDIO, BEST_SINGLE) and test.outcome in outcomes]
        for row in tests
    ]
    single = np.mean([any(test.p_value < LEVEL for test in row) for row in video])
    corrected = np.mean([any(test.verdict != "not significant" for test in row) for row in both])
    return Rates(float(single), float(corrected))


def simulate(
    make: Callable[[float, int], DataSet], drawn: GroupResamples, strength: float, sets: int
) -> Iterator[tuple[int, list[tuple[PlannedTest, ...]]]]:
    """The planned tests of many data sets, with one fold plan and with all."""
    repeated, single = [], []
    for seed in range(sets):
        data = make(strength, seed)
        run = make_run(data, drawn.member)
        repeated.append(planned_tests(run, data.labels, drawn))
        single.append(planned_tests(first_plan(run), data.labels, drawn))
    yield 1, single
    yield PLANS, repeated


def main(sets: int, columns: int) -> int:
    """Print every figure with its bar; 1 if one is missed."""
    start, missed = time.monotonic(), 0
    print(f"{'clips':>5} {'groups':>6} {'plans':>5}  {'setting':<34} {'one test':>8} {'Holm':>6}")
    for groups, clips in LAYOUTS:
        drawn = resample_groups(range(groups) if clips == 1 else np.repeat(np.arange(groups), clips), draws=1)

        def make(strength: float, seed: int, shape: tuple[int, int] = (groups, clips)) -> DataSet:
            return draw(*shape, columns, strength, seed)

        for outcome, gain in (*((outcome, 0.0) for outcome in OUTCOMES), ("accuracy", GAIN)):
            strength = find_strength(make, outcome, gain)
            for plans, tests in simulate(make, drawn, strength, sets):
                shown = OUTCOMES if gain else (outcome,)
                for tested in shown:
                    rates = count(tests, (tested,))
                    what = "power, 8 points" if gain else "false positives"
                    mark = ""
                    if not gain:
                        passed = max(rates.single, rates.corrected) <= BAR
                        missed += not passed
                        mark = f"  up to {BAR} {'ok' if passed else 'MISSED'}"
                    print(
                        f"{groups * clips:>5} {groups:>6} {plans:>5}  {what + ', ' + tested:<34} "
                        f"{rates.single:>8.3f} {rates.corrected:>6.3f}{mark}",
                        flush=True,
                    )
    print(f"{sets} data sets a setting, {time.monotonic() - start:.0f} s; bars missed: {missed}")
    return int(missed > 0)


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    sys.exit(main(*given, *(DATA_SETS, COLUMNS)[len(given) :]))
