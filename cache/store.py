"""The feature cache: sources, recipes, blocks, networks. `cache/FORMAT.md` is its published form.

A `FeatureCache` is a thin reader and writer over a folder; the index is the directory listing. Holdouts are names
looked up in the plan in force; what is stored is named by what a network was tuned on.
"""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moodfuse.cache.additions import write_rows
from moodfuse.cache.blocks import Owner, Rows, held, read_rows
from moodfuse.cache.choices import MEND, Choices
from moodfuse.cache.class_axis import on_axis
from moodfuse.cache.clip_table import ClipTable
from moodfuse.cache.columns import Digests
from moodfuse.cache.digests import canonical_json, trained_digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, MissingBlockError
from moodfuse.cache.folds import imported_roles, tuning_roles, units_of
from moodfuse.cache.recipe import IMPORT, Recipe, frozen_counterpart
from moodfuse.cache.records import Block, Holdout, HoldoutLike, Plan
from moodfuse.cache.storage.files import read_json, write_text
from moodfuse.cache.storage.layout import folder_of

log = logging.getLogger(__name__)
FROZEN = "frozen"
CLIPS_PER_PART = 64
Roles = tuple[tuple[str, str, str], ...]


class FeatureCache(Choices):
    """A cache folder: `clips`, `plan`, `classes`, `sources()`, `recipe(source)` and `block(source, holdout)`.

    Examples
    --------
    >>> cache = FeatureCache("work")                     # doctest: +SKIP
    >>> cache.block("c3d", {2}).embedding.shape          # doctest: +SKIP
    (52, 512)
    """

    # Networks and their rows

    def block_folder(self, recipe: Recipe, roles: Roles | None) -> Path:
        """Folder of the parts of one network: `roles=None` for the frozen one."""
        return self.source_folder(recipe.source, recipe.digest16) / _trained(roles)

    def owner(self, recipe: Recipe, roles: Roles | None) -> Owner:
        """Whose rows stand in that folder."""
        return Owner(self.block_folder(recipe, roles), recipe.source, recipe.digest16, _trained(roles))

    def network_path(self, recipe: Recipe, roles: Roles | None) -> Path:
        """Where the weights of a tuned network stand; of `roles=None` those of its body, which no tuning changes."""
        owner = frozen_counterpart(recipe) if roles is None else recipe
        return (
            self.path
            / "networks"
            / folder_of(owner.source)
            / owner.digest16
            / f"{_trained(roles)}.safetensors"
        )

    def roles(self, recipe: Recipe, holdout: HoldoutLike, *, plan: Plan | None = None) -> Roles | None:
        """What a network of this recipe and holdout is tuned on under a plan (the one in force); `None` if frozen.

        Of an imported network all clips outside the holdout count as tuned on.
        """
        if not recipe.sees_labels:
            return None
        plan = plan or self.plan
        wanted = Holdout.of(holdout)
        if wanted.folds is None:
            raise InputError(f"{recipe.source} is tuned ({recipe.depth}), so it has no block of holdout *")
        if beyond := sorted(fold for fold in wanted.folds if not 0 <= fold < plan.folds):
            raise InputError(f"holdout {wanted}: fold {beyond[0]} is outside 0..{plan.folds - 1}")
        clips = self.clips_with(recipe)
        units = self.units if clips is self.clips else units_of(clips)
        if recipe.tuning is None:
            return imported_roles(units, plan, wanted)
        side = [unit for unit in units if not wanted.covers(plan.assignment[unit.key])]
        return tuning_roles(side, recipe.tuning, seed=recipe.seed)

    def write_roles(self, recipe: Recipe, roles: Roles) -> None:
        """Store what a network was tuned on beside its features."""
        write_text(
            self.block_folder(recipe, roles) / "trained.json",
            canonical_json([list(role) for role in sorted(roles)]),
        )

    def has_record(self, recipe: Recipe, roles: Roles) -> bool:
        """Whether what a network was tuned on stands beside its features, undamaged."""
        try:
            check_trained(self.block_folder(recipe, roles) / "trained.json")
        except CacheError:
            return False
        return True

    def write_block_part(
        self,
        recipe: Recipe,
        roles: Roles | None,
        digests: Sequence[str] | Digests,
        arrays: Mapping[str, np.ndarray],
    ) -> int:
        """Add the features of some clips to a network's.

        Parameters
        ----------
        recipe : Recipe
        roles : tuple or None
            What the network was tuned on; `None` for a frozen one.
        digests : sequence of str, length n
        arrays : mapping of str to ndarray of float32, shape (n, ...)
            ``embedding``, ``logits``, ``activation``.

        Returns
        -------
        int
            Rows that were there already with other values; those stay, and a warning is logged.
        """
        classes = self.classes if "logits" in arrays else ()
        return write_rows(self.owner(recipe, roles), digests, arrays, classes=classes)

    def held(self, recipe: Recipe, roles: Roles | None) -> set[str]:
        """Digests of the clips that a network's sound parts hold; damaged parts are set aside."""
        return {digest.decode() for digest in held(self.owner(recipe, roles)).tolist()}

    def rows(self, recipe: Recipe, roles: Roles | None, clips: ClipTable, names: Sequence[str]) -> Rows:
        """Arrays of some clips from a network's parts, in the order of the clips."""
        return read_rows(self.owner(recipe, roles), clips.digests, names)

    # Blocks

    def block(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> Block:
        """Features of the plan's clips from a source under a holdout, rows in the order of `clips`.

        A frozen source gives its one block, whatever the holdout. Under a tuned one, the network is looked up by
        the clips and labels that the plan (the one in force unless another is given) puts outside the holdout.

        Parameters
        ----------
        source : str
        holdout : Holdout, int, str or iterable of int
            Folds that the network must not have seen: ``2``, ``{1, 4}``, ``"{1,4}"``; ``"*"`` for a frozen source.
        plan : Plan, optional

        Returns
        -------
        Block
            `embedding` float32 [N, D] and, where the source has them, `logits` float32 [N, C].

        Raises
        ------
        MissingBlockError
            If features of some clip are not in the cache.
        InputError
            If the logits are of other classes than the labels in force.
        """
        recipe = self.recipe(source)
        wanted = Holdout.of(holdout) if recipe.sees_labels else Holdout.frozen()
        roles = self.roles(recipe, holdout, plan=plan)
        if roles is not None:
            self._check_roles(recipe, roles, wanted)
        rows = self.rows(recipe, roles, self.clips, ("embedding", "logits"))
        having = np.ones(len(self.clips), dtype=bool)
        if recipe.view is not None:
            having = ~self.clips.where("missing", recipe.view)
        if (lacking := np.flatnonzero(having & ~rows.found)).size or "embedding" not in rows.arrays:
            first = self.clips.ids[int(lacking[0])] if lacking.size else "all lack what it reads"
            raise MissingBlockError(
                f"{source} {wanted}: no features of {len(lacking)} of {len(self.clips)} clips (first: {first}); "
                f"run {self._again(recipe, wanted)}"
            )
        return Block(
            source=source,
            holdout=wanted,
            ids=self.clips.ids,
            digests=self.clips.texts["digest"],
            embedding=rows.arrays["embedding"],
            logits=on_axis(rows, self.classes, where=f"{source} {wanted}", remedy=self._otherwise(recipe)),
            seen=frozenset() if roles is None else frozenset(digest for digest, _, _ in roles),
            embedding_tuned=recipe.embedding_tuned and roles is not None,
            absent=frozenset(digest.decode() for digest in self.clips.digests[~having].tolist()),
        )

    def has_block(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> bool:
        """Whether a network of this holdout left its features, without reading them."""
        roles = self.roles(self.recipe(source), holdout, plan=plan)
        return roles is None or (self.block_folder(self.recipe(source), roles) / "trained.json").is_file()

    def has_logits(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> bool:
        """Whether a source's features of this holdout come with logits; embeddings are not read."""
        recipe = self.recipe(source)
        return (
            "logits"
            in self.rows(recipe, self.roles(recipe, holdout, plan=plan), self.clips, ("logits",)).arrays
        )

    def _check_roles(self, recipe: Recipe, roles: Roles, wanted: Holdout) -> None:
        file = self.block_folder(recipe, roles) / "trained.json"
        if not file.is_file():
            raise MissingBlockError(
                f"{recipe.source} {wanted}: no network was tuned on what the plan in force holds (its labels, groups "
                f"or folds changed, or this holdout was never asked for); run {self._again(recipe, wanted)}"
            )
        check_trained(file)

    def _again(self, recipe: Recipe, holdout: Holdout) -> str:
        """The command that makes a block."""
        if recipe.network == IMPORT:
            folder = shlex.quote(str(self.path))
            return (
                f"moodfuse cache import --cache {folder} --source {recipe.source} --holdout '{holdout}' FILE"
            )
        folds = holdout.folds or ()
        option = "" if len(folds) == 1 or holdout.folds is None else " --crossfit" if folds else " --leaky"
        return f"extract again with --source {recipe.source}{option}"

    def _otherwise(self, recipe: Recipe) -> str:
        """What to do about logits of other classes."""
        if recipe.network != IMPORT:
            return f"run extract again with --source {recipe.source}"
        return (
            "import logits of these labels under another --source name, or take this source out: moodfuse cache prune "
            f"--cache {shlex.quote(str(self.path))} --source {recipe.source}"
        )


def _trained(roles: Roles | None) -> str:
    return FROZEN if roles is None else trained_digest16(roles)


def check_trained(file: Path) -> None:
    """Hold what a network was tuned on to the name of its folder.

    Raises
    ------
    DamagedPartError
    """
    try:
        found = trained_digest16(tuple(role) for role in read_json(file))
    except TypeError as error:
        raise DamagedPartError(f"{file}: is no list of roles; {MEND}") from error
    if found != file.parent.name:
        raise DamagedPartError(f"{file}: content does not match its folder's name; {MEND}")
