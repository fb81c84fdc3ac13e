"""What of a cache can go: decided from its inventory, and then removed so that what stays is a sound cache throughout.

A folder is first renamed to a temporary, in one step, and then emptied; a run loses its record first. So a reader
finds a thing whole or not at all, and so does the next command if this one is killed. Links are not followed: what
stands behind one is left alone.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moodfuse.cache.errors import DamagedPartError, UnknownNameError
from moodfuse.cache.maintenance.holdings import IN_FORCE, UNFINISHED, HeldRecipe, Inventory
from moodfuse.cache.storage.files import STALE_S, TEMPORARY_PREFIX, sync_folder
from moodfuse.cache.storage.layout import BAD, TEMPORARY, behind_link
from moodfuse.cache.store import MEND

PRUNED_PREFIX = f"{TEMPORARY_PREFIX}pruned-"
"""Begins the name of a folder that is being removed; whoever finds one may go on."""
UNFINISHED_S = 7 * STALE_S
"""A recipe that was never put in force, because `extract` runs or was stopped, is kept for so long."""
_STRAYS = {BAD: "set aside as damaged", TEMPORARY: "temporary"}


@dataclass(frozen=True)
class PruneChoice:
    """What may go.

    Attributes
    ----------
    recipes : bool
        Recipes not in force, networks that no plan in force names, plans and tables that nothing reads any more.
    sources : tuple of str
        Sources to take out of force, which the inventory has as if they were; their recipes go.
    media : bool
        All decoded clips.
    fits : bool
        All finished fits that are kept; otherwise those of other clips, labels or groups than those in force.
    runs : tuple of str
        Runs, by name.
    bad : bool
        Files set aside and temporaries whatever their age; otherwise those older than a day.
    """

    recipes: bool = True
    sources: tuple[str, ...] = ()
    media: bool = False
    fits: bool = False
    runs: tuple[str, ...] = ()
    bad: bool = False


@dataclass(frozen=True)
class Removal:
    """A file or folder that goes: its path below the cache folder, why, and its bytes."""

    place: str
    why: str
    bytes: int


@dataclass(frozen=True)
class Pruning:
    """What goes, in its order, and sentences on what stays although nothing in force reads it."""

    removals: tuple[Removal, ...]
    kept: tuple[str, ...]


def decide(stock: Inventory, choice: PruneChoice, *, now_s: float) -> Pruning:
    """What goes and what stays. Nothing is changed.

    Parameters
    ----------
    stock : Inventory
    choice : PruneChoice
    now_s : float
        The time, in seconds since 1970.

    Raises
    ------
    UnknownNameError
        If there is no run of a name.
    DamagedPartError
        If damage leaves open what is in force, and recipes may go.
    """
    found: list[Removal] = []
    kept: list[str] = []
    if choice.recipes:
        _refuse_doubt(stock)
        for recipe in stock.recipes:
            if recipe.state == UNFINISHED and recipe.modified_s > now_s - UNFINISHED_S:
                kept.append(
                    f"{recipe.source} {recipe.digest16}: unfinished, and written to within the last week"
                )
            else:
                found += _dead_blocks(stock, recipe) if recipe.needed else _dead_recipe(stock, recipe)
        found += _unread_plans(stock, now_s - STALE_S)
    for recipe in stock.recipes:
        if recipe.source in choice.sources:
            found += _dead_recipe(stock, recipe)
    if choice.media:
        why = "decoded clips; extract decodes them again where they are needed"
        places = dict.fromkeys("/".join(entry.parents[:2]) for entry in stock.of_kind("media"))
        found += [_folder(stock, place, why) for place in places]
    found += _fits(stock, choice)
    found += _runs(stock, choice.runs)
    for entry in stock.strays:
        if choice.bad or entry.modified_s < now_s - STALE_S or entry.path.name.startswith(PRUNED_PREFIX):
            found.append(Removal(entry.place, _STRAYS[entry.kind], entry.bytes))
    found = list({removal.place: removal for removal in found}.values())
    whole = {removal.place for removal in found}
    outer = [
        item for item in found if not any(str(above) in whole for above in PurePosixPath(item.place).parents)
    ]
    linked = [item for item in outer if _is_linked(stock.path, item.place)]
    kept += [
        f"{item.place}: a link leads there, which is not followed; remove it yourself" for item in linked
    ]
    return Pruning(tuple(item for item in outer if item not in linked), tuple(kept))


def _refuse_doubt(stock: Inventory) -> None:
    """Refuse to call a recipe or network unused while a record that may have named it is damaged."""
    for entry in stock.of_kind(BAD):
        if entry.parents[:1] in (("plans",), ("sources",)):
            raise DamagedPartError(
                f"{entry.path}: was set aside as damaged, so what is in force now may be older than what was; {MEND}, "
                f"then: moodfuse cache prune --no-recipes --bad --yes --cache {stock.path}"
            )
    for recipe in stock.recipes:
        if recipe.state == IN_FORCE and not recipe.network:
            raise DamagedPartError(
                f"{stock.path}: the recipe in force of {recipe.source} cannot be read, so what it needs is not known; "
                f"run moodfuse cache verify --repair --cache {stock.path}, then do what it says"
            )
        for block in recipe.blocks if recipe.needed else ():
            if not block.recorded:
                raise DamagedPartError(
                    f"{stock.path}/features/{recipe.folder}/{recipe.digest16}/{block.trained}: holds features of "
                    f"{recipe.source}, but no record of what they were tuned on, so nobody can say that they are "
                    f"unused; run moodfuse cache verify --repair --cache {stock.path}, then do what it says, or remove "
                    "the folder yourself"
                )


def _dead_recipe(stock: Inventory, recipe: HeldRecipe) -> Iterator[Removal]:
    why = f"recipe of {recipe.source}: {recipe.state}"
    for room in ("features", "networks"):
        yield from _some(_folder(stock, f"{room}/{recipe.folder}/{recipe.digest16}", why))


def _dead_blocks(stock: Inventory, recipe: HeldRecipe) -> Iterator[Removal]:
    """Networks of a recipe in use that no plan in force names; nothing is said of them without plan or record."""
    if stock.plan is None or not recipe.network:
        return
    why = f"network of {recipe.source} that no plan in force names"
    place = f"{recipe.folder}/{recipe.digest16}"
    for block in recipe.blocks:
        if not block.names:
            yield from _some(_folder(stock, f"features/{place}/{block.trained}", why))
            for entry in stock.of_kind("network", "checkpoint"):
                if entry.parents == ("networks", *place.split("/")) and entry.path.stem == block.trained:
                    yield Removal(entry.place, why, entry.bytes)


def _unread_plans(stock: Inventory, before_s: float) -> Iterator[Removal]:
    """Plans that clips are dealt from no more, and tables of no plan in force; a new table may await its plan."""
    for plan in stock.plans:
        if plan.superseded:
            yield Removal(plan.place, "two later plans have its folds and seed", plan.bytes)
    for entry in stock.old_tables:
        if entry.modified_s < before_s:
            yield Removal(entry.place, "table of clips that no plan in force names", entry.bytes)


def _fits(stock: Inventory, choice: PruneChoice) -> Iterator[Removal]:
    """Folders of kept fits; without a plan nobody can say which are of use."""
    old = stock.old_fits if choice.recipes and stock.plan is not None else ()
    for why, entries in (
        ("kept fits; fuse fits again what it needs", stock.of_kind("fits") if choice.fits else ()),
        ("kept fits of other clips, labels or groups than those in force", old),
    ):
        for place in dict.fromkeys("/".join(entry.parents[:2]) for entry in entries):
            yield _folder(stock, place, why)


def _runs(stock: Inventory, names: Sequence[str]) -> Iterator[Removal]:
    known = [run.name for run in stock.runs]
    for name in dict.fromkeys(names):
        if name not in known:
            raise UnknownNameError("run", name, known)
        yield _folder(stock, f"runs/{name}", "run")


def _folder(stock: Inventory, place: str, why: str) -> Removal:
    """The removal of a folder, with the bytes of all that the inventory has in it."""
    inside = (entry.bytes for entry in stock.entries if entry.place.startswith(f"{place}/"))
    return Removal(place, why, sum(inside))


def _some(removal: Removal) -> tuple[Removal, ...]:
    """A removal, unless there is nothing to remove."""
    return (removal,) if removal.bytes else ()


def _is_linked(root: Path, place: str) -> bool:
    return behind_link(root, place) or ((root / place).is_symlink() and (root / place).is_dir())


# Acting


def carry_out(root: Path, removals: Sequence[Removal]) -> tuple[str, ...]:
    """Remove what `decide` found, one after the other; returns sentences on what could not be removed."""
    failed = []
    for removal in removals:
        try:
            _remove(root / removal.place)
        except OSError as error:
            failed.append(
                f"{removal.place}: cannot be removed ({error.strerror or error}); correct that, then run again"
            )
    return tuple(failed)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if path.parent.name == "runs":
        (path / "run.json").unlink(missing_ok=True)
        sync_folder(path)
    aside = path
    if not path.name.startswith(PRUNED_PREFIX):
        aside = path.with_name(f"{PRUNED_PREFIX}{secrets.token_hex(6)}")
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return  # another prune was quicker
        sync_folder(path.parent)
    _empty(aside)


def _empty(folder: Path) -> None:
    """Remove a folder and what is in it; of a link the link alone. What another prune removes meanwhile is gone too."""
    for where, folders, names in os.walk(folder, topdown=False):
        for name in names:
            Path(where, name).unlink(missing_ok=True)
        for path in (Path(where, name) for name in folders):
            if path.is_symlink():
                path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.rmdir(where)
