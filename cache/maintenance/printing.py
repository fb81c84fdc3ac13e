"""Output of `cache ls`, `cache verify` and `cache prune`: tables for people, or one JSON value for programs."""

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
from moodfuse.cache.folds import pair_holdouts
from moodfuse.cache.maintenance.inventory import Inventory
from moodfuse.cache.maintenance.networks import UNFINISHED, BlockInfo, HoldoutName, RecipeInfo
from moodfuse.cache.maintenance.prune import Pruning
from moodfuse.cache.maintenance.repair import Repair
from moodfuse.cache.maintenance.verify import Verification
from moodfuse.cache.storage.layout import BAD, TEMPORARY, UNKNOWN, Entry
from moodfuse.cache.store import FeatureCache

LISTING_SCHEMA = 1
MAX_LINES = 20
"""Of incomplete blocks, and of each kind of file that was not checked, no more lines are printed."""
_WIDTH = 110
_PAIRS = "{j,k}"
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
    """A table whose text columns fold, so that no column is dropped in a narrow terminal; nothing if it is empty."""
    lines = [[printable(str(cell)) for cell in row] for row in rows]
    if not lines:
        return
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 2, 0, 0), pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console = Console(width=max(Console().width, _WIDTH), highlight=False, markup=False, emoji=False)
    console.print(table)


def _total(items: Iterable[Any]) -> int:
    return sum(item.bytes for item in items)


# cache ls


def as_record(inventory: Inventory) -> dict[str, Any]:
    """An inventory as a JSON-able record, equal as long as the cache does not change."""
    media, fits = inventory.of_kind("media"), inventory.of_kind("fits")
    return {
        "schema": LISTING_SCHEMA,
        "cache": str(inventory.path),
        "bytes": _total(inventory.entries),
        "clips": inventory.clips,
        "plan": inventory.plan,
        "recipes": [_recipe_record(recipe) for recipe in inventory.recipes],
        "media": {"clips": _count_clips(media), "bytes": _total(media)},
        "fits": {"files": len(fits), "bytes": _total(fits)},
        "runs": [
            {**vars(run), "gone": list(run.gone), "replaced": list(run.replaced)} for run in inventory.runs
        ],
        "old_plans": [entry.place for entry in inventory.old_plans],
        "old_tables": [entry.place for entry in inventory.old_tables],
        "old_fits": [entry.place for entry in inventory.old_fits],
        **{
            name: [{"file": entry.place, "bytes": entry.bytes} for entry in inventory.of_kind(kind)]
            for kind, name in _KINDS.items()
        },
        "unreadable": list(inventory.unreadable),
    }


def _recipe_record(recipe: RecipeInfo) -> dict[str, Any]:
    names = ("source", "digest16", "network", "depth", "state", "bytes")
    blocks = [_block_record(block) for block in recipe.blocks]
    return {**{name: getattr(recipe, name) for name in names}, "blocks": blocks}


def _block_record(block: BlockInfo) -> dict[str, Any]:
    names = [{"holdout": str(name.holdout), "repeat": name.repeat} for name in block.names]
    return {**vars(block), "names": names, "complete": block.complete}


def _count_clips(media: Sequence[Entry]) -> int:
    """Clips that are kept in some rendition."""
    return len({entry.path.name.partition("-")[0] for entry in media})


def print_inventory(inventory: Inventory, *, every_block: bool) -> None:
    """Print the plan, the sources, the runs, and what is stale; with `every_block` each block too."""
    for line in summary_lines(inventory):
        click.echo(line)
    _print_table(
        "sources",
        ("source", "recipe", "network", "depth", "state", "blocks complete"),
        ("parts", "size"),
        (_recipe_row(recipe, inventory) for recipe in inventory.recipes),
    )
    incomplete = [
        line for recipe in inventory.recipes if recipe.needed for line in _incomplete(recipe, inventory)
    ]
    for line in incomplete[:MAX_LINES]:
        click.echo(line)
    if len(incomplete) > MAX_LINES:
        click.echo(f"... and {len(incomplete) - MAX_LINES} more; --long lists every block")
    if every_block:
        _print_table(
            "blocks",
            ("source", "recipe", "tuned on", "holdout"),
            ("rows", "clips", "parts", "size", "weights"),
            (_block_row(recipe, block) for recipe in inventory.recipes for block in recipe.blocks),
        )
    _print_table("runs", ("run", "changes of its sources"), ("size",), _run_rows(inventory))
    if stale := [(what, count, size(total)) for what, count, total in _stale(inventory) if count]:
        _print_table("stale", ("what",), ("count", "size"), stale)
        click.echo(
            f"to list what can be removed: moodfuse cache prune --cache {printable(str(inventory.path))}"
        )


def summary_lines(inventory: Inventory) -> Iterator[str]:
    """The size of a cache, its plan, its clips, decoded media and kept fits."""
    path = printable(str(inventory.path))
    yield f"{path}: {size(_total(inventory.entries))} in {len(inventory.entries)} files"
    if inventory.plan is None or inventory.clips is None:
        yield "no fold plan yet"
    else:
        plan, clips = inventory.plan, inventory.clips
        duplicates = clips["ok"] - clips["test"] - plan["clips"]
        copies = f" ({duplicates} the same file and seconds as another)" if duplicates > 0 else ""
        plans = f", {plan['repeats']} fold plans in force" if plan["repeats"] > 1 else ""
        yield (
            f"plan {plan['sequence']}: {plan['folds']} folds, seed {plan['seed']}, over {plan['clips']} clips{copies} "
            f"in {plan['groups']} groups{plans}"
        )
        yield (
            f"clips: {clips['listed']} listed, {clips['ok']} readable, {clips['refused']} refused, {clips['test']} for "
            "tests"
        )
    if media := inventory.of_kind("media"):
        yield f"media: {_count_clips(media)} decoded clips, {size(_total(media))}"
    if fits := inventory.of_kind("fits"):
        yield f"fits: {size(_total(fits))} kept for fuse"
    if inventory.unreadable:
        yield f"{len(inventory.unreadable)} parts have no valid header; run: moodfuse cache verify --cache {path}"


def _recipe_row(recipe: RecipeInfo, inventory: Inventory) -> tuple[object, ...]:
    parts = sum(block.parts for block in recipe.blocks)
    texts = (recipe.source, recipe.digest16, recipe.network or "?", recipe.depth or "?", recipe.state)
    return (*texts, coverage(recipe, inventory), parts, size(recipe.bytes))


def coverage(recipe: RecipeInfo, inventory: Inventory) -> str:
    """How many blocks have a row for every clip, by holdouts: ``{k} 6 of 6, {j,k} 15 of 15``."""
    complete: dict[str, list[bool]] = {}
    for block in recipe.blocks:
        for name in block.names:
            complete.setdefault(_form(name.holdout.folds), []).append(block.complete)
    expected = {form: len(done) for form, done in complete.items()}
    if _PAIRS in expected and (plan := inventory.plan):
        expected[_PAIRS] = max(expected[_PAIRS], comb(plan["folds"], 2) * plan["repeats"])
    texts = [f"{form} {sum(done)} of {expected[form]}" for form, done in complete.items()]
    if unnamed := sum(not block.names for block in recipe.blocks):
        texts.append(f"{unnamed} of no plan in force")
    return ", ".join(texts) or "none"


def _form(folds: frozenset[int] | None) -> str:
    """The form of a holdout: ``*``, ``{}``, ``{k}``, ``{j,k}``."""
    if folds is None:
        return "*"
    return {0: "{}", 1: "{k}", 2: _PAIRS}.get(len(folds), f"{{{len(folds)} folds}}")


def _incomplete(recipe: RecipeInfo, inventory: Inventory) -> Iterator[str]:
    """A line for each block without all rows; missing pairs count only where the recipe has any pair."""
    names = {(name.repeat, name.holdout) for block in recipe.blocks for name in block.names}
    source = printable(recipe.source)
    for block in recipe.blocks:
        if block.names and not block.complete:
            holdouts = ", ".join(map(str, block.names))
            yield f"incomplete: {source} {holdouts}: {block.rows} of {block.clips} clips"
    plan = inventory.plan
    if plan is None or not any(_form(holdout.folds) == _PAIRS for _, holdout in names):
        return
    for repeat in range(plan["repeats"]):
        for holdout in pair_holdouts(plan["folds"]):
            if (repeat, holdout) not in names:
                yield f"incomplete: {source} {HoldoutName(repeat, holdout)}: no network yet"


def _block_row(recipe: RecipeInfo, block: BlockInfo) -> tuple[object, ...]:
    holdouts = ", ".join(map(str, block.names)) or "-"
    numbers = (block.rows, block.clips, block.parts, size(block.bytes), size(block.weights_bytes))
    return (recipe.source, recipe.digest16, block.trained, holdouts, *numbers)


def _run_rows(inventory: Inventory) -> Iterator[tuple[object, ...]]:
    for run in inventory.runs:
        notes = [f"{', '.join(run.gone)}: gone"] if run.gone else []
        notes += [f"{', '.join(run.replaced)}: another recipe is in force"] if run.replaced else []
        notes += [] if run.whole else ["unfinished or damaged"]
        yield run.name, "; ".join(notes) or "none", size(run.bytes)


def _stale(inventory: Inventory) -> Iterator[tuple[str, int, int]]:
    """What is stale, its count, and its bytes."""
    unused = [recipe for recipe in inventory.recipes if not recipe.needed]
    unfinished = [recipe for recipe in unused if recipe.state == UNFINISHED]
    replaced = [recipe for recipe in unused if recipe.state != UNFINISHED]
    unnamed = [
        block for recipe in inventory.recipes if recipe.needed for block in recipe.blocks if not block.names
    ]
    groups: dict[str, Sequence[Any]] = {
        "recipes replaced": replaced,
        "recipes never in force: extract is running, or was stopped": unfinished,
        "networks that no plan in force names": unnamed,
        "fold plans that no new plan starts from": inventory.old_plans,
        "fits of earlier clips or labels": inventory.old_fits,
        "tables of clips of earlier plans": inventory.old_tables,
        "damaged files set aside": inventory.of_kind(BAD),
        "temporaries": inventory.of_kind(TEMPORARY),
        "files of unknown kind": inventory.of_kind(UNKNOWN),
        "runs on other sources than those in force": [
            run for run in inventory.runs if run.gone or run.replaced or not run.whole
        ],
    }
    for what, items in groups.items():
        yield what, len(items), _total(items) + sum(getattr(item, "weights_bytes", 0) for item in items)


# cache verify and cache prune


def print_verification(root: Path, found: Verification) -> None:
    """Print a line for each bad file, notes on the others, and the counts."""
    for fault in found.faults:
        click.echo(f"bad: {printable(fault.place)}: {printable(fault.reason)}")
    for sentence in found.disagreements:
        click.echo(f"nondeterminism: {printable(sentence.removeprefix(f'{root}/'))}")
    for kind, word in ((BAD, "set aside earlier"), (TEMPORARY, "temporary"), (UNKNOWN, "unknown")):
        for place in found.others[kind][:MAX_LINES]:
            click.echo(f"{word}: {printable(place)}")
        if (more := len(found.others[kind]) - MAX_LINES) > 0:
            click.echo(f"{word}: and {more} more")
    if found.stale_clips_csv:
        click.echo(
            "note: clips.csv differs from the plan in force; nothing reads it, and extract rewrites it"
        )
    if outputs := len(found.others["output"]):
        click.echo(f"not checked: {outputs} files of reports and models, which have no digest")
    click.echo(f"{found.checked} files, {size(found.bytes)} checked: {len(found.faults) or 'none'} bad")


def print_repair(root: Path, done: Repair) -> None:
    """Print what was set aside and rewritten, what failed, and the commands that restore the rest."""
    for place in done.set_aside:
        click.echo(f"set aside: {printable(place)}.bad")
    for place in done.rewritten:
        click.echo(f"rewritten: {printable(place)}")
    for sentence in done.failed:
        click.echo(f"failed: {printable(sentence)}")
    if not done.remedies:
        return
    try:
        commands = FeatureCache(root).commands
    except MoodfuseError:
        commands = ()
    for title, lines in (
        ("to restore what was lost, run:", done.remedies),
        ("the commands that filled this cache:", commands),
    ):
        for line in (title, *(f"  {printable(line)}" for line in lines)) if lines else ():
            click.echo(line)


def print_pruning(pruning: Pruning, failed: Sequence[str], *, dry_run: bool) -> None:
    """Print what is to be removed, or was, with reasons; what stays; and the space that this frees."""
    rows = [(removal.place, removal.why, size(removal.bytes)) for removal in pruning.removals]
    _print_table("", ("file or folder", "why"), ("size",), rows)
    for sentence in pruning.kept:
        click.echo(f"kept: {printable(sentence)}")
    for sentence in failed:
        click.echo(f"failed: {printable(sentence)}")
    total = size(_total(pruning.removals))
    if not pruning.removals:
        click.echo("nothing to prune")
    elif dry_run:
        click.echo(f"{total} would be freed; to remove it, run the same command with --yes")
    else:
        click.echo(f"of {total} not everything was freed" if failed else f"{total} freed")
