"""`moodfuse fuse`: parse, call the function, print."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moodfuse.cache.runs import Run
    from moodfuse.fuse.settings import AblationSettings


@click.command("fuse")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", "run_name", help="Name of the run.  [default: the next run-N]")
@click.option(
    "--combine",
    multiple=True,
    help="Combine these sources: zhou2022 (the paper's), all (every subset), or names such as c3d+i3d; "
    "repeat for several.  [default: all]",
)
@click.option("--head", "heads", multiple=True, help="Fusion head; repeat for several.  [default: all heads]")
@click.option(
    "--level", "levels", multiple=True, help="logits or embedding; repeat for both.  [default: both]"
)
@click.option(
    "--protocol",
    help="crossfit, no-crossfit, or leaky: networks that saw every clip, to measure the effect of a data "
    "leak.  [default: crossfit, if extract made the networks for it]",
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
def fuse_command(cache_path: Path, **options: Any) -> "Run":
    """Train fusion heads on the cached features of several sources, fold by fold.

    Every result is out of fold: a clip is predicted by networks and heads that saw no clip of its fold. Each
    network's own prediction is among the results, as head "network".

    Example: moodfuse fuse --cache work --combine zhou2022 --head softmax
    """
    from moodfuse.cache.console import printable
    from moodfuse.cache.runs import LEAKY, LEAKY_MARK, write_run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.fuse.ablation import run_ablation
    from moodfuse.fuse.run_record import accuracies

    cache = FeatureCache(cache_path)
    run = run_ablation(cache, ablation_settings(options))
    write_run(cache, run)
    width = max(len(result.name) for result in run.results)
    for result, accuracy in zip(run.results, accuracies(run), strict=True):
        notes = f"  ({'; '.join(result.notes)})" if result.notes else ""
        click.echo(printable(f"{result.name:<{width}}  {accuracy:.3f}{notes}"))
    measure = f"{LEAKY_MARK} accuracy" if run.protocol == LEAKY else "out-of-fold accuracy"
    click.echo(f"{measure} of {len(run.ids)} clips, protocol {run.protocol}")
    click.echo(f"next: moodfuse evaluate --cache {cache_path} --run {run.name}")
    return run


def ablation_settings(options: Mapping[str, Any]) -> "AblationSettings":
    """The settings that the command line asks for."""
    from moodfuse.cache.console import command_line
    from moodfuse.fuse.settings import AblationSettings

    return AblationSettings(
        run=options["run_name"],
        protocol=options["protocol"],
        repeats=options["repeats"],
        jobs=options["jobs"],
        scheduler=options["scheduler"],
        command=command_line(click.get_current_context()),
        **{name: options[name] for name in ("combine", "heads", "levels") if options[name]},
    )
