"""The report as text: the summary that all forms share, Markdown, a LaTeX table, and the terminal."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from moodfuse.cache.console import printable
from moodfuse.cache.runs import DEFAULTS, LEAKY_MARK, Run
from moodfuse.evaluate.evaluation import TEST, Evaluation, ResultScore
from moodfuse.evaluate.intervals import Interval
from moodfuse.evaluate.markup import counted, gain_text, number, percent, render
from moodfuse.evaluate.paired import PairedTest
from moodfuse.evaluate.published import (
    FUSION,
    NETWORKS,
    OPTIMIZERS,
    ComparedRow,
    Comparison,
    recipe_of,
)

TEMPLATES = files("moodfuse.evaluate.report") / "templates"
TABLE_WIDTH = 132
"""On a narrower terminal lines wrap, so that no number is lost."""
_CLEAR_PICK = 0.5
"""Below this fraction of the draws no result is selected by a majority."""


@dataclass(frozen=True)
class Summary:
    """The main finding of an evaluation in one sentence, how to read it, and its limits."""

    claim: str
    context: tuple[str, ...]
    limits: tuple[str, ...]


@dataclass(frozen=True)
class BaselineTests:
    """The paired tests against one kind of baseline, the largest differences first."""

    against: str
    significant: tuple[PairedTest, ...]
    others: tuple[PairedTest, ...]

    @property
    def summary(self) -> str:
        """Number of results of each verdict."""
        better = sum(test.verdict == "better" for test in self.significant)
        return (
            f"{counted(len(self.significant) + len(self.others), 'result')} against {self.against}: {better} "
            f"significantly better, {len(self.significant) - better} worse, {len(self.others)} without a "
            "significant difference."
        )


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
            f"Estimated accuracy of the selected model: {percent(value)} ({interval_text(ends)}), corrected "
            f"for selecting the best of {headline.candidates} results."
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
        f"Baselines: always predicting “{label}” is {percent(majority)} accurate, guessing "
        f"{percent(chance)}. {verdict}"
    )
    if evaluation.marker:
        yield (
            "The models were trained on the test clips, on purpose: these numbers measure the inflation of "
            "a data leak and do not predict the accuracy on new clips."
        )
    headline = evaluation.headline
    if headline is not None:
        correction = (
            "there are too few clips to correct for that"
            if math.isnan(headline.corrected)
            else "the corrected estimate selects on each bootstrap draw and scores on the other clips"
        )
        yield (
            f"The best result on these clips is {headline.result} with an accuracy of "
            f"{percent(headline.accuracy)} "
            f"({interval_text(headline.accuracy_ci95)}). It was selected on the same clips, so this is "
            f"optimistic; {correction}."
        )


def _limits(evaluation: Evaluation) -> Iterator[str]:
    headline = evaluation.headline
    if headline is not None and headline.picks:
        picks = ", ".join(f"{name} in {percent(share)}" for name, share in headline.picks[:3])
        clear = headline.picks[0][1] >= _CLEAR_PICK
        yield f"Best result across bootstrap draws: {picks}{'' if clear else '; no clear winner'}."
    for group in group_tests(evaluation):
        yield group.summary
    if not evaluation.marker:
        yield "The intervals cover the choice of clips, not other kinds of music or another training."


def group_tests(evaluation: Evaluation) -> list[BaselineTests]:
    """Paired tests by baseline; of the significant ones those of better results come first."""
    groups = []
    for baseline in dict.fromkeys(test.baseline for test in evaluation.paired):
        tests = [test for test in evaluation.paired if test.baseline == baseline]
        tests.sort(key=lambda test: (test.verdict, -abs(test.difference), test.result))
        names = {test.against for test in tests}
        against = (
            f"the {baseline} ({names.pop()})"
            if len(names) == 1
            else f"the {baseline} head on the same sources (for one source, its network)"
        )
        significant = tuple(test for test in tests if test.verdict != "cannot tell")
        others = tuple(test for test in tests if test.verdict == "cannot tell")
        groups.append(BaselineTests(against, significant, others))
    return groups


def repeat_commands(evaluation: Evaluation) -> tuple[str, ...]:
    """The commands that make the run (not kept in older runs) and this report again."""
    run = evaluation.run
    command = (
        f"moodfuse evaluate --cache DIR --run {run.name} --draws {evaluation.draws} --seed {evaluation.seed}"
    )
    return (*run.commands, command + (" --inflation" if evaluation.inflation is not None else ""))


def render_report(template: str, evaluation: Evaluation, **values: object) -> str:
    """Fill a template of the report with what all of them use, and `values`."""
    return render(
        TEMPLATES,
        template,
        evaluation=evaluation,
        run=evaluation.run,
        marker=evaluation.marker,
        design=design_of(evaluation.run),
        summary=summarize(evaluation),
        test_groups=group_tests(evaluation),
        notes=[note for note in evaluation.notes if note != evaluation.selection_note],
        commands=repeat_commands(evaluation),
        **values,
    )


def _result_cells(scored: ResultScore) -> tuple[str, ...]:
    """Sources, head, level, accuracy and macro F1 in %, AUC, log loss and ECE of a result."""
    total, result = scored.score, scored.result
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
    rows = [(*_result_cells(scored), "; ".join(scored.result.notes)) for scored in evaluation.ranked]
    return render_report("report.md.j2", evaluation, rows=rows).rstrip("\n") + "\n"


def latex_table(evaluation: Evaluation) -> str:
    """Content of `table.tex`: every result in sections, for a document that loads booktabs."""
    sections = [[_result_cells(scored) for scored in section] for section in evaluation.sections]
    label = re.sub("[^A-Za-z0-9-]", "-", evaluation.run.name)
    return render_report("table.tex.j2", evaluation, sections=sections, label=label).rstrip("\n") + "\n"


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the main finding, every result by section, comparisons and notes."""
    run, marker = evaluation.run, evaluation.marker
    click.echo(printable(summarize(evaluation).claim))
    size = f"{len(run.ids)} clips, {evaluation.group_count} groups, {design_of(run)}"
    _print_table(
        f"{marker} run {run.name}: {size}".strip(),
        ("sources", "head", "level"),
        ("accuracy [95 %]", "macro F1 [95 %]", "AUC [95 %]", "log loss", "ECE", ""),
        [[_terminal_cells(scored, marker) for scored in section] for section in evaluation.sections],
    )
    _print_lines(_remarks(evaluation))
    if evaluation.importance:
        rows = evaluation.importance_by_head[0]
        head = f"{marker} contribution of each source under {rows[0].head} {rows[0].level}".strip()
        cells = [
            (
                row.source,
                f"{row.alone:.3f}",
                gain_text(row.shapley, row.shapley_ci95),
                gain_text(row.drop, row.drop_ci95),
            )
            for row in rows
        ]
        numbers = ("alone", "Shapley value [95 %]", "loss without it [95 %]")
        _print_table(f"{head}, in points of accuracy", ("source",), numbers, [cells])
        click.echo(
            "Shapley value: mean gain over all orders of adding the sources; loss: all sources minus all "
            "others"
        )
    inflation = evaluation.inflation
    if inflation is not None:
        title = f"inflation by a data leak: run {inflation.run} and LEAKY run {inflation.leaky_run}, accuracy"
        cells = [
            (
                row.result,
                f"{row.accuracy:.3f}",
                f"{row.leaky_accuracy:.3f}",
                gain_text(row.gain, row.gain_ci95),
            )
            for row in inflation.rows
        ]
        _print_table(title, ("result",), ("no leak", LEAKY_MARK, "points [95 %]"), [cells])
        click.echo(f"mean of the fusions: {gain_text(inflation.mean_gain, inflation.mean_gain_ci95)} points")
    _print_lines(f"note: {note}" for note in evaluation.notes)


def _print_table(
    title: str, names: Sequence[str], numbers: Sequence[str], sections: Iterable[Iterable[Sequence[str]]]
) -> None:
    """Print a table with columns of text, which may fold, and columns of numbers, which do not."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for section in sections:
        for cells in section:
            table.add_row(*(cell if cell.isprintable() else printable(cell) for cell in cells))
        table.add_section()
    width = max(Console().width, TABLE_WIDTH)
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(printable(line))


def _remarks(evaluation: Evaluation) -> Iterator[str]:
    """Folds and repeats of the best result, baselines, letters of the notes, and significant paired tests."""
    best, tests = evaluation.best, evaluation.paired
    if evaluation.run.fold_count > 1:
        folds = ", ".join(f"{fold.accuracy:.2f} ({fold.clips})" for fold in best.per_fold)
        yield f"best: {best.result.name}; accuracy by fold (clips): {folds}"
    if best.repeated is not None and best.repeated.repeats > 1:
        accuracy = f"{best.repeated.accuracy:.3f} {best.repeated.ci95.shown()}"
        yield f"  over {best.repeated.repeats} fold plans: {accuracy}, covers the choice of training clips"
    label, majority = evaluation.majority
    chance = 1 / len(evaluation.run.classes)
    yield f"baseline: always predicting {label!r} {majority:.3f}; chance {chance:.3f}"
    used = [note for note in DEFAULTS if any(note in scored.result.notes for scored in evaluation.scored)]
    if used:
        yield "; ".join(f"{note[0]}: {note}" for note in used)
    mark = f"{evaluation.marker} " if evaluation.marker else ""
    significant = [test for test in tests if test.verdict != "cannot tell"]
    for test in significant:
        yield f"{mark}{test.baseline}: {test.sentence}"
    if len(significant) < len(tests):
        against = " and ".join(dict.fromkeys(f"the {test.baseline}" for test in tests))
        others = f"{len(tests) - len(significant)} of {len(tests)}"
        yield f"{mark}paired tests against {against}: no significant difference in {others}"


def _terminal_cells(scored: ResultScore, marker: str) -> tuple[str, ...]:
    total, result = scored.score, scored.result
    return (
        "+".join(result.sources),
        result.head,
        result.level,
        f"{total.accuracy:.3f} {total.accuracy_ci95.shown()}",
        f"{total.macro_f1:.3f} {total.macro_f1_ci95.shown()}",
        f"{total.auc:.3f} {total.auc_ci95.shown()}",
        f"{total.log_loss:.3f}",
        f"{total.ece:.3f}",
        f"{marker} {_default_marks(scored)}".strip(),
    )


def _default_marks(scored: ResultScore) -> str:
    """First letters of the notes of a result with default settings."""
    return "".join(sorted({note[0] for note in scored.result.notes if note in DEFAULTS}))


def print_comparison(comparison: Comparison) -> None:
    """Print published scores with ours, notes, and commands for missing rows."""
    published, evaluation = comparison.published, comparison.evaluation
    run = f"{evaluation.marker} run {evaluation.run.name}".strip()
    clips = f"{published.name} on {published.clips} clips, ours on {len(evaluation.run.ids)}"
    click.echo(f"\n{published.citation}\ncompared with {run}, ours: {clips}")
    for name, column in ((NETWORKS, "optimizer"), (FUSION, "head/level")):
        _print_table(
            "",
            ("networks", column, "recipe"),
            (f"{published.name} acc.", "F1", "AUC", "our accuracy [95 %]", "F1", "AUC", ""),
            [[_comparison_cells(row) for row in comparison.rows if row.table == name]],
        )
    _print_lines(f"note: {note}" for note in comparison.notes)
    if comparison.commands:
        click.echo("commands that make the missing rows of ours (-), before running evaluate again:")
        _print_lines(f"  {command}" for command in comparison.commands)


def _comparison_cells(row: ComparedRow) -> list[str]:
    optimizer = OPTIMIZERS.get(row.optimizer, row.optimizer)
    published = [f"{score:.2f}" for score in row.published.values()] if row.published else ["-", "-", "-"]
    if row.ours is None:
        return [row.networks, optimizer if row.table == NETWORKS else "-", "-", *published, "-", "-", "-", ""]
    total, result = row.ours.score, row.ours.result
    return [
        row.networks,
        optimizer if row.table == NETWORKS else f"{result.head}/{result.level}",
        recipe_of(result.sources) or "",
        *published,
        f"{total.accuracy:.2f} {total.accuracy_ci95.shown()}",
        f"{total.macro_f1:.2f}",
        f"{total.auc:.2f}",
        _default_marks(row.ours),
    ]
