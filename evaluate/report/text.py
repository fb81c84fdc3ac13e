"""The report in words, as Markdown (`report.md`) and as a booktabs table (`table.tex`). Page and terminal share it."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from moodfuse.cache.runs import Run
from moodfuse.evaluate.evaluation import TEST, Evaluation
from moodfuse.evaluate.intervals import Interval
from moodfuse.evaluate.markup import number, percent, render
from moodfuse.evaluate.results import ResultScore

_CLEAR_PICK = 0.5
"""Below this fraction of the draws no result is selected by a majority."""
TEMPLATES = files("moodfuse.evaluate.report") / "templates"


@dataclass(frozen=True)
class Summary:
    """The main finding of an evaluation in one sentence, how to read it, and its limits."""

    claim: str
    context: tuple[str, ...]
    limits: tuple[str, ...]


def interval_text(interval: Interval) -> str:
    """An interval of a proportion as ``"95 % CI 41-67 %"``."""
    if not interval.known:
        return "no confidence interval"
    return f"95 % CI {100 * interval.low:.0f}-{100 * interval.high:.0f} %"


def design_of(run: Run) -> str:
    """How the clips of a run were predicted: by folds, or as a test set."""
    if run.protocol == TEST:
        return "a held-out test set"
    return f"{run.fold_count} folds, protocol {run.protocol}"


def summarize(evaluation: Evaluation) -> Summary:
    """The main finding of an evaluation, corrected for the selection where that is possible."""
    best, headline = evaluation.best, evaluation.headline
    value, ends = best.score.accuracy, best.score.accuracy_ci95
    claim = f"Accuracy of {best.result.name}: {percent(value)} ({interval_text(ends)})."
    if headline is not None and not math.isnan(headline.corrected):
        value, ends = headline.corrected, headline.corrected_ci95
        claim = (
            f"Estimated accuracy of the selected model: {percent(value)} ({interval_text(ends)}), corrected for "
            f"selecting the best of {headline.candidates} results."
        )
    if evaluation.marker:
        claim = f"{evaluation.marker}: {claim}"
    return Summary(claim, tuple(_context(evaluation, ends)), tuple(_limits(evaluation)))


def _context(evaluation: Evaluation, ends: Interval) -> Iterator[str]:
    label, majority = evaluation.majority
    chance = 1 / len(evaluation.run.classes)
    baseline = max(majority, chance)
    if not ends.known:
        verdict = "Without an interval, the accuracy cannot be compared with these baselines."
    elif ends.low > baseline:
        verdict = "The whole interval lies above both baselines."
    elif ends.high < baseline:
        verdict = "The whole interval lies below the better baseline."
    else:
        verdict = "The interval contains the better baseline: no significant difference."
    yield (
        f"Baselines: always predicting “{label}” is {percent(majority)} accurate, guessing {percent(chance)}. {verdict}"
    )
    if evaluation.marker:
        yield (
            "The models were trained on the test clips, on purpose: these numbers measure the inflation of a data leak "
            "and do not predict the accuracy on new clips."
        )
    headline = evaluation.headline
    if headline is not None:
        correction = (
            "there are too few clips to correct for that"
            if math.isnan(headline.corrected)
            else "the corrected estimate selects on each bootstrap draw and scores on the other clips"
        )
        yield (
            f"The best result on these clips is {headline.result} with an accuracy of {percent(headline.accuracy)} "
            f"({interval_text(headline.accuracy_ci95)}). It was selected on the same clips, so this is optimistic; "
            f"{correction}."
        )


def _limits(evaluation: Evaluation) -> Iterator[str]:
    headline = evaluation.headline
    if headline is not None and headline.picks:
        picks = ", ".join(f"{name} in {percent(share)}" for name, share in headline.picks[:3])
        clear = headline.picks[0][1] >= _CLEAR_PICK
        yield f"Best result across bootstrap draws: {picks}{'' if clear else '; no clear winner'}."
    for group in evaluation.paired_groups:
        yield group.summary
    if not evaluation.marker:
        yield "The intervals cover the choice of clips, not other kinds of music or another training."


def repeat_commands(evaluation: Evaluation) -> tuple[str, ...]:
    """The commands that make the run (not kept in older runs) and this report again."""
    run = evaluation.run
    command = (
        f"moodfuse evaluate --cache DIR --run {run.name} --draws {evaluation.draws} --seed {evaluation.seed}"
    )
    return (*run.commands, command + (" --inflation" if evaluation.inflation is not None else ""))


def result_cells(item: ResultScore) -> tuple[str, ...]:
    """The cells of a result, sources, head, level, accuracy, macro F1, AUC, log loss, ECE; accuracy and macro F1 in %."""
    total, result = item.score, item.result
    return (
        "+".join(result.sources),
        result.head,
        result.level,
        f"{number(100 * total.accuracy, 1)} {total.accuracy_ci95.shown('.0f', scale=100)}",
        number(100 * total.macro_f1, 1),
        *(number(value, 3) for value in (total.auc, total.log_loss, total.ece)),
    )


def markdown_report(evaluation: Evaluation) -> str:
    """Content of `report.md`."""
    rows = [(*result_cells(item), "; ".join(item.result.notes)) for item in evaluation.ranked]
    return _fill("report.md.j2", evaluation, rows=rows, commands=repeat_commands(evaluation))


def latex_table(evaluation: Evaluation) -> str:
    """Content of `table.tex`: every result in sections, for a document that loads booktabs."""
    sections = [[result_cells(item) for item in section] for section in evaluation.sections]
    label = re.sub("[^A-Za-z0-9-]", "-", evaluation.run.name)
    return _fill("table.tex.j2", evaluation, sections=sections, label=label)


def _fill(template: str, evaluation: Evaluation, **values: object) -> str:
    run = evaluation.run
    common = {
        "run": run,
        "marker": evaluation.marker,
        "design": design_of(run),
        "summary": summarize(evaluation),
    }
    text = render(TEMPLATES, template, evaluation=evaluation, **common, **values)
    return text.rstrip("\n") + "\n"
