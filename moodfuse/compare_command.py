"""`moodfuse compare`: the difference of two results on the same clips."""

from pathlib import Path

import click

from moodfuse.cache.terminal import format_option, wide_option
from moodfuse.options import bootstrap_seed_option, draws_option


@click.command("compare")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--run", "run_name", help="Name of the run.  [default: the newest]")
@click.option("--against-run", help="Take B from this run of the same clips.  [default: the run of A]")
@format_option
@draws_option
@bootstrap_seed_option
@wide_option
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
def compare_command(
    cache_path: Path,
    run_name: str | None,
    against_run: str | None,
    form: str,
    draws: int,
    seed: int,
    wide: bool,
    first: str,
    second: str,
) -> None:
    """Compare two results of a run on the same clips.

    Prints differences of accuracy, macro F1, AUC and log loss with 95 % intervals, a paired test over groups,
    and the clips that changed.

    A and B are names as in the report, such as 'c3d+i3d softmax logits', or sources alone, such as c3d+i3d:
    then both have the same head and level, chosen as for the planned tests. Either may be a CSV file of
    another system's predictions, with the columns id and one for each class, or id and predicted.

    \b
    Example:
      moodfuse compare --cache work onedmcnn+twodmcnn c3d+i3d+onedmcnn+twodmcnn
    """
    import json

    from moodfuse.cache.runs import read_run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.difference import compare
    from moodfuse.evaluate.report import difference_values, print_difference

    cache = FeatureCache(cache_path)
    run = read_run(cache, run_name)
    against = None if against_run is None else read_run(cache, against_run)
    difference = compare(run, first, second, against=against, draws=draws, seed=seed)
    if form == "json":
        click.echo(json.dumps(difference_values(difference), indent=2, allow_nan=False))
    else:
        print_difference(difference, wide=wide)
        click.echo(f"run: {run.name}" + (f" (A), {against.name} (B)" if against else ""))
