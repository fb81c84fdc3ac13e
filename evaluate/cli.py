"""`moodfuse evaluate`: parse, call the verb, print."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("evaluate")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", help="Name of the run.  [default: the newest]")
@click.option("--output", type=click.Path(path_type=Path), help="Report folder.  [default: <cache>/runs/<run>/report]")
@click.option("--compare", help="Published figures to print beside ours: seed.")
def evaluate_command(cache_path: Path, run: str | None, output: Path | None, compare: str | None) -> None:
    """Report what a run's heads are worth: scores with intervals, confusion matrices, figures.

    Example: moodfuse evaluate --cache work
    """
    from cache.parts import write_text
    from cache.runs import read_run
    from cache.store import FeatureCache
    from evaluate.compare import compare as put_beside
    from evaluate.compare import comparison_table, find_published
    from evaluate.evaluation import evaluate_run
    from evaluate.report import default_folder, write_report
    from evaluate.tables import print_comparison, print_table

    published = find_published(compare) if compare else None
    cache = FeatureCache(cache_path)
    found = read_run(cache, run)
    with _progress("Scoring") as tick:
        evaluation = evaluate_run(found, tick=tick)
    print_table(evaluation)
    with _progress("Drawing") as tick:
        files = write_report(evaluation, output or default_folder(cache, found), tick=tick)
    if published is not None:
        comparison = put_beside(evaluation, published, cache=str(cache_path))
        print_comparison(comparison)
        table = files.folder / f"comparison-{published.name}.csv"
        write_text(table, comparison_table(comparison))
        click.echo(f"comparison: {table}")
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
