"""`moodfuse evaluate` on a run of a cache."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moodfuse.cache.runs import Run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.evaluation import Evaluation
    from moodfuse.evaluate.published import Comparison
    from moodfuse.evaluate.report import Thumbnails


@click.command("evaluate")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", help="Name of the run.  [default: the newest]")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Report folder.  [default: <cache>/runs/<run>/report]"
)
@click.option("--compare", help="Compare with published results: zhou2022.")
@click.option(
    "--inflation", is_flag=True, help="Measure the inflation by a data leak with the newest leaky run."
)
@click.option("--no-thumbnails", is_flag=True, help="Leave thumbnails of clips out of the page.")
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
    """Report the results of a run: metrics with confidence intervals, significance tests, figures, and a page.

    Example: moodfuse evaluate --cache work
    """
    from moodfuse.cache.audits import read_audit
    from moodfuse.cache.runs import run_folder
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.evaluation import evaluate_run
    from moodfuse.evaluate.published import OLD_NAMES, compare_with, find_published
    from moodfuse.evaluate.report.page import pictured_clips, read_thumbnails

    if compare in OLD_NAMES:
        click.echo(f"--compare {compare} is now called {OLD_NAMES[compare]}", err=True)
    published = find_published(compare) if compare else None
    cache = FeatureCache(cache_path)
    chosen, leaky = choose_runs(cache, run, inflation=inflation)
    with progress("Scoring") as tick:
        scored = evaluate_run(chosen, draws=draws, seed=seed, tick=tick, leaky=leaky)
    evaluation = replace(scored, audit=read_audit(cache))
    present(
        evaluation,
        output or run_folder(cache, chosen.name) / "report",
        comparison=compare_with(evaluation, published, cache=str(cache_path)) if published else None,
        thumbnails=None
        if no_thumbnails
        else lambda tick: read_thumbnails(cache, chosen, pictured_clips(evaluation), tick=tick),
    )


def choose_runs(cache: "FeatureCache", name: str | None, *, inflation: bool) -> tuple["Run", "Run | None"]:
    """The run to report and, to measure inflation, the newest leaky run of the same clips.

    Raises
    ------
    InputError
        If a run is missing, or the named run is itself leaky.
    """
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.runs import LEAKY, read_run, runs_newest_first
    from moodfuse.evaluate.paired import match_clips

    if not inflation:
        return read_run(cache, name), None
    run = read_run(cache, name) if name else next(runs_newest_first(cache, leaky=False), None)
    if run is None:
        raise InputError(f"{cache.path} holds only leaky runs; run: moodfuse fuse --cache {cache.path}")
    if run.protocol == LEAKY:
        raise InputError(f"run {run.name!r} is leaky itself; with --inflation name another --run, or none")
    newest = None
    for leaky in runs_newest_first(cache, leaky=True):
        newest = newest or leaky
        try:
            match_clips(run, leaky)
        except InputError:
            continue
        return run, leaky
    if newest is None:
        raise InputError(
            f"{cache.path} holds no leaky run to measure the inflation with; run: "
            f"moodfuse extract DATA --cache {cache.path} --leaky, then moodfuse fuse --cache {cache.path} "
            "--protocol leaky"
        )
    return run, newest


def present(
    evaluation: "Evaluation",
    folder: Path,
    *,
    comparison: "Comparison | None" = None,
    thumbnails: "Thumbnails | None" = None,
) -> None:
    """Print an evaluation, write its report, and print where that is."""
    from moodfuse.evaluate.report import LATEX, MARKDOWN, PAGE, write_report
    from moodfuse.evaluate.report.terminal import print_comparison, print_evaluation

    print_evaluation(evaluation)
    if comparison is not None:
        print_comparison(comparison)
    with progress("Drawing") as tick:
        figures = write_report(evaluation, folder, comparison=comparison, thumbnails=thumbnails, tick=tick)
    if comparison is not None:
        click.echo(f"comparison: {folder / comparison.file_name}")
    click.echo(
        f"report: {folder} (metrics.json, metrics.csv, {MARKDOWN}, {LATEX}, {2 * len(figures)} figures)"
    )
    click.echo(f"page: {folder / PAGE}")


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr with the name of the last finished step; silent without a terminal."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda name: status.update(f"{what}: {name}")
