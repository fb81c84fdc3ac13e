"""The report on the terminal: the results of a run, and its comparison with published results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from moodfuse.cache.console import printable
from moodfuse.cache.runs import DEFAULTS, LEAKY_MARK
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.markup import gain_text
from moodfuse.evaluate.paired import Inflation
from moodfuse.evaluate.published import (
    FUSION,
    NETWORKS,
    OPTIMIZERS,
    OURS,
    ClassCounts,
    ComparedRow,
    Comparison,
    recipe_of,
)
from moodfuse.evaluate.report.text import design_of, summarize
from moodfuse.evaluate.results import ResultScore

TABLE_WIDTH = 132
COMPARISON_WIDTH = 100
_STYLE: dict[str, Any] = {"title_justify": "left", "padding": (0, 1, 0, 0), "pad_edge": False}
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False}
"""Square brackets in names of classes and sources are printed as they are."""


def _table(title: str, names: Sequence[str], numbers: Sequence[str], **style: Any) -> Table:
    """A table with columns of text that may fold and columns of numbers."""
    table = Table(title=title, **{"box": SIMPLE, **_STYLE, **style})
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the main finding, every result by section, comparisons and notes."""
    # On a narrower terminal lines wrap, so that no number is lost.
    console = Console(width=max(Console().width, TABLE_WIDTH), **_PLAIN)
    click.echo(printable(summarize(evaluation).claim))
    console.print(_results_table(evaluation))
    best = evaluation.best
    if evaluation.run.fold_count > 1:
        folds = ", ".join(f"{fold.accuracy:.2f} ({fold.clips})" for fold in best.per_fold)
        click.echo(f"best: {printable(best.result.name)}; accuracy by fold (clips): {folds}")
    if best.repeated is not None and best.repeated.repeats > 1:
        accuracy = f"{best.repeated.accuracy:.3f} {best.repeated.ci95.shown()}"
        click.echo(
            f"  over {best.repeated.repeats} fold plans: {accuracy}, covers the choice of training clips"
        )
    label, majority = evaluation.majority
    chance = 1 / len(evaluation.run.classes)
    click.echo(f"baseline: always predicting {label!r} {majority:.3f}; chance {chance:.3f}")
    used = [note for note in DEFAULTS if any(note in item.result.notes for item in evaluation.scored)]
    if used:
        click.echo("; ".join(f"{note[0]}: {note}" for note in used))
    for sentence in paired_sentences(evaluation):
        click.echo(printable(sentence))
    if evaluation.importance:
        console.print(_importance_table(evaluation))
        click.echo(
            "Shapley value: mean gain over all orders of adding the sources; loss: all sources minus all others"
        )
    inflation = evaluation.inflation
    if inflation is not None:
        console.print(_inflation_table(inflation))
        click.echo(f"mean of the fusions: {gain_text(inflation.mean_gain, inflation.mean_gain_ci95)} points")
    for note in evaluation.notes:
        click.echo(printable(f"note: {note}"))


def paired_sentences(evaluation: Evaluation) -> Iterator[str]:
    """The significant paired tests, one per line, and the number of the others."""
    tests = evaluation.paired
    mark = f"{evaluation.marker} " if evaluation.marker else ""
    undecided = sum(test.verdict == "cannot tell" for test in tests)
    for test in tests:
        if test.verdict != "cannot tell":
            yield f"{mark}{test.baseline}: {test.sentence}"
    if undecided:
        against = " and ".join(dict.fromkeys(f"the {test.baseline}" for test in tests))
        yield f"{mark}paired tests against {against}: no significant difference in {undecided} of {len(tests)}"


def _results_table(evaluation: Evaluation) -> Table:
    run = evaluation.run
    size = f"{len(run.ids)} clips, {evaluation.group_count} groups, {design_of(run)}"
    title = f"{evaluation.marker} run {run.name}: {size}"
    numbers = ("accuracy [95 %]", "macro F1 [95 %]", "AUC [95 %]", "log loss", "ECE")
    table = _table(title.strip(), ("sources", "head", "level"), numbers)
    table.add_column("", no_wrap=True)
    for section in evaluation.sections:
        for item in section:
            total = item.score
            table.add_row(
                printable("+".join(item.result.sources)),
                item.result.head,
                item.result.level,
                f"{total.accuracy:.3f} {total.accuracy_ci95.shown()}",
                f"{total.macro_f1:.3f} {total.macro_f1_ci95.shown()}",
                f"{total.auc:.3f} {total.auc_ci95.shown()}",
                f"{total.log_loss:.3f}",
                f"{total.ece:.3f}",
                f"{evaluation.marker} {_default_marks(item)}".strip(),
            )
        table.add_section()
    return table


def _default_marks(item: ResultScore) -> str:
    """First letters of the notes of a result with default settings."""
    return "".join(sorted({note[0] for note in item.result.notes if note in DEFAULTS}))


def _importance_table(evaluation: Evaluation) -> Table:
    group = evaluation.importance_groups[0]
    title = f"{evaluation.marker} contribution of each source under {group.head} {group.level}, in points of accuracy"
    table = _table(title.strip(), ("source",), ("alone", "Shapley value [95 %]", "loss without it [95 %]"))
    for row in group.rows:
        shapley, drop = gain_text(row.shapley, row.shapley_ci95), gain_text(row.drop, row.drop_ci95)
        table.add_row(printable(row.source), f"{row.alone:.3f}", shapley, drop)
    return table


def _inflation_table(inflation: Inflation) -> Table:
    title = f"inflation by a data leak: run {inflation.run} and LEAKY run {inflation.leaky_run}, accuracy"
    table = _table(title, ("result",), ("no leak", LEAKY_MARK, "points [95 %]"))
    for row in inflation.rows:
        gain = gain_text(row.gain, row.gain_ci95)
        table.add_row(printable(row.result), f"{row.accuracy:.3f}", f"{row.leaky_accuracy:.3f}", gain)
    return table


def print_comparison(comparison: Comparison) -> None:
    """Print published tables with our results, confusion matrices, notes, and commands for missing rows."""
    published, evaluation = comparison.published, comparison.evaluation
    console = Console(width=max(Console().width, COMPARISON_WIDTH), highlight=False, **_PLAIN)
    run = f"{evaluation.marker} run {evaluation.run.name}".strip()
    console.print(f"\n{published.citation}\ncompared with {run}, ours\n")
    clips = f"{published.name} on {published.clips} clips, ours on {len(evaluation.run.ids)}"
    _print_rows(console, comparison, NETWORKS, f"Single networks, each by its own softmax: {clips}")
    _print_rows(console, comparison, FUSION, f"Fusions: {clips}")
    names = "+".join(published.matrix_of)
    console.print(
        f"Confusion of {names}, in clips: true classes in rows, predicted in columns", style="italic"
    )
    tables = [_matrix_table(matrix, published.classes) for matrix in comparison.matrices]
    console.print(Columns(tables, padding=(1, 4)))
    console.print()
    for note in comparison.notes:
        click.echo(printable(f"note: {note}"))
    if comparison.commands:
        click.echo("commands that make the missing rows of ours (-), before running evaluate again:")
        for command in comparison.commands:
            click.echo(printable(f"  {command}"))


def _print_rows(console: Console, comparison: Comparison, name: str, title: str) -> None:
    """One of the two tables of scores; long names of recipes fold on a narrow terminal."""
    table = _table(title, (), (), box=SIMPLE_HEAD, show_edge=False)
    for heading in ("\nnetworks", "\noptimizer")[: 1 + (name == NETWORKS)]:
        table.add_column(heading, no_wrap=True)
    theirs = comparison.published.name
    for heading in (f"{theirs}\nacc.", "\nF1", "\nAUC", f"{OURS}\naccuracy [95 %]", "\nF1", "\nAUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    if name == FUSION:
        table.add_column("\nhead/level", no_wrap=True)
    table.add_column("\nrecipe", overflow="fold")
    table.add_column("", no_wrap=True)
    previous: tuple[object, ...] = ()
    for row in (item for item in comparison.rows if item.table == name):
        key = (row.networks, row.optimizer)
        table.add_row(*_published_cells(row, repeated=key == previous), *_our_cells(row))
        previous = key
    console.print(table)
    console.print()


def _published_cells(row: ComparedRow, *, repeated: bool) -> list[str]:
    """Names and published scores; empty where they equal those of the line above."""
    names = ["+".join(row.networks[:2]), "+".join(row.networks[2:])]
    cells = ["+\n".join(part for part in names if part)]
    if row.table == NETWORKS:
        cells.append(OPTIMIZERS.get(row.optimizer, row.optimizer))
    if row.published is None:
        cells += ["-", "-", "-"]
    else:
        scores = (row.published.accuracy, row.published.macro_f1, row.published.auc)
        cells += [f"{value:.2f}" for value in scores]
    return [""] * len(cells) if repeated else cells


def _our_cells(row: ComparedRow) -> list[str]:
    if row.ours is None:
        return ["-", "-", "-"]
    total, result = row.ours.score, row.ours.result
    accuracy = f"{total.accuracy:.2f} {total.accuracy_ci95.shown()}"
    head = [f"{result.head}/{result.level}"] if row.table == FUSION else []
    recipe = recipe_of(result.sources) or ""
    return [accuracy, f"{total.macro_f1:.2f}", f"{total.auc:.2f}", *head, recipe, _default_marks(row.ours)]


def _matrix_table(matrix: ClassCounts, classes: tuple[str, ...]) -> Table:
    title = f"{matrix.who}, {matrix.how}: {matrix.clips} clips, accuracy {matrix.accuracy:.3f}"
    table = _table(title, (), (), box=SIMPLE_HEAD, show_edge=False)
    for label in ("", *classes):
        table.add_column(printable(label), justify="right" if label else "left", no_wrap=True)
    for label, counts in zip(classes, matrix.counts, strict=True):
        table.add_row(printable(label), *map(str, counts))
    return table
