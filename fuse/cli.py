"""`moodfuse fuse`: parse, call the verb, print."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moodfuse.cache.runs import Run
    from moodfuse.fuse.ablation import AblationSettings


@click.command("fuse")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", "run_name", help="Name of the run.  [default: the next run-N]")
@click.option(
    "--combine",
    multiple=True,
    help="seed, all (every subset of the sources), or c3d+i3d; repeat.  [default: all]",
)
@click.option("--head", "heads", multiple=True, help="Fusion head; repeat for several.  [default: all heads]")
@click.option(
    "--level", "levels", multiple=True, help="logits or embedding; repeat for both.  [default: both]"
)
@click.option(
    "--protocol",
    help="crossfit, no-crossfit, or leaky: networks that saw every clip, to measure what a leak is worth.  "
    "[default: crossfit, if extract made the networks for it]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    help="Fold plans to test under.  [default: all that extract made; 5 where no source is tuned]",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="cores", help="Workers."
)
@click.option("--scheduler", metavar="dask://HOST:PORT", help="Fit on a Dask cluster instead.")
def fuse_command(cache_path: Path, **options: Any) -> "Run":
    """Train fusion heads on the cached features of several sources, fold by fold.

    Every result is out of fold: a clip is predicted by networks and heads that saw no clip of its fold. Each network's
    own prediction stands beside them, as head "network".

    Example: moodfuse fuse --cache work --combine seed --head softmax
    """
    from moodfuse.cache.console import printable
    from moodfuse.cache.runs import LEAKY, LEAKY_MARK, write_run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.fuse.ablation import accuracies, run_ablation

    cache = FeatureCache(cache_path)
    run = run_ablation(cache, ablation_settings(options))
    write_run(cache, run)
    width = max(len(result.name) for result in run.results)
    for result, accuracy in zip(run.results, accuracies(run), strict=True):
        remark = f"  ({'; '.join(result.notes)})" if result.notes else ""
        click.echo(printable(f"{result.name:<{width}}  {accuracy:.3f}{remark}"))
    what = f"{LEAKY_MARK} accuracy" if run.protocol == LEAKY else "out-of-fold accuracy"
    click.echo(f"{what} of {len(run.ids)} clips, protocol {run.protocol}")
    click.echo(f"next: moodfuse evaluate --cache {cache_path} --run {run.name}")
    return run


def ablation_settings(options: Mapping[str, Any]) -> "AblationSettings":
    """The record of what the command line asks for."""
    from moodfuse.cache.console import command_line
    from moodfuse.fuse.ablation import AblationSettings

    return AblationSettings(
        run=options["run_name"],
        protocol=options["protocol"],
        repeats=options["repeats"],
        jobs=options["jobs"],
        scheduler=options["scheduler"],
        command=command_line(click.get_current_context()),
        **{name: options[name] for name in ("combine", "heads", "levels") if options[name]},
    )
