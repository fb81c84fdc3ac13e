"""What of a cache can be removed, decided from its inventory, and its removal.

A folder is first renamed to a temporary in one step and then emptied, so that a killed prune leaves a valid
cache.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moodfuse.cache.errors import DamagedPartError, UnknownNameError
from moodfuse.cache.maintenance.listing import CURRENT, UNFINISHED, Inventory, RecipeInfo
from moodfuse.cache.storage.files import STALE_S, TEMPORARY_PREFIX, sync_folder
from moodfuse.cache.storage.layout import BAD, TEMPORARY, Entry, folder_of, is_behind_link
from moodfuse.cache.store import REBUILD_HINT

PRUNED_PREFIX = f"{TEMPORARY_PREFIX}pruned-"
"""Prefix of a folder that is being removed; the next prune removes what a killed one left."""
UNFINISHED_S = 7 * STALE_S
"""A recipe that never was current is kept this long, because `extract` may still be running."""


@dataclass(frozen=True)
class Removal:
    """A file or folder to remove."""

    relative_path: str
    reason: str
    bytes: int


@dataclass(frozen=True)
class PrunePlan:
    """What to remove, and sentences on what stays although nothing reads it."""

    removals: tuple[Removal, ...]
    kept: tuple[str, ...]


def choose_removals(
    inventory: Inventory,
    *,
    now_s: float,
    recipes: bool = True,
    sources: Sequence[str] = (),
    media: bool = False,
    fits: bool = False,
    runs: Sequence[str] = (),
    bad: bool = False,
) -> PrunePlan:
    """Decide what to remove, by the options of `cache prune`. Nothing is changed.

    `inventory` is read without `sources`; `now_s` are seconds since 1970. Raises `UnknownNameError` if there
    is no run of a name, and `DamagedPartError` if because of damage it is not known which recipes are used.
    """
    removals: list[Removal] = []
    kept: list[str] = []
    if recipes:
        _check_use_is_known(inventory)
    for recipe in inventory.recipes:
        is_young = recipe.state == UNFINISHED and recipe.modified_s > now_s - UNFINISHED_S
        if recipe.source in sources or (recipes and not recipe.needed and not is_young):
            removals += _choose_recipe(inventory, recipe)
        elif recipes and recipe.needed:
            removals += _choose_networks(inventory, recipe)
        elif recipes:
            kept.append(f"{recipe.source} {recipe.digest16}: unfinished, and written in the last week")
    if recipes:
        removals += _choose_unread(inventory, now_s)
    if media:
        reason = "decoded clips; extract decodes them again when needed"
        removals += _choose_folders(inventory, inventory.of_kind("media"), reason)
    if fits:
        removals += _choose_folders(inventory, inventory.of_kind("fits"), "cached fits; fuse fits them again")
    names = [run.name for run in inventory.runs]
    for name in runs:
        if name not in names:
            raise UnknownNameError("run", name, names)
        removals.append(_choose_folder(inventory, f"runs/{name}", "run"))
    removals += _choose_leftovers(inventory, now_s, of_any_age=bad)
    removals, linked = _leave_out(inventory, removals)
    kept += [f"{path}: is behind a link, which is not followed; remove it yourself" for path in linked]
    return PrunePlan(tuple(removals), tuple(kept))


def _leave_out(inventory: Inventory, removals: Sequence[Removal]) -> tuple[list[Removal], list[str]]:
    """The removals without those in a folder that is removed anyway, and without paths behind links."""
    unique = {removal.relative_path: removal for removal in removals}
    outer = [
        removal
        for path, removal in unique.items()
        if not any(str(folder) in unique for folder in PurePosixPath(path).parents)
    ]
    linked = [r.relative_path for r in outer if is_behind_link(inventory.path, r.relative_path)]
    return [removal for removal in outer if removal.relative_path not in linked], linked


def _check_use_is_known(inventory: Inventory) -> None:
    """Check that no record that may name a recipe or network is damaged."""
    for entry in inventory.of_kind(BAD):
        if entry.parents[:1] in (("plans",), ("sources",)):
            raise DamagedPartError(
                f"{entry.path}: was quarantined as damaged, so an older plan or choice of sources may be "
                f"current now; {REBUILD_HINT}, then: moodfuse cache prune --no-recipes --bad --yes --cache "
                f"{inventory.path}"
            )
    for recipe in inventory.recipes:
        is_unknown = recipe.state == CURRENT and not recipe.network
        if is_unknown or (recipe.needed and not all(block.recorded for block in recipe.blocks)):
            raise DamagedPartError(
                f"{inventory.path}/{_join_folder('features', recipe)}: a record cannot be read, so it is not "
                f"known which features are used; run moodfuse cache verify --repair --cache {inventory.path}"
                ", then the command that it prints, or remove the folder yourself"
            )


def _join_folder(kind: str, recipe: RecipeInfo) -> str:
    return f"{kind}/{folder_of(recipe.source)}/{recipe.digest16}"


def _choose_recipe(inventory: Inventory, recipe: RecipeInfo) -> Iterator[Removal]:
    for kind in ("features", "networks"):
        folder = _join_folder(kind, recipe)
        removal = _choose_folder(inventory, folder, f"recipe of {recipe.source}: {recipe.state}")
        if removal.bytes:
            yield removal


def _choose_networks(inventory: Inventory, recipe: RecipeInfo) -> Iterator[Removal]:
    """Networks of a needed recipe that no current plan names; none without plan or record."""
    reason = f"network of {recipe.source} that no current plan names"
    unnamed = [block.trained for block in recipe.blocks if not block.names]
    for trained in unnamed if inventory.plan and recipe.network else ():
        removal = _choose_folder(inventory, f"{_join_folder('features', recipe)}/{trained}", reason)
        if removal.bytes:
            yield removal
        for entry in inventory.of_kind("network", "checkpoint"):
            if entry.relative_path.startswith(f"{_join_folder('networks', recipe)}/{trained}."):
                yield Removal(entry.relative_path, reason, entry.bytes)


def _choose_unread(inventory: Inventory, now_s: float) -> Iterator[Removal]:
    for entry in inventory.old_plans:
        yield Removal(entry.relative_path, "two later plans have its folds and seed", entry.bytes)
    for entry in inventory.old_tables:
        if entry.modified_s < now_s - STALE_S:  # a new table may be waiting for its plan
            yield Removal(entry.relative_path, "table of clips that no current plan names", entry.bytes)
    yield from _choose_folders(inventory, inventory.old_fits, "cached fits of other clips, labels or groups")


def _choose_leftovers(inventory: Inventory, now_s: float, *, of_any_age: bool) -> Iterator[Removal]:
    """Quarantined files and temporaries."""
    for entry in inventory.of_kind(BAD, TEMPORARY):
        is_old = entry.modified_s < now_s - STALE_S or entry.path.name.startswith(PRUNED_PREFIX)
        if of_any_age or is_old:
            reason = "quarantined as damaged" if entry.kind == BAD else "temporary"
            yield Removal(entry.relative_path, reason, entry.bytes)


def _choose_folders(inventory: Inventory, files: Sequence[Entry], reason: str) -> list[Removal]:
    """The folders two levels below the cache that have these files."""
    folders = dict.fromkeys("/".join(entry.parents[:2]) for entry in files)
    return [_choose_folder(inventory, folder, reason) for folder in folders]


def _choose_folder(inventory: Inventory, folder: str, reason: str) -> Removal:
    size = sum(entry.bytes for entry in inventory.entries if entry.relative_path.startswith(f"{folder}/"))
    return Removal(folder, reason, size)


def remove(root: Path, removals: Sequence[Removal]) -> tuple[str, ...]:
    """Remove what `choose_removals` chose; returns sentences on what could not be removed."""
    failed = []
    for removal in removals:
        try:
            _remove(root / removal.relative_path)
        except FileNotFoundError:
            continue
        except OSError as error:
            cause = error.strerror or error
            failed.append(
                f"{removal.relative_path}: cannot be removed ({cause}); correct that, then run again"
            )
    return tuple(failed)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    if not path.name.startswith(PRUNED_PREFIX):
        temporary = path.with_name(f"{PRUNED_PREFIX}{secrets.token_hex(6)}")
        os.rename(path, temporary)
        sync_folder(path.parent)
        path = temporary
    shutil.rmtree(path)
