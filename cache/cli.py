"""`moodfuse cache`: parse, call the verb, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from moodfuse.cache.records import Holdout
    from moodfuse.cache.transfer.importing import Imported, ImportSettings


@click.group("cache")
def cache_group() -> None:
    """Look into a cache, check it, free space, and exchange features.

    Example: moodfuse cache ls --cache work
    """


@cache_group.command("ls")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--long", "-l", "wide", is_flag=True, help="Also every block: its rows, parts and sizes.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print.",
)
def cache_ls_command(cache_path: Path, wide: bool, form: str) -> None:
    """List what a cache holds: the plan, sources, recipes, blocks by holdout, runs, sizes, and what is stale.

    In more than 268 MB of features rows are counted by headers of parts alone: one of a clip that has left counts too.

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
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option(
    "--repair", "mend", is_flag=True, help="Set bad files aside, and write anew what follows from others."
)
@click.pass_context
def cache_verify_command(ctx: click.Context, cache_path: Path, mend: bool) -> None:
    """Check every byte of a cache against names, headers and seals, and list what is bad.

    Exits with 0 only if nothing was bad, with 1 if anything was, repaired or not. What was set aside earlier, files of
    unknown kind, and rows that came out differently in two sound parts are listed, but do not fail. --repair renames
    bad files to NAME.bad and says which command makes them again.

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
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option(
    "--recipes/--no-recipes",
    default=True,
    show_default=True,
    help="Recipes not in force, networks that no plan in force names, plans, tables and fits that nothing reads.",
)
@click.option(
    "--source", "sources", multiple=True, metavar="NAME", help="A source, taken out of force; repeatable."
)
@click.option(
    "--media", is_flag=True, help="All decoded clips; extract decodes them again where they are needed."
)
@click.option("--fits", is_flag=True, help="All finished fits that are kept; fuse fits again what it needs.")
@click.option("--runs", multiple=True, metavar="NAME", help="A run; repeat for several.")
@click.option(
    "--bad", is_flag=True, help="Files set aside and temporaries of any age, not only older than a day."
)
@click.option(
    "--dry-run/--yes", "dry", default=True, help="Only say what would go, or remove it.  [default: dry-run]"
)
@click.pass_context
def cache_prune_command(ctx: click.Context, cache_path: Path, dry: bool, **options: Any) -> None:
    """Free space: remove what nothing in force reads, after a dry run that says what would go.

    What sources in force need stays, with the activations that their heads are tuned on; so does, for a week, a recipe
    that extract has not finished, and the fold plan before the one in force. A prune that is killed leaves a sound
    cache. --source takes a source out of force first, so that other features can be imported under its name.

    Example: moodfuse cache prune --cache work --yes
    """
    import time

    from moodfuse.cache.commands import command_line
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
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder; made if new."
)
@click.option(
    "--source", required=True, help="Name of the source that the features become, such as clip-vit."
)
@click.option(
    "--holdout",
    required=True,
    help="'*' if no label of these clips was used to make the features; else the folds whose labels were not: "
    "'{2}', '{1,4}', or '{}' if all were used.",
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="CSV of id,label[,group][,fold] that names the clips."
)
@click.option(
    "--ids", type=click.Path(path_type=Path), help="Ids of the rows of a .npy: text, one a line, or .npy."
)
@click.option(
    "--columns",
    multiple=True,
    metavar="NAMES",
    help="Columns of a .csv or .parquet that are the embedding: names or patterns such as 'feat_*', separated by "
    "commas; repeat for more.  [default: e0, e1, ..., else all numbers but index columns]",
)
@click.option("--folds", type=int, help="Number of folds.  [default: the cache's plan, else 6]")
@click.option("--seed", type=int, help="Seed of the fold plan.  [default: the cache's plan, else 0]")
@click.option("--replace", is_flag=True, help="Let --labels name none of the clips that the cache has.")
@click.pass_context
def cache_import_command(ctx: click.Context, file: Path, cache_path: Path, **options: Any) -> None:
    """Bring your own features: FILE becomes a source that fuses like any other.

    FILE is .npz (id, embedding and, if any, logits and their classes), .npy with --ids, .csv
    (id,e0,e1,...[,logit:LABEL...]) or .parquet (id, embedding). Its ids are those of the clips. With --labels no media
    are needed at all.

    Example: moodfuse cache import --cache work --labels labels.csv --source clip-vit --holdout '*' clip-vit.npz
    """
    from moodfuse.cache.commands import command_line
    from moodfuse.cache.console import printable
    from moodfuse.cache.planning import PlanChoice
    from moodfuse.cache.transfer.importing import ImportSettings, import_features

    plan = PlanChoice(options.pop("folds"), options.pop("seed"))
    options["holdout"] = _holdout(options["holdout"])
    settings = ImportSettings(cache=cache_path, file=file, plan=plan, command=command_line(ctx), **options)
    _print_import(
        settings, import_features(settings, report=lambda line: click.echo(printable(line), err=True))
    )


def _print_import(settings: "ImportSettings", done: "Imported") -> None:
    """Say what was imported, and what comes next."""
    logits = f", logits {done.logits}" if done.logits else ""
    click.echo(
        f"{done.clips} clips, embedding {done.embedding}{logits}; {done.written} rows written to source "
        f"{settings.source}, holdout {settings.holdout}"
    )
    if done.missing_holdouts:
        click.echo(
            f"next: import {settings.source} under the holdouts {', '.join(map(str, done.missing_holdouts))} as well"
        )
    else:
        click.echo(f"next: moodfuse fuse --cache {click.format_filename(settings.cache)}")


@cache_group.command("export")
@click.option("--cache", "cache_path", required=True, type=click.Path(path_type=Path), help="Cache folder.")
@click.option("--source", required=True, help="Source to export (moodfuse cache ls).")
@click.option("--holdout", help="Folds that its network held out, such as '{2}'.  [default: '*']")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="File to write: .npz, .csv or .parquet."
)
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
        click.echo(f"{done.left_out} clips left out: they lack what {source} reads", err=True)
    widths = ", ".join(f"{name} {width}" for name, width in done.widths.items())
    click.echo(f"{done.clips} clips, {widths}: {click.format_filename(output)}")


def _holdout(text: str) -> "Holdout":
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.records import Holdout

    if not text.strip():
        raise InputError(
            "--holdout is empty; write '*' if no label was used, '{}' if all were, or folds such as '{2}'"
        )
    return Holdout.of(text)
