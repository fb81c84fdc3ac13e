"""Output of `cache ls`, `cache verify` and `cache prune`: tables, or one JSON value for programs."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import comb
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.filesize import decimal as size
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from moodfuse.cache.console import printable
from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.maintenance.listing import CURRENT, UNFINISHED, BlockInfo, Inventory, RecipeInfo, RunInfo
from moodfuse.cache.maintenance.prune import Pruning
from moodfuse.cache.maintenance.repair import Repair
from moodfuse.cache.maintenance.verify import Verification
from moodfuse.cache.storage.layout import BAD, TEMPORARY, UNKNOWN
from moodfuse.cache.store import FeatureCache

LISTING_SCHEMA = 1
MAX_LINES = 20
"""Incomplete blocks, and unchecked files of each kind, are listed up to this number."""
_WIDTH = 110
_KINDS = {BAD: "set_aside", TEMPORARY: "temporaries", UNKNOWN: "unknown"}


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on stderr, for `verify`; none without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_table(
    title: str, texts: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    """Print a table whose text columns fold, so that no column is dropped in a narrow terminal."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    if table.row_count:
        console = Console(width=max(Console().width, _WIDTH), highlight=False, markup=False, emoji=False)
        console.print(table)


def _print_lines(lines: Iterable[str], more: str = "") -> None:
    """Print the first lines, and the number of the others before the text `more`."""
    lines = list(lines)
    for line in lines[:MAX_LINES]:
        click.echo(printable(line))
    if len(lines) > MAX_LINES:
        click.echo(f"... and {len(lines) - MAX_LINES} more{more}")


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
            name: [entry.place for entry in getattr(inventory, name)]
            for name in ("old_plans", "old_tables", "old_fits")
        },
        **{
            name: [{"file": entry.place, "bytes": entry.bytes} for entry in inventory.of_kind(kind)]
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


def print_inventory(inventory: Inventory, *, every_block: bool) -> None:
    """Print the plan, the sources, the runs, and what is stale; with `every_block` each block too."""
    for line in summary_lines(inventory):
        click.echo(printable(line))
    _print_table(
        "sources",
        ("source", "recipe", "network", "depth", "state", "blocks complete"),
        ("parts", "size"),
        (_make_recipe_row(recipe, inventory) for recipe in inventory.recipes),
    )
    incomplete = [
        f"incomplete: {recipe.source} {_join_holdouts(block)}: {block.rows} of {block.clips} clips"
        for recipe in inventory.recipes
        for block in recipe.blocks
        if recipe.needed and block.names and not block.complete
    ]
    _print_lines(incomplete, "; --long lists every block")
    if every_block:
        _print_table(
            "blocks",
            ("source", "recipe", "tuned on", "holdout"),
            ("rows", "clips", "parts", "size", "weights"),
            (_make_block_row(recipe, block) for recipe in inventory.recipes for block in recipe.blocks),
        )
    runs = ((run.name, _describe_changes(run) or "none", size(run.bytes)) for run in inventory.runs)
    _print_table("runs", ("run", "changes of its sources"), ("size",), runs)
    stale = [
        (what, len(records), size(_sum_bytes(records) + sum(getattr(r, "weights_bytes", 0) for r in records)))
        for what, records in _find_stale(inventory).items()
        if records
    ]
    if stale:
        _print_table("stale", ("what",), ("count", "size"), stale)
        path = printable(str(inventory.path))
        click.echo(f"to list what can be removed: moodfuse cache prune --cache {path}")


def summary_lines(inventory: Inventory) -> Iterator[str]:
    """The size of a cache, its plan, its clips, decoded media and cached fits."""
    yield f"{inventory.path}: {size(_sum_bytes(inventory.entries))} in {len(inventory.entries)} files"
    if inventory.plan is None or inventory.clips is None:
        yield "no fold plan yet"
    else:
        plan, clips = inventory.plan, inventory.clips
        duplicates = clips["ok"] - clips["test"] - plan["clips"]
        copies = f" ({duplicates} the same file and seconds as another)" if duplicates > 0 else ""
        plans = f", {plan['repeats']} current fold plans" if plan["repeats"] > 1 else ""
        yield (
            f"plan {plan['sequence']}: {plan['folds']} folds, seed {plan['seed']}, over {plan['clips']} "
            f"clips{copies} in {plan['groups']} groups{plans}"
        )
        yield (
            f"clips: {clips['listed']} listed, {clips['ok']} readable, {clips['refused']} refused, "
            f"{clips['test']} for tests"
        )
    media_clips, media_bytes = _count_media(inventory)
    if media_clips:
        yield f"media: {media_clips} decoded clips, {size(media_bytes)}"
    if fits := inventory.of_kind("fits"):
        yield f"fits: {size(_sum_bytes(fits))} cached for fuse"
    if inventory.unreadable:
        count = len(inventory.unreadable)
        yield f"{count} parts have no valid header; run: moodfuse cache verify --cache {inventory.path}"


def _join_holdouts(block: BlockInfo) -> str:
    return ", ".join(map(str, block.names)) or "-"


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
    numbers = (block.rows, block.clips, block.parts, size(block.bytes), size(block.weights_bytes))
    return (recipe.source, recipe.digest16, block.trained, _join_holdouts(block), *numbers)


def _describe_changes(run: RunInfo) -> str:
    changes = [f"{', '.join(run.gone)}: missing"] if run.gone else []
    changes += [f"{', '.join(run.replaced)}: another recipe is current"] if run.replaced else []
    return "; ".join([*changes, *([] if run.whole else ["unfinished or damaged"])])


def _find_stale(inventory: Inventory) -> dict[str, Sequence[Any]]:
    unused = [recipe for recipe in inventory.recipes if not recipe.needed]
    needed = [recipe for recipe in inventory.recipes if recipe.needed]
    return {
        "recipes replaced": [recipe for recipe in unused if recipe.state != UNFINISHED],
        "recipes never used: extract is running, or was stopped": [
            recipe for recipe in unused if recipe.state == UNFINISHED
        ],
        "networks that no current plan names": [
            block for recipe in needed for block in recipe.blocks if not block.names
        ],
        "fold plans that no new plan starts from": inventory.old_plans,
        "fits of earlier clips or labels": inventory.old_fits,
        "tables of clips of earlier plans": inventory.old_tables,
        "quarantined damaged files": inventory.of_kind(BAD),
        "temporaries": inventory.of_kind(TEMPORARY),
        "files of unknown kind": inventory.of_kind(UNKNOWN),
        "runs whose sources changed": [run for run in inventory.runs if _describe_changes(run)],
    }


# cache verify and cache prune


def print_verification(root: Path, verification: Verification) -> None:
    """Print a line for each bad file, notes on the others, and the counts."""
    for fault in verification.faults:
        click.echo(printable(f"bad: {fault.place}: {fault.reason}"))
    for sentence in verification.disagreements:
        click.echo(printable(f"nondeterminism: {sentence.removeprefix(f'{root}/')}"))
    for kind, word in ((BAD, "quarantined earlier"), (TEMPORARY, "temporary"), (UNKNOWN, "unknown")):
        _print_lines((f"{word}: {path}" for path in verification.others[kind]), f" {word}")
    if verification.stale_clips_csv:
        click.echo("note: clips.csv differs from the current plan; nothing reads it, and extract rewrites it")
    if outputs := len(verification.others["output"]):
        click.echo(f"not checked: {outputs} files of reports and models, which have no digest")
    bad = len(verification.faults) or "none"
    click.echo(f"{verification.checked} files, {size(verification.bytes)} checked: {bad} bad")


def print_repair(root: Path, done: Repair) -> None:
    """Print what was quarantined and rewritten, what failed, and the commands that restore the rest."""
    lines = [
        *(f"quarantined: {path}.bad" for path in done.set_aside),
        *(f"rewritten: {path}" for path in done.rewritten),
        *(f"failed: {sentence}" for sentence in done.failed),
    ]
    if done.remedies:
        lines += ["to restore what was lost, run:", *(f"  {command}" for command in done.remedies)]
        try:
            commands = FeatureCache(root).commands
        except MoodfuseError:
            commands = ()
        if commands:
            lines += ["the commands that filled this cache:", *(f"  {command}" for command in commands)]
    for line in lines:
        click.echo(printable(line))


def print_pruning(pruning: Pruning, failed: Sequence[str], *, dry_run: bool) -> None:
    """Print what is to be removed, or was, with reasons; what stays; and the space that this frees."""
    rows = [(removal.relative_path, removal.reason, size(removal.bytes)) for removal in pruning.removals]
    _print_table("", ("file or folder", "reason"), ("size",), rows)
    for word, sentences in (("kept", pruning.kept), ("failed", failed)):
        for sentence in sentences:
            click.echo(printable(f"{word}: {sentence}"))
    total = size(_sum_bytes(pruning.removals))
    if not pruning.removals:
        click.echo("nothing to prune")
    elif dry_run:
        click.echo(f"{total} would be freed; to remove it, run the same command with --yes")
    else:
        click.echo(f"not all of {total} was freed" if failed else f"{total} freed")
