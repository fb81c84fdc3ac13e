"""The evaluation of a run: its results scored and compared. `evaluate.report` presents it."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from moodfuse.cache.audits import Audit
from moodfuse.cache.errors import InputError
from moodfuse.cache.name_series import describe_series_for_report, find_name_series
from moodfuse.cache.runs import DEFAULTS, LEAKY, LEAKY_MARK, NETWORK, Result, Run
from moodfuse.evaluate import metrics
from moodfuse.evaluate.intervals import (
    DRAWS,
    GroupResamples,
    Interval,
    effective_groups,
    format_group_count,
    resample_groups,
)
from moodfuse.evaluate.metrics import Floats, Labels, ReliabilityBin
from moodfuse.evaluate.paired import (
    MEAN_HEAD,
    Inflation,
    PairedDifference,
    SourceImportance,
    baseline_pairs,
    measure_inflation,
    paired_differences,
    source_importance,
)
from moodfuse.evaluate.planned import ModalityScore, PlannedTest, planned_tests, score_modalities
from moodfuse.evaluate.scoring import RepeatedScore, Score, repeated_score, score_resamples
from moodfuse.evaluate.selection import BestEstimate, Rank, estimate_best, rank_result

TEST = "test"
"""Protocol of a run whose clips are a test set that one model predicted."""


@dataclass(frozen=True)
class FoldScore:
    """Metrics on the clips of one fold; `auc` is NaN where it is not defined."""

    fold: int
    clips: int
    accuracy: float
    macro_f1: float
    auc: float


@dataclass(frozen=True)
class ClassScore:
    """Metrics of one class against the rest; a metric is NaN where it is not defined.

    `mean_probability` is that of the class over all clips; of calibrated probabilities it is near
    `frequency`, the fraction of clips of the class.
    """

    label: str
    clips: int
    frequency: float
    mean_probability: float
    precision: float
    recall: float
    f1: float
    auc: float


@dataclass(frozen=True)
class Calibration:
    """Calibration of a result's probabilities before and after temperature scaling.

    `ece_if_perfect` and `ece_if_perfect_high` are the mean and 95th percentile of the calibration error that
    a perfectly calibrated model with the same (scaled) probabilities would show on as many clips;
    `confidence` is the mean of each clip's largest probability after scaling, which for a calibrated model is
    near its accuracy.
    """

    temperatures: tuple[float, ...]
    log_loss_before: float
    log_loss_after: float
    ece_before: float
    ece_after: float
    ece_if_perfect: float
    ece_if_perfect_high: float
    confidence: float
    bins_before: tuple[ReliabilityBin, ...]
    bins_after: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class ResultScore:
    """A result with its scores over all clips, by fold and by class.

    `rank` is its sort key, the best first. `complete` is the score over the clips with all modalities; `None`
    if every clip has them. `series_accuracy` is the accuracy with each series of numbered file names in one
    fold; `None` if there is no series, or the run has no such predictions.
    """

    result: Result
    rank: Rank
    score: Score
    per_fold: tuple[FoldScore, ...]
    per_class: tuple[ClassScore, ...]
    calibration: Calibration | None = None
    repeated: RepeatedScore | None = None
    complete: Score | None = None
    series_accuracy: float | None = None

    @property
    def is_network(self) -> bool:
        """Whether this is one network's own softmax."""
        return self.result.head == NETWORK

    @property
    def is_fusion(self) -> bool:
        """Whether a head reads several sources."""
        return len(self.result.sources) > 1

    @property
    def mean_accuracy(self) -> tuple[float, Interval]:
        """Accuracy over all fold plans of the run, with its interval."""
        if self.repeated is not None and self.repeated.repeats > 1:
            return self.repeated.accuracy, self.repeated.ci95
        return self.score.accuracy, self.score.accuracy_ci95


@dataclass(frozen=True)
class Evaluation:
    """A scored run; `scored` is in the order of `run.results`, `draws` and `seed` belong to the bootstrap.

    `planned` are the tests of a few questions, `paired` the exploratory differences of all other pairs.
    `table_rows` and `figure_rows` are the results in tables and in the ablation figure, the best first; all,
    unless `choose_rows` has chosen some.
    """

    run: Run
    scored: tuple[ResultScore, ...]
    draws: int
    seed: int
    headline: BestEstimate | None = None
    planned: tuple[PlannedTest, ...] = ()
    paired: tuple[PairedDifference, ...] = ()
    importance: tuple[SourceImportance, ...] = ()
    inflation: Inflation | None = None
    audit: Audit | None = None
    modalities: tuple[ModalityScore, ...] = ()
    table_rows: tuple[ResultScore, ...] = ()
    figure_rows: tuple[ResultScore, ...] = ()

    @cached_property
    def ranked(self) -> tuple[ResultScore, ...]:
        """All results, the best first: by log loss over all fold plans, see `rank_result`."""
        return tuple(sorted(self.scored, key=lambda scored: scored.rank))

    @property
    def best(self) -> ResultScore:
        """The best result, which may be a network's own."""
        return self.ranked[0]

    @cached_property
    def majority(self) -> tuple[str, float]:
        """The most common label, and the accuracy of always predicting it."""
        label, count = min(Counter(self.run.labels).items(), key=lambda pair: (-pair[1], pair[0]))
        return label, count / len(self.run.labels)

    @property
    def group_count(self) -> int:
        """Number of groups."""
        return len(set(self.run.groups))

    @property
    def marker(self) -> str:
        """`LEAKY_MARK` for a leaky run, shown with all of its numbers; else empty."""
        return LEAKY_MARK if self.run.protocol == LEAKY else ""

    def marked_notes(self, scored: ResultScore) -> list[str]:
        """Notes of a result, after the mark for a leaky run."""
        return list(dict.fromkeys(filter(None, (self.marker, *scored.result.notes))))

    @property
    def importance_by_head(self) -> list[list[SourceImportance]]:
        """Importance of the sources by head and level: the best result's, the mean head's, then others."""
        groups: dict[tuple[str, str], list[SourceImportance]] = {}
        for row in self.importance:
            groups.setdefault((row.head, row.level), []).append(row)
        first = [(self.best.result.head, self.best.result.level), MEAN_HEAD]
        ordered = sorted(groups, key=lambda key: first.index(key) if key in first else len(first))
        return [sorted(groups[key], key=lambda row: (-row.shapley, row.source)) for key in ordered]

    @property
    def notes(self) -> list[str]:
        """Limitations of the numbers, the most serious first."""
        effective = effective_groups(self.run.groups)
        uncalibrated = sum(not set(DEFAULTS).isdisjoint(scored.result.notes) for scored in self.scored)
        leaky = "LEAKY: the models were trained on the test clips; these scores are inflated on purpose"
        defaults = f"{uncalibrated} of {len(self.scored)} results are uncalibrated: they use default settings"
        older = (
            "an older version made this run with balanced class weights, so the mean probability of a class "
            "may be far from its frequency; run fuse again"
        )
        notes = [
            leaky if self.marker else None,
            None if self.run.class_weight or self.run.protocol == TEST else older,
            *self.run.notes,
            None if self.run.protocol == TEST else self._series_note,
            *self.interval_notes,
            defaults if uncalibrated else None,
            self.selection_note,
            "the best single source was selected on these same clips, so the exploratory differences of "
            "fusions from it are too low"
            if any(pair.baseline == "best single source" for pair in self.paired)
            else None,
            f"95 % t intervals over {format_group_count(self.group_count, effective)} from {self.draws} "
            f"bootstrap draws (seed {self.seed}); they reflect the sampling of clips, "
            "not the variation between trainings",
            "95 % intervals of accuracies over several fold plans are corrected resampled t intervals"
            if self.run.repeat_folds
            else None,
        ]
        return list(dict.fromkeys(note for note in notes if note))

    @property
    def _series_note(self) -> str | None:
        """A warning about series of file names, with the accuracy of the best result without them."""
        held_out = self.best.series_accuracy
        accuracies = None if held_out is None else (self.best.mean_accuracy[0], held_out)
        series = find_name_series(self.run.ids, self.run.labels, self.run.groups)
        return describe_series_for_report(series, accuracies, 1 + max(self.run.series_folds, default=0))

    @property
    def interval_notes(self) -> list[str]:
        """Warnings about the intervals, with the number of results that each is about."""
        counts = Counter(note for scored in self.scored for note in scored.score.notes)
        return [
            note if count == len(self.scored) else f"{count} of {len(self.scored)} results: {note}"
            for note, count in counts.items()
        ]

    @property
    def selection_note(self) -> str | None:
        """The accuracy of the best result before and after the correction; the summary has both already."""
        headline = self.headline
        if headline is None or math.isnan(headline.corrected):
            return None
        return (
            f"the best of {headline.candidates} results has an accuracy of {headline.accuracy:.3f}; "
            f"corrected for the selection it is {headline.corrected:.3f} {headline.corrected_ci95.shown()}"
        )


def evaluate_run(run: Run, *, draws: int = DRAWS, seed: int = 0, leaky: Run | None = None) -> Evaluation:
    """Score every result of a run, and compare them; all results share the resamples.

    `leaky` is the same run under the leaky protocol, to measure its inflation. Raises `InputError` if the run
    has no result, or `leaky` is of other clips.
    """
    if not run.results:
        raise InputError(f"run {run.name} holds no result; run fuse again under another --run name")
    inflation = measure_inflation(run, leaky, draws=draws, seed=seed) if leaky is not None else None
    resamples = resample_groups(run.groups, draws=draws, seed=seed)
    scored = tuple(score_results(run, resamples, seed=seed))
    labels = run_labels(run)
    table = {result.name: result.probabilities for result in run.results}
    headline = estimate_best(labels, run.results, resamples) if len(run.results) > 1 else None
    planned = planned_tests(run, labels, resamples)
    single = min((one for one in scored if not one.is_fusion), key=lambda one: one.rank, default=None)
    pairs = baseline_pairs(run.results, best_single=single.result.name if single else None)
    paired = paired_differences(labels, table, resamples, pairs=pairs)
    by_key = {(result.sources, result.head, result.level): result.probabilities for result in run.results}
    importance = source_importance(labels, np.asarray(run.folds), by_key, resamples)
    modalities = score_modalities(run, labels, resamples)
    evaluation = Evaluation(
        run, scored, draws, seed, headline, planned, paired, importance, inflation, modalities=modalities
    )
    return replace(evaluation, table_rows=evaluation.ranked, figure_rows=evaluation.ranked)


def run_labels(run: Run) -> Labels:
    """Class index of each clip of a run, int64 [N]."""
    return np.array([run.classes.index(label) for label in run.labels], dtype=np.int64)


def score_results(run: Run, resamples: GroupResamples, *, seed: int) -> Iterator[ResultScore]:
    """Score each result of a run, all with the same resamples; `seed` is of the other random numbers."""
    labels, folds = run_labels(run), np.asarray(run.folds)
    plans = np.array([run.folds, *run.repeat_folds])
    draws = len(resamples.counts)
    complete = np.array([not missing for missing in run.missing] or [True] * len(labels))
    complete_resamples = None
    if complete.any() and not complete.all():
        complete_resamples = resample_groups(np.array(run.groups)[complete], draws=draws, seed=seed)
    for result in run.results:
        values = result.probabilities
        yield ResultScore(
            result=result,
            rank=rank_result(labels, result),
            score=score_resamples(labels, values, resamples, classes=run.classes),
            per_fold=tuple(
                _fold_score(fold, labels[folds == fold], values[folds == fold])
                for fold in np.unique(folds).tolist()
            ),
            per_class=class_scores(labels, values, run.classes),
            calibration=calibration(labels, result, draws=draws, seed=seed),
            repeated=None if result.repeats is None else repeated_score(labels, result.over_plans, plans),
            complete=None
            if complete_resamples is None
            else score_resamples(labels[complete], values[complete], complete_resamples, classes=run.classes),
            series_accuracy=None
            if result.series is None
            else float(metrics.is_correct(labels, result.series).mean()),
        )


def _fold_score(fold: int, labels: Labels, probabilities: Floats) -> FoldScore:
    values = metrics.all_metrics(labels, probabilities)
    scores = {name: float(values[name]) for name in ("accuracy", "macro_f1", "auc")}
    return FoldScore(fold, len(labels), **scores)


def class_scores(labels: Labels, probabilities: Floats, classes: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Score each class against the rest.

    Precision is NaN where the class is never predicted, recall where it is never true, F1 where it is
    neither.
    """
    matrix = metrics.confusion_matrix(labels, probabilities).astype(np.float64)
    hits, true, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        columns = (hits / predicted, hits / true, 2 * hits / (true + predicted))
    means = (true / len(labels), probabilities.mean(axis=0))
    rows = zip(classes, true, *means, *columns, metrics.class_aucs(labels, probabilities), strict=True)
    return tuple(ClassScore(label, int(clips), *map(float, numbers)) for label, clips, *numbers in rows)


def calibration(labels: Labels, result: Result, *, draws: int = DRAWS, seed: int = 0) -> Calibration | None:
    """Calibration of a result; `draws` and `seed` are of the simulated labels.

    `None` where the run kept no probabilities from before temperature scaling.
    """
    before, after = result.unscaled, result.probabilities
    if before is None:
        return None
    perfect = metrics.ece_if_calibrated(after, draws=draws, seed=seed)
    scores_before, scores_after = metrics.all_metrics(labels, before), metrics.all_metrics(labels, after)
    return Calibration(
        temperatures=tuple(float(value) for value in result.temperatures),
        log_loss_before=float(scores_before["log_loss"]),
        log_loss_after=float(scores_after["log_loss"]),
        ece_before=float(scores_before["ece"]),
        ece_after=float(scores_after["ece"]),
        ece_if_perfect=float(perfect.mean()),
        ece_if_perfect_high=float(np.quantile(perfect, 0.95)),
        confidence=float(after.max(axis=1).mean()),
        bins_before=metrics.reliability_bins(labels, before),
        bins_after=metrics.reliability_bins(labels, after),
    )
