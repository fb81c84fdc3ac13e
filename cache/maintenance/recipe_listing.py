"""The recipes of a cache with their blocks: which are in force, how full each is, which no plan in force names."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.blocks import Owner, clips_of, joined
from moodfuse.cache.digests import Digests, lookup
from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.maintenance.holdings import IN_FORCE, REPLACED, SERVES, UNFINISHED, HeldBlock, HeldRecipe
from moodfuse.cache.maintenance.naming import Namer
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.storage.layout import Entry, folder_of
from moodfuse.cache.storage.parts import read_header
from moodfuse.cache.store import FROZEN, FeatureCache, check_trained, read_recipe

Key = tuple[str, str]
"""Folder of a source, and digest of a recipe."""
_COUNTED_BYTES = 1 << 28
"""In parts of so many bytes at most, all together, rows are counted by their clips: it takes a quarter of a second."""
_KINDS = ("recipe", "training", "features", "network", "checkpoint")


@dataclass(frozen=True)
class Wanted:
    """Of how many clips a block has a row under the plan in force; two copies of one file have one between them.

    Attributes
    ----------
    clips : int
        Different clips that the plan covers.
    lacking : mapping of str to int
        How many of them lack a view.
    """

    clips: int
    lacking: Mapping[str, int]

    def of(self, recipe: Recipe | None) -> int:
        """Of how many clips a recipe has something to read."""
        return self.clips - (0 if recipe is None or recipe.view is None else self.lacking.get(recipe.view, 0))


class RecipeListing:
    """The recipes of a cache.

    Parameters
    ----------
    cache : FeatureCache
    found : sequence of Entry
        Every file of it.
    wanted : Wanted or None
        How many clips a block has under the plan in force; `None` where there is none.
    selection : mapping of str to str
        The recipe of each source that counts as in force.
    """

    def __init__(
        self,
        cache: FeatureCache,
        found: Sequence[Entry],
        wanted: Wanted | None,
        *,
        selection: Mapping[str, str],
    ) -> None:
        self.unreadable: list[str] = []
        self._path = cache.path
        self._files = _by_recipe(found)
        self._wanted = wanted
        self._namer = None if wanted is None else Namer(cache)
        self._current = None if wanted is None else _clips_in_force(cache, found)
        self._selected = {(folder_of(source), digest): source for source, digest in selection.items()}
        self._earlier = {(folder_of(source), digest) for source, digest in cache.ever_selected}
        self._records = {
            key: read_record(self._folder(key) / "recipe.json")
            for key in {*self._selected, *self._earlier, *self._files}
        }

    def recipes(self) -> tuple[HeldRecipe, ...]:
        """Every recipe that is in force or has a file, by source."""
        return tuple(self._recipe(key) for key in sorted({*self._selected, *self._files}))

    def _folder(self, key: Key) -> Path:
        return self._path / "features" / key[0] / key[1]

    def _recipe(self, key: Key) -> HeldRecipe:
        recipe = self._records[key]
        files = [entry for group in self._files.get(key, {}).values() for entry in group]
        return HeldRecipe(
            source=recipe.source if recipe else self._selected.get(key, key[0]),
            folder=key[0],
            digest16=key[1],
            network=recipe.network if recipe else "",
            depth=recipe.depth if recipe else "",
            state=self._state(key),
            blocks=tuple(sorted(self._blocks(key), key=lambda block: block.order)),
            bytes=sum(entry.bytes for entry in files),
            modified_s=max((entry.modified_s for entry in files), default=0.0),
        )

    def _state(self, key: Key) -> str:
        if key in self._selected:
            return IN_FORCE
        if key in self._counterparts(self._selected):
            return SERVES
        return REPLACED if key in self._earlier or key in self._counterparts(self._earlier) else UNFINISHED

    def _counterparts(self, keys: Iterable[Key]) -> set[Key]:
        """The frozen recipes on whose activations the heads of some recipes are tuned."""
        recipes = (self._records[key] for key in keys)
        frozen = [
            frozen_counterpart(recipe) for recipe in recipes if recipe is not None and recipe.depth == "head"
        ]
        return {(folder_of(recipe.source), recipe.digest16) for recipe in frozen}

    def _blocks(self, key: Key) -> Iterator[HeldBlock]:
        """The blocks on disk and, of a recipe in force, those of single folds that are not there yet."""
        recipe, files = self._records[key], self._files.get(key, {})
        wanted = {}
        if recipe is not None and self._namer is not None and key in self._selected:
            wanted = self._namer.singles(recipe)
        for trained in {*wanted, *files} - {""}:
            kinds: dict[str, list[Entry]] = defaultdict(list)
            for entry in files.get(trained, ()):
                kinds[entry.kind].append(entry)
            names = wanted.get(trained, ())
            record = self._folder(key) / trained / "trained.json"
            if recipe is not None and self._namer is not None and not names:
                names = self._namer.names(recipe, trained, record)
            parts = kinds["features"]
            yield HeldBlock(
                trained=trained,
                names=names,
                rows=self._rows(Owner(record.parent, *key, trained), parts),
                clips=0 if self._wanted is None else self._wanted.of(recipe),
                parts=len(parts),
                bytes=sum(entry.bytes for kind in ("features", "training") for entry in kinds[kind]),
                weights_bytes=sum(entry.bytes for kind in ("network", "checkpoint") for entry in kinds[kind]),
                recorded=not parts or trained == FROZEN or bool(names) or _is_recorded(record),
            )

    def _rows(self, owner: Owner, parts: Sequence[Entry]) -> int:
        """Rows of some parts, of clips of the plan in force where that is looked into; of one that is damaged none."""
        total, clips = 0, []
        for part in parts:
            try:
                if part.fault:
                    continue
                if self._current is None:
                    total += read_header(part.path).rows
                else:
                    clips.append(clips_of(owner, part.path))
            except CacheError:
                if part.path.exists():  # otherwise another process took it away meanwhile
                    self.unreadable.append(part.place)
        if self._current is not None:
            total = int((lookup(self._current, np.unique(joined(clips))) >= 0).sum())
        return total


def _clips_in_force(cache: FeatureCache, found: Sequence[Entry]) -> Digests | None:
    """Clips that rows are counted of, sorted; `None` where all rows are of such clips, or there are too many to look.

    Under the first plan of a cache no clip has left it.
    """
    size = sum(entry.bytes for entry in found if entry.kind == "features")
    if cache.plan.sequence == 1 or size > _COUNTED_BYTES:
        return None
    return cache.plan.to_arrays()["clip"]


def read_record(file: Path) -> Recipe | None:
    """A recipe from its file; `None` where that cannot be read."""
    try:
        return read_recipe(file)
    except (CacheError, InputError, TypeError, AttributeError, ValueError):
        return None


def _is_recorded(record: Path) -> bool:
    try:
        check_trained(record)
    except (CacheError, ValueError):
        return False
    return True


def _by_recipe(found: Sequence[Entry]) -> Mapping[Key, Mapping[str, Sequence[Entry]]]:
    """Files of recipes: those of a network under its `trained16`, the record of a recipe under the empty name."""
    files: dict[Key, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in found:
        if entry.kind in _KINDS:
            _, source, digest, *trained = entry.parents
            if entry.kind in ("network", "checkpoint"):
                trained = [entry.path.stem]
            files[source, digest][trained[0] if trained else ""].append(entry)
    return files
