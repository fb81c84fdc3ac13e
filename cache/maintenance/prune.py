"""What of a cache can be removed, decided from its inventory, and its removal in an order that keeps the cache valid.

A folder is first renamed to a temporary, in one step, and then emptied; a run loses its record first. So readers, and
the next command after a kill, find a thing whole or not at all. Links are not followed.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moodfuse.cache.errors import DamagedPartError, UnknownNameError
from moodfuse.cache.maintenance.inventory import Inventory
from moodfuse.cache.maintenance.networks import IN_FORCE, UNFINISHED, RecipeInfo
from moodfuse.cache.storage.files import STALE_S, TEMPORARY_PREFIX, sync_folder
from moodfuse.cache.storage.layout import BAD, Entry, behind_link
from moodfuse.cache.store import MEND

PRUNED_PREFIX = f"{TEMPORARY_PREFIX}pruned-"
"""Prefix of a folder that is being removed; any later prune may finish it."""
UNFINISHED_S = 7 * STALE_S
"""A recipe that was never put in force, because `extract` is running or was stopped, is kept this long."""


@dataclass(frozen=True)
class PruneOptions:
    """What may be removed, as the options of `cache prune` describe it.

    The inventory has `sources` as not in force.
    """

    recipes: bool = True
    sources: tuple[str, ...] = ()
    media: bool = False
    fits: bool = False
    runs: tuple[str, ...] = ()
    bad: bool = False


@dataclass(frozen=True)
class Removal:
    """A file or folder to remove: its path below the cache folder, the reason, and its bytes."""

    place: str
    why: str
    bytes: int


@dataclass(frozen=True)
class Pruning:
    """What to remove, in order, and sentences on what stays although nothing in force reads it."""

    removals: tuple[Removal, ...]
    kept: tuple[str, ...]


def choose_removals(inventory: Inventory, options: PruneOptions, *, now_s: float) -> Pruning:
    """Decide what to remove at the time `now_s` (seconds since 1970). Nothing is changed.

    Raises
    ------
    UnknownNameError
        If there is no run of a name.
    DamagedPartError
        If recipes may be removed, but because of damage it is not known what is in force.
    """
    removals: list[Removal] = []
    kept: list[str] = []
    if options.recipes:
        _check_known_use(inventory)
        for recipe in inventory.recipes:
            if recipe.needed:
                removals += _unused_networks(inventory, recipe)
            elif recipe.state == UNFINISHED and recipe.modified_s > now_s - UNFINISHED_S:
                kept.append(f"{recipe.source} {recipe.digest16}: unfinished, and written in the last week")
            else:
                removals += _recipe(inventory, recipe)
        removals += _unread_records(inventory, now_s)
    for recipe in inventory.recipes:
        if recipe.source in options.sources:
            removals += _recipe(inventory, recipe)
    if options.media:
        why = "decoded clips; extract decodes them again where they are needed"
        removals += _folders(inventory, inventory.of_kind("media"), why)
    if options.fits:
        removals += _folders(inventory, inventory.of_kind("fits"), "kept fits; fuse fits again what it needs")
    names = [run.name for run in inventory.runs]
    for name in options.runs:
        if name not in names:
            raise UnknownNameError("run", name, names)
        removals.append(_folder(inventory, f"runs/{name}", "run"))
    for entry in inventory.leftovers:
        if options.bad or entry.modified_s < now_s - STALE_S or entry.path.name.startswith(PRUNED_PREFIX):
            why = "set aside as damaged" if entry.kind == BAD else "temporary"
            removals.append(Removal(entry.place, why, entry.bytes))
    unique = {removal.place: removal for removal in removals}
    outer = [
        removal
        for removal in unique.values()
        if not any(str(folder) in unique for folder in PurePosixPath(removal.place).parents)
    ]
    linked = [removal for removal in outer if _is_linked(inventory.path, removal.place)]
    kept += [
        f"{removal.place}: is behind a link, which is not followed; remove it yourself" for removal in linked
    ]
    return Pruning(tuple(removal for removal in outer if removal not in linked), tuple(kept))


def _check_known_use(inventory: Inventory) -> None:
    """Refuse to call a recipe or network unused while a record that may name it is damaged."""
    for entry in inventory.of_kind(BAD):
        if entry.parents[:1] in (("plans",), ("sources",)):
            raise DamagedPartError(
                f"{entry.path}: was set aside as damaged, so what is in force now may be older than what was; {MEND}, "
                f"then: moodfuse cache prune --no-recipes --bad --yes --cache {inventory.path}"
            )
    repair = f"run moodfuse cache verify --repair --cache {inventory.path}, then the command that it prints"
    for recipe in inventory.recipes:
        if recipe.state == IN_FORCE and not recipe.network:
            raise DamagedPartError(
                f"{inventory.path}: the recipe in force of {recipe.source} cannot be read, so what it needs is not "
                f"known; {repair}"
            )
        for block in recipe.blocks if recipe.needed else ():
            if not block.recorded:
                raise DamagedPartError(
                    f"{inventory.path}/features/{recipe.folder}/{recipe.digest16}/{block.trained}: has features of "
                    f"{recipe.source}, but no record of what they were tuned on, so they may be in use; {repair}, or "
                    "remove the folder yourself"
                )


def _recipe(inventory: Inventory, recipe: RecipeInfo) -> Iterator[Removal]:
    for kind in ("features", "networks"):
        place = f"{kind}/{recipe.folder}/{recipe.digest16}"
        removal = _folder(inventory, place, f"recipe of {recipe.source}: {recipe.state}")
        if removal.bytes:
            yield removal


def _unused_networks(inventory: Inventory, recipe: RecipeInfo) -> Iterator[Removal]:
    """Networks of a recipe in use that no plan in force names; none without plan or record."""
    if inventory.plan is None or not recipe.network:
        return
    why = f"network of {recipe.source} that no plan in force names"
    place = f"{recipe.folder}/{recipe.digest16}"
    for block in recipe.blocks:
        if block.names:
            continue
        removal = _folder(inventory, f"features/{place}/{block.trained}", why)
        if removal.bytes:
            yield removal
        for entry in inventory.of_kind("network", "checkpoint"):
            if entry.parents == ("networks", *place.split("/")) and entry.path.stem == block.trained:
                yield Removal(entry.place, why, entry.bytes)


def _unread_records(inventory: Inventory, now_s: float) -> Iterator[Removal]:
    for entry in inventory.old_plans:
        yield Removal(entry.place, "two later plans have its folds and seed", entry.bytes)
    for entry in inventory.old_tables:
        if entry.modified_s < now_s - STALE_S:  # a new table may be waiting for its plan
            yield Removal(entry.place, "table of clips that no plan in force names", entry.bytes)
    why = "kept fits of other clips, labels or groups than those in force"
    yield from _folders(inventory, inventory.old_fits, why)


def _folders(inventory: Inventory, entries: Sequence[Entry], why: str) -> list[Removal]:
    """The folders two levels below the cache in which some files are."""
    places = dict.fromkeys("/".join(entry.parents[:2]) for entry in entries)
    return [_folder(inventory, place, why) for place in places]


def _folder(inventory: Inventory, place: str, why: str) -> Removal:
    inside = (entry.bytes for entry in inventory.entries if entry.place.startswith(f"{place}/"))
    return Removal(place, why, sum(inside))


def _is_linked(root: Path, place: str) -> bool:
    return behind_link(root, place) or ((root / place).is_symlink() and (root / place).is_dir())


def remove(root: Path, removals: Sequence[Removal]) -> tuple[str, ...]:
    """Remove what `choose_removals` chose, in order; returns sentences on what could not be removed."""
    failed = []
    for removal in removals:
        try:
            _remove(root / removal.place)
        except OSError as error:
            cause = error.strerror or error
            failed.append(f"{removal.place}: cannot be removed ({cause}); correct that, then run again")
    return tuple(failed)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if path.parent.name == "runs":
        (path / "run.json").unlink(missing_ok=True)
        sync_folder(path)
    temporary = path
    if not path.name.startswith(PRUNED_PREFIX):
        temporary = path.with_name(f"{PRUNED_PREFIX}{secrets.token_hex(6)}")
        try:
            os.rename(path, temporary)
        except FileNotFoundError:
            return  # another prune has removed it
        sync_folder(path.parent)
    _empty(temporary)


def _empty(folder: Path) -> None:
    """Remove a folder and everything in it, links themselves but not what they lead to.

    Another prune may remove files of it meanwhile.
    """
    for where, folders, names in os.walk(folder, topdown=False):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        for name in (*names, *links):
            Path(where, name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.rmdir(where)
