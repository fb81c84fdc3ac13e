"""Which sources a cache has, and the recipe in force of each: the choices of the commands that filled it.

A choice is never changed. The latest of a source counts, and may be that it is in force no more.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import DamagedPartError, InputError, UnknownNameError
from moodfuse.cache.manifest import Manifest
from moodfuse.cache.recipe import Recipe, recipe_from_mapping
from moodfuse.cache.storage.files import listing, read_json, set_aside, write_text
from moodfuse.cache.storage.layout import folder_of

MEND = "run extract again, or the moodfuse cache import that made it"


class Choices(Manifest):
    """A cache folder with its clips, plans and sources."""

    @cached_property
    def _selections(self) -> tuple[dict[str, Any], ...]:
        found = []
        for file in listing(self.path / "sources", suffix=".json"):
            try:
                values = read_json(file)
                if digest16(values) != file.stem:
                    raise DamagedPartError(f"{file}: content does not match its name")
            except DamagedPartError as error:
                if not self._mends:
                    raise DamagedPartError(
                        f"{error}; run extract again, or the moodfuse cache import that made it: both choose their "
                        "sources anew"
                    ) from error
                set_aside(file, str(error))
                continue
            found.append((values["sequence"], file.name, values))
        return tuple(values for _, _, values in sorted(found, key=lambda item: item[:2]))

    @property
    def selection(self) -> dict[str, str]:
        """Recipe in force of every source: name to recipe digest; the latest choice of each, whoever made it."""
        latest = {
            source: recipe for values in self._selections for source, recipe in values["sources"].items()
        }
        return {source: recipe for source, recipe in latest.items() if recipe is not None}

    @property
    def ever_selected(self) -> frozenset[tuple[str, str]]:
        """Every recipe that is or was in force, as (source, recipe digest)."""
        chosen = (item for values in self._selections for item in values["sources"].items())
        return frozenset((source, recipe) for source, recipe in chosen if recipe is not None)

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that filled the cache, oldest first; those of older versions are not known."""
        return tuple(dict.fromkeys(values["command"] for values in self._selections if values.get("command")))

    @property
    def reading(self) -> dict[str, Any]:
        """Options of the latest `extract` that decide how files are read, such as ``missing``; defaults are left out.

        Empty for a cache that was filled by imports, or by a version that did not record them.
        """
        return next((values["reading"] for values in reversed(self._selections) if "reading" in values), {})

    def sources(self) -> tuple[str, ...]:
        """Names of the sources in force, sorted."""
        return tuple(sorted(self.selection))

    def recipe(self, source: str) -> Recipe:
        """Recipe in force of a source.

        Raises
        ------
        UnknownNameError
            If the cache has no such source; the known ones are listed.
        """
        self.check_source(source)
        return read_recipe(self.source_folder(source, self.selection[source]) / "recipe.json")

    def source_folder(self, source: str, recipe16: str) -> Path:
        """Folder of the features of one recipe."""
        return self.path / "features" / folder_of(source) / recipe16

    def write_recipe(self, recipe: Recipe) -> None:
        """Store a recipe beside its features."""
        write_text(self.source_folder(recipe.source, recipe.digest16) / "recipe.json", recipe.to_json())

    def select(
        self, recipes: Iterable[Recipe], *, command: str = "", reading: Mapping[str, Any] | None = None
    ) -> None:
        """Put recipes in force for their sources; other sources keep theirs.

        Parameters
        ----------
        recipes : iterable of Recipe
        command : str
            What asked for it.
        reading : mapping, optional
            Options that decide how files were read, where they differ from the defaults; see `reading`.
        """
        self.__dict__.pop("_selections", None)
        chosen = {recipe.source: recipe.digest16 for recipe in recipes}
        same_reading = reading is None or reading == self.reading
        if chosen.items() <= self.selection.items() and command in ("", *self.commands) and same_reading:
            return
        self._choose(chosen, command, reading)

    def take_out(self, sources: Iterable[str], *, command: str = "") -> None:
        """Put sources out of force; their files stay until `moodfuse cache prune` removes them.

        Raises
        ------
        UnknownNameError
            If one is not in force.
        """
        self.__dict__.pop("_selections", None)
        names = tuple(sources)
        for source in names:
            self.check_source(source)
        if names:
            self._choose(dict.fromkeys(names), command)

    def check_source(self, source: str) -> None:
        """Refuse a name that is no source in force.

        Raises
        ------
        UnknownNameError
        """
        if source not in self.selection:
            raise UnknownNameError("source", source, self.sources())

    def _choose(
        self, chosen: Mapping[str, str | None], command: str, reading: Mapping[str, Any] | None = None
    ) -> None:
        sequence = 1 + max((item["sequence"] for item in self._selections), default=0)
        values: dict[str, Any] = {"sequence": sequence, "sources": chosen, "command": command}
        if reading is not None:
            values["reading"] = dict(reading)
        write_text(self.path / "sources" / f"{digest16(values)}.json", canonical_json(values))
        self.refresh()

    def refresh(self) -> None:
        """Forget what was read, so that the next look sees the folder as it is."""
        super().refresh()
        self.__dict__.pop("_selections", None)


def read_recipe(file: Path) -> Recipe:
    """A recipe from its file, held to the name of its folder.

    Raises
    ------
    DamagedPartError
    """
    try:
        recipe = recipe_from_mapping(read_json(file))
    except (TypeError, AttributeError, InputError) as error:
        raise DamagedPartError(f"{file}: is no recipe ({error}); {MEND}") from error
    if (folder_of(recipe.source), recipe.digest16) != file.parts[-3:-1]:
        raise DamagedPartError(f"{file}: content does not match its folder's name; {MEND}")
    return recipe
