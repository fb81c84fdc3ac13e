"""A scored run: what stage three finds out about it. `moodfuse.evaluate.report.writing` writes it down."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moodfuse.cache.audits import Audit
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import DEFAULTS, LEAKY, LEAKY_MARK, Run
from moodfuse.evaluate.inflation import inflation
from moodfuse.evaluate.intervals import few_groups_warning
from moodfuse.evaluate.paired import Pair, paired_tests
from moodfuse.evaluate.records import (
    Baseline,
    Headline,
    Inflation,
    PairedTest,
    SourceWorth,
)
from moodfuse.evaluate.resampling import DRAWS, counted_groups, draw_groups, effective_groups
from moodfuse.evaluate.results import ResultScore, run_labels, score_results
from moodfuse.evaluate.selection import corrected_best
from moodfuse.evaluate.shapley import MEAN_WAY, source_worths

TEST = "test"
"""Protocol of a run whose clips were kept apart: one model predicted them all."""
BEST_SOURCE: Baseline = "best single source"
MEAN: Baseline = "mean"
Tick = Callable[[str], None]


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
        Every fusion against the best single source, and every head against the mean head on its sources.
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
        """Heads on several sources, better ones first."""
        return tuple(sorted((item for item in self.scored if item.is_fusion), key=lambda item: item.rank))

    @property
    def single_heads(self) -> tuple[ResultScore, ...]:
        """Heads on one source, better ones first."""
        single = (item for item in self.scored if not (item.is_network or item.is_fusion))
        return tuple(sorted(single, key=lambda item: item.rank))

    @property
    def sections(self) -> tuple[tuple[ResultScore, ...], ...]:
        """The rows of a table in parts: networks, heads on one source, fusions; none is empty."""
        return tuple(part for part in (self.networks, self.single_heads, self.fusions) if part)

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
            "LEAKY: the models saw the test clips; these scores are inflated on purpose"
            if self.marker
            else None,
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
        return (
            f"the best of {self.headline.candidates} results shows {self.headline.accuracy:.3f}, an optimistic pick; "
            f"corrected for the choice it is {self.headline.corrected:.3f} {self.headline.corrected_ci95.shown()}"
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
    for item in score_results(run, drawn, seed=seed):
        scored.append(item)
        said(item.result.name)
    labels = run_labels(run)
    table = {result.name: result.probabilities for result in run.results}
    headline = corrected_best(labels, table, drawn) if len(table) > 1 else None
    said("the choice of the best")
    paired = paired_tests(labels, table, drawn, pairs=baseline_pairs(scored))
    said("paired tests")
    rows = {(result.sources, result.head, result.level): result.probabilities for result in run.results}
    worth = source_worths(labels, rows, drawn)
    said("worth of the sources")
    return Evaluation(run, tuple(scored), draws, seed, headline, paired, worth, inflated)


def baseline_pairs(scored: Sequence[ResultScore]) -> list[Pair]:
    """What is tested against what: each fusion against the best result of one source, each head against the mean.

    The best result of one source, a network's or a head's, is that of the highest accuracy, equals told apart by log
    loss, then by name. The mean is that head on the same sources; on one source it is the network's own row.
    """
    single = [item for item in scored if not item.is_fusion]
    pairs: list[Pair] = []
    if single:
        best = min(single, key=lambda item: item.rank).result.name
        pairs += [(item.result.name, best, BEST_SOURCE) for item in scored if item.is_fusion]
    means = {
        item.result.sources: item.result.name
        for item in scored
        if item.is_network or (item.is_fusion and (item.result.head, item.result.level) == MEAN_WAY)
    }
    for item in scored:
        mean = means.get(item.result.sources, item.result.name)
        if mean != item.result.name:
            pairs.append((item.result.name, mean, MEAN))
    return pairs
