"""What a cache holds: clips and plan, the blocks of each recipe, runs, and files that nothing reads."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.blocks import Owner, clips_of
from moodfuse.cache.errors import CacheError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.folds import MODALITIES
from moodfuse.cache.maintenance.holdouts import HoldoutName, HoldoutNames, read_record
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.layout import Entry, entries, folder_of
from moodfuse.cache.storage.parts import read_header, read_part
from moodfuse.cache.store import FROZEN, FeatureCache, check_trained

CURRENT, SERVES, REPLACED, UNFINISHED = "in force", "serves heads", "replaced", "unfinished"
"""States of a recipe, as in the JSON listing. A frozen recipe serves the heads of a current one that are
tuned on its activations. A recipe that never was current is unfinished: `extract` is running, or was
stopped."""
RecipeKey = tuple[str, str]
"""Folder of a source, and digest of a recipe."""
_MAX_COUNTED_BYTES = 1 << 28


@dataclass(frozen=True)
class BlockInfo:
    """The features and the weights of one network.

    `trained` is the digest of its training clips, or ``frozen``; `names` are its holdouts in the current
    plans. It has `rows` of the `clips` that it should have. `recorded` is whether the record of its training
    clips can be read.
    """

    trained: str
    names: tuple[HoldoutName, ...]
    rows: int
    clips: int
    parts: int
    bytes: int
    weights_bytes: int
    recorded: bool

    @property
    def complete(self) -> bool:
        """Whether it has a row for every clip."""
        return self.rows >= self.clips > 0


@dataclass(frozen=True)
class RecipeInfo:
    """One recipe of a source; `network` and `depth` are empty where its record cannot be read."""

    source: str
    digest16: str
    network: str
    depth: str
    state: str
    blocks: tuple[BlockInfo, ...]
    bytes: int
    modified_s: float

    @property
    def needed(self) -> bool:
        """Whether a current source reads it."""
        return self.state in (CURRENT, SERVES)


@dataclass(frozen=True)
class RunInfo:
    """A run, and which of its sources are missing (`gone`) or now have another recipe (`replaced`)."""

    name: str
    whole: bool
    bytes: int
    gone: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """What a cache holds.

    Attributes
    ----------
    path : Path
    clips, plan : mapping or None
        Numbers of clips, and the current plan; `None` before the first plan.
    recipes : tuple of RecipeInfo
    runs : tuple of RunInfo
    entries : tuple of Entry
        Every file.
    unreadable : tuple of str
        Parts without a valid header.
    old_plans, old_tables, old_fits : tuple of Entry
        Plans that no new plan starts from, tables of clips that neither the current plan nor the one before
        it names, and cached fits of other clips, labels or groups.
    """

    path: Path
    clips: Mapping[str, int] | None
    plan: Mapping[str, int] | None
    recipes: tuple[RecipeInfo, ...]
    runs: tuple[RunInfo, ...]
    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]
    old_plans: tuple[Entry, ...] = ()
    old_tables: tuple[Entry, ...] = ()
    old_fits: tuple[Entry, ...] = ()

    def of_kind(self, *kinds: str) -> tuple[Entry, ...]:
        """Files of these kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)


def read_inventory(cache: FeatureCache, *, without: Collection[str] = ()) -> Inventory:
    """List a cache, with the sources `without` treated as removed.

    Raises
    ------
    DamagedPartError
        If a plan, the table of clips, or a choice of sources is damaged.
    UnknownNameError
        If `without` names no current source.
    """
    for source in without:
        cache.check_source(source)
    selection = {source: digest for source, digest in cache.selection.items() if source not in without}
    files = tuple(entries(cache.path))
    unreadable: list[str] = []
    recipes = tuple(_list_recipes(cache, files, selection, unreadable))
    runs = tuple(_list_runs(files, selection))
    if not cache.plans:
        return Inventory(cache.path, None, None, recipes, runs, files, tuple(unreadable))
    plan = cache.plan
    readable = [status for status in cache.statuses if status.ok]
    covered = [status for status in readable if status.clip.split != "test"]
    old_plans, old_tables = _find_old_plans_and_tables(files)
    fits_folder = clips_digest16(cache.clips)
    return Inventory(
        path=cache.path,
        clips={
            "listed": len(cache.statuses),
            "ok": len(readable),
            "refused": len(cache.statuses) - len(readable),
            "test": len(readable) - len(covered),
        },
        plan={
            "folds": plan.folds,
            "seed": plan.seed,
            "sequence": plan.sequence,
            "clips": len(plan.assignment),
            "groups": len({status.group for status in covered}),
            "repeats": 1 + len(cache.repeat_plans),
        },
        recipes=recipes,
        runs=runs,
        entries=files,
        unreadable=tuple(unreadable),
        old_plans=old_plans,
        old_tables=old_tables,
        old_fits=tuple(entry for entry in files if entry.kind == "fits" and entry.parents[1] != fits_folder),
    )


def _find_old_plans_and_tables(files: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Find the plans and tables that nothing reads.

    A new plan starts from the last one of its repeat, number of folds and seed. The one before it stays as
    well: if the last is damaged, clips keep the folds that they had there.
    """
    plans = [
        (read_part(entry.path, names=())[1], entry)
        for entry in files
        if entry.kind == "plan" and not entry.fault
    ]
    plans.sort(key=lambda plan: (plan[0]["sequence"], plan[1].place), reverse=True)
    later_plans: Counter[tuple[int, ...]] = Counter()
    old_plans, tables = [], []
    for values, entry in plans:
        kind = (values["repeat"], values["folds"], values["seed"])
        if later_plans[kind] > 1:
            old_plans.append(entry)
        later_plans[kind] += 1
        if not values["repeat"]:
            tables += [f"tables/clips-{name}.h5" for name in values["records"]]
    old_tables = (entry for entry in files if entry.kind == "table" and entry.place not in tables[:2])
    return tuple(reversed(old_plans)), tuple(old_tables)


def _list_runs(files: Sequence[Entry], selection: Mapping[str, str]) -> Iterator[RunInfo]:
    files_of: dict[str, list[Entry]] = defaultdict(list)
    for entry in files:
        if entry.parents[:1] == ("runs",) and len(entry.parents) > 1:
            files_of[entry.parents[1]].append(entry)
    stored = {entry.parents[1:3] for entry in files if entry.parents[:1] == ("features",)}
    for name, entries_of_run in sorted(files_of.items()):
        recipes = next((_read_run_recipes(entry) for entry in entries_of_run if entry.kind == "run"), None)
        missing = [source for source, digest in recipes or () if (folder_of(source), digest) not in stored]
        yield RunInfo(
            name=name,
            whole=recipes is not None,
            bytes=sum(entry.bytes for entry in entries_of_run),
            gone=tuple(missing),
            replaced=tuple(
                source
                for source, digest in recipes or ()
                if source not in missing and selection.get(source) != digest
            ),
        )


def _read_run_recipes(entry: Entry) -> list[tuple[str, str]] | None:
    """Sources of a run with their recipes; `None` where its record cannot be read."""
    try:
        return [(str(source), str(digest)) for source, digest in read_json(entry.path)["recipes"]]
    except (CacheError, KeyError, TypeError, ValueError):
        return None


# Recipes and their blocks


def _list_recipes(
    cache: FeatureCache, files: Sequence[Entry], selection: Mapping[str, str], unreadable: list[str]
) -> Iterator[RecipeInfo]:
    """Every recipe that is current or has a file; parts without a header are appended to `unreadable`."""
    by_recipe = _group_by_recipe(files)
    current = {(folder_of(source), digest): source for source, digest in selection.items()}
    earlier = {(folder_of(source), digest) for source, digest in cache.ever_selected}
    records = {
        key: read_record(cache.path.joinpath("features", *key, "recipe.json"))
        for key in {*current, *earlier, *by_recipe}
    }
    serving = _find_frozen_counterparts(records, current)
    used_once = earlier | _find_frozen_counterparts(records, earlier)
    blocks = _BlockLister(cache, files, unreadable)
    for key in sorted({*current, *by_recipe}):
        recipe, networks = records[key], by_recipe.get(key, {})
        if key in current:
            state = CURRENT
        elif key in serving:
            state = SERVES
        else:
            state = REPLACED if key in used_once else UNFINISHED
        expected = blocks.names.single_folds(recipe) if blocks.names and recipe and key in current else ()
        infos = (
            blocks.describe(key, trained, recipe, networks.get(trained, ()))
            for trained in {*expected, *networks} - {""}
        )
        everything = [entry for network in networks.values() for entry in network]
        yield RecipeInfo(
            source=recipe.source if recipe else current.get(key, key[0]),
            digest16=key[1],
            network=recipe.network if recipe else "",
            depth=recipe.depth if recipe else "",
            state=state,
            blocks=tuple(sorted(infos, key=_sort_key)),
            bytes=sum(entry.bytes for entry in everything),
            modified_s=max((entry.modified_s for entry in everything), default=0.0),
        )


def _group_by_recipe(files: Iterable[Entry]) -> Mapping[RecipeKey, Mapping[str, Sequence[Entry]]]:
    """Files of each recipe by network; those of the recipe itself under an empty name."""
    by_recipe: dict[RecipeKey, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in files:
        if entry.kind in ("recipe", "training", "features", "network", "checkpoint"):
            _, source, digest, *trained = entry.parents
            if entry.kind in ("network", "checkpoint"):
                trained = [entry.path.stem]
            by_recipe[source, digest][trained[0] if trained else ""].append(entry)
    return by_recipe


def _find_frozen_counterparts(
    records: Mapping[RecipeKey, Recipe | None], keys: Iterable[RecipeKey]
) -> set[RecipeKey]:
    """The frozen recipes whose activations the heads of these recipes are tuned on."""
    recipes = (records[key] for key in keys)
    frozen = [frozen_counterpart(recipe) for recipe in recipes if recipe and recipe.depth == "head"]
    return {(folder_of(recipe.source), recipe.digest16) for recipe in frozen}


class _BlockLister:
    """Lists the blocks of recipes.

    Rows are counted by the headers of parts. Once clips may have left the dataset, parts of moderate size are
    opened, so that rows of these clips do not count.
    """

    def __init__(self, cache: FeatureCache, files: Sequence[Entry], unreadable: list[str]) -> None:
        self.cache = cache
        self.unreadable = unreadable
        self.names = HoldoutNames(cache) if cache.plans else None
        self.clips: dict[str | None, int] = dict.fromkeys((None, *MODALITIES), 0)
        self.counted: np.ndarray | None = None
        if not cache.plans:
            return
        missing = {status.digest: status.missing for status in cache.clips}
        for modality in self.clips:
            self.clips[modality] = sum(modality is None or value != modality for value in missing.values())
        size = sum(entry.bytes for entry in files if entry.kind == "features")
        if cache.plan.sequence > 1 and size <= _MAX_COUNTED_BYTES:
            self.counted = np.array(list(cache.plan.assignment), dtype="S64")

    def describe(
        self, key: RecipeKey, trained: str, recipe: Recipe | None, files: Sequence[Entry]
    ) -> BlockInfo:
        """The block of one network from its files."""
        record = self.cache.path.joinpath("features", *key, trained, "trained.json")
        names = self.names.find(recipe, trained, record) if self.names and recipe else ()
        parts = [entry for entry in files if entry.kind == "features"]
        return BlockInfo(
            trained=trained,
            names=names,
            rows=self._count_rows(Owner(record.parent, *key, trained), parts),
            clips=self.clips[recipe.modality if recipe else None],
            parts=len(parts),
            bytes=sum(entry.bytes for entry in files if entry.kind in ("features", "training")),
            weights_bytes=sum(entry.bytes for entry in files if entry.kind in ("network", "checkpoint")),
            recorded=not parts or trained == FROZEN or bool(names) or _is_recorded(record),
        )

    def _count_rows(self, owner: Owner, parts: Sequence[Entry]) -> int:
        rows = 0
        clips = [np.zeros(0, dtype="S64")]
        for part in parts:
            try:
                if self.counted is None:
                    rows += read_header(part.path).rows
                else:
                    clips.append(clips_of(owner, part.path))
            except CacheError:
                self.unreadable.append(part.place)
        if self.counted is None:
            return rows
        return int(np.isin(np.unique(np.concatenate(clips)), self.counted).sum())


def _is_recorded(record: Path) -> bool:
    try:
        check_trained(record)
    except (CacheError, ValueError):
        return False
    return True


def _sort_key(block: BlockInfo) -> tuple[object, ...]:
    """By repeat, number of held-out folds and folds; networks of no current plan last."""
    if not block.names:
        return (1, 0, 0, (), block.trained)
    first = block.names[0]
    folds = sorted(first.holdout.folds or ())
    return (0, first.repeat, len(folds), tuple(folds), block.trained)
