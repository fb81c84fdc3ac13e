"""`moodfuse cache`: parse, call the verb, print."""

from pathlib import Path
from typing import Any

import click


@click.group("cache")
def cache_group() -> None:
    """Look into a cache, check it, free space, and exchange features.

    Example: moodfuse cache ls --cache work
    """


@cache_group.command("ls")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--long", "-l", "wide", is_flag=True, help="Also every block: its rows, parts and sizes.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
)
def cache_ls_command(cache_path: Path, wide: bool, form: str) -> None:
    """List what a cache holds: the plan, sources, recipes, blocks by holdout, runs, sizes, and what is stale.

    Rows are counted by the headers of the parts, so a row of a clip that has left the data set counts too.

    Example: moodfuse cache ls --cache work
    """
    import json

    from cache.inventory import take_stock
    from cache.listing import as_record, print_inventory
    from cache.store import FeatureCache

    stock = take_stock(FeatureCache(cache_path))
    if form == "json":
        click.echo(json.dumps(as_record(stock), indent=2))
    else:
        print_inventory(stock, wide=wide)


@cache_group.command("verify")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--repair", "mend", is_flag=True, help="Set bad files aside, and write anew what follows from others.")
@click.pass_context
def cache_verify_command(ctx: click.Context, cache_path: Path, mend: bool) -> None:
    """Check every byte of a cache against names, headers and seals, and list what is bad.

    Exits with 0 only if nothing was bad, with 1 if anything was, repaired or not. What was set aside earlier, files of
    unknown kind, and rows that came out differently in two sound parts are listed, but do not fail. --repair renames
    bad files to NAME.bad and says which command makes them again.

    Example: moodfuse cache verify --cache work --repair
    """
    from cache.repair import repair
    from cache.report import byte_progress, print_repair, print_verification
    from cache.verify import verify

    with byte_progress("Checking") as bar:
        found = verify(cache_path, begin=bar.begin, tick=bar.tick)
    print_verification(cache_path, found)
    if mend and (found.faults or found.stale_view):
        print_repair(cache_path, repair(cache_path, found))
    if found.faults:
        ctx.exit(1)


@cache_group.command("prune")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option(
    "--recipes/--no-recipes",
    default=True,
    show_default=True,
    help="Recipes not in force, networks that no plan in force names, plans and tables that nothing reads.",
)
@click.option("--media", is_flag=True, help="All decoded clips; extract decodes them again where they are needed.")
@click.option("--runs", multiple=True, metavar="NAME", help="A run; repeat for several.")
@click.option("--bad", is_flag=True, help="Files set aside and temporaries of any age, not only older than a day.")
@click.option("--dry-run/--yes", "dry", default=True, help="Only say what would go, or remove it.  [default: dry-run]")
@click.pass_context
def cache_prune_command(ctx: click.Context, cache_path: Path, dry: bool, **options: Any) -> None:
    """Free space: remove what nothing in force reads, after a dry run that says what would go.

    What sources in force need stays, with the activations that their heads are tuned on; so does, for a week, a recipe
    that extract has not finished. A prune that is killed leaves a sound cache.

    Example: moodfuse cache prune --cache work --yes
    """
    import time

    from cache.inventory import take_stock
    from cache.prune import PruneChoice, carry_out, decide
    from cache.report import print_pruning
    from cache.store import FeatureCache

    stock = take_stock(FeatureCache(cache_path))
    pruning = decide(stock, PruneChoice(**options), now_s=time.time())
    failed = () if dry else carry_out(stock.path, pruning.removals)
    print_pruning(stock.path, pruning, failed, dry=dry)
    if failed:
        ctx.exit(1)
