"""Tables on the terminal: a run's results, and a run beside published figures."""

from __future__ import annotations

import click
from rich.box import SIMPLE, SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from evaluate.compare import FUSION, NETWORKS, OURS, ComparedRow, Comparison, recipe_of
from evaluate.evaluation import Evaluation, ResultScore
from evaluate.published import ClassCounts

TABLE_WIDTH = 132
COMPARISON_WIDTH = 100
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "": "other"}
"""How optimizers are written; a row of another recipe says so."""


def _console() -> Console:
    """A narrow terminal wraps lines; no number is lost."""
    console = Console()
    return Console(width=max(console.width, TABLE_WIDTH))


def print_table(evaluation: Evaluation) -> None:
    """Print every result, networks first and better ones first, then folds of the best, baseline and notes."""
    console = _console()
    run = evaluation.run
    size = f"{len(run.ids)} clips, {evaluation.group_count} groups, {run.fold_count} folds"
    title = f"{evaluation.marker} run {run.name}: {size}"
    table = Table(title=f"{title}, protocol {run.protocol}".strip(), box=SIMPLE, title_justify="left")
    for name in ("sources", "head", "level"):
        table.add_column(name, overflow="fold")
    for name in ("accuracy [95 %]", "macro F1 [95 %]", "AUC [95 %]", "log loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for item in evaluation.networks:
        table.add_row(*_row(item))
    table.add_section()
    for item in evaluation.fusions:
        table.add_row(*_row(item))
    console.print(table)
    label, share = evaluation.majority
    best = evaluation.best
    folds = ", ".join(f"{fold.accuracy:.2f} ({fold.clips})" for fold in best.per_fold)
    click.echo(f"best: {best.result.name}; accuracy by fold (clips): {folds}")
    click.echo(f"baseline: always {label!r} is right for {share:.3f}; chance is {1 / len(run.classes):.3f}")
    if any(item.result.notes for item in evaluation.scored):
        click.echo("u: uncalibrated; d: default settings, too few groups to choose")
    for note in evaluation.notes:
        click.echo(f"note: {note}")


def _row(item: ResultScore) -> tuple[str, ...]:
    total = item.score
    return (
        "+".join(item.result.sources),
        item.result.head,
        item.result.level,
        f"{total.accuracy:.3f} [{total.accuracy_ci95.low:.2f}, {total.accuracy_ci95.high:.2f}]",
        f"{total.macro_f1:.3f} [{total.macro_f1_ci95.low:.2f}, {total.macro_f1_ci95.high:.2f}]",
        f"{total.auc:.3f} [{total.auc_ci95.low:.2f}, {total.auc_ci95.high:.2f}]",
        f"{total.log_loss:.3f}",
        _marks(item),
    )


def _marks(item: ResultScore) -> str:
    """First letters of a result's notes."""
    return "".join(sorted({note[0] for note in item.result.notes}))


def print_comparison(comparison: Comparison) -> None:
    """Print published tables with ours beside them, confusion matrices, what to mind, and what makes missing rows."""
    published, evaluation = comparison.published, comparison.evaluation
    console = Console(width=max(Console().width, COMPARISON_WIDTH), highlight=False)
    run = f"{evaluation.marker} run {evaluation.run.name}".strip()
    console.print(f"\n{published.citation}\nbeside {run}, ours\n")
    clips = f"{published.name} on {published.clips} clips, ours on {len(evaluation.run.ids)}"
    _print_rows(console, comparison, NETWORKS, f"Single networks, each by its own softmax: {clips}")
    _print_rows(console, comparison, FUSION, f"Fusions: {clips}")
    names = "+".join(published.matrix_of)
    console.print(f"Confusion of {names}, in clips; a row is a true class, a column a predicted one", style="italic")
    tables = [_matrix_table(matrix, published.classes) for matrix in comparison.matrices]
    console.print(Columns(tables, padding=(1, 4)))
    console.print()
    for note in comparison.notes:
        click.echo(f"note: {note}")
    if comparison.commands:
        click.echo("what makes the rows of ours that are -, before another evaluate:")
    for command in comparison.commands:
        click.echo(f"  {command}")


def _plain_table(title: str) -> Table:
    return Table(
        title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
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
        cells += [f"{value:.2f}" for value in (row.published.accuracy, row.published.macro_f1, row.published.auc)]
    return [""] * len(cells) if again else cells


def _our_cells(row: ComparedRow) -> list[str]:
    if row.ours is None:
        return ["-", "-", "-"]
    total, result = row.ours.score, row.ours.result
    low, high = total.accuracy_ci95.low, total.accuracy_ci95.high
    scores = [f"{total.accuracy:.2f} [{low:.2f}, {high:.2f}]", f"{total.macro_f1:.2f}", f"{total.auc:.2f}"]
    how = [f"{result.head}/{result.level}"] if row.table == FUSION else []
    return [*scores, *how, recipe_of(result.sources) or "", _marks(row.ours)]


def _matrix_table(matrix: ClassCounts, classes: tuple[str, ...]) -> Table:
    """Counts, true class down, predicted class across."""
    table = _plain_table(f"{matrix.who}, {matrix.how}: {matrix.clips} clips, accuracy {matrix.accuracy:.3f}")
    for label in ("", *classes):
        table.add_column(label, justify="right" if label else "left", no_wrap=True)
    for label, counts in zip(classes, matrix.counts, strict=True):
        table.add_row(label, *map(str, counts))
    return table
