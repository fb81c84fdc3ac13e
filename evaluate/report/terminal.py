"""Tables on the terminal: a run's results, and a run beside published figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from moodfuse.cache.console import printable
from moodfuse.cache.runs import DEFAULTS, LEAKY_MARK
from moodfuse.evaluate.compare import FUSION, NETWORKS, OURS, ComparedRow, Comparison, recipe_of
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.records import Inflation, Interval
from moodfuse.evaluate.report.published import ClassCounts
from moodfuse.evaluate.report.sentences import design_of, headline_words
from moodfuse.evaluate.results import ResultScore

TABLE_WIDTH = 132
_COMPACT: dict[str, Any] = {
    "box": SIMPLE,
    "title_justify": "left",
    "padding": (0, 1, 0, 0),
    "pad_edge": False,
}
COMPARISON_WIDTH = 100
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False}
"""Names of classes and sources are printed as they are: square brackets in them are no markup."""
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "": "other"}
"""How optimizers are written; a row of another recipe says so."""


def _console() -> Console:
    """A narrow terminal wraps lines; no number is lost."""
    console = Console()
    return Console(width=max(console.width, TABLE_WIDTH), **_PLAIN)


def print_table(evaluation: Evaluation) -> None:
    """Print the headline, every result by section and better ones first, what was compared, and what to mind."""
    console = _console()
    click.echo(printable(headline_words(evaluation).claim))
    console.print(_results_table(evaluation))
    label, share = evaluation.majority
    best = evaluation.best
    if evaluation.run.fold_count > 1:
        folds = ", ".join(f"{fold.accuracy:.2f} ({fold.clips})" for fold in best.per_fold)
        click.echo(f"best: {printable(best.result.name)}; accuracy by fold (clips): {folds}")
    if best.repeated is not None and best.repeated.repeats > 1:
        ends = best.repeated.ci95.shown()
        click.echo(
            f"  over {best.repeated.repeats} fold plans: {best.repeated.accuracy:.3f} {ends}, training included"
        )
    click.echo(
        f"baseline: always {label!r} is right for {share:.3f}; chance is {1 / len(evaluation.run.classes):.3f}"
    )
    used = [note for note in DEFAULTS if any(note in item.result.notes for item in evaluation.scored)]
    if used:
        click.echo("; ".join(f"{note[0]}: {note}" for note in used))
    for sentence in paired_sentences(evaluation):
        click.echo(printable(sentence))
    if evaluation.worth:
        console.print(_worth_table(evaluation))
        click.echo(
            "Shapley value: what a source adds on average over all orders of adding; lost: all minus all others"
        )
    if evaluation.inflation is not None:
        console.print(_inflation_table(evaluation.inflation))
        mean = evaluation.inflation.mean_points
        click.echo(
            f"mean of the fusions: {100 * mean:+.1f} points {_points(evaluation.inflation.mean_points_ci95)}"
        )
    for note in evaluation.notes:
        click.echo(printable(f"note: {note}"))


def paired_sentences(evaluation: Evaluation) -> Iterator[str]:
    """The paired tests that found something, one a line, and how many did not."""
    tests = evaluation.paired
    mark = f"{evaluation.marker} " if evaluation.marker else ""
    undecided = sum(test.verdict == "cannot tell" for test in tests)
    for test in tests:
        if test.verdict != "cannot tell":
            yield f"{mark}{test.baseline}: {test.sentence}"
    if undecided:
        against = " and ".join(dict.fromkeys(f"the {test.baseline}" for test in tests))
        yield f"{mark}paired tests against {against}: {undecided} of {len(tests)} comparisons: these clips cannot tell"


def _results_table(evaluation: Evaluation) -> Table:
    run = evaluation.run
    size = f"{len(run.ids)} clips, {evaluation.group_count} groups, {design_of(run)}"
    table = Table(title=f"{evaluation.marker} run {run.name}: {size}".strip(), **_COMPACT)
    for name in ("sources", "head", "level"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy [95 %]", "macro F1 [95 %]", "AUC [95 %]", "log loss", "ECE"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for part in evaluation.sections:
        for item in part:
            table.add_row(*_row(item, evaluation.marker))
        table.add_section()
    return table


def _row(item: ResultScore, marker: str) -> tuple[str, ...]:
    total = item.score
    return (
        printable("+".join(item.result.sources)),
        item.result.head,
        item.result.level,
        f"{total.accuracy:.3f} {total.accuracy_ci95.shown()}",
        f"{total.macro_f1:.3f} {total.macro_f1_ci95.shown()}",
        f"{total.auc:.3f} {total.auc_ci95.shown()}",
        f"{total.log_loss:.3f}",
        f"{total.ece:.3f}",
        f"{marker} {_marks(item)}".strip(),
    )


def _points(interval: Interval) -> str:
    """The ends of a difference, in points."""
    return interval.shown("+.1f", scale=100)


def _worth_table(evaluation: Evaluation) -> Table:
    """What each source adds, under the head and level of the best result, or the first that has every subset."""
    best = evaluation.best.result
    ways = list(dict.fromkeys((worth.head, worth.level) for worth in evaluation.worth))
    way = (best.head, best.level) if (best.head, best.level) in ways else ways[0]
    title = f"{evaluation.marker} what each source adds under {' '.join(way)}, in points of accuracy".strip()
    table = Table(title=title, **_COMPACT)
    table.add_column("source")
    for name in ("alone", "Shapley value [95 %]", "lost without it [95 %]"):
        table.add_column(name, justify="right", no_wrap=True)
    for worth in evaluation.worth:
        if (worth.head, worth.level) == way:
            table.add_row(
                printable(worth.source),
                f"{worth.alone:.3f}",
                f"{100 * worth.shapley:+.1f} {_points(worth.shapley_ci95)}",
                f"{100 * worth.drop:+.1f} {_points(worth.drop_ci95)}",
            )
    return table


def _inflation_table(found: Inflation) -> Table:
    """What the leak adds to each result."""
    title = f"what a leak is worth: run {found.honest_run} beside LEAKY run {found.leaky_run}, accuracy"
    table = Table(title=title, **_COMPACT)
    table.add_column("result", overflow="fold")
    for name in ("honest", LEAKY_MARK, "points [95 %]"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        points = f"{100 * row.points:+.1f} {_points(row.points_ci95)}"
        table.add_row(printable(row.result), f"{row.honest:.3f}", f"{row.leaky:.3f}", points)
    return table


def _marks(item: ResultScore) -> str:
    """First letters of the notes of a result that kept its defaults; LEAKY stands in full elsewhere."""
    return "".join(sorted({note[0] for note in item.result.notes if note in DEFAULTS}))


def print_comparison(comparison: Comparison) -> None:
    """Print published tables with ours beside them, confusion matrices, what to mind, and what makes missing rows."""
    published, evaluation = comparison.published, comparison.evaluation
    console = Console(width=max(Console().width, COMPARISON_WIDTH), highlight=False, **_PLAIN)
    run = f"{evaluation.marker} run {evaluation.run.name}".strip()
    console.print(f"\n{published.citation}\nbeside {run}, ours\n")
    clips = f"{published.name} on {published.clips} clips, ours on {len(evaluation.run.ids)}"
    _print_rows(console, comparison, NETWORKS, f"Single networks, each by its own softmax: {clips}")
    _print_rows(console, comparison, FUSION, f"Fusions: {clips}")
    names = "+".join(published.matrix_of)
    console.print(
        f"Confusion of {names}, in clips; a row is a true class, a column a predicted one", style="italic"
    )
    tables = [_matrix_table(matrix, published.classes) for matrix in comparison.matrices]
    console.print(Columns(tables, padding=(1, 4)))
    console.print()
    for note in comparison.notes:
        click.echo(printable(f"note: {note}"))
    if comparison.commands:
        click.echo("what makes the rows of ours that are -, before another evaluate:")
    for command in comparison.commands:
        click.echo(printable(f"  {command}"))


def _plain_table(title: str) -> Table:
    return Table(
        title=title,
        box=SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def _print_rows(console: Console, comparison: Comparison, name: str, title: str) -> None:
    """One of the two tables of scores; long names of recipes are folded where the terminal is narrow."""
    table = _plain_table(title)
    table.add_column("\nnetworks", no_wrap=True)
    if name == NETWORKS:
        table.add_column("\noptimizer", no_wrap=True)
    theirs, ours = comparison.published.name, OURS
    for heading in (f"{theirs}\nacc.", "\nF1", "\nAUC", f"{ours}\naccuracy [95 %]", "\nF1", "\nAUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    if name == FUSION:
        table.add_column("\nhead/level", no_wrap=True)
    table.add_column("\nrecipe", overflow="fold")
    table.add_column("", no_wrap=True)
    shown: tuple[object, ...] = ()
    for row in (item for item in comparison.rows if item.table == name):
        key = (row.networks, row.optimizer)
        table.add_row(*_their_cells(row, again=key == shown), *_our_cells(row))
        shown = key
    console.print(table)
    console.print()


def _their_cells(row: ComparedRow, *, again: bool) -> list[str]:
    """Names and published scores; what stands in the line above already is left empty."""
    names = ["+".join(row.networks[:2]), "+".join(row.networks[2:])]
    cells = ["+\n".join(part for part in names if part)]
    if row.table == NETWORKS:
        cells.append(OPTIMIZERS.get(row.optimizer, row.optimizer))
    if row.published is None:
        cells += ["-", "-", "-"]
    else:
        cells += [
            f"{value:.2f}" for value in (row.published.accuracy, row.published.macro_f1, row.published.auc)
        ]
    return [""] * len(cells) if again else cells


def _our_cells(row: ComparedRow) -> list[str]:
    if row.ours is None:
        return ["-", "-", "-"]
    total, result = row.ours.score, row.ours.result
    scores = [
        f"{total.accuracy:.2f} {total.accuracy_ci95.shown()}",
        f"{total.macro_f1:.2f}",
        f"{total.auc:.2f}",
    ]
    how = [f"{result.head}/{result.level}"] if row.table == FUSION else []
    return [*scores, *how, recipe_of(result.sources) or "", _marks(row.ours)]


def _matrix_table(matrix: ClassCounts, classes: tuple[str, ...]) -> Table:
    """Counts, true class down, predicted class across."""
    table = _plain_table(f"{matrix.who}, {matrix.how}: {matrix.clips} clips, accuracy {matrix.accuracy:.3f}")
    for label in ("", *classes):
        table.add_column(printable(label), justify="right" if label else "left", no_wrap=True)
    for label, counts in zip(classes, matrix.counts, strict=True):
        table.add_row(printable(label), *map(str, counts))
    return table
