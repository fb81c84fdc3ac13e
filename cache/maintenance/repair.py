"""Repair of a cache: damaged files are quarantined, and files that follow from others are rewritten.

For what is lost, the repair names the command that restores it.
"""

import csv
import shlex
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.errors import CacheError, MoodfuseError
from moodfuse.cache.maintenance.holdouts import HoldoutNames, read_record
from moodfuse.cache.maintenance.verify import DAMAGED, UNREADABLE, Fault, Verification
from moodfuse.cache.manifest import MARKER, VIEW, marker_text
from moodfuse.cache.recipe import IMPORT, Recipe, frozen_counterpart, imported_as
from moodfuse.cache.storage.files import set_aside, write_text
from moodfuse.cache.storage.layout import behind_link
from moodfuse.cache.store import FeatureCache


@dataclass(frozen=True)
class Repair:
    """What a repair did: paths of files, sentences on what failed, and commands that restore what was lost.

    The names of the files `set_aside` now end in ``.bad``; those `rewritten` follow from other files.
    """

    set_aside: tuple[str, ...]
    rewritten: tuple[str, ...]
    failed: tuple[str, ...]
    remedies: tuple[str, ...]


def repair(root: Path, verification: Verification) -> Repair:
    """Quarantine damaged files; rewrite the marker, records that follow from others and ``clips.csv``."""
    lost = [fault for fault in verification.faults if fault.state != UNREADABLE]
    recipes = {fault.place: _find_recipe(root, fault) for fault in lost}
    quarantined: list[str] = []
    rewritten: list[str] = []
    failed: list[str] = []
    for fault in sorted(lost, key=lambda fault: fault.kind not in ("marker", "recipe")):
        try:
            if fault.state == DAMAGED and behind_link(root, fault.place):
                raise CacheError(f"{root / fault.place}: is behind a link and not followed; move it yourself")
            if fault.state == DAMAGED:
                set_aside(root / fault.place, fault.reason)
                quarantined.append(fault.place)
            if _rewrite(root, fault, recipes[fault.place]):
                rewritten.append(fault.place)
        except CacheError as error:
            failed.append(str(error))
    if verification.stale_clips_csv and (cache := _open(root)):
        write_text(root / VIEW, cache.view_text(cache.statuses))
        rewritten.append(VIEW)
    remedies = (
        _find_remedy(root, fault, recipes[fault.place]) for fault in lost if fault.place not in rewritten
    )
    return Repair(
        tuple(quarantined), tuple(rewritten), tuple(failed), tuple(dict.fromkeys(filter(None, remedies)))
    )


def _find_recipe(root: Path, fault: Fault) -> Recipe | None:
    """The recipe that a file belongs to, if any; that of an import is known even if its record is lost."""
    if fault.kind not in ("recipe", "training", "features"):
        return None
    source, digest = fault.place.split("/")[1:3]
    return read_record(root / "features" / source / digest / "recipe.json") or imported_as(source, digest)


def _open(root: Path) -> FeatureCache | None:
    """The cache; `None` while its plan, clips or choices of sources are missing or damaged."""
    try:
        cache = FeatureCache(root)
        return cache if cache.clips and cache.selection is not None else None
    except MoodfuseError:
        return None


def _rewrite(root: Path, fault: Fault, recipe: Recipe | None) -> bool:
    """Rewrite a file whose content follows from others; returns whether it does."""
    if fault.kind == "marker":
        return write_text(root / MARKER, marker_text())
    if fault.kind == "recipe" and recipe is not None:
        return write_text(root / fault.place, recipe.to_json())
    if fault.kind == "training" and recipe is not None and (cache := _open(root)):
        names = HoldoutNames(cache)
        for name in names.find(recipe, fault.place.split("/")[3], root / fault.place)[:1]:
            training_clips = cache.roles(recipe, name.holdout, plan=names.plans[name.repeat])
            cache.write_roles(recipe, training_clips or ())
            return True
    return False


def _find_remedy(root: Path, fault: Fault, recipe: Recipe | None) -> str:
    """The command that restores a lost file; empty where none is needed."""
    cache, folders = shlex.quote(str(root)), fault.place.split("/")
    if fault.kind in ("run", "predictions"):
        return f"moodfuse fuse --cache {cache} --run {shlex.quote(folders[1])}"
    if fault.kind in ("marker", "network", "checkpoint", "fits"):
        return ""
    source = _find_source(root, folders[1], folders[2], recipe) if folders[0] == "features" else "SOURCE"
    has_folds = fault.kind == "plan" and len(folders) == 2 and _view_has_folds(root)
    is_import = recipe.network == IMPORT if recipe else _is_filled_by_imports(root)
    if is_import:
        labels = f" --labels {cache}/{VIEW}" if has_folds else " --labels LABELS.csv"
        labels = labels if fault.kind in ("plan", "table") else ""
        command = f"cache import --cache {cache}{labels} --source {source} --holdout HOLDOUT FILE"
    else:
        option = f" --source {source}" if folders[0] == "features" or fault.kind == "choice" else ""
        command = f"extract {f'{cache}/{VIEW}' if has_folds else 'DATA'} --cache {cache}{option}"
    return f"moodfuse {command}{_EFFECTS.get(fault.kind, '')}"


_EFFECTS = {
    "plan": "  # assigns the clips to folds again, as clips.csv has them if it is named here",
    "table": "  # rewrites the table of clips",
    "choice": "  # makes the source current again; once for each source",
}


def _find_source(root: Path, folder: str, digest: str, recipe: Recipe | None) -> str:
    """The current source that reads the features of a recipe, or whose heads are tuned on them."""
    cache = _open(root)
    if cache is None:
        return recipe.source if recipe else folder
    for source, chosen in sorted(cache.selection.items()):
        own_folder = cache.source_folder(source, chosen)
        reader = read_record(own_folder / "recipe.json")
        folders = [own_folder]
        if reader and reader.depth == "head":
            frozen = frozen_counterpart(reader)
            folders.append(cache.source_folder(frozen.source, frozen.digest16))
        if root / "features" / folder / digest in folders:
            return source
    return recipe.source if recipe else folder


def _is_filled_by_imports(root: Path) -> bool:
    recipes = [folder.parts[-2:] for folder in (root / "features").glob("[!.]*/[!.]*/")]
    return bool(recipes) and all(imported_as(*recipe) for recipe in recipes)


def _view_has_folds(root: Path) -> bool:
    """Whether ``clips.csv`` has the fold of every readable clip; test clips have none."""
    try:
        with (root / VIEW).open(newline="", encoding="utf-8") as stream:
            return all(row["fold"] or row["status"] != "ok" for row in csv.DictReader(stream))
    except (OSError, KeyError, ValueError, csv.Error):
        return False
