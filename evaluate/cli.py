"""`moodfuse evaluate`: parse, call the verbs, print."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moodfuse.cache.runs import Run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.compare import Comparison
    from moodfuse.evaluate.evaluation import Evaluation


@click.command("evaluate")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", help="Name of the run.  [default: the newest]")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Report folder.  [default: <cache>/runs/<run>/report]"
)
@click.option("--compare", help="Published figures to put beside ours: seed.")
@click.option("--inflation", is_flag=True, help="Put the newest leaky run beside: what a leak is worth here.")
@click.option("--no-thumbnails", is_flag=True, help="Leave the pictures of clips out of the page.")
@click.option("--draws", type=click.IntRange(min=1), default=2000, show_default=True, help="Bootstrap draws.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draws.")
def evaluate_command(
    cache_path: Path,
    run: str | None,
    output: Path | None,
    compare: str | None,
    inflation: bool,
    no_thumbnails: bool,
    draws: int,
    seed: int,
) -> None:
    """Report what a run's heads are worth: scores with intervals, what cannot be told, figures, and a page.

    Example: moodfuse evaluate --cache work
    """
    from dataclasses import replace

    from moodfuse.cache.audits import read_audit
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.compare import compare as put_beside
    from moodfuse.evaluate.compare import find_published
    from moodfuse.evaluate.evaluation import evaluate_run
    from moodfuse.evaluate.report.page import pictured_clips
    from moodfuse.evaluate.report.terminal import print_comparison, print_table
    from moodfuse.evaluate.report.thumbnails import thumbnails
    from moodfuse.evaluate.report.writing import default_folder

    published = find_published(compare) if compare else None
    cache = FeatureCache(cache_path)
    found, leaky = chosen_runs(cache, run, inflation=inflation)
    with progress("Scoring") as tick:
        scored = evaluate_run(found, draws=draws, seed=seed, tick=tick, leaky=leaky)
        evaluation = replace(scored, audit=read_audit(cache))
    print_table(evaluation)
    comparison = put_beside(evaluation, published, cache=str(cache_path)) if published else None
    if comparison is not None:
        print_comparison(comparison)
    shown = (
        None
        if no_thumbnails
        else lambda tick: thumbnails(cache, found, pictured_clips(evaluation), tick=tick)
    )
    write_all(evaluation, output or default_folder(cache, found), comparison=comparison, pictures=shown)


def chosen_runs(cache: "FeatureCache", name: str | None, *, inflation: bool) -> tuple["Run", "Run | None"]:
    """The run to report, and for an inflation the newest leaky one to put beside it.

    Raises
    ------
    InputError
        If a run is missing, or the run named is itself leaky where a leak is to be measured.
    """
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.runs import LEAKY, read_run, runs_newest_first
    from moodfuse.evaluate.inflation import can_be_compared

    if not inflation:
        return read_run(cache, name), None
    honest = read_run(cache, name) if name else next(runs_newest_first(cache, leaky=False), None)
    if honest is None:
        raise InputError(f"{cache.path} holds no run but leaky ones; run: moodfuse fuse --cache {cache.path}")
    if honest.protocol == LEAKY:
        raise InputError(
            f"run {honest.name!r} is leaky itself; with --inflation name an honest --run, or none"
        )
    newest = None
    for leaky in runs_newest_first(cache, leaky=True):
        if can_be_compared(honest, leaky):
            return honest, leaky
        newest = newest or leaky
    if newest is None:
        raise InputError(
            f"{cache.path} holds no leaky run to measure the inflation with; run: "
            f"moodfuse extract DATA --cache {cache.path} --leaky, then moodfuse fuse --cache {cache.path} "
            "--protocol leaky"
        )
    return honest, newest


def write_all(
    evaluation: "Evaluation",
    folder: Path,
    *,
    comparison: "Comparison | None" = None,
    pictures: "Callable[[Callable[[str], None]], dict[int, str]] | None" = None,
) -> None:
    """Write numbers, figures, papers and the page, and say where; `pictures` makes those of clips, by place."""
    from moodfuse.cache.files import write_text
    from moodfuse.evaluate.compare import comparison_name, comparison_table
    from moodfuse.evaluate.report.markdown_latex import write_papers
    from moodfuse.evaluate.report.page import page_of
    from moodfuse.evaluate.report.rendering import write_page
    from moodfuse.evaluate.report.writing import write_report

    with progress("Drawing") as tick:
        files = write_report(evaluation, folder, tick=tick)
        shown = pictures(tick) if pictures else {}
    papers = write_papers(evaluation, folder)
    if comparison is not None:
        table = folder / comparison_name(comparison)
        write_text(table, comparison_table(comparison))
        click.echo(f"comparison: {table}")
    page = write_page(page_of(evaluation, comparison=comparison, thumbnails=shown), folder)
    names = ", ".join(path.name for path in (files.metrics_json, files.metrics_csv, *papers))
    click.echo(f"report: {folder} ({names}, {len(files.figures)} figures)")
    click.echo(f"page: {page}")


@contextmanager
def progress(what: str) -> "Iterator[Callable[[str], None]]":
    """A spinner on stderr with the name of what was just done; silent without a terminal."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda name: status.update(f"{what}: {name}")
