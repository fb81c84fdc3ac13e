"""A scored run: what stage three finds out about it. `evaluate.report` writes it down."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cache.audits import Audit
from cache.errors import InputError
from cache.runs import DEFAULTS, LEAKY, LEAKY_MARK, NETWORK, Result, Run
from evaluate import metrics
from evaluate.calibration import calibration
from evaluate.groups import DRAWS, GroupDraws, counted_groups, draw_groups, effective_groups
from evaluate.inflation import inflation
from evaluate.inputs import check_labels, check_probabilities
from evaluate.metrics import Labels
from evaluate.paired import Pair, paired_tests
from evaluate.records import (
    Baseline,
    Calibration,
    ClassScore,
    FoldScore,
    Headline,
    Inflation,
    PairedTest,
    RepeatedScore,
    SourceWorth,
)
from evaluate.repeats import repeated_score
from evaluate.scoring import Score, class_scores, score_draws
from evaluate.selection import corrected_best
from evaluate.shapley import source_worths
from evaluate.uncertainty import few_groups_warning

MEAN_WAY = ("mean", "logits")
BEST_SOURCE: Baseline = "best single source"
MEAN: Baseline = "mean"
METRICS_PER_FOLD = {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1, "auc": metrics.auc}
Tick = Callable[[str], None]


@dataclass(frozen=True)
class ResultScore:
    """A result with its score over all clips and in each fold that has clips.

    Attributes
    ----------
    result : Result
    score : Score
    per_fold : tuple of FoldScore
    per_class : tuple of ClassScore
        In the order of the classes.
    calibration : Calibration or None
        `None` where the run kept no unscaled probabilities.
    repeated : RepeatedScore or None
        `None` where cross-validation was not repeated.
    complete : Score or None
        On the clips that lack no view; `None` where none lacks any.
    """

    result: Result
    score: Score
    per_fold: tuple[FoldScore, ...]
    per_class: tuple[ClassScore, ...] = ()
    calibration: Calibration | None = None
    repeated: RepeatedScore | None = None
    complete: Score | None = None

    @property
    def is_network(self) -> bool:
        """Whether this is one network's own softmax, not a fusion."""
        return self.result.head == NETWORK

    @property
    def rank(self) -> tuple[float, float, str]:
        """Sorts better results first: by accuracy, equals by log loss, then by name."""
        return -self.score.accuracy, self.score.log_loss, self.result.name


@dataclass(frozen=True)
class Evaluation:
    """A scored run.

    Attributes
    ----------
    run : Run
    scored : tuple of ResultScore
        In the order of `run.results`.
    draws, seed : int
        Of the bootstrap.
    headline : Headline or None
        The best result with its selection corrected.
    paired : tuple of PairedTest
        Every fusion against the best single source, and against the mean head on its sources.
    worth : tuple of SourceWorth
        For every head and level that the run has on every subset of its sources; empty where it has none.
    inflation : Inflation or None
        Beside a leaky run, if that was asked for.
    audit : Audit or None
        What stage one found of clips that may be one; whoever has it puts it there.
    """

    run: Run
    scored: tuple[ResultScore, ...]
    draws: int
    seed: int
    headline: Headline | None = None
    paired: tuple[PairedTest, ...] = ()
    worth: tuple[SourceWorth, ...] = ()
    inflation: Inflation | None = None
    audit: Audit | None = None

    @cached_property
    def best(self) -> ResultScore:
        """The result of the highest accuracy, equals told apart by log loss; networks take part."""
        return min(self.scored, key=lambda item: item.rank)

    @property
    def networks(self) -> tuple[ResultScore, ...]:
        """Networks' own rows, better ones first."""
        return tuple(sorted((item for item in self.scored if item.is_network), key=lambda item: item.rank))

    @property
    def fusions(self) -> tuple[ResultScore, ...]:
        """Every other row, better ones first."""
        return tuple(sorted((item for item in self.scored if not item.is_network), key=lambda item: item.rank))

    @property
    def majority(self) -> tuple[str, float]:
        """The commonest label, and the accuracy of always saying it."""
        label, count = min(Counter(self.run.labels).items(), key=lambda item: (-item[1], item[0]))
        return label, count / len(self.run.labels)

    @property
    def group_count(self) -> int:
        """Number of groups."""
        return len(set(self.run.groups))

    @property
    def marker(self) -> str:
        """`LEAKY_MARK` for a run that measures a leak, to stand wherever its numbers do; else empty."""
        return LEAKY_MARK if self.run.protocol == LEAKY else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know, the most serious first."""
        effective = effective_groups(self.run.groups)
        uncalibrated = sum(not set(DEFAULTS).isdisjoint(item.result.notes) for item in self.scored)
        found = [
            "LEAKY: the models saw the test clips; these scores are inflated on purpose" if self.marker else None,
            *self.run.notes,
            few_groups_warning(self.group_count, effective),
            f"{uncalibrated} of {len(self.scored)} results are uncalibrated: their settings stayed at the defaults"
            if uncalibrated
            else None,
            self._selection_note,
            "the best single source was chosen on these same clips, which favours it: a fusion is found better than it "
            "too seldom rather than too often"
            if any(test.baseline == BEST_SOURCE for test in self.paired)
            else None,
            f"intervals are 95 % t intervals over {counted_groups(self.group_count, effective)}; they come from "
            f"{self.draws} bootstrap draws, seed {self.seed}, and answer for other clips, not for other training",
        ]
        return tuple(dict.fromkeys(note for note in found if note))

    @property
    def _selection_note(self) -> str | None:
        """What the best result is worth once its choice is corrected for."""
        if self.headline is None or np.isnan(self.headline.corrected):
            return None
        ends = self.headline.corrected_ci95
        return (
            f"the best of {self.headline.candidates} results shows {self.headline.accuracy:.3f}, an optimistic pick; "
            f"corrected for the choice it is {self.headline.corrected:.3f} [{ends.low:.2f}, {ends.high:.2f}]"
        )


def evaluate_run(
    run: Run,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    tick: Tick | None = None,
    leaky: Run | None = None,
) -> Evaluation:
    """Score every result of a run, and compare them.

    Parameters
    ----------
    run : Run
    draws, seed : int
        Of the bootstrap; all results share the draws.
    tick : callable of str, optional
        Called with a result's name when it is scored, and with what is done after.
    leaky : Run, optional
        The same under the leaky protocol: what the leak is worth is reported.

    Raises
    ------
    InputError
        If the run has no result, a result cannot be scored, or `leaky` is of other clips.
    """
    if not run.results:
        raise InputError(f"run {run.name} holds no result; run fuse again under another --run name")
    if draws < 1:
        raise InputError(f"draws is {draws}; expected 1 or more, such as {DRAWS}")
    said = tick or (lambda name: None)
    inflated = inflation(run, leaky, draws=draws, seed=seed) if leaky is not None else None
    drawn = draw_groups(run.groups, draws=draws, seed=seed)
    scored = []
    for item in _score_results(run, drawn, seed):
        scored.append(item)
        said(item.result.name)
    labels = _labels(run)
    table = {result.name: result.probabilities for result in run.results}
    headline = corrected_best(labels, table, drawn) if len(table) > 1 else None
    said("the choice of the best")
    paired = paired_tests(labels, table, drawn, pairs=baseline_pairs(scored))
    said("paired tests")
    rows = {(result.sources, result.head, result.level): result.probabilities for result in run.results}
    worth = source_worths(labels, rows, drawn)
    said("worth of the sources")
    return Evaluation(run, tuple(scored), draws, seed, headline, paired, worth, inflated)


def _labels(run: Run) -> Labels:
    return check_labels(run.labels, run.classes, (len(run.ids), len(run.classes)))[1]


def _score_results(run: Run, drawn: GroupDraws, seed: int) -> Iterator[ResultScore]:
    """Each result's score, alone; the draws are shared."""
    labels, folds = _labels(run), np.asarray(run.folds)
    plans = np.array([run.folds, *run.repeat_folds])
    draws = len(drawn.counts)
    whole = np.array([not missing for missing in run.missing] or [True] * len(labels))
    # Where every clip lacks a view, none is left to score.
    some = None if whole.all() or not whole.any() else draw_groups(_kept(run.groups, whole), draws=draws, seed=seed)
    for result in run.results:
        try:
            values = check_probabilities(result.probabilities)
        except InputError as error:
            raise InputError(f"run {run.name}, {result.name}: {error}") from error
        yield ResultScore(
            result=result,
            score=score_draws(labels, values, drawn, classes=run.classes),
            per_fold=tuple(_fold_score(int(fold), labels, values, folds == fold) for fold in np.unique(folds)),
            per_class=class_scores(labels, values, run.classes),
            calibration=calibration(labels, result, draws=draws, seed=seed),
            repeated=None
            if result.repeats is None
            else repeated_score(labels, np.concatenate([values[None], result.repeats]), plans),
            complete=None if some is None else score_draws(labels[whole], values[whole], some, classes=run.classes),
        )


def _kept(names: tuple[str, ...], rows: np.ndarray) -> list[str]:
    return [name for name, keep in zip(names, rows, strict=True) if keep]


def baseline_pairs(scored: Sequence[ResultScore]) -> list[Pair]:
    """What is tested against what: each fusion against the best network row, and the mean of its sources' logits.

    The best network is that of the highest accuracy, equals told apart by log loss, then by name.
    """
    fusions = [item.result for item in scored if not item.is_network]
    networks = [item for item in scored if item.is_network]
    pairs: list[Pair] = []
    if networks:
        best = min(networks, key=lambda item: item.rank).result.name
        pairs += [(result.name, best, BEST_SOURCE) for result in fusions]
    means = {result.sources: result.name for result in fusions if (result.head, result.level) == MEAN_WAY}
    for result in fusions:
        if result.sources in means and result.name != means[result.sources]:
            pairs.append((result.name, means[result.sources], MEAN))
    return pairs


def _fold_score(fold: int, labels: Labels, probabilities: np.ndarray, rows: np.ndarray) -> FoldScore:
    values = {name: float(metric(labels[rows], probabilities[rows])) for name, metric in METRICS_PER_FOLD.items()}
    return FoldScore(fold=fold, clips=int(rows.sum()), **values)
