"""What `cache verify --repair` does: damaged files set aside, what follows from others written anew, remedies named."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.csv_rows import csv_rows
from moodfuse.cache.errors import CacheError, InputError, MoodfuseError
from moodfuse.cache.maintenance.naming import Namer
from moodfuse.cache.maintenance.recipe_listing import read_record
from moodfuse.cache.maintenance.verify import DAMAGED, UNREADABLE, Fault, Verification
from moodfuse.cache.manifest import MARKER, VIEW, marker_text
from moodfuse.cache.recipe import IMPORT, Recipe, frozen_counterpart, imported_as
from moodfuse.cache.storage.files import set_aside, write_text
from moodfuse.cache.storage.layout import behind_link, folder_of
from moodfuse.cache.store import FeatureCache

_EXTRACT = "moodfuse extract DATA --cache {cache}"
_IMPORT = "moodfuse cache import --cache {cache}"
_FUSE = "moodfuse fuse --cache {cache} --run {name}"
REMEDIES = {
    "plan": f"{_EXTRACT}  # deals the clips to folds anew, or as an older plan has them",
    "table": f"{_EXTRACT}  # writes the table of clips anew",
    "outcome": f"{_EXTRACT}  # decodes the clip again",
    "choice": f"{_EXTRACT} --source SOURCE...  # puts the sources in force again",
    "audit": f"{_EXTRACT}  # compares the clips again",
    "marks": f"{_EXTRACT}  # compares the clips again",
    "media": f"{_EXTRACT}  # decodes the clip again, where it is needed",
    "run": _FUSE,
    "predictions": _FUSE,
}
"""Kind of file to the command that makes it again; features and their records depend on the source. A network is tuned
again only where its features are missing, so its weights have none."""
OF_IMPORTS = {
    "plan": f"{_IMPORT} --labels LABELS.csv --source SOURCE --holdout HOLDOUT FILE  # deals the clips to folds anew",
    "table": f"{_IMPORT} --labels LABELS.csv --source SOURCE --holdout HOLDOUT FILE  # writes the table of clips anew",
    "choice": f"{_IMPORT} --source SOURCE --holdout HOLDOUT FILE  # puts the source in force again; once for each",
}
"""The same for a cache that imports made."""
KEEPING_FOLDS = (
    "moodfuse extract {cache}/clips.csv --cache {cache}  # deals the clips to folds as clips.csv has them; with DATA "
    "in its place anew, or as an older plan has them",
    f"{_IMPORT} --labels {{cache}}/clips.csv --source SOURCE --holdout HOLDOUT FILE  # deals the clips to folds as "
    "clips.csv has them",
)
"""In place of the remedies of a plan, of the data's own and of imports, where the view of the clips has every fold."""


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes
    ----------
    set_aside : tuple of str
        Places of damaged files, whose names now end in ``.bad``.
    rewritten : tuple of str
        Places of files that follow from others, and were written anew.
    failed : tuple of str
        What could not be done, in sentences.
    remedies : tuple of str
        Commands that make again what was lost.
    """

    set_aside: tuple[str, ...]
    rewritten: tuple[str, ...]
    failed: tuple[str, ...]
    remedies: tuple[str, ...]


def repair(root: Path, found: Verification) -> Repair:
    """Set damaged files aside, and write anew the marker, the records of networks, and the view of the clips.

    Parameters
    ----------
    root : Path
    found : Verification
        What `verify` found there.
    """
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
        rewritten += _rewritten(root, found, recipes)
    except CacheError as error:
        failed.append(str(error))
    remedies = [_remedy(root, fault, recipes[fault.place]) for fault in lost if fault.place not in rewritten]
    return Repair(tuple(aside), tuple(rewritten), tuple(failed), tuple(dict.fromkeys(filter(None, remedies))))


def _set_aside(root: Path, fault: Fault) -> None:
    if behind_link(root, fault.place):
        raise CacheError(
            f"{root / fault.place}: stands behind a link, which is not followed; move it away yourself"
        )
    set_aside(root / fault.place, fault.reason)


def _recipe_of(root: Path, fault: Fault) -> Recipe | None:
    """The recipe that a file belongs to, if it belongs to one; that of an import is known though its record is lost."""
    folder = fault.place.split("/")[1:3]
    if fault.kind not in ("recipe", "training", "features"):
        return None
    return read_record(root.joinpath("features", *folder, "recipe.json")) or imported_as(*folder)


def _rewritten(root: Path, found: Verification, recipes: dict[str, Recipe | None]) -> list[str]:
    """Write what follows from other files; returns the places."""
    done = []
    if any(fault.kind == "marker" for fault in found.faults):
        write_text(root / MARKER, marker_text())
        done.append(MARKER)
    for fault in found.faults:
        recipe = recipes.get(fault.place)
        if fault.kind == "recipe" and recipe is not None and not os.path.lexists(root / fault.place):
            write_text(root / fault.place, recipe.to_json())
            done.append(fault.place)
    cache = _opened(root)
    if cache is None:
        return done
    namer = Namer(cache)
    for fault in found.faults:
        recipe = recipes.get(fault.place)
        if fault.kind != "training" or recipe is None:
            continue
        for name in namer.names(recipe, fault.place.split("/")[3], root / fault.place)[:1]:
            roles = cache.roles(recipe, name.holdout, plan=namer.plans[name.repeat])
            cache.write_roles(recipe, roles or ())
            done.append(fault.place)
    if found.stale_view:
        write_text(root / VIEW, cache.view_text(cache.statuses))
        done.append(VIEW)
    return done


def _opened(root: Path) -> FeatureCache | None:
    """The cache with its plan and clips; `None` while those are not there or damaged."""
    try:
        cache = FeatureCache(root)
        return cache if cache.plans and cache.clips and cache.selection is not None else None
    except MoodfuseError:
        return None


def _remedy(root: Path, fault: Fault, recipe: Recipe | None) -> str:
    """The command that makes a lost file again; empty where nothing needs it."""
    folder = shlex.quote(str(root))
    parents = fault.place.split("/")
    if fault.kind in REMEDIES:
        imported = _made_by_imports(root)
        remedy = OF_IMPORTS.get(fault.kind, REMEDIES[fault.kind]) if imported else REMEDIES[fault.kind]
        if fault.kind == "plan" and len(parents) == 2 and _view_has_folds(root):
            remedy = KEEPING_FOLDS[imported]
        return remedy.format(cache=folder, name=shlex.quote(parents[1]))
    if fault.kind not in ("recipe", "training", "features"):
        return ""
    cache = _opened(root)
    sources = (
        [parents[1] if recipe is None else recipe.source] if cache is None else _readers(cache, *parents[1:3])
    )
    if recipe is not None and recipe.network == IMPORT and sources:
        return f"moodfuse cache import --cache {folder} --source {sources[0]} --holdout HOLDOUT FILE"
    return (
        " ".join([_EXTRACT.format(cache=folder), *(f"--source {source}" for source in sources)])
        if sources
        else ""
    )


def _made_by_imports(root: Path) -> bool:
    """Whether a cache has features, and all of them are imports."""
    recipes = [folder.parts[-2:] for folder in (root / "features").glob("[!.]*/[!.]*/")]
    return bool(recipes) and all(imported_as(*recipe) for recipe in recipes)


def _view_has_folds(root: Path) -> bool:
    """Whether the view of the clips, which outlives a plan, says the fold of every clip that was read.

    Of clips kept for tests it says none, and a name that is no UTF-8 stands there escaped.
    """
    try:
        rows = csv_rows(root / VIEW)
        columns = {name: place for place, name in enumerate(next(rows)[1])}
        wanted = [columns[name] for name in ("fold", "status", "id")]
        found = [[cells[place] for place in wanted] for _, cells in rows]
    except (InputError, KeyError):
        return False
    return all((fold or status != "ok") and "\\udc" not in name for fold, status, name in found)


def _readers(cache: FeatureCache, folder: str, digest: str) -> list[str]:
    """The sources in force that read a recipe's features, or whose heads are tuned on them."""
    own = [
        source
        for source, chosen in cache.selection.items()
        if (folder_of(source), chosen) == (folder, digest)
    ]
    served = []
    for source, chosen in cache.selection.items():
        recipe = read_record(cache.path / "features" / folder_of(source) / chosen / "recipe.json")
        if recipe is not None and recipe.depth == "head":
            frozen = frozen_counterpart(recipe)
            served += [source] if (folder_of(frozen.source), frozen.digest16) == (folder, digest) else []
    return own or sorted(served)
