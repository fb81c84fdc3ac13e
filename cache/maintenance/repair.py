"""Repair of a cache: damaged files are quarantined, and derived files are rewritten.

For what is lost, the repair names the command that restores it.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.errors import CacheError, MoodfuseError
from moodfuse.cache.maintenance.listing import find_holdouts, read_record
from moodfuse.cache.maintenance.verify import DAMAGED, UNREADABLE, Fault, Verification
from moodfuse.cache.manifest import MARKER, VIEW, marker_text
from moodfuse.cache.recipe import IMPORT, Recipe, find_import_recipe, frozen_counterpart
from moodfuse.cache.storage.files import quarantine, write_text
from moodfuse.cache.storage.layout import is_behind_link
from moodfuse.cache.store import FeatureCache


@dataclass(frozen=True)
class Repair:
    """What a repair did: paths of files, sentences on what failed, and commands that restore what was lost.

    The names of the files `quarantined` now end in ``.bad``; those `rewritten` follow from other files.
    """

    quarantined: tuple[str, ...]
    rewritten: tuple[str, ...]
    failed: tuple[str, ...]
    remedies: tuple[str, ...]


def repair(root: Path, verification: Verification) -> Repair:
    """Quarantine damaged files; rewrite the marker, derived records and ``clips.csv``."""
    lost = [fault for fault in verification.faults if fault.state != UNREADABLE]
    recipes = {fault.relative_path: _find_recipe(root, fault) for fault in lost}
    quarantined: list[str] = []
    rewritten: list[str] = []
    failed: list[str] = []
    for fault in sorted(lost, key=lambda fault: fault.kind not in ("marker", "recipe")):
        try:
            if fault.state == DAMAGED and is_behind_link(root, fault.relative_path):
                raise CacheError(
                    f"{root / fault.relative_path}: is behind a link and not followed; move it yourself"
                )
            if fault.state == DAMAGED:
                quarantine(root / fault.relative_path, fault.reason)
                quarantined.append(fault.relative_path)
            if _rewrite(root, fault, recipes[fault.relative_path]):
                rewritten.append(fault.relative_path)
        except CacheError as error:
            failed.append(str(error))
    if verification.stale_clips_csv and (cache := _open(root)):
        write_text(root / VIEW, cache.view_text(cache.statuses))
        rewritten.append(VIEW)
    remedies = [
        _find_remedy(root, fault, recipes[fault.relative_path])
        for fault in lost
        if fault.relative_path not in rewritten
    ]
    commands = dict.fromkeys(filter(None, remedies))
    return Repair(tuple(quarantined), tuple(rewritten), tuple(failed), tuple(commands))


def _find_recipe(root: Path, fault: Fault) -> Recipe | None:
    """The recipe that a file belongs to, if any; that of an import is known even if its record is lost."""
    if fault.kind not in ("recipe", "training", "features"):
        return None
    source, digest = fault.relative_path.split("/")[1:3]
    return read_record(root / "features" / source / digest / "recipe.json") or find_import_recipe(
        source, digest
    )


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
        return write_text(root / fault.relative_path, recipe.to_json())
    if fault.kind == "training" and recipe is not None and (cache := _open(root)):
        file = root / fault.relative_path
        for name in find_holdouts(cache, recipe, file.parent.name, file)[:1]:
            plan = (cache.plan, *cache.repeat_plans)[name.repeat]
            cache.write_training_clips(recipe, cache.training_clips(recipe, name.holdout, plan=plan) or ())
            return True
    return False


def _find_remedy(root: Path, fault: Fault, recipe: Recipe | None) -> str:
    """The command that restores a lost file; empty where none is needed."""
    cache, folders = shlex.quote(str(root)), fault.relative_path.split("/")
    if fault.kind in ("marker", "network", "checkpoint", "fits"):
        return ""
    if fault.kind in ("run", "predictions"):
        return f"moodfuse fuse --cache {cache} --run {shlex.quote(folders[1])}"
    source = "SOURCE"
    if folders[0] == "features":
        source = _find_source(root, recipe) if recipe else folders[1]
    if recipe.network == IMPORT if recipe else _is_filled_by_imports(root):
        # The folds are in clips.csv, so that a new plan has them, too.
        labels = {"plan": f" --labels {cache}/{VIEW}", "table": " --labels LABELS.csv"}.get(fault.kind, "")
        return f"moodfuse cache import --cache {cache}{labels} --source {source} --holdout HOLDOUT FILE"
    data = f"{cache}/{VIEW}" if fault.kind == "plan" else "DATA"
    option = f" --source {source}" if folders[0] == "features" or fault.kind == "choice" else ""
    return f"moodfuse extract {data} --cache {cache}{option}"


def _find_source(root: Path, recipe: Recipe) -> str:
    """The current source with this recipe, or whose heads are tuned on its activations."""
    if cache := _open(root):
        for source, digest in sorted(cache.selection.items()):
            reader = read_record(cache.source_folder(source, digest) / "recipe.json")
            if reader and recipe in (reader, frozen_counterpart(reader)):
                return source
    return recipe.source


def _is_filled_by_imports(root: Path) -> bool:
    recipes = [folder.parts[-2:] for folder in (root / "features").glob("[!.]*/[!.]*/")]
    return bool(recipes) and all(find_import_recipe(*recipe) for recipe in recipes)
