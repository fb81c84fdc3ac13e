"""What an evaluation says in words: its headline, what that means, and what these clips cannot tell. Pure.

The page and the paper outputs say the same sentences.
"""

import math
from dataclasses import dataclass

from moodfuse.cache.runs import Run
from moodfuse.evaluate.evaluation import TEST, Evaluation
from moodfuse.evaluate.records import UNKNOWN, Headline, Interval, PairedTest, SourceWorth

_SURE_PICK = 0.5
"""Below this share of draws the best result has no majority."""


@dataclass(frozen=True)
class Words:
    """The headline.

    Attributes
    ----------
    claim : str
        One sentence with its interval.
    meaning, limits : tuple of str
        What it means, and what cannot be told.
    """

    claim: str
    meaning: tuple[str, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class PairedGroup:
    """Paired tests against one kind of baseline.

    Attributes
    ----------
    against : str
        The baseline in words.
    better, worse, undecided : tuple of PairedTest
        The largest difference first.
    """

    against: str
    better: tuple[PairedTest, ...]
    worse: tuple[PairedTest, ...]
    undecided: tuple[PairedTest, ...]

    @property
    def summary(self) -> str:
        """How many of each."""
        total = len(self.better) + len(self.worse) + len(self.undecided)
        return (
            f"Of {counted(total, 'result')} against {self.against}: {len(self.better)} found better, "
            f"{len(self.worse)} worse; for {len(self.undecided)} these clips cannot tell."
        )


@dataclass(frozen=True)
class WorthGroup:
    """What each source is worth under one head and level, the most first."""

    head: str
    level: str
    rows: tuple[SourceWorth, ...]

    @property
    def reach(self) -> float:
        """Largest distance from zero of any value or interval, at least 0.1: the scale of a drawing."""
        ends = [
            end
            for row in self.rows
            for end in (row.shapley, row.drop, *row.shapley_ci95.ends, *row.drop_ci95.ends)
            if not math.isnan(end)
        ]
        return max(0.1, *map(abs, ends)) if ends else 0.1


def percent(share: float, digits: int = 0) -> str:
    """A share as ``"54 %"``."""
    return UNKNOWN if math.isnan(share) else f"{100 * share:.{digits}f} %"


def between(interval: Interval) -> str:
    """An interval of a share as ``"41 to 67 %"``."""
    if not interval.known:
        return "not known"
    return f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"


def counted(count: int, noun: str) -> str:
    """``"1 clip"``, ``"2 clips"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def design_of(run: Run) -> str:
    """How the clips of a run came to be predicted by models that saw none of them: its folds, or a test set."""
    if run.protocol == TEST:
        return "a test set that the model never saw"
    return f"{run.fold_count} folds, protocol {run.protocol}"


def headline_words(evaluation: Evaluation) -> Words:
    """The headline of an evaluation, corrected for selection where that could be done."""
    best, headline = evaluation.best, evaluation.headline
    if headline is not None and not math.isnan(headline.corrected):
        share, ends = headline.corrected, headline.corrected_ci95
        who = f"Taking the best of {headline.candidates} results"
    else:
        share, ends, who = best.score.accuracy, best.score.accuracy_ci95, best.result.name
    of = "these clips, which its models have seen" if evaluation.marker else "new clips"
    claim = f"{who} is right for {percent(share)} of {of} (95 % interval {between(ends)})."
    if evaluation.marker:
        claim = f"{evaluation.marker}: {claim}"
    return Words(claim, tuple(_meaning(evaluation, ends)), tuple(_limits(evaluation)))


def _meaning(evaluation: Evaluation, ends: Interval) -> list[str]:
    label, majority = evaluation.majority
    classes = len(evaluation.run.classes)
    bar = max(majority, 1 / classes)
    said = [
        f"Always saying “{label}” is right for {percent(majority)} of these clips; guessing among "
        f"{classes} emotions, for {percent(1 / classes)}. {_against_bar(ends, bar)}"
    ]
    if evaluation.marker:
        said.append(
            "The models saw the test clips, on purpose: these numbers measure what a leak is worth, "
            "and promise nothing for a new clip."
        )
    if evaluation.headline is not None:
        said.append(_optimism(evaluation.headline))
    return said


def _against_bar(ends: Interval, bar: float) -> str:
    if not ends.known:
        return "Without an interval it cannot be told whether this is more."
    if ends.low > bar:
        return "The whole interval lies above both."
    if ends.high < bar:
        return "The whole interval lies below that: worse than saying the commonest label."
    return f"The interval holds {percent(bar)}: these clips cannot tell whether this is more."


def _optimism(headline: Headline) -> str:
    best = (
        f"On these very clips the best is {headline.result}, right for {percent(headline.accuracy)} "
        f"({between(headline.accuracy_ci95)})"
    )
    if math.isnan(headline.corrected):
        return f"{best}; it was picked because it came out best, and these are too few clips to correct for that."
    return (
        f"{best}. It was picked because it came out best, which flatters it; the number in the headline is "
        f"corrected for that: each bootstrap draw picks its own best, which is scored on clips not drawn."
    )


def _limits(evaluation: Evaluation) -> list[str]:
    said = []
    headline = evaluation.headline
    if headline is not None and headline.picks:
        picks = ", ".join(f"{name} in {percent(share)}" for name, share in headline.picks[:3])
        sure = headline.picks[0][1] >= _SURE_PICK
        end = "" if sure else f": these clips cannot tell which of the {headline.candidates} is best"
        said.append(f"Which result is best: the draws pick {picks}{end}.")
    said += [group.summary for group in paired_groups(evaluation)]
    if not evaluation.marker:
        said.append(
            "The interval answers for other clips like these, not for other music or another training."
        )
    return said


def paired_groups(evaluation: Evaluation) -> tuple[PairedGroup, ...]:
    """Paired tests by baseline, in the order in which the baselines first come."""
    groups = []
    for baseline in dict.fromkeys(test.baseline for test in evaluation.paired):
        tests = sorted(
            (test for test in evaluation.paired if test.baseline == baseline),
            key=lambda test: (-abs(test.difference), test.result),
        )
        names = {test.against for test in tests}
        words = (
            f"the {baseline} ({names.pop()})"
            if len(names) == 1
            else f"the {baseline} head on the same sources (of one source: its network)"
        )
        by_verdict = {
            verdict: tuple(test for test in tests if test.verdict == verdict)
            for verdict in ("better", "worse", "cannot tell")
        }
        groups.append(
            PairedGroup(words, by_verdict["better"], by_verdict["worse"], by_verdict["cannot tell"])
        )
    return tuple(groups)


def worth_groups(evaluation: Evaluation) -> tuple[WorthGroup, ...]:
    """Worth of the sources by head and level: those of the best result first, then the mean head's, then the others."""
    best = evaluation.best.result
    ways = dict.fromkeys((row.head, row.level) for row in evaluation.worth)
    first = [(best.head, best.level), ("mean", "logits")]
    ordered = [way for way in dict.fromkeys(first) if way in ways] + [way for way in ways if way not in first]
    return tuple(
        WorthGroup(
            head,
            level,
            tuple(
                sorted(
                    (row for row in evaluation.worth if (row.head, row.level) == (head, level)),
                    key=lambda row: (-row.shapley, row.source),
                )
            ),
        )
        for head, level in ordered
    )


def repeat_commands(evaluation: Evaluation) -> tuple[str, ...]:
    """The commands that make the run and this report again; those that made the run are missing in older runs."""
    run = evaluation.run
    beside = " --inflation" if evaluation.inflation is not None else ""
    again = (
        f"moodfuse evaluate --cache DIR --run {run.name} --draws {evaluation.draws} --seed {evaluation.seed}"
    )
    return (*run.commands, again + beside)
