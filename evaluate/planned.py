"""Planned tests: a few questions about a run, whose results are chosen before any result is known.

Does video add to audio, audio to video, the fusion of all sources to the best single one, and a trained head
to the mean? Each is tested on accuracy and on log loss, and Holm's correction (1979, Scand. J. Statist. 6:65)
is for these tests alone. The first head and level of `PLANNED_HEADS` that a run has are used.

The test is the corrected resampled t test (Nadeau and Bengio 2003, Machine Learning 52:239; for repeated
cross-validation Bouckaert and Frank 2004, PAKDD) with groups as its units: the gain of each clip is averaged
over the fold plans, and the variance of the mean over groups is multiplied by 1 / 5 + K / (K - 1), since the
training sets of K folds overlap. `docs/evaluation.md` has the reasons, `benchmarks/planned_tests.py` measures
false positives and power.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from moodfuse.cache.recipe import MODALITY_NAMES
from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.intervals import (
    DIFFERENCE,
    LOSS_DIFFERENCE,
    MIN_GROUPS,
    PROPORTION,
    UNDEFINED,
    GroupResamples,
    Interval,
    Scale,
    mean_intervals,
    t_interval,
)
from moodfuse.evaluate.metrics import Floats, Labels, clip_losses, is_correct
from moodfuse.evaluate.paired import MEAN_HEAD, majority_is_correct, subset_importance
from moodfuse.evaluate.scoring import repeated_score

_SMALLEST_ERROR = 1e-12
LEVEL = 0.05
"""Significance level of the tests, after Holm's correction."""
MIN_P = 0.001
"""Smaller p-values are not written out."""
CORRECTION_PLANS = 5
"""The correction is that of so many fold plans, however many there are."""
PLANNED_HEADS = tuple(product(("softmax", "logistic", "lightgbm"), ("embedding", "logits")))
"""Heads and levels in the order of preference."""
VIDEO_TO_AUDIO = "Adding video to audio"
AUDIO_TO_VIDEO = "Adding audio to video"
BOTH = "audio and video"
BEST_SINGLE = "Fusing all sources instead of using the best single one"
TRAINED_HEAD = "Using a trained head instead of the mean"
Outcome = Literal["accuracy", "log_loss"]
OUTCOMES: tuple[Outcome, ...] = ("accuracy", "log_loss")
SIGNS: dict[Outcome, int] = {"accuracy": 1, "log_loss": -1}
"""Sign of a difference that is an improvement."""
Verdict = Literal["better", "worse", "not significant"]


class PlannedComparison(NamedTuple):
    """A question, the result that may be better, and its baseline, or several of which it must beat all."""

    question: str
    result: Result
    baselines: tuple[Result, ...]


@dataclass(frozen=True)
class ModalityScore:
    """Accuracy and Shapley value of a modality, means over the fold plans.

    The Shapley value is the mean of the accuracy that the modality adds to nothing (the most common label of
    the other folds) and to the other modality; `None` for both modalities.
    """

    modality: str
    result: str
    accuracy: float
    accuracy_ci95: Interval
    shapley: float | None
    shapley_ci95: Interval | None


class MeanDifference(NamedTuple):
    """Mean of a result minus that of a baseline, with its 95 % interval and two-sided p-value."""

    mean: float
    interval: Interval
    p_value: float


@dataclass(frozen=True)
class PlannedTest:
    """The outcome of a planned test.

    `difference` is the accuracy (or the log loss in nats) of `result` minus that of `against`, averaged over
    `repeats` fold plans. `p_holm` is corrected for all planned tests of the run, `interval` and `p_value` are
    not.
    """

    question: str
    outcome: Outcome
    result: str
    against: str
    repeats: int
    difference: float
    interval: Interval
    p_value: float
    p_holm: float
    verdict: Verdict

    @property
    def change(self) -> str:
        """The difference with its interval, in points of accuracy or nats."""
        scale, form = (100, "+.1f") if self.outcome == "accuracy" else (1, "+.2f")
        return f"{format(scale * self.difference, form)} {self.interval.shown(form, scale=scale)}"

    @property
    def p_text(self) -> str:
        """The corrected p-value for a table: ``"0.26"`` or ``"< 0.001"``."""
        return format_p(self.p_holm).removeprefix("p ").removeprefix("= ")

    @property
    def sentence(self) -> str:
        """The outcome in words, with the names of the results."""
        return f"{self.finding}: {self.result} against {self.against}"

    @property
    def finding(self) -> str:
        """The outcome in words."""
        scale, form, unit = (100, ".1f", "points") if self.outcome == "accuracy" else (1, ".2f", "nats")
        outcome, value = self.outcome.replace("_", " "), scale * self.difference
        low, high = self.interval.ends
        ends = (
            f"95 % CI {format(scale * low, '+' + form)} to {format(scale * high, '+' + form)}"
            if self.interval.known
            else "no interval: one group holds all or most clips"
        )
        tested = f"{ends}, {format_p(self.p_holm)}, Holm-corrected"
        if self.verdict != "not significant":
            effect = f"{'raises' if value > 0 else 'lowers'} {outcome} by {format(abs(value), form)} {unit}"
            return f"{self.question} {effect} ({tested})"
        change = "improvement" if self.question == BEST_SINGLE else "difference"
        remark = "; the interval is not corrected for the number of tests" if low > 0 or high < 0 else ""
        return (
            f"{self.question}: no significant {change} in {outcome} "
            f"({format(value, '+' + form)} {unit}, {tested}{remark})"
        )


def planned_tests(run: Run, labels: Labels, resamples: GroupResamples) -> tuple[PlannedTest, ...]:
    """The planned tests of a run; `labels` are class indices [N], the groups of `resamples` the units."""
    rows = [
        (comparison, outcome, *_test_outcome(comparison, outcome, labels, run.fold_count, resamples))
        for comparison in list_comparisons(run)
        for outcome in OUTCOMES
    ]
    corrected = holm(np.array([difference.p_value for *_, difference in rows])).tolist()
    tests = []
    for (comparison, outcome, against, repeats, difference), p_holm in zip(rows, corrected, strict=True):
        verdict: Verdict = "better" if SIGNS[outcome] * difference.mean > 0 else "worse"
        tests.append(
            PlannedTest(
                comparison.question,
                outcome,
                comparison.result.name,
                against,
                repeats,
                difference.mean,
                difference.interval,
                difference.p_value,
                p_holm,
                verdict if p_holm < LEVEL else "not significant",
            )
        )
    return tuple(tests)


def list_comparisons(run: Run) -> Iterator[PlannedComparison]:
    """The planned comparisons whose results a run has; all sources are those of its largest fusion."""
    results = index_results(run)
    everything = max((one.sources for one in run.results), key=len)
    if len(everything) < 2:
        return
    audio, video = _split_by_modality(run, everything)
    wanted: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    if audio and video:
        both = tuple(sorted((*audio, *video)))
        wanted += [(VIDEO_TO_AUDIO, both, [audio]), (AUDIO_TO_VIDEO, both, [video])]
    if not (audio and video and len(everything) == 2):  # else the first two questions answer this one
        wanted.append((BEST_SINGLE, everything, [(source,) for source in everything]))
    wanted.append((TRAINED_HEAD, everything, []))
    for question, sources, others in wanted:
        for head in PLANNED_HEADS:
            baselines = [(names, *head) for names in others] or [(sources, *MEAN_HEAD)]
            if results.keys() >= {(sources, *head), *baselines}:
                tested = results[(sources, *head)]
                yield PlannedComparison(question, tested, tuple(results[key] for key in baselines))
                break


def index_results(run: Run) -> dict[tuple[tuple[str, ...], str, str], Result]:
    """Results by sources, head without its settings, and level; of several settings those listed first."""
    return {(one.sources, plain_head(one.head), one.level): one for one in reversed(run.results)}


def plain_head(head: str) -> str:
    """The name of a head without its settings."""
    return head.partition(":")[0]


def _split_by_modality(run: Run, sources: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The audio sources and the video sources; those of unknown modality are in neither."""
    modalities = dict(run.modalities)
    audio, video = (
        tuple(source for source in sources if modalities.get(source) == modality)
        for modality in MODALITY_NAMES
    )
    return audio, video


def score_modalities(run: Run, labels: Labels, resamples: GroupResamples) -> tuple[ModalityScore, ...]:
    """Accuracy of all audio sources, of all video sources, and of both, under one head and level.

    The head and level are the first of `PLANNED_HEADS` that has all three; empty if none has.
    """
    results = index_results(run)
    audio, video = _split_by_modality(run, max((one.sources for one in run.results), key=len))
    names = {"audio": audio, "video": video, BOTH: tuple(sorted((*audio, *video)))}
    for head in PLANNED_HEADS:
        keys = {modality: (sources, *head) for modality, sources in names.items()}
        if not (audio and video and results.keys() >= set(keys.values())):
            continue
        right = {
            modality: clip_values(labels, results[key], "accuracy").mean(axis=0)
            for modality, key in keys.items()
        }
        plans = (run.folds, *run.repeat_folds)
        majority = np.mean([majority_is_correct(labels, np.asarray(folds)) for folds in plans], axis=0)
        subsets = {frozenset((name,)): right[name] for name in ("audio", "video")}
        subsets |= {frozenset(("audio", "video")): right[BOTH], frozenset(): majority}
        values = {row.source: row for row in subset_importance(subsets, resamples, *head)}
        accuracies = mean_intervals(np.stack(list(right.values()), axis=1), resamples, PROPORTION)
        if run.repeat_folds:  # as everywhere in the report
            repeated = (
                repeated_score(labels, results[key].over_plans, np.array(plans)) for key in keys.values()
            )
            accuracies = [(score.accuracy, score.ci95) for score in repeated]
        return tuple(
            ModalityScore(
                modality,
                results[key].name,
                *accuracy,
                *((row.shapley, row.shapley_ci95) if (row := values.get(modality)) else (None, None)),
            )
            for (modality, key), accuracy in zip(keys.items(), accuracies, strict=True)
        )
    return ()


def _test_outcome(
    comparison: PlannedComparison, outcome: Outcome, labels: Labels, folds: int, resamples: GroupResamples
) -> tuple[str, int, MeanDifference]:
    """The baseline that is tested, the number of fold plans, and the difference from that baseline.

    Of several baselines it is the best. To be better than the best is to be better than each, so the largest
    p-value counts (Berger 1982, Technometrics 24:295), and a result that is not better is not tested.
    """
    result, *others = (
        clip_values(labels, one, outcome) for one in (comparison.result, *comparison.baselines)
    )
    scale = DIFFERENCE if outcome == "accuracy" else LOSS_DIFFERENCE
    tests = [corrected_t_test((result - other).mean(axis=0), folds, resamples, scale) for other in others]
    sign = SIGNS[outcome]
    best = min(range(len(tests)), key=lambda index: sign * tests[index].mean)
    difference = tests[best]
    if len(tests) > 1:
        largest = max(test.p_value for test in tests)
        difference = difference._replace(p_value=largest if sign * difference.mean > 0 else 1.0)
    return comparison.baselines[best].name, len(result), difference


def clip_values(labels: Labels, result: Result, outcome: Outcome) -> Floats:
    """Whether a result is correct on each clip, or its log loss, under each of R fold plans, [R, N]."""
    measure = is_correct if outcome == "accuracy" else clip_losses
    return np.stack([measure(labels, probabilities) for probabilities in result.over_plans])


def training_correction(folds: int | None) -> float:
    """Factor of the variance over groups in cross-validation of so many folds; 1 for given predictions."""
    return 1.0 if folds is None else 1 / CORRECTION_PLANS + folds / (folds - 1)


def corrected_t_test(
    gains: Floats, folds: int | None, resamples: GroupResamples, scale: Scale
) -> MeanDifference:
    """Test whether the mean of the gains of clips [N] in cross-validation of so many folds is 0.

    Without `folds`, predictions are taken as given. `scale` is the range of a gain. Where all clips have the
    same gain, the p-value is that of a sign test.
    """
    from scipy.special import stdtr

    mean, groups = float(gains.mean()), resamples.effective
    if groups < MIN_GROUPS:
        return MeanDifference(mean, UNDEFINED, 1.0)
    squares = float((resamples.group_sums(gains - mean) ** 2).sum())
    error = float(np.sqrt(training_correction(folds) * squares * groups / (groups - 1))) / len(gains)
    if error > _SMALLEST_ERROR:
        p_value = float(2 * stdtr(groups - 1, -abs(mean) / error))
    else:
        p_value = 2 * 0.5**groups if abs(mean) > _SMALLEST_ERROR else 1.0
    return MeanDifference(mean, t_interval(mean, error, groups, scale), p_value)


def holm(p_values: Floats) -> Floats:
    """P-values [P] corrected for their number (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    raised = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(raised, 1.0)
    return corrected


def format_p(value: float) -> str:
    """A p-value with two significant digits, such as ``"p = 0.048"``, never 0."""
    if value < MIN_P:
        return f"p < {MIN_P}"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
