"""`moodfuse cache`: parse the options, call the function, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moodfuse.cache.terminal import ProgressBar, format_option, wide_option

if TYPE_CHECKING:
    from moodfuse.cache.records import Holdout

_PATH = click.Path(path_type=Path)
_cache_option = click.option("--cache", "cache_path", required=True, type=_PATH, help="Cache folder.")


@click.group("cache")
def cache_group() -> None:
    """List a cache, verify it, free space, and import and export features.

    Example: moodfuse cache ls --cache work
    """


@cache_group.command("ls")
@_cache_option
@click.option("--long", "-l", is_flag=True, help="Also list every block: its rows, parts and sizes.")
@format_option
@wide_option
def cache_ls_command(cache_path: Path, long: bool, form: str, wide: bool) -> None:
    """List the contents of a cache.

    Shows the fold plan, sources with their recipes and blocks, runs, and sizes. Rows are counted by the
    headers of parts, including rows of clips that have left the dataset.

    Example: moodfuse cache ls --cache work
    """
    import json

    from moodfuse.cache.maintenance.listing import read_inventory
    from moodfuse.cache.maintenance.printing import as_record, print_inventory
    from moodfuse.cache.store import FeatureCache

    with ProgressBar("Reading the cache", transient=True):
        inventory = read_inventory(FeatureCache(cache_path))
    if form == "json":
        click.echo(json.dumps(as_record(inventory), indent=2))
    else:
        print_inventory(inventory, every_block=long, wide=wide)


@cache_group.command("verify")
@_cache_option
@click.option(
    "--repair",
    "do_repair",
    is_flag=True,
    help="Quarantine bad files, and rewrite derived files.",
)
@click.pass_context
def cache_verify_command(ctx: click.Context, cache_path: Path, do_repair: bool) -> None:
    """Check every byte of a cache, and list bad files.

    Compares files with their names, headers and checksums.

    Exits with 0 only if nothing was bad, with 1 if anything was, repaired or not. Files quarantined earlier,
    files of unknown kind, and rows with different values in two intact parts are listed, but do not fail.
    --repair renames bad files to NAME.bad and prints the commands that restore them.

    Example: moodfuse cache verify --cache work --repair
    """
    from moodfuse.cache.maintenance.printing import print_repair, print_verification
    from moodfuse.cache.maintenance.repair import repair
    from moodfuse.cache.maintenance.verify import verify

    verification = verify(cache_path, show_progress=True)
    print_verification(cache_path, verification)
    if do_repair and (verification.faults or verification.stale_clips_csv):
        print_repair(cache_path, repair(cache_path, verification))
    if verification.faults:
        ctx.exit(1)


@cache_group.command("prune")
@_cache_option
@click.option(
    "--recipes/--no-recipes",
    default=True,
    show_default=True,
    help="Remove recipes that are not current, networks of no current plan, and unused plans, tables and "
    "fits.",
)
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Remove a source; repeatable.")
@click.option("--media", is_flag=True, help="Remove all decoded clips; extract decodes them when needed.")
@click.option("--fits", is_flag=True, help="Remove all cached fits; fuse computes them again when needed.")
@click.option("--runs", multiple=True, metavar="NAME", help="Remove a run; repeatable.")
@click.option(
    "--bad",
    is_flag=True,
    help="Remove quarantined and temporary files of any age, not only those older than a day.",
)
@click.option(
    "--dry-run/--yes",
    "dry_run",
    default=True,
    help="Only list what would be removed, or remove it.  [default: dry-run]",
)
@wide_option
@click.pass_context
def cache_prune_command(
    ctx: click.Context, cache_path: Path, dry_run: bool, wide: bool, sources: tuple[str, ...], **options: Any
) -> None:
    """Remove unused files, to free space.

    Without --yes it only lists what would be removed. Everything that current sources need is kept, including
    the activations on which their heads are tuned. A recipe that extract has not finished is kept for a week,
    and the fold plan before the current one is always kept. A killed prune leaves a valid cache. --source
    also allows importing other features under that name.

    Example: moodfuse cache prune --cache work --yes
    """
    import time

    from moodfuse.cache.console import command_line
    from moodfuse.cache.maintenance.listing import read_inventory
    from moodfuse.cache.maintenance.printing import print_pruning
    from moodfuse.cache.maintenance.prune import choose_removals, remove
    from moodfuse.cache.store import FeatureCache

    cache = FeatureCache(cache_path)
    inventory = read_inventory(cache, without=sources)
    pruning = choose_removals(inventory, now_s=time.time(), sources=sources, **options)
    if not dry_run:
        cache.take_out(sources, command=command_line(ctx))
    failed = () if dry_run else remove(cache_path, pruning.removals)
    print_pruning(pruning, failed, dry_run=dry_run, wide=wide)
    if failed:
        ctx.exit(1)


@cache_group.command("import")
@click.argument("file", type=_PATH)
@click.option("--cache", required=True, type=_PATH, help="Cache folder; created if it does not exist.")
@click.option("--source", required=True, help="Name of the new source, such as clip-vit.")
@click.option(
    "--holdout",
    required=True,
    help="'*' if no label of these clips was used to make the features; otherwise the folds whose labels "
    "were not used: '{2}', '{1,4}', or '{}' if all were used.",
)
@click.option("--labels", type=_PATH, help="CSV of id,label[,group][,fold] that declares the clips.")
@click.option("--ids", type=_PATH, help="Ids of the rows of a .npy: text, one per line, or .npy.")
@click.option(
    "--columns",
    multiple=True,
    metavar="NAMES",
    help="Embedding columns of a .csv or .parquet: names or patterns such as 'feat_*', separated by commas; "
    "repeatable.  [default: e0, e1, ..., otherwise all numbers but index columns]",
)
@click.option(
    "--made-by",
    metavar="SOURCE[=WEIGHTS]",
    default="",
    help="The frozen network that made the features, such as hf:facebook/dinov2-base, so that models with "
    "them can be exported; needs the files of the clips then.",
)
@click.option(
    "--modality",
    type=click.Choice(["audio", "video"]),
    help="What the features describe, so that the report can tell what video adds to audio.",
)
@click.option("--folds", type=int, help="Number of folds.  [default: the cache's plan, else 6]")
@click.option("--seed", type=int, help="Random seed of the fold plan.  [default: the cache's plan, else 0]")
@click.option("--replace", is_flag=True, help="Accept a --labels file that shares no clip with the cache.")
@click.pass_context
def cache_import_command(ctx: click.Context, **options: Any) -> None:
    """Import the features in FILE as a new source.

    FILE is .npz (id, embedding and, if any, logits and their classes), .npy with --ids, .csv
    (id,e0,e1,...[,logit:LABEL...]) or .parquet (id, embedding). Its ids are those of the clips. With --labels
    no media are needed at all.

    \b
    Example:
      moodfuse cache import --cache work --labels labels.csv \\
        --source clip-vit --holdout '*' clip-vit.npz
    """
    from moodfuse.cache.console import command_line
    from moodfuse.cache.folds import PlanChoice
    from moodfuse.cache.recipe import MODALITY_NAMES
    from moodfuse.cache.terminal import print_lines, report
    from moodfuse.cache.transfer.importing import ImportSettings, import_features

    options["holdout"] = _parse_holdout(options["holdout"])
    modalities = {name: modality for modality, name in MODALITY_NAMES.items()}
    options["modality"] = modalities.get(options["modality"])
    plan = PlanChoice(options.pop("folds"), options.pop("seed"))
    settings = ImportSettings(**options, plan=plan, command=command_line(ctx))
    done = import_features(settings, report=report)
    logits = f", logits {done.logits}" if done.logits else ""
    summary = (
        f"{done.clips} clips, embedding {done.embedding}{logits}; {done.written} rows written to source "
        f"{settings.source}, holdout {settings.holdout}"
    )
    print_lines([summary], wrap=True)
    if done.missing_holdouts:
        holdouts = ", ".join(map(str, done.missing_holdouts))
        click.echo(f"next: import {settings.source} under the holdouts {holdouts} as well")
    else:
        click.echo(f"next: moodfuse fuse --cache {click.format_filename(settings.cache)}")


@cache_group.command("export")
@_cache_option
@click.option("--source", required=True, help="Source to export (moodfuse cache ls).")
@click.option("--holdout", help="Folds that its network held out, such as '{2}'.  [default: '*']")
@click.option("--output", required=True, type=_PATH, help="File to write: .npz, .csv or .parquet.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def cache_export_command(
    cache_path: Path, source: str, holdout: str | None, output: Path, force: bool
) -> None:
    """Write the features of a source to one file.

    The file has the id, label, group, fold, digest, embedding and, if any, logits of each clip.

    \b
    Example:
      moodfuse cache export --cache work --source c3d --holdout '{2}' \\
        --output c3d-2.npz
    """
    from moodfuse.cache.store import FeatureCache
    from moodfuse.cache.terminal import report
    from moodfuse.cache.transfer.exporting import export_features

    chosen = None if holdout is None else _parse_holdout(holdout)
    done = export_features(FeatureCache(cache_path), source, chosen, output, force=force)
    if done.left_out:
        report(f"{done.left_out} clips left out: they do not have what {source} reads")
    widths = ", ".join(f"{name} {width}" for name, width in done.widths.items())
    click.echo(f"{done.clips} clips, {widths}: {click.format_filename(output)}")


def _parse_holdout(text: str) -> "Holdout":
    from moodfuse.cache.errors import InputError
    from moodfuse.cache.records import Holdout

    if not text.strip():
        raise InputError(
            "--holdout is empty; write '*' if no label was used, '{}' if all were, or folds such as '{2}'"
        )
    return Holdout.of(text)
