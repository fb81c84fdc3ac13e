"""`moodfuse evaluate`: parse, call the verb, print."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evaluate.report import Evaluation, ResultScore

TABLE_WIDTH = 132


@click.command("evaluate")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", help="Name of the run.  [default: the newest]")
@click.option("--output", type=click.Path(path_type=Path), help="Report folder.  [default: <cache>/runs/<run>/report]")
def evaluate_command(cache_path: Path, run: str | None, output: Path | None) -> None:
    """Report what a run's heads are worth: scores with intervals, confusion matrices, figures.

    Example: moodfuse evaluate --cache work
    """
    from cache.runs import read_run
    from cache.store import FeatureCache
    from evaluate.report import default_folder, evaluate_run, write_report

    cache = FeatureCache(cache_path)
    found = read_run(cache, run)
    with _progress("Scoring") as tick:
        evaluation = evaluate_run(found, tick=tick)
    print_table(evaluation)
    with _progress("Drawing") as tick:
        files = write_report(evaluation, output or default_folder(cache, found), tick=tick)
    click.echo(
        f"report: {files.folder} ({files.metrics_json.name}, {files.metrics_csv.name}, {len(files.figures)} figures)"
    )


@contextmanager
def _progress(what: str) -> "Iterator[Callable[[str], None]]":
    """A spinner on stderr with the name of what was just done; silent without a terminal."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda name: status.update(f"{what}: {name}")


def print_table(evaluation: "Evaluation") -> None:
    """Print every result, networks first and better ones first, then folds of the best, baseline and notes."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = Console(width=max(console.width, TABLE_WIDTH))  # a narrow terminal wraps lines; no number is lost
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


def _row(item: "ResultScore") -> tuple[str, ...]:
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
