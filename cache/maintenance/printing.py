"""Output of `cache ls`, `cache verify` and `cache prune`: tables, or one JSON value for programs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from math import comb
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal as size

from moodfuse.cache.console import printable
from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.maintenance.listing import CURRENT, BlockInfo, Inventory, RecipeInfo, RunInfo
from moodfuse.cache.maintenance.prune import PrunePlan
from moodfuse.cache.maintenance.repair import Repair
from moodfuse.cache.maintenance.verify import Verification
from moodfuse.cache.storage.layout import BAD, TEMPORARY, UNKNOWN
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.terminal import Column, print_lines, print_table

LISTING_SCHEMA = 1
_KINDS = {BAD: "set_aside", TEMPORARY: "temporaries", UNKNOWN: "unknown"}


def _sum_bytes(records: Iterable[Any]) -> int:
    return sum(record.bytes for record in records)


# cache ls


def as_record(inventory: Inventory) -> dict[str, Any]:
    """An inventory as a JSON-able record, equal as long as the cache does not change."""
    fits = inventory.of_kind("fits")
    media_clips, media_bytes = _count_media(inventory)
    return {
        "schema": LISTING_SCHEMA,
        "cache": str(inventory.path),
        "bytes": _sum_bytes(inventory.entries),
        "clips": inventory.clips,
        "plan": inventory.plan,
        "recipes": [_make_recipe_record(recipe) for recipe in inventory.recipes],
        "media": {"clips": media_clips, "bytes": media_bytes},
        "fits": {"files": len(fits), "bytes": _sum_bytes(fits)},
        "runs": [vars(run) for run in inventory.runs],
        **{
            name: [entry.relative_path for entry in getattr(inventory, name)]
            for name in ("old_plans", "old_tables", "old_fits")
        },
        **{
            name: [{"file": entry.relative_path, "bytes": entry.bytes} for entry in inventory.of_kind(kind)]
            for kind, name in _KINDS.items()
        },
        "unreadable": list(inventory.unreadable),
    }


def _make_recipe_record(recipe: RecipeInfo) -> dict[str, Any]:
    names = ("source", "digest16", "network", "depth", "state", "bytes")
    return {
        **{name: getattr(recipe, name) for name in names},
        "blocks": [
            {
                **vars(block),
                "names": [{"holdout": str(name.holdout), "repeat": name.repeat} for name in block.names],
                "complete": block.complete,
            }
            for block in recipe.blocks
        ],
    }


def _count_media(inventory: Inventory) -> tuple[int, int]:
    """Number of decoded clips, and their bytes."""
    media = inventory.of_kind("media")
    return len({entry.path.name.partition("-")[0] for entry in media}), _sum_bytes(media)


_RECIPE_COLUMNS = (
    Column("source"),
    Column("recipe", drop=3),
    Column("network", drop=4),
    Column("depth", drop=1),
    Column("state"),
    Column("blocks complete"),
    Column("parts", number=True, drop=2),
    Column("size", number=True),
)
_BLOCK_COLUMNS = (
    Column("source"),
    Column("recipe", drop=3),
    Column("tuned on", drop=4),
    Column("holdout"),
    Column("rows", number=True),
    Column("clips", number=True),
    Column("parts", number=True, drop=2),
    Column("size", number=True),
    Column("weights", number=True, drop=1),
)


def print_inventory(inventory: Inventory, *, every_block: bool, wide: bool) -> None:
    """Print the plan, the sources and the runs; with `every_block` each block too."""
    print_lines(summary_lines(inventory))
    rows = [_make_recipe_row(recipe, inventory) for recipe in inventory.recipes]
    print_table(_RECIPE_COLUMNS, [rows], title="sources", wide=wide)
    if every_block:
        blocks = [_make_block_row(recipe, block) for recipe in inventory.recipes for block in recipe.blocks]
        print_table(_BLOCK_COLUMNS, [blocks], title="blocks", wide=wide)
    runs = [(run.name, _describe_changes(run), size(run.bytes)) for run in inventory.runs]
    columns = (Column("run"), Column("changes of its sources"), Column("size", number=True))
    print_table(columns, [runs], title="runs", wide=wide)
    click.echo(f"to list what can be removed: moodfuse cache prune --cache {printable(str(inventory.path))}")


def summary_lines(inventory: Inventory) -> Iterator[str]:
    """The size of a cache, its plan, its clips, decoded media and cached fits."""
    yield f"{inventory.path}: {size(_sum_bytes(inventory.entries))} in {len(inventory.entries)} files"
    if inventory.plan is None or inventory.clips is None:
        yield "no fold plan yet"
    else:
        plan, clips = inventory.plan, inventory.clips
        plans = f", {plan['repeats']} current fold plans" if plan["repeats"] > 1 else ""
        yield (
            f"plan {plan['sequence']}: {plan['folds']} folds, seed {plan['seed']}, over {plan['clips']} "
            f"different clips in {plan['groups']} groups{plans}"
        )
        yield (
            f"clips: {clips['listed']} listed, {clips['ok']} readable, {clips['refused']} refused, "
            f"{clips['test']} in the test split"
        )
    media_clips, media_bytes = _count_media(inventory)
    if media_clips:
        yield f"media: {media_clips} decoded clips, {size(media_bytes)}"
    if fits := inventory.of_kind("fits"):
        yield f"fits: {size(_sum_bytes(fits))} cached for fuse"
    if inventory.unreadable:
        count = len(inventory.unreadable)
        yield f"{count} parts have no valid header; run: moodfuse cache verify --cache {inventory.path}"


def _make_recipe_row(recipe: RecipeInfo, inventory: Inventory) -> tuple[object, ...]:
    parts = sum(block.parts for block in recipe.blocks)
    state = "current" if recipe.state == CURRENT else recipe.state
    texts = (recipe.source, recipe.digest16, recipe.network or "?", recipe.depth or "?", state)
    return (*texts, coverage(recipe, inventory), parts, size(recipe.bytes))


def coverage(recipe: RecipeInfo, inventory: Inventory) -> str:
    """How many blocks have a row for every clip, by form of holdout: ``{k} 6 of 6, {j,k} 15 of 15``."""
    complete: dict[str, list[bool]] = {}
    for block in recipe.blocks:
        for name in block.names:
            complete.setdefault(_get_form(name.holdout.folds), []).append(block.complete)
    expected = {form: len(done) for form, done in complete.items()}
    if "{j,k}" in expected and (plan := inventory.plan):
        expected["{j,k}"] = max(expected["{j,k}"], comb(plan["folds"], 2) * plan["repeats"])
    texts = [f"{form} {sum(done)} of {expected[form]}" for form, done in complete.items()]
    if unnamed := sum(not block.names for block in recipe.blocks):
        texts.append(f"{unnamed} of no current plan")
    return ", ".join(texts) or "none"


def _get_form(folds: frozenset[int] | None) -> str:
    if folds is None:
        return "*"
    return {0: "{}", 1: "{k}", 2: "{j,k}"}.get(len(folds), f"{{{len(folds)} folds}}")


def _make_block_row(recipe: RecipeInfo, block: BlockInfo) -> tuple[object, ...]:
    holdouts = ", ".join(map(str, block.names)) or "-"
    numbers = (block.rows, block.clips, block.parts, size(block.bytes), size(block.weights_bytes))
    return (recipe.source, recipe.digest16, block.trained, holdouts, *numbers)


def _describe_changes(run: RunInfo) -> str:
    changes = {
        "missing": ", ".join(run.gone),
        "another recipe is current": ", ".join(run.replaced),
        "unfinished or damaged": "" if run.whole else "run",
    }
    return "; ".join(f"{names}: {change}" for change, names in changes.items() if names) or "none"


# cache verify and cache prune


def print_verification(root: Path, verification: Verification) -> None:
    """Print a line for each bad file, notes on the others, and the counts."""
    print_lines(f"bad: {fault.relative_path}: {fault.reason}" for fault in verification.faults)
    for sentence in verification.disagreements:
        click.echo(printable(f"nondeterminism: {sentence.removeprefix(f'{root}/')}"))
    for kind, word in ((BAD, "quarantined earlier"), (TEMPORARY, "temporary"), (UNKNOWN, "unknown")):
        print_lines(f"{word}: {path}" for path in verification.others[kind])
    if verification.stale_clips_csv:
        click.echo("note: clips.csv differs from the current plan; nothing reads it, and extract rewrites it")
    if outputs := len(verification.others["output"]):
        click.echo(f"not checked: {outputs} files of reports, models and logs, which have no digest")
    bad = len(verification.faults) or "none"
    click.echo(f"{verification.checked} files, {size(verification.bytes)} checked: {bad} bad")


def print_repair(root: Path, done: Repair) -> None:
    """Print what was quarantined and rewritten, what failed, and the commands that restore the rest."""
    print_lines(f"quarantined: {path}.bad" for path in done.quarantined)
    print_lines(f"rewritten: {path}" for path in done.rewritten)
    print_lines(f"failed: {sentence}" for sentence in done.failed)
    if not done.remedies:
        return
    print_lines(["to restore what was lost, run:", *(f"  {command}" for command in done.remedies)])
    with suppress(MoodfuseError):
        commands = FeatureCache(root).commands
        print_lines(["the commands that filled this cache:", *(f"  {command}" for command in commands)])


def print_pruning(pruning: PrunePlan, failed: Sequence[str], *, dry_run: bool, wide: bool) -> None:
    """Print what is to be removed, or was, with reasons; what stays; and the space that this frees."""
    rows = [(removal.relative_path, removal.reason, size(removal.bytes)) for removal in pruning.removals]
    columns = (Column("file or folder"), Column("reason"), Column("size", number=True))
    print_table(columns, [rows], wide=wide)
    print_lines([f"kept: {sentence}" for sentence in pruning.kept])
    print_lines([f"failed: {sentence}" for sentence in failed])
    total = size(_sum_bytes(pruning.removals))
    if not pruning.removals:
        click.echo("nothing to prune")
    elif dry_run:
        click.echo(f"{total} would be freed; to remove it, run the same command with --yes")
    else:
        click.echo(f"not all of {total} was freed" if failed else f"{total} freed")
