"""A scored run: what stage three finds out about it. `evaluate.report` writes it down."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cache.audits import Audit
from cache.errors import InputError
from cache.runs import Result, Run
from evaluate import metrics
from evaluate.records import (
    Calibration,
    ClassScore,
    FoldScore,
    Headline,
    Inflation,
    PairedTest,
    RepeatedScore,
    SourceWorth,
)
from evaluate.scoring import Score, check_labels, score
from evaluate.uncertainty import DRAWS, few_groups_warning

NETWORK = "network"
LEAKY = "leaky"
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
        What stage one found of clips that may be one.
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
        """``"LEAKY"`` for a run that measures a leak, to stand wherever its numbers do; else empty."""
        return "LEAKY" if self.run.protocol == LEAKY else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know, the most serious first."""
        uncalibrated = sum("uncalibrated" in item.result.notes for item in self.scored)
        found = [
            "LEAKY: the networks saw the test clips; these scores are inflated on purpose" if self.marker else None,
            *self.run.notes,
            few_groups_warning(self.group_count),
            f"{uncalibrated} of {len(self.scored)} results are uncalibrated: their settings stayed at the defaults"
            if uncalibrated
            else None,
            f"the best of {len(self.scored)} results is an optimistic pick; its score is not corrected for the choice"
            if len(self.scored) > 1
            else None,
            f"intervals: bootstrap percentiles over {self.group_count} groups, {self.draws} draws, seed {self.seed}",
        ]
        return tuple(dict.fromkeys(note for note in found if note))


def evaluate_run(run: Run, *, draws: int = DRAWS, seed: int = 0, tick: Tick | None = None) -> Evaluation:
    """Score every result of a run.

    Parameters
    ----------
    run : Run
    draws, seed : int
        Of the bootstrap; all results share the draws.
    tick : callable of str, optional
        Called with a result's name when it is scored.

    Raises
    ------
    InputError
        If the run has no result, or a result cannot be scored.
    """
    if not run.results:
        raise InputError(f"run {run.name} holds no result; run fuse again under another --run name")
    _, labels = check_labels(run.labels, run.classes, (len(run.ids), len(run.classes)))
    folds = np.asarray(run.folds)
    scored = []
    for result in run.results:
        try:
            total = score(labels, result.probabilities, run.groups, classes=run.classes, draws=draws, seed=seed)
        except InputError as error:
            raise InputError(f"run {run.name}, {result.name}: {error}") from error
        per_fold = [_fold_score(int(fold), labels, result.probabilities, folds == fold) for fold in np.unique(folds)]
        scored.append(ResultScore(result, total, tuple(per_fold)))
        if tick is not None:
            tick(result.name)
    return Evaluation(run, tuple(scored), draws, seed)


def _fold_score(fold: int, labels: np.ndarray, probabilities: np.ndarray, rows: np.ndarray) -> FoldScore:
    values = {name: float(metric(labels[rows], probabilities[rows])) for name, metric in METRICS_PER_FOLD.items()}
    return FoldScore(fold=fold, clips=int(rows.sum()), **values)
