"""`moodfuse fuse`: stage two, and with `--export` the model of a result."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from moodfuse.cache.console import command_line, printable
from moodfuse.cache.terminal import Column, ProgressBar, print_lines, print_table, report, wide_option
from moodfuse.options import HEADS_TABLE, check_no_effect

if TYPE_CHECKING:
    from moodfuse.cache.runs import Run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.export import ExportSettings
    from moodfuse.fuse.settings import AblationSettings

_FIT_OPTIONS = (
    "combine",
    "heads",
    "search",
    "levels",
    "protocol",
    "class_weight",
    "repeats",
    "jobs",
    "scheduler",
)


@click.command("fuse")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", "run_name", help="Name of the run.  [default: the next run-N]")
@click.option(
    "--combine",
    multiple=True,
    help="Combine these sources: zhou2022 (the paper's), all (every subset), or names such as c3d+i3d; "
    "repeat for several.  [default: all]",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    help="Fusion head: softmax, logistic, lightgbm or mean, with settings if given, such as softmax:C=10 or "
    "lightgbm:num_leaves=4,reg_lambda=10; repeat for several. The table [heads] of --config sets them too.  "
    "[default: all heads]",
)
@click.option(
    "--search",
    type=click.IntRange(min=1),
    metavar="N",
    help="Try N random settings of each head on the inner folds.  [default: a small grid]",
)
@click.option(
    "--level", "levels", multiple=True, help="logits or embedding; repeat for both.  [default: both]"
)
@click.option(
    "--protocol",
    help="crossfit, no-crossfit, or leaky: networks that saw every clip, to measure the effect of a data "
    "leak.  [default: crossfit, if extract made the networks for it]",
)
@click.option(
    "--class-weight",
    type=click.Choice(["none", "balanced"]),
    help="balanced: give all classes the same total weight in fitting the heads, however many clips they "
    "have. The mean probability of a class stays near its frequency.  [default: none]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    help="Number of fold plans to test under.  [default: all that extract made; 5 where no source is tuned]",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="cores",
    help="Worker processes.",
)
@click.option("--scheduler", metavar="dask://HOST:PORT", help="Fit on a Dask cluster instead.")
@click.option(
    "--export",
    "result",
    metavar="best|simplest|RESULT",
    help="Write the model of a result. best: the result of lowest cross-validated log loss. simplest: the "
    "smallest within one standard error of the best. RESULT: one by name, such as 'c3d+i3d softmax logits'. "
    "With the --run of one that exists, nothing is fused.",
)
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of the model.  [default: <cache>/runs/<run>/model]",
)
@click.option(
    "--missing",
    type=click.Choice(["impute", "refuse"]),
    help="Whether the model labels files without audio or video.  [default: impute, if extract did]",
)
@click.option(
    "--force", is_flag=True, help="Export a result even if it is no better than the class frequencies."
)
@wide_option
def fuse_command(
    cache_path: Path, run_name: str | None, result: str | None, folder: Path | None, **options: Any
) -> None:
    """Train fusion heads on the cached features of several sources, fold by fold.

    Every result is out of fold: a clip is predicted by networks and heads that saw no clip of its fold. Each
    network's own prediction is among the results, as head "network".

    \b
    Example:
      moodfuse fuse --cache work --combine zhou2022 --head softmax
      moodfuse fuse --cache work --run run-1 --export best
    """
    from moodfuse.cache.run_log import run_log

    with run_log(cache_path, command_line(click.get_current_context())):
        _run(cache_path, run_name, result, folder, options)


def _run(
    cache_path: Path, run_name: str | None, result: str | None, folder: Path | None, options: dict[str, Any]
) -> None:
    from moodfuse.cache.runs import read_run, resolve_run_name, run_names
    from moodfuse.cache.store import FeatureCache
    from moodfuse.fuse.settings import AblationSettings, resolve_heads

    context = click.get_current_context()
    missing, force, wide = (options.pop(name) for name in ("missing", "force", "wide"))
    search, tables = options.pop("search"), context.meta.get(HEADS_TABLE, {})
    resolved = resolve_heads(options["heads"], tables, search) if search or tables else None
    cache = FeatureCache(cache_path)
    exists = result is not None and run_name is not None and run_name in run_names(cache)
    if resolved and (search or not exists):  # a run that exists is exported with its own heads
        options["heads"] = context.params["heads"] = resolved
        context.set_parameter_source("heads", ParameterSource.DEFAULT_MAP)  # the run records them
    if options["class_weight"] == "none":
        options["class_weight"] = None
    given = {name: value for name, value in options.items() if value not in (None, ())}
    ablation = AblationSettings(run=run_name, command=command_line(context), **given)
    if result is None:
        check_no_effect(
            context,
            ("folder", "missing", "force"),
            "belongs to --export; add --export best, or the name of a result",
        )
        _fuse(cache, ablation, wide=wide)
        return
    from moodfuse.export import ExportSettings, check_planned
    from moodfuse.model.folder import model_folder

    def settings(run: str) -> ExportSettings:
        impute = None if missing is None else missing == "impute"
        return ExportSettings(result, folder or model_folder(cache, run), impute, force)

    if exists and run_name is not None:
        check_no_effect(
            context, _FIT_OPTIONS, f"has no effect on {run_name}, which exists; remove it, or --run"
        )
        run = read_run(cache, run_name)
    else:
        if run_name is not None:
            report(f"{run_name} is a new run; training its heads first")
        check_planned(cache, ablation, settings(resolve_run_name(cache, run_name)))
        run = _fuse(cache, ablation, wide=wide)
    _export(cache, run, settings(run.name))


def _fuse(cache: "FeatureCache", settings: "AblationSettings", *, wide: bool) -> "Run":
    from moodfuse.cache.runs import FEW_GROUPS, LEAKY, LEAKY_MARK, write_run
    from moodfuse.fuse.ablation import accuracies, run_ablation

    run = run_ablation(cache, settings)
    write_run(cache, run)
    notes = (note for note in run.results[0].notes if note != LEAKY_MARK)
    shared = [note for note in notes if all(note in result.notes for result in run.results)]
    columns = (Column("result"), Column("accuracy", number=True), Column("notes", drop=1))
    rows = [
        (result.name, f"{accuracy:.3f}", "; ".join(note for note in result.notes if note not in shared))
        for result, accuracy in zip(run.results, accuracies(run), strict=True)
    ]
    kept = 3 if any(row[-1] for row in rows) else 2
    print_table(columns[:kept], [[row[:kept] for row in rows]], wide=wide)
    measure = f"{LEAKY_MARK} accuracy" if run.protocol == LEAKY else "out-of-fold accuracy"
    plans = f", mean over {1 + len(run.repeat_folds)} fold plans" if run.repeat_folds else ""
    click.echo(f"{measure} of {len(run.ids)} clips, protocol {run.protocol}{plans}")
    for note in shared:
        where = " (in folds whose training side has fewer than 3 groups of a class)"
        print_lines([f"note: {note}{where if note == FEW_GROUPS else ''}"], wrap=True)
    click.echo(f"next: moodfuse evaluate --cache {cache.path} --run {run.name}")
    return run


def _export(cache: "FeatureCache", run: "Run", settings: "ExportSettings") -> None:
    from moodfuse.export import export_model

    with ProgressBar("Exporting the model", transient=True):
        card = export_model(cache, run, settings, echo=report)
    accuracy = card.expected["accuracy"]
    click.echo(f"model: {settings.folder} ({printable(card.name)}; cross-validated accuracy {accuracy:.3f})")
    click.echo(f"next: moodfuse predict --model {shlex.quote(str(settings.folder))} FILE...")
