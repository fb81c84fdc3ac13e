"""The recipes of a cache with the blocks of their networks: how complete each is, and which holdouts it serves.

A network is named on disk by what it was tuned on; its holdouts under the plans in force are looked up here. Rows are
counted by the headers of their parts. Only where clips may have left the dataset, and the parts are small, are parts
opened, so that rows of such clips do not count.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from moodfuse.cache.blocks import Owner, clips_of
from moodfuse.cache.digests import trained_digest16
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.folds import MODALITIES, pair_holdouts, single_holdouts
from moodfuse.cache.recipe import IMPORT, Recipe, frozen_counterpart
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.layout import Entry, folder_of
from moodfuse.cache.storage.parts import read_header
from moodfuse.cache.store import FROZEN, FeatureCache, check_trained, read_recipe

IN_FORCE, SERVES, REPLACED, UNFINISHED = "in force", "serves heads", "replaced", "unfinished"
"""States of a recipe. One serves heads where heads in force are tuned on its activations; one is unfinished that was
never put in force, because `extract` is running or was stopped."""
Key = tuple[str, str]
"""Folder of a source, and digest of a recipe."""
_ALL_SEEN = Holdout.of(())
_MAX_FOLDS = 8
"""Up to this number of folds all their subsets are tried: 256."""
_COUNTED_BYTES = 1 << 28
"""Parts are opened to count their rows only where all of them together have no more bytes than this."""


@dataclass(frozen=True)
class HoldoutName:
    """A holdout of one of the plans in force; `repeat` 0 is the plan of all results."""

    repeat: int
    holdout: Holdout

    def __str__(self) -> str:
        return f"{self.holdout} of repeat {self.repeat}" if self.repeat else str(self.holdout)


@dataclass(frozen=True)
class BlockInfo:
    """The features of one network, `trained16` or ``frozen``, and its weights.

    `names` is empty where it is no holdout of a plan in force; `clips` are those of the plan that it should have `rows`
    of. `recorded` is whether it is known what it was tuned on.
    """

    trained: str
    names: tuple[HoldoutName, ...]
    rows: int
    clips: int
    parts: int
    bytes: int
    weights_bytes: int
    recorded: bool = True

    @property
    def complete(self) -> bool:
        """Whether it has a row for every clip."""
        return self.rows >= self.clips > 0


@dataclass(frozen=True)
class RecipeInfo:
    """One recipe of a source, in the folder of this name below ``features`` and ``networks``.

    `network` and `depth` are empty where its record cannot be read. `blocks` are those on disk and, of a recipe in
    force, the missing ones of single folds. `modified_s` is when any of its files was last written.
    """

    source: str
    folder: str
    digest16: str
    network: str
    depth: str
    state: str
    blocks: tuple[BlockInfo, ...]
    bytes: int
    modified_s: float

    @property
    def needed(self) -> bool:
        """Whether a source in force reads it."""
        return self.state in (IN_FORCE, SERVES)


def read_record(file: Path) -> Recipe | None:
    """A recipe from its file; `None` where that cannot be read."""
    try:
        return read_recipe(file)
    except (CacheError, InputError, TypeError, AttributeError, ValueError):
        return None


def list_recipes(
    cache: FeatureCache, found: Sequence[Entry], selection: Mapping[str, str], unreadable: list[str]
) -> Iterator[RecipeInfo]:
    """Every recipe that is in force (in `selection`: source to digest) or has a file, by source.

    `found` has every file of the cache; `unreadable` receives the places of parts without a valid header.
    """
    files = _files_by_recipe(found)
    selected = {(folder_of(source), digest): source for source, digest in selection.items()}
    earlier = {(folder_of(source), digest) for source, digest in cache.ever_selected}
    records = {
        key: read_record(cache.path.joinpath("features", *key, "recipe.json"))
        for key in {*selected, *earlier, *files}
    }
    serving, served = (_frozen_counterparts(records, keys) for keys in (selected, earlier))
    plans = _PlansInForce(cache, found) if cache.plans else None
    for key in sorted({*selected, *files}):
        recipe, networks = records[key], files.get(key, {})
        state = IN_FORCE if key in selected else SERVES if key in serving else UNFINISHED
        if state == UNFINISHED and (key in earlier or key in served):
            state = REPLACED
        missing = plans.names.single_folds(recipe) if plans and recipe and key in selected else {}
        blocks = (
            _block(cache.path, key, trained, recipe, networks.get(trained, ()), plans, unreadable)
            for trained in {*missing, *networks} - {""}
        )
        everything = [entry for entries_of in networks.values() for entry in entries_of]
        yield RecipeInfo(
            source=recipe.source if recipe else selected.get(key, key[0]),
            folder=key[0],
            digest16=key[1],
            network=recipe.network if recipe else "",
            depth=recipe.depth if recipe else "",
            state=state,
            blocks=tuple(sorted(blocks, key=_listing_order)),
            bytes=sum(entry.bytes for entry in everything),
            modified_s=max((entry.modified_s for entry in everything), default=0.0),
        )


def _files_by_recipe(found: Sequence[Entry]) -> Mapping[Key, Mapping[str, Sequence[Entry]]]:
    """Files of recipes: those of a network by its `trained16`, the record of a recipe by the empty name."""
    files: dict[Key, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in found:
        if entry.kind in ("recipe", "training", "features", "network", "checkpoint"):
            _, source, digest, *trained = entry.parents
            if entry.kind in ("network", "checkpoint"):
                trained = [entry.path.stem]
            files[source, digest][trained[0] if trained else ""].append(entry)
    return files


def _frozen_counterparts(records: Mapping[Key, Recipe | None], keys: Iterable[Key]) -> set[Key]:
    """The frozen recipes on whose activations the heads of some recipes are tuned."""
    recipes = (records[key] for key in keys)
    frozen = [frozen_counterpart(recipe) for recipe in recipes if recipe and recipe.depth == "head"]
    return {(folder_of(recipe.source), recipe.digest16) for recipe in frozen}


class _PlansInForce:
    """What blocks are compared with: names of holdouts, and clips of the plan.

    `clips` is the number of different clips that have a modality; two copies of one file are one clip. `counted` are the
    clips whose rows count; `None` where all rows count, because no clip has left the dataset yet (under the first plan)
    or there are too many bytes to look.
    """

    def __init__(self, cache: FeatureCache, found: Sequence[Entry]) -> None:
        self.names = HoldoutNames(cache)
        missing = {status.digest: status.missing for status in cache.clips}
        self.clips: dict[str | None, int] = {None: len(missing)}
        for modality in MODALITIES:
            self.clips[modality] = sum(value != modality for value in missing.values())
        size = sum(entry.bytes for entry in found if entry.kind == "features")
        self.counted = None
        if cache.plan.sequence > 1 and size <= _COUNTED_BYTES:
            self.counted = np.array(list(cache.plan.assignment), dtype="S64")


def _block(
    root: Path,
    key: Key,
    trained: str,
    recipe: Recipe | None,
    files: Sequence[Entry],
    plans: _PlansInForce | None,
    unreadable: list[str],
) -> BlockInfo:
    record = root.joinpath("features", *key, trained, "trained.json")
    names = plans.names.of(recipe, trained, record) if plans and recipe else ()
    parts = [entry for entry in files if entry.kind == "features"]
    counted = plans.counted if plans else None
    modality = recipe.modality if recipe else None
    return BlockInfo(
        trained=trained,
        names=names,
        rows=_count_rows(Owner(record.parent, *key, trained), parts, counted, unreadable),
        clips=plans.clips[modality] if plans else 0,
        parts=len(parts),
        bytes=sum(entry.bytes for entry in files if entry.kind in ("features", "training")),
        weights_bytes=sum(entry.bytes for entry in files if entry.kind in ("network", "checkpoint")),
        recorded=not parts or trained == FROZEN or bool(names) or _is_recorded(record),
    )


def _count_rows(
    owner: Owner, parts: Sequence[Entry], counted: np.ndarray | None, unreadable: list[str]
) -> int:
    """Rows of some parts, of clips that count; a damaged part has none."""
    rows = 0
    clips = [np.zeros(0, dtype="S64")]
    for part in parts:
        try:
            if part.fault:
                continue
            if counted is None:
                rows += read_header(part.path).rows
            else:
                clips.append(clips_of(owner, part.path))
        except CacheError:
            if part.path.exists():  # otherwise another process removed it meanwhile
                unreadable.append(part.place)
    return rows if counted is None else int(np.isin(np.unique(np.concatenate(clips)), counted).sum())


def _is_recorded(record: Path) -> bool:
    try:
        check_trained(record)
    except (CacheError, ValueError):
        return False
    return True


def _listing_order(block: BlockInfo) -> tuple[object, ...]:
    """By repeat, then by the number of folds held out, then by folds; networks of no plan last."""
    if not block.names:
        return (1, 0, 0, (), block.trained)
    first = block.names[0]
    folds = sorted(first.holdout.folds or ())
    return (0, first.repeat, len(folds), tuple(folds), block.trained)


# Names of networks


class HoldoutNames:
    """What the plans in force call the networks of a cache: ``{2}``, ``{1,4}`` or ``{}``.

    The digests of single folds and of no fold follow from the plans. Any other network has a record of the clips that
    it saw, and the plan shows which folds that leaves out.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self.plans: tuple[Plan, ...] = (cache.plan, *cache.repeat_plans)
        self._folds = [dict(plan.assignment) for plan in self.plans]
        self._singles: dict[Recipe, dict[str, tuple[HoldoutName, ...]]] = {}

    def single_folds(self, recipe: Recipe) -> dict[str, tuple[HoldoutName, ...]]:
        """`trained16` of every ``{k}`` of every plan to its names; of a frozen recipe the one block."""
        if not recipe.sees_labels:
            return {FROZEN: (HoldoutName(0, Holdout.frozen()),)}
        if recipe not in self._singles:
            named: dict[str, tuple[HoldoutName, ...]] = {}
            for plan in self.plans:
                for holdout in single_holdouts(plan.folds):
                    trained = self._trained(recipe, plan, holdout)
                    named[trained] = (*named.get(trained, ()), HoldoutName(plan.repeat, holdout))
            self._singles[recipe] = named
        return self._singles[recipe]

    def of(self, recipe: Recipe, trained: str, record: Path) -> tuple[HoldoutName, ...]:
        """The names of a network by its `trained16`, or ``frozen``; empty where it is no holdout of a plan in force.

        Its `record`, ``trained.json``, is read only where it is not the network of a single fold.
        """
        if (trained == FROZEN) == recipe.sees_labels:
            return ()
        if names := self.single_folds(recipe).get(trained):
            return names
        return tuple(
            HoldoutName(plan.repeat, holdout)
            for plan, folds in zip(self.plans, self._folds, strict=True)
            for holdout in _candidates(plan, folds, recipe, record)
            if self._trained(recipe, plan, holdout) == trained
        )

    def _trained(self, recipe: Recipe, plan: Plan, holdout: Holdout) -> str:
        return trained_digest16(self._cache.roles(recipe, holdout, plan=plan) or ())


def _candidates(plan: Plan, fold_of: Mapping[str, int], recipe: Recipe, record: Path) -> Iterable[Holdout]:
    """Holdouts that a network may have: the folds of which its record has no clip.

    Where the record cannot be read these are all pairs and, of an import, all sets of folds unless they are too many.
    """
    all_seen = () if plan.repeat else (_ALL_SEEN,)  # the same in every plan
    try:
        seen = {fold_of.get(digest) for digest, _, _ in read_json(record)}
    except (CacheError, TypeError, ValueError):
        if recipe.network != IMPORT or plan.folds > _MAX_FOLDS:
            return (*all_seen, *pair_holdouts(plan.folds))
        subsets = (combinations(range(plan.folds), size) for size in range(2, plan.folds))
        return (*all_seen, *(Holdout.of(folds) for some in subsets for folds in some))
    if not seen or None in seen:
        return all_seen
    left_out = Holdout(frozenset(range(plan.folds)) - {fold for fold in seen if fold is not None})
    return (left_out,) if left_out.folds else all_seen
