"""What a cache holds, printed: as tables for people, or as one JSON value for programs."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.filesize import decimal as size
from rich.table import Table

from moodfuse.cache.console import printable
from moodfuse.cache.folds import pair_holdouts
from moodfuse.cache.maintenance.holdings import UNFINISHED, HeldBlock, HeldRecipe, Inventory, PlanFacts
from moodfuse.cache.maintenance.naming import HoldoutName
from moodfuse.cache.storage.layout import BAD, TEMPORARY, UNKNOWN

LISTING_SCHEMA = 1
TABLE_WIDTH = 110
INCOMPLETE_SHOWN = 20
STRAYS = {BAD: "damaged files set aside", TEMPORARY: "temporaries", UNKNOWN: "files of unknown kind"}
_PAIRS = "{j,k}"
_COMPACT: dict[str, Any] = {"title_justify": "left", "padding": (0, 2, 0, 0), "pad_edge": False}


def as_record(stock: Inventory) -> dict[str, Any]:
    """An inventory as a JSON-able record: names and numbers, nothing that changes while the cache does not."""
    return {
        "schema": LISTING_SCHEMA,
        "cache": str(stock.path),
        "bytes": sum(entry.bytes for entry in stock.entries),
        "clips": None if stock.clips is None else vars(stock.clips),
        "plan": None if stock.plan is None else vars(stock.plan),
        "recipes": [_recipe_record(recipe) for recipe in stock.recipes],
        "media": {"clips": _media_clips(stock), "bytes": stock.bytes_of("media")},
        "fits": {"files": len(stock.of_kind("fits")), "bytes": stock.bytes_of("fits")},
        "runs": [{**vars(run), "gone": list(run.gone), "replaced": list(run.replaced)} for run in stock.runs],
        "old_plans": [plan.place for plan in stock.plans if plan.superseded],
        "old_tables": [entry.place for entry in stock.old_tables],
        "old_fits": [entry.place for entry in stock.old_fits],
        **{
            name: [{"file": entry.place, "bytes": entry.bytes} for entry in stock.of_kind(kind)]
            for name, kind in (("set_aside", BAD), ("temporaries", TEMPORARY), ("unknown", UNKNOWN))
        },
        "unreadable": list(stock.unreadable),
    }


def _recipe_record(recipe: HeldRecipe) -> dict[str, Any]:
    values = {
        name: getattr(recipe, name) for name in ("source", "digest16", "network", "depth", "state", "bytes")
    }
    return {**values, "blocks": [_block_record(block) for block in recipe.blocks]}


def _block_record(block: HeldBlock) -> dict[str, Any]:
    names = [{"holdout": str(name.holdout), "repeat": name.repeat} for name in block.names]
    return {**vars(block), "names": names, "complete": block.complete}


def print_inventory(stock: Inventory, *, wide: bool) -> None:
    """Print the plan, the sources, the runs, and what is stale; with `wide` every block."""
    console = Console(width=max(Console().width, TABLE_WIDTH), highlight=False, markup=False, emoji=False)
    for line in _headlines(stock):
        console.print(line)
    if stock.recipes:
        console.print(_recipe_table(stock))
    incomplete = [
        line for recipe in stock.recipes if recipe.needed for line in _incomplete(recipe, stock.plan)
    ]
    for line in incomplete[:INCOMPLETE_SHOWN]:
        console.print(line)
    if len(incomplete) > INCOMPLETE_SHOWN:
        console.print(f"... and {len(incomplete) - INCOMPLETE_SHOWN} more; --long lists every block")
    if wide:
        console.print(_block_table(stock))
    if stock.runs:
        console.print(_run_table(stock))
    if stale := tuple(item for item in _stale(stock) if item[1]):
        console.print(_stale_table(stale))
        console.print(f"to see what can go: moodfuse cache prune --cache {printable(str(stock.path))}")


def _headlines(stock: Inventory) -> Iterator[str]:
    total = size(sum(entry.bytes for entry in stock.entries))
    yield f"{printable(str(stock.path))}: {total} in {len(stock.entries)} files"
    if stock.plan is None or stock.clips is None:
        yield "no fold plan yet"
    else:
        plan, counts = stock.plan, stock.clips
        further = f", {plan.repeats} fold plans in force" if plan.repeats > 1 else ""
        same = counts.ok - counts.test - plan.clips
        copies = f" ({same} the same file and seconds as another)" if same > 0 else ""
        covers = f"{plan.clips} clips{copies} in {plan.groups} groups"
        yield f"plan {plan.sequence}: {plan.folds} folds, seed {plan.seed}, over {covers}{further}"
        yield f"clips: {counts.listed} listed, {counts.ok} readable, {counts.refused} refused, {counts.test} for tests"
    if clips := _media_clips(stock):
        yield f"media: {clips} decoded clips, {size(stock.bytes_of('media'))}"
    if kept := stock.bytes_of("fits"):
        yield f"fits: {size(kept)} kept, so that fuse does none twice"
    if stock.unreadable:
        where = printable(str(stock.path))
        yield f"{len(stock.unreadable)} parts have no sound header; run: moodfuse cache verify --cache {where}"


def _media_clips(stock: Inventory) -> int:
    """How many clips are kept in some rendition."""
    return len({entry.path.name.partition("-")[0] for entry in stock.of_kind("media")})


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """A table whose columns of text fold, so that none is lost where the terminal is narrow."""
    table = Table(title=title, box=SIMPLE, **_COMPACT)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _recipe_table(stock: Inventory) -> Table:
    table = _table(
        "sources", ("source", "recipe", "network", "depth", "state", "blocks complete"), ("parts", "size")
    )
    for recipe in stock.recipes:
        parts = sum(block.parts for block in recipe.blocks)
        cells = (recipe.source, recipe.digest16, recipe.network or "?", recipe.depth or "?", recipe.state)
        table.add_row(*map(printable, cells), coverage(recipe, stock.plan), str(parts), size(recipe.bytes))
    return table


def coverage(recipe: HeldRecipe, plan: PlanFacts | None) -> str:
    """How many blocks have a row for every clip, in the words of holdouts: ``{k} 6 of 6, {j,k} 15 of 15``."""
    kinds: dict[str, list[bool]] = {}
    for block in recipe.blocks:
        for name in block.names:
            kinds.setdefault(_kind(name.holdout.folds), []).append(block.complete)
    wanted = {kind: len(done) for kind, done in kinds.items()}
    if _PAIRS in wanted and plan is not None:
        wanted[_PAIRS] = max(wanted[_PAIRS], comb(plan.folds, 2) * plan.repeats)
    words = [f"{kind} {sum(done)} of {wanted[kind]}" for kind, done in kinds.items()]
    unnamed = sum(not block.names for block in recipe.blocks)
    return ", ".join([*words, *([f"{unnamed} of no plan in force"] if unnamed else [])]) or "none"


def _kind(folds: frozenset[int] | None) -> str:
    """A holdout of this size in general: ``*``, ``{}``, ``{k}``, ``{j,k}``."""
    if folds is None:
        return "*"
    return {0: "{}", 1: "{k}", 2: _PAIRS}.get(len(folds), f"{{{len(folds)} folds}}")


def _incomplete(recipe: HeldRecipe, plan: PlanFacts | None) -> Iterator[str]:
    """A line for each block that lacks rows; pairs count only where the recipe has any."""
    names = {(name.repeat, name.holdout) for block in recipe.blocks for name in block.names}
    for block in recipe.blocks:
        if block.names and not block.complete:
            what = ", ".join(map(str, block.names))
            yield f"incomplete: {printable(recipe.source)} {what}: {block.rows} of {block.clips} clips"
    if plan is not None and any(_kind(holdout.folds) == _PAIRS for _, holdout in names):
        for repeat in range(plan.repeats):
            for holdout in pair_holdouts(plan.folds):
                if (repeat, holdout) not in names:
                    yield f"incomplete: {printable(recipe.source)} {HoldoutName(repeat, holdout)}: no network yet"


def _block_table(stock: Inventory) -> Table:
    table = _table(
        "blocks", ("source", "recipe", "tuned on", "holdout"), ("rows", "clips", "parts", "size", "weights")
    )
    for recipe in stock.recipes:
        for block in recipe.blocks:
            names = ", ".join(map(str, block.names)) or "-"
            numbers = (
                str(block.rows),
                str(block.clips),
                str(block.parts),
                size(block.bytes),
                size(block.weights_bytes),
            )
            table.add_row(
                printable(recipe.source), recipe.digest16, printable(block.trained), names, *numbers
            )
    return table


def _run_table(stock: Inventory) -> Table:
    table = _table("runs", ("run", "what its sources became"), ("size",))
    for run in stock.runs:
        notes = [f"{', '.join(run.gone)}: gone"] if run.gone else []
        notes += [f"{', '.join(run.replaced)}: another recipe is in force"] if run.replaced else []
        notes += [] if run.whole else ["unfinished or damaged"]
        table.add_row(printable(run.name), printable("; ".join(notes)) or "as they were", size(run.bytes))
    return table


def _stale(stock: Inventory) -> Iterator[tuple[str, int, int]]:
    """What is stale, how many of it, and how many bytes."""
    dead = [recipe for recipe in stock.recipes if not recipe.needed]
    for state in sorted({recipe.state for recipe in dead}):
        these = [recipe for recipe in dead if recipe.state == state]
        what = (
            "recipes never in force: an extract runs, or was stopped"
            if state == UNFINISHED
            else "recipes replaced"
        )
        yield what, len(these), sum(recipe.bytes for recipe in these)
    blocks = [
        block for recipe in stock.recipes if recipe.needed for block in recipe.blocks if not block.names
    ]
    yield (
        "networks that no plan in force names",
        len(blocks),
        sum(item.bytes + item.weights_bytes for item in blocks),
    )
    plans = [plan for plan in stock.plans if plan.superseded]
    yield "fold plans that clips are dealt from no more", len(plans), sum(plan.bytes for plan in plans)
    yield "fits of earlier clips or labels", len(stock.old_fits), sum(entry.bytes for entry in stock.old_fits)
    yield (
        "tables of clips of earlier plans",
        len(stock.old_tables),
        sum(entry.bytes for entry in stock.old_tables),
    )
    for what, kind in (
        ("damaged files set aside", BAD),
        ("temporaries", TEMPORARY),
        ("files of unknown kind", UNKNOWN),
    ):
        yield what, len(stock.of_kind(kind)), stock.bytes_of(kind)
    runs = [run for run in stock.runs if run.gone or run.replaced or not run.whole]
    yield "runs on other sources than those in force", len(runs), sum(run.bytes for run in runs)


def _stale_table(stale: tuple[tuple[str, int, int], ...]) -> Table:
    table = _table("stale", ("what",), ("count", "size"))
    for what, count, total in stale:
        table.add_row(what, str(count), size(total))
    return table
