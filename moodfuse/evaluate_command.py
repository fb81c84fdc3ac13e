"""`moodfuse evaluate`: the report of a run, or of a model on a test set."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moodfuse.cache.terminal import ProgressBar, print_lines, report, wide_option
from moodfuse.options import bootstrap_seed_option, check_no_effect, draws_option

if TYPE_CHECKING:
    from moodfuse.cache.runs import Run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.evaluation import Evaluation
    from moodfuse.evaluate.published import Comparison

_RUN_ONLY = ("run", "compare", "inflation", "no_thumbnails", "only", "heads", "levels", "all_rows")
_MODEL_ONLY = ("group_pattern", "jobs", "device")


@click.command("evaluate")
@click.option("--cache", "cache_path", type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", help="Name of the run.  [default: the newest]")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Report folder.  [default: <cache>/runs/<run>/report]"
)
@click.option("--compare", help="Compare with published results: zhou2022.")
@click.option(
    "--inflation", is_flag=True, help="Measure the inflation by a data leak with the newest leaky run."
)
@click.option(
    "--only",
    metavar="SOURCES",
    multiple=True,
    help="Show only the results of these sources, such as c3d+twodmcnn, in tables and the ablation figure. "
    "The estimate and the tests stay those of the whole run. Repeat for several.  [default: each source "
    "alone, the pairs if there are few, all sources, and the best result]",
)
@click.option(
    "--head", "heads", multiple=True, help="Show only the results of this head. Repeat for several."
)
@click.option(
    "--level", "levels", multiple=True, help="Show only the results at this level: logits or embedding."
)
@click.option("--all-rows", is_flag=True, help="Show every result in the tables.")
@click.option("--no-thumbnails", is_flag=True, help="Leave thumbnails of clips out of the page.")
@draws_option
@bootstrap_seed_option
@wide_option
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Path(path_type=Path), help="Score this model on DATA, which it was not trained on."
)
@click.option(
    "--group-pattern",
    metavar="REGEX",
    help="With --model: clips whose path below DATA gives the same match are a group.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="With --model: decoding processes.",
)
@click.option("--device", help="With --model: device of the networks: auto, cpu or cuda.")
@click.pass_context
def evaluate_command(
    ctx: click.Context, cache_path: Path | None, data: Path | None, model: Path | None, **options: Any
) -> int:
    """Report the results of a run: metrics, confidence intervals, significance tests, figures, and a page.

    Without --model, scores are those of a run, out of fold. With --model and DATA, the model labels the clips
    of DATA, which has labels as for extract.

    \b
    Example:
      moodfuse evaluate --cache work
      moodfuse evaluate --model model test.csv --output test-report
    """
    if model is not None and data is not None and cache_path is None:
        reason = "belongs to --cache; the report of a test set has one model and no thumbnails"
        check_no_effect(ctx, _RUN_ONLY, reason)
        return _report_test(model, data, options)
    if cache_path is not None and model is None and data is None:
        reason = "belongs to --model; a run has its groups and predictions already"
        check_no_effect(ctx, _MODEL_ONLY, reason)
        _report_run(cache_path, options)
        return 0
    raise click.UsageError(
        "give --cache DIR for the report of a run, or --model DIR and DATA to test a model"
    )


def _report_run(cache_path: Path, options: dict[str, Any]) -> None:
    from moodfuse.cache.audits import read_audit
    from moodfuse.cache.runs import run_folder
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.evaluation import evaluate_run
    from moodfuse.evaluate.published import compare_with, find_published
    from moodfuse.evaluate.rows import choose_rows

    if options["all_rows"] and (options["only"] or options["heads"] or options["levels"]):
        raise click.UsageError("--all-rows shows every result; leave out --only, --head and --level")
    published = find_published(options["compare"]) if options["compare"] else None
    cache = FeatureCache(cache_path)
    run, leaky = choose_runs(cache, options["run"], inflation=options["inflation"])
    with ProgressBar("Scoring", transient=True):
        scored = evaluate_run(run, draws=options["draws"], seed=options["seed"], leaky=leaky)
    rows = choose_rows(
        scored, options["only"], options["heads"], options["levels"], all_rows=options["all_rows"]
    )
    evaluation = replace(scored, audit=read_audit(cache), **rows._asdict())
    output = options["output"] or run_folder(cache, run.name) / "report"
    comparison = compare_with(evaluation, published, cache=str(cache_path)) if published else None
    thumbnails_from = None if options["no_thumbnails"] else cache
    shown = {name: options[name] for name in ("wide", "open_page")}
    _present(evaluation, output, comparison, thumbnails_from, **shown)


def _report_test(folder: Path, data: Path, options: dict[str, Any]) -> int:
    from moodfuse.evaluate.evaluation import evaluate_run
    from moodfuse.model.model import Model
    from moodfuse.predict.batch import REFUSED
    from moodfuse.test_set import read_clips, run_test

    clips = read_clips(data, options["group_pattern"], report=report)
    with ProgressBar("Loading the model", transient=True):
        model = Model.load(folder, device=options["device"])
    test = run_test(model, clips, jobs=options["jobs"], report=report)
    with ProgressBar("Scoring", transient=True):
        evaluation = evaluate_run(test.run, draws=options["draws"], seed=options["seed"])
    shown = {name: options[name] for name in ("wide", "open_page")}
    _present(evaluation, options["output"] or Path("test-report"), **shown)
    return REFUSED if test.refused else 0


def choose_runs(cache: "FeatureCache", name: str | None, *, inflation: bool) -> tuple["Run", "Run | None"]:
    """The run to report and, to measure inflation, the newest leaky run."""
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.runs import LEAKY, read_run, runs_newest_first

    if not inflation:
        return read_run(cache, name), None
    run = read_run(cache, name) if name else next(runs_newest_first(cache, leaky=False), None)
    if run is None or run.protocol == LEAKY:
        raise InputError(
            "--inflation compares a run with a leaky one; give another --run, or make one: "
            f"moodfuse fuse --cache {cache.path}"
        )
    leaky = next(runs_newest_first(cache, leaky=True), None)
    if leaky is None:
        raise InputError(
            f"{cache.path} has no leaky run to measure the inflation with; run: moodfuse extract DATA "
            f"--cache {cache.path} --leaky, then moodfuse fuse --cache {cache.path} --protocol leaky"
        )
    return run, leaky


def _present(
    evaluation: "Evaluation",
    folder: Path,
    comparison: "Comparison | None" = None,
    thumbnails_from: "FeatureCache | None" = None,
    *,
    wide: bool,
    open_page: bool,
) -> None:
    """Print an evaluation, write its report, print the paths, and open the page."""
    from moodfuse.evaluate.report import (
        PAGE,
        predictions_name,
        print_comparison,
        print_evaluation,
        write_report,
    )

    # The report is written first: what reads the output, such as head, may close it early.
    with ProgressBar("Drawing", transient=True):
        figures = write_report(evaluation, folder, comparison=comparison, thumbnails_from=thumbnails_from)
    print_evaluation(evaluation, wide=wide)
    if comparison is not None:
        print_comparison(comparison, wide=wide)
    if comparison is not None:
        click.echo(f"comparison: {folder / comparison.file_name}")
    files = (
        f"metrics.json, metrics.csv, {predictions_name(evaluation)}, report.md, table.tex, table_classes.tex"
    )
    drawn = f"{', '.join(figures)} as PDF, PNG and SVG"
    print_lines([f"report: {folder} ({files}, {drawn})"], wrap=True)
    click.echo(f"page: {folder / PAGE}")
    if open_page and click.launch(str(folder / PAGE)):
        report(f"WARNING no browser could be started; open {folder / PAGE} yourself")
