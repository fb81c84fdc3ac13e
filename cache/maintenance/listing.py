"""What a cache holds: clips and plan, the blocks of each recipe, runs, and files that nothing reads."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moodfuse.cache.digests import training_digest16
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.folds import pair_holdouts, single_holdouts
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.layout import Entry, entries, folder_of
from moodfuse.cache.storage.parts import read_header, read_part
from moodfuse.cache.store import FROZEN, FeatureCache, check_trained, read_recipe

CURRENT, SERVES, REPLACED, UNFINISHED = "in force", "serves heads", "replaced", "unfinished"
"""States of a recipe, as in the JSON listing. A frozen recipe serves heads that are tuned on its activations.
A recipe that never was current is unfinished: `extract` is running, or was stopped."""
RecipeKey = tuple[str, str]  # folder of a source, and digest of a recipe


@dataclass(frozen=True)
class HoldoutName:
    """A holdout of one of the current plans; `repeat` 0 is the plan of all results."""

    repeat: int
    holdout: Holdout

    def __str__(self) -> str:
        return f"{self.holdout} of repeat {self.repeat}" if self.repeat else str(self.holdout)


@dataclass(frozen=True)
class BlockInfo:
    """The features and the weights of one network.

    `trained` is the digest of its training clips, or ``frozen``; `names` are its holdouts in the current
    plans. It has `rows` of the `clips` that it should have, by the headers of its parts. `recorded` is
    whether the record of its training clips can be read.
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
    """What a cache holds; `clips` and `plan` are `None` before the first plan.

    `entries` are all files, `unreadable` parts without a valid header. Nothing reads `old_plans`,
    `old_tables` of clips of earlier plans, and `old_fits` of other clips, labels or groups.
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

    Raises `UnknownNameError` if `without` names no current source, and `DamagedPartError` if a plan, the
    table of clips, or a choice of sources is damaged.
    """
    for source in without:
        cache.check_source(source)
    selection = {source: digest for source, digest in cache.selection.items() if source not in without}
    files = tuple(entries(cache.path))
    rows = {entry.relative_path: _count_rows(entry.path) for entry in files if entry.kind == "features"}
    unreadable = tuple(path for path, count in rows.items() if count is None)
    recipes = tuple(_list_recipes(cache, files, selection, rows))
    runs = tuple(_list_runs(files, selection))
    if not cache.plans:
        return Inventory(cache.path, None, None, recipes, runs, files, unreadable)
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
        unreadable=unreadable,
        old_plans=old_plans,
        old_tables=old_tables,
        old_fits=tuple(entry for entry in files if entry.kind == "fits" and entry.parents[1] != fits_folder),
    )


def _find_old_plans_and_tables(files: Sequence[Entry]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Find the plans and tables that nothing reads.

    A new plan starts from the last one of its repeat, number of folds and seed. The one before it stays as
    well: if the last is damaged, clips keep the folds that they had there.
    """
    files_of_plans = (entry for entry in files if entry.kind == "plan" and not entry.fault)
    plans = [(read_part(entry.path, names=())[1], entry) for entry in files_of_plans]
    plans.sort(key=lambda plan: (plan[0]["sequence"], plan[1].relative_path), reverse=True)
    later_plans: Counter[tuple[int, ...]] = Counter()
    old_plans, tables = [], []
    for values, entry in plans:
        kind = (values["repeat"], values["folds"], values["seed"])
        if later_plans[kind] > 1:
            old_plans.append(entry)
        later_plans[kind] += 1
        if not values["repeat"]:
            tables += [f"tables/clips-{name}.h5" for name in values["records"]]
    old_tables = (entry for entry in files if entry.kind == "table" and entry.relative_path not in tables[:2])
    return tuple(reversed(old_plans)), tuple(old_tables)


def _list_runs(files: Sequence[Entry], selection: Mapping[str, str]) -> Iterator[RunInfo]:
    files_of: dict[str, list[Entry]] = defaultdict(list)
    for entry in files:
        if entry.parents[:1] == ("runs",) and len(entry.parents) > 1:
            files_of[entry.parents[1]].append(entry)
    stored = {entry.parents[1:3] for entry in files if entry.parents[:1] == ("features",)}
    for name, entries_of_run in sorted(files_of.items()):
        recipes = next(
            (_read_run_recipes(entry.path) for entry in entries_of_run if entry.kind == "run"), None
        )
        missing = [source for source, digest in recipes or () if (folder_of(source), digest) not in stored]
        changed = [source for source, digest in recipes or () if selection.get(source) != digest]
        yield RunInfo(
            name=name,
            whole=recipes is not None,
            bytes=sum(entry.bytes for entry in entries_of_run),
            gone=tuple(missing),
            replaced=tuple(source for source in changed if source not in missing),
        )


def _read_run_recipes(file: Path) -> list[tuple[str, str]] | None:
    """Sources of a run with their recipes; `None` where its record cannot be read."""
    try:
        return [(str(source), str(digest)) for source, digest in read_json(file)["recipes"]]
    except (CacheError, KeyError, TypeError, ValueError):
        return None


# Recipes and their blocks


def read_record(file: Path) -> Recipe | None:
    """A recipe from its file; `None` where that cannot be read."""
    try:
        return read_recipe(file)
    except (CacheError, InputError, TypeError, AttributeError, ValueError):
        return None


def _list_recipes(
    cache: FeatureCache, files: Sequence[Entry], selection: Mapping[str, str], rows: Mapping[str, int | None]
) -> Iterator[RecipeInfo]:
    """Every recipe that is current or has a file; `rows` are those of each part."""
    by_recipe = _group_by_recipe(files)
    current = {(folder_of(source), digest): source for source, digest in selection.items()}
    earlier = {(folder_of(source), digest) for source, digest in cache.ever_selected}
    records = {
        key: read_record(cache.path.joinpath("features", *key, "recipe.json"))
        for key in {*current, *earlier, *by_recipe}
    }
    serving = _find_frozen_counterparts(records, current)
    used_once = earlier | _find_frozen_counterparts(records, earlier)
    for key in sorted({*current, *by_recipe}):
        recipe, networks = records[key], by_recipe.get(key, {})
        if key in current:
            state = CURRENT
        elif key in serving:
            state = SERVES
        else:
            state = REPLACED if key in used_once else UNFINISHED
        expected = name_single_folds(cache, recipe) if recipe and key in current else {}
        blocks = (
            _describe_block(
                cache, key, trained, recipe, networks.get(trained, ()), rows, expected.get(trained)
            )
            for trained in {*expected, *networks} - {""}
        )
        everything = [entry for network in networks.values() for entry in network]
        yield RecipeInfo(
            source=recipe.source if recipe else current.get(key, key[0]),
            digest16=key[1],
            network=recipe.network if recipe else "",
            depth=recipe.depth if recipe else "",
            state=state,
            blocks=tuple(sorted(blocks, key=_sort_key)),
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
    recipes = filter(None, map(records.get, keys))
    frozen = [frozen_counterpart(recipe) for recipe in recipes if recipe.depth == "head"]
    return {(folder_of(recipe.source), recipe.digest16) for recipe in frozen}


def _describe_block(
    cache: FeatureCache,
    key: RecipeKey,
    trained: str,
    recipe: Recipe | None,
    files: Sequence[Entry],
    rows: Mapping[str, int | None],
    names: tuple[HoldoutName, ...] | None,
) -> BlockInfo:
    """The block of one network from its files; its holdouts are `names` where these are known."""
    record = cache.path.joinpath("features", *key, trained, "trained.json")
    if names is None:
        names = find_holdouts(cache, recipe, trained, record) if recipe else ()
    modality = recipe.modality if recipe else None
    clips = cache.clips if cache.plans else ()
    parts = [entry for entry in files if entry.kind == "features"]
    return BlockInfo(
        trained=trained,
        names=names,
        rows=sum(rows[part.relative_path] or 0 for part in parts),
        clips=len({clip.digest for clip in clips if modality is None or clip.missing != modality}),
        parts=len(parts),
        bytes=sum(entry.bytes for entry in files if entry.kind in ("features", "training")),
        weights_bytes=sum(entry.bytes for entry in files if entry.kind in ("network", "checkpoint")),
        recorded=not parts or trained == FROZEN or bool(names) or bool(_read_training_clips(record)),
    )


def _count_rows(part: Path) -> int | None:
    """Rows by the header of a part; `None` where that cannot be read."""
    try:
        return read_header(part).rows
    except CacheError:
        return None


def _sort_key(block: BlockInfo) -> tuple[object, ...]:
    folds = [(name.repeat, sorted(name.holdout.folds or ())) for name in block.names]
    return (not folds, [(repeat, len(held_out), held_out) for repeat, held_out in folds], block.trained)


# Holdouts of networks: a network is stored under the digest of its training clips


def name_single_folds(cache: FeatureCache, recipe: Recipe) -> Mapping[str, tuple[HoldoutName, ...]]:
    """Digest to names of the networks of ``{k}`` in every plan; the one block of a frozen recipe."""
    if not recipe.sees_labels:
        return {FROZEN: (HoldoutName(0, Holdout.frozen()),)}
    names: dict[str, tuple[HoldoutName, ...]] = defaultdict(tuple)
    for plan in _get_plans(cache):
        for holdout in single_holdouts(plan.folds):
            names[_get_digest(cache, recipe, plan, holdout)] += (HoldoutName(plan.repeat, holdout),)
    return names


def find_holdouts(cache: FeatureCache, recipe: Recipe, trained: str, record: Path) -> tuple[HoldoutName, ...]:
    """Names of the network with the digest `trained`; empty where no current plan has such a network.

    `record` is its ``trained.json``; if that cannot be read, all single folds and pairs of folds are tried.
    """
    if not recipe.sees_labels:
        return (HoldoutName(0, Holdout.frozen()),) if trained == FROZEN else ()
    training_clips = _read_training_clips(record)
    return tuple(
        HoldoutName(plan.repeat, holdout)
        for plan in _get_plans(cache)
        for holdout in _list_possible_holdouts(plan, training_clips)
        if _get_digest(cache, recipe, plan, holdout) == trained
    )


def _read_training_clips(record: Path) -> list[str]:
    """Digests of the training clips in a record; none where it cannot be read."""
    try:
        check_trained(record)
        return [digest for digest, _, _ in read_json(record)]
    except (CacheError, ValueError):
        return []


def _list_possible_holdouts(plan: Plan, training_clips: Sequence[str]) -> Iterator[Holdout]:
    """The folds without training clips, or single folds and pairs where these clips are not known."""
    if not plan.repeat:  # a network of all clips is the same in every plan
        yield Holdout.of(())
    if not training_clips:
        yield from (*single_holdouts(plan.folds), *pair_holdouts(plan.folds))
    elif held_out := set(range(plan.folds)) - {plan.assignment.get(clip) for clip in training_clips}:
        yield Holdout.of(held_out)


def _get_plans(cache: FeatureCache) -> tuple[Plan, ...]:
    return (cache.plan, *cache.repeat_plans) if cache.plans else ()


def _get_digest(cache: FeatureCache, recipe: Recipe, plan: Plan, holdout: Holdout) -> str:
    return training_digest16(cache.training_clips(recipe, holdout, plan=plan) or ())
