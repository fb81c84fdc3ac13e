"""`moodfuse cache`: parse the options, call the function, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moodfuse.cache.records import Holdout
    from moodfuse.cache.transfer.importing import Imported, ImportSettings


PATH = click.Path(path_type=Path)
_cache_option = click.option("--cache", "cache_path", required=True, type=PATH, help="Cache folder.")


@click.group("cache")
def cache_group() -> None:
    """List, verify and prune a cache, and import and export features.

    Example: moodfuse cache ls --cache work
    """


@cache_group.command("ls")
@_cache_option
@click.option("--long", "-l", "wide", is_flag=True, help="List every block too: its rows, parts and sizes.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Output format.",
)
def cache_ls_command(cache_path: Path, wide: bool, form: str) -> None:
    """List the content of a cache: plan, sources, recipes, blocks by holdout, runs, sizes, and what is out of date.

    In more than 268 MB of features rows are counted from headers, so that rows of removed clips count too.

    Example: moodfuse cache ls --cache work
    """
    import json

    from moodfuse.cache.maintenance.inventory import take_stock
    from moodfuse.cache.maintenance.printing import as_record, print_inventory
    from moodfuse.cache.store import FeatureCache

    stock = take_stock(FeatureCache(cache_path))
    if form == "json":
        click.echo(json.dumps(as_record(stock), indent=2))
    else:
        print_inventory(stock, wide=wide)


@cache_group.command("verify")
@_cache_option
@click.option(
    "--repair", "mend", is_flag=True, help="Set bad files aside, and rewrite those that follow from others."
)
@click.pass_context
def cache_verify_command(ctx: click.Context, cache_path: Path, mend: bool) -> None:
    """Check every byte of a cache against names, headers and seals, and list bad files.

    Exits with 0 if no file is bad, with 1 if any is, repaired or not. Files set aside earlier, files of
    unknown kind, and rows with different values in two valid parts are listed, but do not fail. --repair
    renames bad files to NAME.bad and prints the command that makes them again.

    Example: moodfuse cache verify --cache work --repair
    """
    from moodfuse.cache.maintenance.repair import repair
    from moodfuse.cache.maintenance.report import byte_progress, print_repair, print_verification
    from moodfuse.cache.maintenance.verify import verify

    with byte_progress("Checking") as bar:
        found = verify(cache_path, begin=bar.begin, tick=bar.tick)
    print_verification(cache_path, found)
    if mend and (found.faults or found.stale_view):
        print_repair(cache_path, repair(cache_path, found))
    if found.faults:
        ctx.exit(1)


@cache_group.command("prune")
@_cache_option
@click.option(
    "--recipes/--no-recipes",
    default=True,
    show_default=True,
    help="Remove recipes not in force, networks that no plan in force uses, and plans, tables and fits that nothing reads.",
)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME", help="Remove a source; repeat for several."
)
@click.option(
    "--media", is_flag=True, help="Remove all decoded clips; extract decodes them again where needed."
)
@click.option("--fits", is_flag=True, help="Remove all stored fits; fuse repeats those that it needs.")
@click.option("--runs", multiple=True, metavar="NAME", help="Remove a run; repeat for several.")
@click.option(
    "--bad",
    is_flag=True,
    help="Remove files set aside and temporaries of any age, not only those older than a day.",
)
@click.option(
    "--dry-run/--yes",
    "dry",
    default=True,
    help="List what would be removed, or remove it.  [default: dry-run]",
)
@click.pass_context
def cache_prune_command(ctx: click.Context, cache_path: Path, dry: bool, **options: Any) -> None:
    """Free space: remove what nothing in force reads, after a dry run that lists it.

    Files that sources in force need are kept, with the activations that their heads are tuned on; so are, for
    a week, a recipe that extract has not finished, and the fold plan before the one in force. A prune that is
    killed leaves a valid cache. --source puts a source out of force first, so that other features can be
    imported under its name.

    Example: moodfuse cache prune --cache work --yes
    """
    import time

    from moodfuse.cache.console import command_line
    from moodfuse.cache.maintenance.inventory import take_stock
    from moodfuse.cache.maintenance.prune import PruneChoice, carry_out, decide
    from moodfuse.cache.maintenance.report import print_pruning
    from moodfuse.cache.store import FeatureCache

    choice = PruneChoice(**options)
    cache = FeatureCache(cache_path)
    stock = take_stock(cache, without=choice.sources)
    pruning = decide(stock, choice, now_s=time.time())
    if not dry:
        cache.take_out(choice.sources, command=command_line(ctx))
    failed = () if dry else carry_out(stock.path, pruning.removals)
    print_pruning(stock.path, pruning, failed, dry=dry)
    if failed:
        ctx.exit(1)


@cache_group.command("import")
@click.argument("file", type=PATH)
@click.option("--cache", "cache_path", required=True, type=PATH, help="Cache folder; created if new.")
@click.option("--source", required=True, help="Name of the new source, such as clip-vit.")
@click.option(
    "--holdout",
    required=True,
    help="'*' if no label of these clips was used to make the features; else the folds whose labels were not used: "
    "'{2}', '{1,4}', or '{}' if all were used.",
)
@click.option("--labels", type=PATH, help="CSV of id,label[,group][,fold] with all clips.")
@click.option("--ids", type=PATH, help="Ids of the rows of a .npy: text, one per line, or .npy.")
@click.option(
    "--columns",
    multiple=True,
    metavar="NAMES",
    help="Columns of a .csv or .parquet that are the embedding: names or patterns such as 'feat_*', separated by "
    "commas; repeat for more.  [default: e0, e1, ..., else all numbers but index columns]",
)
@click.option("--folds", type=int, help="Number of folds.  [default: the cache's plan, else 6]")
@click.option("--seed", type=int, help="Seed of the fold plan.  [default: the cache's plan, else 0]")
@click.option("--replace", is_flag=True, help="Allow --labels without any of the clips of the cache.")
@click.pass_context
def cache_import_command(ctx: click.Context, file: Path, cache_path: Path, **options: Any) -> None:
    """Import your own features: FILE becomes a source that can be fused like any other.

    FILE is .npz (id, embedding and, if any, logits and their classes), .npy with --ids, .csv
    (id,e0,e1,...[,logit:LABEL...]) or .parquet (id, embedding). Its ids are those of the clips. With --labels
    no media are needed.

    Example: moodfuse cache import --cache work --labels labels.csv --source clip-vit --holdout '*'
    clip-vit.npz
    """
    from moodfuse.cache.console import command_line, printable
    from moodfuse.cache.planning import PlanChoice
    from moodfuse.cache.transfer.importing import ImportSettings, import_features

    plan = PlanChoice(options.pop("folds"), options.pop("seed"))
    options["holdout"] = _holdout(options["holdout"])
    settings = ImportSettings(cache=cache_path, file=file, plan=plan, command=command_line(ctx), **options)
    _print_import(settings, import_features(settings, say=lambda line: click.echo(printable(line), err=True)))


def _print_import(settings: "ImportSettings", done: "Imported") -> None:
    """Print what was imported, and the next command."""
    logits = f", logits {done.logits}" if done.logits else ""
    click.echo(
        f"{done.clips} clips, embedding {done.embedding}{logits}; {done.written} rows written to source "
        f"{settings.source}, holdout {settings.holdout}"
    )
    if done.lacking:
        click.echo(
            f"next: import {settings.source} under the holdouts {', '.join(map(str, done.lacking))} as well"
        )
    else:
        click.echo(f"next: moodfuse fuse --cache {click.format_filename(settings.cache)}")


@cache_group.command("export")
@_cache_option
@click.option("--source", required=True, help="Source to export (see moodfuse cache ls).")
@click.option("--holdout", help="Folds that its network held out, such as '{2}'.  [default: '*']")
@click.option("--output", required=True, type=PATH, help="File to write: .npz, .csv or .parquet.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def cache_export_command(
    cache_path: Path, source: str, holdout: str | None, output: Path, force: bool
) -> None:
    """Write a source's features to one file: id, label, group, fold, digest, embedding and, if any, logits.

    Example: moodfuse cache export --cache work --source c3d --holdout '{2}' --output c3d-2.npz
    """
    from moodfuse.cache.store import FeatureCache
    from moodfuse.cache.transfer.exporting import export_features

    wanted = None if holdout is None else _holdout(holdout)
    done = export_features(FeatureCache(cache_path), source, wanted, output, force=force)
    if done.left_out:
        click.echo(f"{done.left_out} clips left out: they have nothing that {source} reads", err=True)
    widths = ", ".join(f"{name} {values.shape[1]}" for name, values in done.arrays.items())
    click.echo(f"{len(done.folds)} clips, {widths}: {click.format_filename(output)}")


def _holdout(text: str) -> "Holdout":
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.records import Holdout

    if not text.strip():
        raise InputError(
            "--holdout is empty; write '*' if no label was used, '{}' if all were, or folds such as '{2}'"
        )
    return Holdout.of(text)
