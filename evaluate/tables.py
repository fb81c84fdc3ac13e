"""Tables on the terminal: a run's results, and a run beside published figures."""

from __future__ import annotations

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from evaluate.compare import FUSION, NETWORKS, ComparedRow, Comparison
from evaluate.report import Evaluation, ResultScore

TABLE_WIDTH = 132


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
    marks = "".join(sorted({note[0] for note in item.result.notes}))
    return (
        "+".join(item.result.sources),
        item.result.head,
        item.result.level,
        f"{total.accuracy:.3f} [{total.accuracy_ci95.low:.2f}, {total.accuracy_ci95.high:.2f}]",
        f"{total.macro_f1:.3f} [{total.macro_f1_ci95.low:.2f}, {total.macro_f1_ci95.high:.2f}]",
        f"{total.auc:.3f} [{total.auc_ci95.low:.2f}, {total.auc_ci95.high:.2f}]",
        f"{total.log_loss:.3f}",
        marks,
    )


def print_comparison(comparison: Comparison) -> None:
    """Print published tables with ours beside them, both confusion matrices, and what to mind."""
    published, run = comparison.published, comparison.evaluation.run
    console = _console()
    theirs, ours = f"{published.name}, {published.clips} clips", f"ours, {len(run.ids)} clips"
    console.print(f"\n{published.citation}, beside run {run.name}", highlight=False)
    titles = {NETWORKS: "Single networks, by their own softmax", FUSION: "Fusions"}
    for name, title in titles.items():
        table = Table(title=title, box=SIMPLE, title_justify="left")
        table.add_column("\nnetworks", no_wrap=True)
        if name == NETWORKS:
            table.add_column("\noptimizer", no_wrap=True)
        for heading in (f"{theirs}\naccuracy", "\nF1", "\nAUC", f"{ours}\naccuracy [95 %]", "\nF1", "\nAUC"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("\nhead, recipe", no_wrap=True)
        shown: tuple[object, ...] = ()
        for row in (item for item in comparison.rows if item.table == name):
            key = (row.sources, row.optimizer)
            table.add_row(*_compared(row, again=key == shown))
            shown = key
        console.print(table)
    _print_matrices(console, comparison)
    for note in comparison.notes:
        click.echo(f"note: {note}")


def _compared(row: ComparedRow, *, again: bool) -> tuple[str, ...]:
    """Cells of a row; what stands above it already is left empty."""
    names = "" if again else "+".join(row.sources)
    cells = [names]
    if row.table == NETWORKS:
        cells.append("" if again else {"adam": "Adam", "sgd": "SGD"}.get(row.optimizer, "other"))
    if again or row.published is None:
        cells += ["", "", ""] if again else ["-", "-", "-"]
    else:
        cells += [f"{value:.2f}" for value in (row.published.accuracy, row.published.macro_f1, row.published.auc)]
    if row.ours is None:
        return (*cells, "-", "-", "-", "")
    total, result = row.ours.score, row.ours.result
    recipe = result.sources[0].partition("@")[2] or "default"
    head = "own softmax" if row.table == NETWORKS else f"{result.head} {result.level}"
    accuracy = f"{total.accuracy:.2f} [{total.accuracy_ci95.low:.2f}, {total.accuracy_ci95.high:.2f}]"
    return (*cells, accuracy, f"{total.macro_f1:.2f}", f"{total.auc:.2f}", f"{head}, {recipe}")


def _print_matrices(console: Console, comparison: Comparison) -> None:
    """Counts, true class down, predicted class across: theirs, and ours where the classes are the same."""
    published, ours = comparison.published, comparison.matrix
    table = Table(
        title=f"Confusion of {'+'.join(published.matrix_of)}: true class down, predicted across",
        box=SIMPLE,
        title_justify="left",
    )
    table.add_column("")
    for side in (published.name, "ours") if ours is not None else (published.name,):
        for label in published.classes:
            table.add_column(f"{side}\n{label}", justify="right", no_wrap=True)
    for index, label in enumerate(published.classes):
        counts = [*published.matrix[index], *(ours.score.confusion_matrix[index].tolist() if ours is not None else ())]
        table.add_row(label, *(str(count) for count in counts))
    console.print(table)
