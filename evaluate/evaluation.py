"""The evaluation of a run: its results scored and compared. `evaluate.report` presents it."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from moodfuse.cache.audits import Audit
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import DEFAULTS, LEAKY, LEAKY_MARK, Run
from moodfuse.evaluate.intervals import (
    DRAWS,
    counted_groups,
    draw_groups,
    effective_groups,
    few_groups_warning,
)
from moodfuse.evaluate.paired import Inflation, Pair, PairedTest, measure_inflation, paired_tests
from moodfuse.evaluate.results import ResultScore, run_labels, score_results
from moodfuse.evaluate.scoring import check_draws
from moodfuse.evaluate.selection import Headline, corrected_best
from moodfuse.evaluate.shapley import MEAN_HEAD, SourceImportance, source_importance

TEST = "test"
"""Protocol of a run whose clips are a test set that one model predicted."""
Tick = Callable[[str], None]


@dataclass(frozen=True)
class PairedGroup:
    """Paired tests against one kind of baseline by verdict, the largest difference first."""

    against: str
    better: tuple[PairedTest, ...]
    worse: tuple[PairedTest, ...]
    undecided: tuple[PairedTest, ...]

    @property
    def summary(self) -> str:
        """Number of results of each verdict."""
        total = len(self.better) + len(self.worse) + len(self.undecided)
        return (
            f"{total} {'result' if total == 1 else 'results'} against {self.against}: {len(self.better)} significantly "
            f"better, {len(self.worse)} worse, {len(self.undecided)} without a significant difference."
        )


@dataclass(frozen=True)
class ImportanceGroup:
    """Importance of the sources under one head and level, the largest Shapley value first."""

    head: str
    level: str
    rows: tuple[SourceImportance, ...]

    @cached_property
    def reach(self) -> float:
        """Largest distance from zero of any value or interval, at least 0.1: the scale of a chart."""
        values = [(row.shapley, row.drop) for row in self.rows]
        ends = [end for row in self.rows for end in (row.shapley_ci95, row.drop_ci95)]
        values += [(end.low, end.high) for end in ends]
        return max([0.1, *(abs(value) for pair in values for value in pair if not math.isnan(value))])


@dataclass(frozen=True)
class Evaluation:
    """A scored run; `scored` is in the order of `run.results`, `draws` and `seed` are of the bootstrap.

    `headline` is `None` for a run of one result, `inflation` unless a leaky run was given; `audit` is set by the
    caller.
    """

    run: Run
    scored: tuple[ResultScore, ...]
    draws: int
    seed: int
    headline: Headline | None = None
    paired: tuple[PairedTest, ...] = ()
    importance: tuple[SourceImportance, ...] = ()
    inflation: Inflation | None = None
    audit: Audit | None = None

    @cached_property
    def ranked(self) -> tuple[ResultScore, ...]:
        """All results, the best first: by accuracy, ties by log loss, then by name."""
        return tuple(sorted(self.scored, key=lambda item: item.rank))

    @property
    def best(self) -> ResultScore:
        """The best result, which may be a network's own."""
        return self.ranked[0]

    @cached_property
    def networks(self) -> tuple[ResultScore, ...]:
        """Networks' own results, the best first."""
        return tuple(item for item in self.ranked if item.is_network)

    @cached_property
    def fusions(self) -> tuple[ResultScore, ...]:
        """Heads on several sources, the best first."""
        return tuple(item for item in self.ranked if item.is_fusion)

    @cached_property
    def single_heads(self) -> tuple[ResultScore, ...]:
        """Heads on one source, the best first."""
        return tuple(item for item in self.ranked if not (item.is_network or item.is_fusion))

    @property
    def sections(self) -> tuple[tuple[ResultScore, ...], ...]:
        """The sections of a table: networks, heads on one source, fusions; none is empty."""
        return tuple(part for part in (self.networks, self.single_heads, self.fusions) if part)

    @cached_property
    def majority(self) -> tuple[str, float]:
        """The most common label, and the accuracy of always predicting it."""
        label, count = min(Counter(self.run.labels).items(), key=lambda item: (-item[1], item[0]))
        return label, count / len(self.run.labels)

    @cached_property
    def group_count(self) -> int:
        """Number of groups."""
        return len(set(self.run.groups))

    @property
    def marker(self) -> str:
        """`LEAKY_MARK` for a leaky run, shown with all of its numbers; else empty."""
        return LEAKY_MARK if self.run.protocol == LEAKY else ""

    @cached_property
    def paired_groups(self) -> tuple[PairedGroup, ...]:
        """Paired tests by baseline, in the order in which the baselines first occur."""
        groups = []
        for baseline in dict.fromkeys(test.baseline for test in self.paired):
            tests = [test for test in self.paired if test.baseline == baseline]
            tests.sort(key=lambda test: (-abs(test.difference), test.result))
            names = {test.against for test in tests}
            against = (
                f"the {baseline} ({names.pop()})"
                if len(names) == 1
                else f"the {baseline} head on the same sources (for one source, its network)"
            )
            better, worse, undecided = (
                tuple(test for test in tests if test.verdict == verdict)
                for verdict in ("better", "worse", "cannot tell")
            )
            groups.append(PairedGroup(against, better, worse, undecided))
        return tuple(groups)

    @cached_property
    def importance_groups(self) -> tuple[ImportanceGroup, ...]:
        """Importance of the sources by head and level: first the best result's, then the mean head's, then others."""
        keys = list(dict.fromkeys((row.head, row.level) for row in self.importance))
        first = [(self.best.result.head, self.best.result.level), MEAN_HEAD]
        ordered = sorted(keys, key=lambda key: first.index(key) if key in first else len(first))
        return tuple(
            ImportanceGroup(
                *key,
                tuple(
                    sorted(
                        (row for row in self.importance if (row.head, row.level) == key),
                        key=lambda row: (-row.shapley, row.source),
                    )
                ),
            )
            for key in ordered
        )

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Limitations of the numbers, the most serious first."""
        effective = effective_groups(self.run.groups)
        uncalibrated = sum(not set(DEFAULTS).isdisjoint(item.result.notes) for item in self.scored)
        notes = [
            "LEAKY: the models were trained on the test clips; these scores are inflated on purpose"
            if self.marker
            else None,
            *self.run.notes,
            few_groups_warning(self.group_count, effective),
            f"{uncalibrated} of {len(self.scored)} results are uncalibrated: they use default settings"
            if uncalibrated
            else None,
            self._selection_note(),
            "the best single source was selected on these same clips, which makes the tests against it conservative"
            if any(test.baseline == "best single source" for test in self.paired)
            else None,
            f"95 % t intervals over {counted_groups(self.group_count, effective)} from {self.draws} bootstrap draws "
            f"(seed {self.seed}); they cover the choice of clips, not another training",
        ]
        return tuple(dict.fromkeys(note for note in notes if note))

    def _selection_note(self) -> str | None:
        headline = self.headline
        if headline is None or math.isnan(headline.corrected):
            return None
        return (
            f"the best of {headline.candidates} results has an accuracy of {headline.accuracy:.3f}; corrected for the "
            f"selection it is {headline.corrected:.3f} {headline.corrected_ci95.shown()}"
        )


def evaluate_run(
    run: Run, *, draws: int = DRAWS, seed: int = 0, tick: Tick | None = None, leaky: Run | None = None
) -> Evaluation:
    """Score every result of a run, and compare them.

    Parameters
    ----------
    run : Run
    draws, seed : int
        Of the bootstrap; all results share the draws.
    tick : callable of str, optional
        Called with the name of each finished step.
    leaky : Run, optional
        The same under the leaky protocol, to measure its inflation.

    Raises
    ------
    InputError
        If the run has no result, a result cannot be scored, or `leaky` is of other clips.
    """
    if not run.results:
        raise InputError(f"run {run.name} holds no result; run fuse again under another --run name")
    check_draws(draws)
    report = tick or (lambda name: None)
    inflation = measure_inflation(run, leaky, draws=draws, seed=seed) if leaky is not None else None
    drawn = draw_groups(run.groups, draws=draws, seed=seed)
    scored = []
    for item in score_results(run, drawn, seed=seed):
        scored.append(item)
        report(item.result.name)
    labels = run_labels(run)
    table = {result.name: result.probabilities for result in run.results}
    headline = corrected_best(labels, table, drawn) if len(table) > 1 else None
    report("selection of the best")
    paired = paired_tests(labels, table, drawn, pairs=baseline_pairs(scored))
    report("paired tests")
    by_key = {(result.sources, result.head, result.level): result.probabilities for result in run.results}
    importance = source_importance(labels, by_key, drawn)
    report("importance of the sources")
    return Evaluation(run, tuple(scored), draws, seed, headline, paired, importance, inflation)


def baseline_pairs(scored: Sequence[ResultScore]) -> list[Pair]:
    """Pairs to test: each fusion against the best result on one source, each head against the mean of its sources.

    The best result on one source may be a network's or a head's. The mean of one source is its network's own result.
    """
    single = [item for item in scored if not item.is_fusion]
    pairs: list[Pair] = []
    if single:
        best = min(single, key=lambda item: item.rank).result.name
        pairs += [(item.result.name, best, "best single source") for item in scored if item.is_fusion]
    means = {
        item.result.sources: item.result.name
        for item in scored
        if item.is_network or (item.is_fusion and (item.result.head, item.result.level) == MEAN_HEAD)
    }
    for item in scored:
        mean = means.get(item.result.sources, item.result.name)
        if mean != item.result.name:
            pairs.append((item.result.name, mean, "mean"))
    return pairs
