"""`moodfuse fuse`: parse, call the verb, print."""

import os
from pathlib import Path

import click

COMBINE_HELP = "seed, all, or names such as c3d+i3d; repeat for several.  [default: all]"
HEAD_HELP = "softmax, logistic, lightgbm or mean; repeat for several.  [default: every head]"


@click.command("fuse")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", help="Name of the run.  [default: run-1, run-2, ...]")
@click.option("--combine", multiple=True, help=COMBINE_HELP)
@click.option("--head", "heads", multiple=True, help=HEAD_HELP)
@click.option("--level", "levels", multiple=True, help="logits or embedding; repeat for several.  [default: both]")
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="cores", help="Processes.")
def fuse_command(
    cache_path: Path,
    run: str | None,
    combine: tuple[str, ...],
    heads: tuple[str, ...],
    levels: tuple[str, ...],
    jobs: int,
) -> None:
    """Train fusion heads on the cached features, fold by fold, and keep their out-of-fold probabilities.

    Example: moodfuse fuse --cache work --combine seed --head softmax --head mean
    """
    from cache.runs import write_run
    from cache.store import FeatureCache
    from fuse.ablation import AblationSettings, run_ablation

    cache = FeatureCache(cache_path)
    settings = AblationSettings(run=run, combine=combine, heads=heads, levels=levels, jobs=jobs)
    done = run_ablation(cache, settings)
    write_run(cache, done)
    click.echo(f"run {done.name}: {len(done.results)} results over {len(done.ids)} clips and {done.fold_count} folds")
    for note in done.notes:
        click.echo(f"note: {note}")
    click.echo(f"next: moodfuse evaluate --cache {cache_path} --run {done.name}")
