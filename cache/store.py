"""The feature cache: sources, recipes, networks and blocks. `cache/FORMAT.md` is its published form.

A `FeatureCache` is a thin reader and writer over a folder; the index is the directory listing. A holdout is a
set of folds of the current plan; features are stored by what their network was tuned on.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.cache.blocks import NetworkFolder, Rows, align_logits, held, read_rows, write_rows
from moodfuse.cache.digests import Digests, canonical_json, digest16, digest_array, training_digest16
from moodfuse.cache.errors import (
    CacheError,
    DamagedPartError,
    InputError,
    MissingBlockError,
    UnknownNameError,
)
from moodfuse.cache.folds import clip_groups, imported_training_clips, tuning_clips
from moodfuse.cache.manifest import Manifest
from moodfuse.cache.recipe import IMPORT, Recipe, frozen_counterpart, recipe_from_mapping
from moodfuse.cache.records import Block, ClipStatus, Holdout, HoldoutLike, Plan
from moodfuse.cache.storage.files import listing, quarantine, read_json, read_named, write_text
from moodfuse.cache.storage.layout import folder_of

FROZEN = "frozen"
TRAINING_FILE = "trained.json"
"""File of the clips, labels and roles that a network was tuned on."""
CLIPS_PER_PART = 64
REBUILD_HINT = "run extract again, or the moodfuse cache import that made it"
TrainingClips = tuple[tuple[str, str, str], ...]


class FeatureCache(Manifest):
    """A cache folder: `clips`, `plan`, `classes`, `sources()`, `recipe(source)` and `block(source, holdout)`.

    Examples
    --------
    >>> cache = FeatureCache("work")                     # doctest: +SKIP
    >>> cache.block("c3d", {2}).embedding.shape          # doctest: +SKIP
    (52, 512)
    """

    # Sources: each command writes sources/<digest16>.json; of each source the latest choice counts

    @cached_property
    def _selections(self) -> tuple[dict[str, Any], ...]:
        """Content of every file in ``sources``, oldest first."""
        selections = []
        for file in listing(self.path / "sources", suffix=".json"):
            try:
                selections.append((file.name, read_named(file)))
            except DamagedPartError as error:
                if not self._repairs:
                    raise DamagedPartError(
                        f"{error}; {REBUILD_HINT}: both choose their sources again"
                    ) from error
                quarantine(file, str(error))
        selections.sort(key=lambda pair: (pair[1]["sequence"], pair[0]))
        return tuple(values for _, values in selections)

    @property
    def selection(self) -> dict[str, str]:
        """Current recipe of every source: name to recipe digest."""
        latest = {
            source: recipe for values in self._selections for source, recipe in values["sources"].items()
        }
        return {source: recipe for source, recipe in latest.items() if recipe is not None}

    @property
    def ever_selected(self) -> frozenset[tuple[str, str]]:
        """Every current and earlier recipe, as (source, recipe digest)."""
        chosen = (pair for values in self._selections for pair in values["sources"].items())
        return frozenset((source, recipe) for source, recipe in chosen if recipe is not None)

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that filled the cache, oldest first; those of older versions are not known."""
        return tuple(dict.fromkeys(values["command"] for values in self._selections if values.get("command")))

    @property
    def reading(self) -> dict[str, Any]:
        """Options of the latest `extract` that decide how files are read, without defaults."""
        return next((values["reading"] for values in reversed(self._selections) if "reading" in values), {})

    def sources(self) -> tuple[str, ...]:
        """Names of the current sources, sorted."""
        return tuple(sorted(self.selection))

    def check_source(self, source: str) -> None:
        """Check that a name is a current source; `UnknownNameError` if not."""
        if source not in self.selection:
            raise UnknownNameError("source", source, self.sources())

    @cached_property
    def _recipes(self) -> dict[tuple[str, str], Recipe]:
        """The recipes that were read, by source and digest."""
        return {}

    def recipe(self, source: str) -> Recipe:
        """Current recipe of a source; `UnknownNameError` if the cache has no such source."""
        self.check_source(source)
        key = source, self.selection[source]
        if key not in self._recipes:
            self._recipes[key] = read_recipe(self.source_folder(*key) / "recipe.json")
        return self._recipes[key]

    def source_folder(self, source: str, recipe16: str) -> Path:
        """Folder of the features of one recipe."""
        return self.path / "features" / folder_of(source) / recipe16

    def write_recipe(self, recipe: Recipe) -> None:
        """Store a recipe with its features."""
        write_text(self.source_folder(recipe.source, recipe.digest16) / "recipe.json", recipe.to_json())

    def select(
        self, recipes: Iterable[Recipe], *, command: str = "", reading: Mapping[str, Any] | None = None
    ) -> None:
        """Make recipes the current ones of their sources; other sources keep theirs.

        `command` is the command line, `reading` as the property.
        """
        self.__dict__.pop("_selections", None)
        chosen = {recipe.source: recipe.digest16 for recipe in recipes}
        same_reading = reading is None or reading == self.reading
        if chosen.items() <= self.selection.items() and command in ("", *self.commands) and same_reading:
            return
        self._write_selection(chosen, command, reading)

    def take_out(self, sources: Iterable[str], *, command: str = "") -> None:
        """Remove sources from the current ones; their files stay until `moodfuse cache prune`."""
        self.__dict__.pop("_selections", None)
        names = tuple(sources)
        for source in names:
            self.check_source(source)
        if names:
            self._write_selection(dict.fromkeys(names), command)

    def _write_selection(
        self, chosen: Mapping[str, str | None], command: str, reading: Mapping[str, Any] | None = None
    ) -> None:
        sequence = 1 + max((values["sequence"] for values in self._selections), default=0)
        values: dict[str, Any] = {"sequence": sequence, "sources": chosen, "command": command}
        if reading is not None:
            values["reading"] = dict(reading)
        write_text(self.path / "sources" / f"{digest16(values)}.json", canonical_json(values))
        self.refresh()

    # Networks and their features

    def owner(self, recipe: Recipe, training_clips: TrainingClips | None) -> NetworkFolder:
        """The network whose features are in a block's folder: `training_clips=None` for the frozen one."""
        trained = FROZEN if training_clips is None else training_digest16(training_clips)
        folder = self.source_folder(recipe.source, recipe.digest16) / trained
        return NetworkFolder(folder, recipe.source, recipe.digest16, trained)

    def block_folder(self, recipe: Recipe, training_clips: TrainingClips | None) -> Path:
        """Folder of the parts of one network: `training_clips=None` for the frozen one."""
        return self.owner(recipe, training_clips).folder

    def network_path(self, recipe: Recipe, training_clips: TrainingClips | None) -> Path:
        """File of the weights of a tuned network; with `training_clips=None` of its body, which is never
        tuned.
        """
        owner = self.owner(frozen_counterpart(recipe) if training_clips is None else recipe, training_clips)
        folder = self.path / "networks" / folder_of(owner.source) / owner.recipe
        return folder / f"{owner.trained}.safetensors"

    @cached_property
    def _training_clips_cache(self) -> dict[tuple[Recipe, Holdout, int], tuple[Plan, TrainingClips]]:
        """What `training_clips` has computed, by recipe, holdout and identity of the plan."""
        return {}

    def training_clips(
        self, recipe: Recipe, holdout: HoldoutLike, *, plan: Plan | None = None
    ) -> TrainingClips | None:
        """(clip digest, label, role) that a network of this recipe and holdout is tuned on; `None` if frozen.

        `plan` is the current one by default. Of an imported network all clips outside the holdout count as
        tuned on.
        """
        if not recipe.sees_labels:
            return None
        plan = plan or self.plan
        holdout = Holdout.of(holdout)
        key = recipe, holdout, id(plan)
        if key not in self._training_clips_cache:
            self._training_clips_cache[key] = plan, self._compute_training_clips(recipe, holdout, plan)
        return self._training_clips_cache[key][1]

    def _compute_training_clips(self, recipe: Recipe, holdout: Holdout, plan: Plan) -> TrainingClips:
        if holdout.folds is None:
            raise InputError(f"{recipe.source} is tuned ({recipe.depth}), so it has no block of holdout *")
        if beyond := sorted(fold for fold in holdout.folds if not 0 <= fold < plan.folds):
            raise InputError(f"holdout {holdout}: fold {beyond[0]} is outside 0..{plan.folds - 1}")
        groups = clip_groups(self.clips_with(recipe))
        if recipe.tuning is None:
            return imported_training_clips(groups, plan, holdout)
        training = [group for group in groups if not holdout.covers(plan.assignment[group.key])]
        return tuning_clips(training, recipe.tuning, seed=recipe.seed)

    def write_training_clips(self, recipe: Recipe, training_clips: TrainingClips) -> None:
        """Store what a network was tuned on with its features."""
        text = canonical_json([list(role) for role in sorted(training_clips)])
        write_text(self.block_folder(recipe, training_clips) / TRAINING_FILE, text)

    def has_record(self, recipe: Recipe, training_clips: TrainingClips) -> bool:
        """Whether an undamaged record of what a network was tuned on is stored with its features."""
        try:
            check_trained(self.block_folder(recipe, training_clips) / TRAINING_FILE)
        except CacheError:
            return False
        return True

    def write_block_part(
        self,
        recipe: Recipe,
        training_clips: TrainingClips | None,
        digests: Sequence[str] | Digests,
        arrays: Mapping[str, np.ndarray],
    ) -> int:
        """Add ``embedding``, ``logits`` or ``activation`` of clips, float32 [n, D], to those of a network.

        `training_clips` is what it was tuned on. Returns the number of rows that are stored with other
        values.
        """
        classes = self.classes if "logits" in arrays else ()
        return write_rows(self.owner(recipe, training_clips), digests, arrays, classes=classes)

    def held(self, recipe: Recipe, training_clips: TrainingClips | None) -> set[str]:
        """Digests of the clips in a network's valid parts; damaged parts are quarantined."""
        return set(held(self.owner(recipe, training_clips)).astype("U64").tolist())

    def rows(
        self,
        recipe: Recipe,
        training_clips: TrainingClips | None,
        clips: Sequence[ClipStatus],
        names: Sequence[str],
    ) -> Rows:
        """Arrays of clips from a network's parts, in the order of the clips."""
        return read_rows(
            self.owner(recipe, training_clips), digest_array([clip.digest for clip in clips]), names
        )

    # Blocks

    def block(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> Block:
        """Features of the plan's clips from a source under a holdout, rows in the order of `clips`.

        A frozen source has one block for all holdouts. The network of a tuned one is looked up by the clips
        and labels that the plan puts outside the holdout.

        `holdout` are the folds that the network must not have seen: ``2``, ``{1, 4}``, ``"{1,4}"``; ``"*"``
        for a frozen source. `plan` is the current one by default. Raises `MissingBlockError` if features of a
        clip are not in the cache, `InputError` if the logits are of other classes than the labels.
        """
        recipe = self.recipe(source)
        wanted = Holdout.of(holdout) if recipe.sees_labels else Holdout.frozen()
        training_clips = self.training_clips(recipe, holdout, plan=plan)
        owner = self.owner(recipe, training_clips)
        if training_clips is not None and not (owner.folder / TRAINING_FILE).is_file():
            raise MissingBlockError(
                f"{source} {wanted}: no network was tuned on the clips of the current plan (its labels, "
                "groups or folds changed, or this holdout was never requested); "
                f"run {self._command(recipe, wanted)}"
            )
        if training_clips is not None:
            check_trained(owner.folder / TRAINING_FILE)
        clips = self.clips
        digests = tuple(status.digest for status in clips)
        rows = read_rows(owner, digest_array(digests), ("embedding", "logits"))
        needed = {clip.digest for clip in self.clips_with(recipe)}
        missing = [
            clip.clip.id
            for clip, present in zip(clips, rows.present, strict=True)
            if clip.digest in needed and not present
        ]
        if missing or "embedding" not in rows.arrays:
            first = missing[0] if missing else "no clip has the modality of the source"
            raise MissingBlockError(
                f"{source} {wanted}: no features of {len(missing)} of {len(clips)} clips (first: {first}); "
                f"run {self._command(recipe, wanted)}"
            )
        return Block(
            source=source,
            holdout=wanted,
            ids=tuple(status.clip.id for status in clips),
            digests=digests,
            embedding=rows.arrays["embedding"],
            logits=align_logits(rows, self.classes, where=f"{source} {wanted}", remedy=self._remedy(recipe)),
            training_clips=frozenset(digest for digest, _, _ in training_clips or ()),
            embedding_tuned=recipe.embedding_tuned and training_clips is not None,
            absent=frozenset(digests) - needed,
        )

    def has_block(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> bool:
        """Whether a network of this holdout was stored, without reading its features."""
        recipe = self.recipe(source)
        training_clips = self.training_clips(recipe, holdout, plan=plan)
        return training_clips is None or (self.block_folder(recipe, training_clips) / TRAINING_FILE).is_file()

    def has_logits(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> bool:
        """Whether a source has logits under this holdout; embeddings are not read."""
        recipe = self.recipe(source)
        training_clips = self.training_clips(recipe, holdout, plan=plan)
        return "logits" in self.rows(recipe, training_clips, self.clips, ("logits",)).arrays

    def _command(self, recipe: Recipe, holdout: Holdout) -> str:
        """The command that makes a block."""
        if recipe.network == IMPORT:
            cache = shlex.quote(str(self.path))
            return (
                f"moodfuse cache import --cache {cache} --source {recipe.source} --holdout '{holdout}' FILE"
            )
        folds = holdout.folds or ()
        option = "" if len(folds) == 1 or holdout.folds is None else " --crossfit" if folds else " --leaky"
        return f"extract again with --source {recipe.source}{option}"

    def _remedy(self, recipe: Recipe) -> str:
        """What to do about logits of other classes."""
        if recipe.network != IMPORT:
            return f"run extract again with --source {recipe.source}"
        return (
            "import logits of these labels under another --source name, or remove this source: moodfuse "
            f"cache prune --cache {shlex.quote(str(self.path))} --source {recipe.source}"
        )


def check_trained(file: Path) -> None:
    """Check a record of training clips against its folder's name; `DamagedPartError` if it differs."""
    try:
        trained = training_digest16(read_json(file))
    except TypeError as error:
        raise DamagedPartError(f"{file}: is not a list of roles; {REBUILD_HINT}") from error
    if trained != file.parent.name:
        raise DamagedPartError(f"{file}: content does not match its folder's name; {REBUILD_HINT}")


def read_recipe(file: Path) -> Recipe:
    """A recipe from its file; `DamagedPartError` if it does not match the name of its folder."""
    try:
        recipe = recipe_from_mapping(read_json(file))
    except (TypeError, AttributeError, InputError) as error:
        raise DamagedPartError(f"{file}: is not a recipe ({error}); {REBUILD_HINT}") from error
    if (folder_of(recipe.source), recipe.digest16) != file.parts[-3:-1]:
        raise DamagedPartError(f"{file}: content does not match its folder's name; {REBUILD_HINT}")
    return recipe
