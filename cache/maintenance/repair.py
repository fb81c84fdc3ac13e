"""What `cache verify --repair` does: it sets damaged files aside, rewrites what follows from others, names remedies."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.csv_rows import csv_rows
from moodfuse.cache.errors import CacheError, InputError, MoodfuseError
from moodfuse.cache.maintenance.networks import HoldoutNames, read_record
from moodfuse.cache.maintenance.verify import DAMAGED, UNREADABLE, Fault, Verification
from moodfuse.cache.manifest import MARKER, VIEW, marker_text
from moodfuse.cache.recipe import IMPORT, Recipe, frozen_counterpart, imported_as
from moodfuse.cache.storage.files import set_aside, write_text
from moodfuse.cache.storage.layout import behind_link, folder_of
from moodfuse.cache.store import FeatureCache

_EXTRACT = "moodfuse extract DATA --cache {cache}"
_IMPORT = "moodfuse cache import --cache {cache} --source SOURCE --holdout HOLDOUT FILE"
_IMPORT_LABELS = _IMPORT.replace("--source", "--labels LABELS.csv --source")
_FUSE = "moodfuse fuse --cache {cache} --run {name}"
REMEDIES = {
    "plan": f"{_EXTRACT}  # assigns the clips to folds again, or as an older plan has them",
    "table": f"{_EXTRACT}  # rewrites the table of clips",
    "outcome": f"{_EXTRACT}  # decodes the clip again",
    "choice": f"{_EXTRACT} --source SOURCE...  # puts the sources in force again",
    "audit": f"{_EXTRACT}  # compares the clips again",
    "marks": f"{_EXTRACT}  # compares the clips again",
    "media": f"{_EXTRACT}  # decodes the clip again, where it is needed",
    "run": _FUSE,
    "predictions": _FUSE,
}
"""Kind of file to the command that restores it. Features and their records depend on the source; weights need no
remedy, since a network is tuned again only where its features are missing."""
IMPORT_REMEDIES = {
    "plan": f"{_IMPORT_LABELS}  # assigns the clips to folds again",
    "table": f"{_IMPORT_LABELS}  # rewrites the table of clips",
    "choice": f"{_IMPORT}  # puts the source in force again; once for each",
}
"""The same for a cache that imports filled."""
_PLAN_FROM_VIEW = (
    "moodfuse extract {cache}/clips.csv --cache {cache}  # assigns the clips to folds as clips.csv has them; with DATA "
    "instead again, or as an older plan has them"
)
_IMPORT_PLAN_FROM_VIEW = f"{_IMPORT_LABELS.replace('LABELS.csv', '{cache}/clips.csv')}  # assigns the clips to folds as clips.csv has them"


@dataclass(frozen=True)
class Repair:
    """What a repair did: places of files, sentences on what failed, and commands that restore what was lost.

    The names of the files `set_aside` now end in ``.bad``; those `rewritten` follow from other files.
    """

    set_aside: tuple[str, ...]
    rewritten: tuple[str, ...]
    failed: tuple[str, ...]
    remedies: tuple[str, ...]


def repair(root: Path, found: Verification) -> Repair:
    """Set damaged files aside, and rewrite the marker, recipes of imports, records of networks and ``clips.csv``."""
    lost = [fault for fault in found.faults if fault.state != UNREADABLE]
    recipes = {fault.place: _recipe_of(root, fault) for fault in lost}
    aside: list[str] = []
    rewritten: list[str] = []
    failed: list[str] = []
    for fault in lost:
        if fault.state == DAMAGED:
            try:
                _set_aside(root, fault)
                aside.append(fault.place)
            except CacheError as error:
                failed.append(str(error))
    try:
        rewritten += _rewrite_records(root, lost, recipes)
        if (cache := _open(root)) is not None:
            rewritten += _rewrite_from_plans(cache, lost, recipes)
            if found.stale_clips_csv:
                write_text(root / VIEW, cache.view_text(cache.statuses))
                rewritten.append(VIEW)
    except CacheError as error:
        failed.append(str(error))
    remedies = [_remedy(root, fault, recipes[fault.place]) for fault in lost if fault.place not in rewritten]
    return Repair(tuple(aside), tuple(rewritten), tuple(failed), tuple(dict.fromkeys(filter(None, remedies))))


def _set_aside(root: Path, fault: Fault) -> None:
    if behind_link(root, fault.place):
        raise CacheError(f"{root / fault.place}: is behind a link, which is not followed; move it yourself")
    set_aside(root / fault.place, fault.reason)


def _recipe_of(root: Path, fault: Fault) -> Recipe | None:
    """The recipe that a file belongs to, if any; that of an import is known even if its record is lost."""
    if fault.kind not in ("recipe", "training", "features"):
        return None
    folder = fault.place.split("/")[1:3]
    return read_record(root.joinpath("features", *folder, "recipe.json")) or imported_as(*folder)


def _open(root: Path) -> FeatureCache | None:
    """The cache; `None` while its plan, clips or choices of sources are missing or damaged."""
    try:
        cache = FeatureCache(root)
        return cache if cache.plans and cache.clips and cache.selection is not None else None
    except MoodfuseError:
        return None


def _rewrite_records(root: Path, lost: list[Fault], recipes: dict[str, Recipe | None]) -> list[str]:
    """Rewrite the marker and the recipes of imports; returns the places."""
    done = []
    for fault in lost:
        recipe = recipes[fault.place]
        if fault.kind == "marker":
            write_text(root / MARKER, marker_text())
        elif fault.kind == "recipe" and recipe is not None and not os.path.lexists(root / fault.place):
            write_text(root / fault.place, recipe.to_json())
        else:
            continue
        done.append(fault.place)
    return done


def _rewrite_from_plans(
    cache: FeatureCache, lost: list[Fault], recipes: dict[str, Recipe | None]
) -> list[str]:
    """Rewrite what networks were tuned on, where a plan in force names them; returns the places."""
    names = HoldoutNames(cache)
    done = []
    for fault in lost:
        recipe = recipes[fault.place]
        if fault.kind != "training" or recipe is None:
            continue
        trained = fault.place.split("/")[3]
        for name in names.of(recipe, trained, cache.path / fault.place)[:1]:
            roles = cache.roles(recipe, name.holdout, plan=names.plans[name.repeat])
            cache.write_roles(recipe, roles or ())
            done.append(fault.place)
    return done


def _remedy(root: Path, fault: Fault, recipe: Recipe | None) -> str:
    """The command that restores a lost file; empty where none is needed."""
    cache, folders = shlex.quote(str(root)), fault.place.split("/")
    if fault.kind in REMEDIES:
        is_import = _is_filled_by_imports(root)
        remedy = IMPORT_REMEDIES.get(fault.kind) if is_import else None
        if fault.kind == "plan" and len(folders) == 2 and _view_has_folds(root):
            remedy = _IMPORT_PLAN_FROM_VIEW if is_import else _PLAN_FROM_VIEW
        return (remedy or REMEDIES[fault.kind]).format(cache=cache, name=shlex.quote(folders[1]))
    if fault.kind not in ("recipe", "training", "features"):
        return ""
    sources = _readers(root, folders[1], folders[2], recipe)
    if not sources:
        return ""
    if recipe is not None and recipe.network == IMPORT:
        return _IMPORT.replace("SOURCE", sources[0]).format(cache=cache)
    return " ".join([_EXTRACT.format(cache=cache), *(f"--source {source}" for source in sources)])


def _is_filled_by_imports(root: Path) -> bool:
    recipes = [folder.parts[-2:] for folder in (root / "features").glob("[!.]*/[!.]*/")]
    return bool(recipes) and all(imported_as(*recipe) for recipe in recipes)


def _view_has_folds(root: Path) -> bool:
    """Whether ``clips.csv``, which outlives a plan, has the fold of every clip that was read.

    Test clips have none there, and a name that is not UTF-8 is escaped.
    """
    try:
        rows = csv_rows(root / VIEW)
        columns = next(rows)[1]
        fold, status, name = (columns.index(column) for column in ("fold", "status", "id"))
        return all((cells[fold] or cells[status] != "ok") and "\\udc" not in cells[name] for _, cells in rows)
    except (InputError, ValueError):
        return False


def _readers(root: Path, folder: str, digest: str, recipe: Recipe | None) -> list[str]:
    """The sources in force that read a recipe's features, or whose heads are tuned on them."""
    cache = _open(root)
    if cache is None:
        return [folder if recipe is None else recipe.source]
    wanted = (folder, digest)
    own = [source for source, chosen in cache.selection.items() if (folder_of(source), chosen) == wanted]
    served = []
    for source, chosen in cache.selection.items():
        reader = read_record(cache.source_folder(source, chosen) / "recipe.json")
        if reader is not None and reader.depth == "head":
            frozen = frozen_counterpart(reader)
            served += [source] if (folder_of(frozen.source), frozen.digest16) == wanted else []
    return own or sorted(served)
