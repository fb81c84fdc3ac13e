"""The feature cache: clips, plans, recipes, blocks, networks. `cache/FORMAT.md` is its published form.

A `FeatureCache` is a thin reader and writer over a folder; the index is the directory listing. Holdouts are names
looked up in the plan in force; what is stored is named by what a network was tuned on.
"""

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import CacheError, DamagedPartError, InputError, MissingBlockError, SchemaError, UnknownNameError
from cache.folds import Unit, tuning_roles, units_of
from cache.identity import canonical_json, digest16, trained_digest16
from cache.parts import read_json, read_part, set_aside, sweep_temporaries, write_part, write_text
from cache.recipe import Recipe, recipe_from_mapping
from cache.records import Block, Clip, ClipStatus, Holdout, HoldoutLike, Plan

log = logging.getLogger(__name__)
SCHEMA = 1
MARKER = "moodfuse-cache.json"
FROZEN = "frozen"
CLIPS_PER_PART = 64
Roles = tuple[tuple[str, str, str], ...]


class FeatureCache:
    """A cache folder.

    Parameters
    ----------
    path : path-like
        The folder.
    create : bool
        Make it where it does not exist; otherwise a missing or foreign folder is an error.

    Raises
    ------
    InputError
        If the folder is missing, foreign, or a Python package.
    SchemaError
        If it was written by a newer version.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        if (self.path / "__init__.py").exists():
            raise InputError(
                f"{self.path} is a Python package, not a cache folder; use another folder, such as --cache work"
            )
        marker = self.path / MARKER
        if marker.is_file():
            self._check_schema(marker)
        elif not create:
            raise InputError(
                f"{self.path} is not a moodfuse cache; make one with: moodfuse extract DATA --cache {self.path}"
            )
        else:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise InputError(f"{self.path} is not empty and not a moodfuse cache; name a new or empty folder")
            write_text(marker, canonical_json({"format": "moodfuse-cache", "schema": SCHEMA}) + "\n")
        if create:
            sweep_temporaries(self.path)

    @staticmethod
    def _check_schema(marker: Path) -> None:
        found = read_json(marker)
        schema = found.get("schema") if isinstance(found, dict) else None
        if not isinstance(schema, int) or schema < 1:
            raise CacheError(f"{marker}: schema is {schema!r}; expected a number; this is no moodfuse cache")
        if schema > SCHEMA:
            raise SchemaError(
                f"{marker.parent}: cache schema {schema} is newer than the {SCHEMA} that this moodfuse reads; "
                "upgrade moodfuse, or name another --cache folder"
            )

    # Clips and plans

    @cached_property
    def all_plans(self) -> tuple[Plan, ...]:
        """Plans of every repeat, oldest first."""
        found = []
        for file in (self.path / "plans").rglob("*.json"):
            values = read_json(file)
            if digest16(values) != file.stem:
                set_aside(file)
                continue
            found.append(Plan(**{**values, "records": tuple(values["records"])}))
        return tuple(sorted(found, key=lambda plan: plan.sequence))

    def plans_of(self, repeat: int) -> tuple[Plan, ...]:
        """Plans of one repeat, oldest first."""
        return tuple(plan for plan in self.all_plans if plan.repeat == repeat)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Plans without those of further repeats, oldest first."""
        return self.plans_of(0)

    @property
    def repeat_plans(self) -> tuple[Plan, ...]:
        """Further plans over the very clips of the plan in force, for repeated cross-validation: repeat 1, 2, ..."""
        found: list[Plan] = []
        while plans := self.plans_of(len(found) + 1):
            wanted = (self.plan.folds, self.plan.seed + len(found) + 1, self.plan.records)
            if (plans[-1].folds, plans[-1].seed, plans[-1].records) != wanted:
                break
            found.append(plans[-1])
        return tuple(found)

    @property
    def plan(self) -> Plan:
        """The plan in force.

        Raises
        ------
        InputError
            If the cache holds none yet.
        """
        if not self.plans:
            raise InputError(f"{self.path} holds no fold plan yet; run: moodfuse extract DATA --cache {self.path}")
        return self.plans[-1]

    @cached_property
    def statuses(self) -> tuple[ClipStatus, ...]:
        """Status of every clip of the data set in force, refused and test clips included, by id."""
        return tuple(sorted(map(self._read_status, self.plan.records), key=lambda status: status.clip.id))

    def _read_status(self, name: str) -> ClipStatus:
        file = self.path / "clips" / f"{name}.json"
        values = read_json(file)
        if digest16(values) != name:
            raise DamagedPartError(f"{file}: content does not match its name; run extract again")
        return ClipStatus(**{**values, "clip": Clip(**values["clip"])})

    @cached_property
    def clips(self) -> tuple[ClipStatus, ...]:
        """The clips that the plan covers, by id: the rows of every block."""
        return tuple(status for status in self.statuses if status.ok and status.digest in self.plan.assignment)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the order of every class axis."""
        return tuple(sorted({status.clip.label for status in self.clips}))

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The plan's groups."""
        return units_of(self.clips)

    def clips_with(self, recipe: Recipe) -> tuple[ClipStatus, ...]:
        """The plan's clips that have what a source reads, by id."""
        return tuple(status for status in self.clips if status.missing != recipe.view)

    def known_statuses(self) -> Iterator[ClipStatus]:
        """Every status record ever written, in no order."""
        for file in (self.path / "clips").glob("*.json"):
            try:
                yield self._read_status(file.stem)
            except DamagedPartError:
                set_aside(file)

    def write_plan(self, plan: Plan, statuses: Sequence[ClipStatus]) -> bool:
        """Put a plan and its clips in force, unless they already are; returns whether anything changed."""
        for status in statuses:
            values = asdict(status)
            write_text(self.path / "clips" / f"{digest16(values)}.json", canonical_json(values))
        current = next(iter(self.plans_of(plan.repeat)[-1:]), None)
        if current is not None and _plan_values(plan, 0) == _plan_values(current, 0):
            if not plan.repeat:
                self._write_view(current, statuses)
            return False
        values = _plan_values(plan, 1 + (current.sequence if current else 0))
        folder = self.path / "plans" / (f"repeat-{plan.repeat}" if plan.repeat else "")
        write_text(folder / f"{digest16(values)}.json", canonical_json(values))
        self.refresh()
        if not plan.repeat:
            self._write_view(self.plan, statuses)
        return True

    def refresh(self) -> None:
        """Forget what was read, so that the next look sees the folder as it is."""
        for name in ("all_plans", "statuses", "clips", "classes", "units", "_selections"):
            self.__dict__.pop(name, None)

    def _write_view(self, plan: Plan, statuses: Sequence[ClipStatus]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["id", "path", "start_s", "end_s", "label", "group", "fold", "digest", "duration_s", "status", "reason"]
        )
        for status in sorted(statuses, key=lambda status: status.clip.id):
            clip = status.clip
            fold = plan.assignment.get(status.digest, "") if status.ok and clip.split == "train" else ""
            state = "ok" if status.ok else "refused"
            row = (clip.id, clip.path, clip.start_s, "" if clip.end_s is None else clip.end_s, clip.label, status.group)
            writer.writerow((*row, fold, status.digest, round(status.duration_s, 3), state, status.reason))
        write_text(self.path / "clips.csv", text.getvalue())

    # Sources and recipes

    @cached_property
    def _selections(self) -> tuple[dict[str, Any], ...]:
        found = []
        for file in (self.path / "sources").glob("*.json"):
            values = read_json(file)
            if digest16(values) != file.stem:
                set_aside(file)
                continue
            found.append(values)
        return tuple(sorted(found, key=lambda values: values["sequence"]))

    @property
    def selection(self) -> dict[str, str]:
        """Recipe in force of every source: name to recipe digest."""
        return dict(self._selections[-1]["sources"]) if self._selections else {}

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that filled the cache, oldest first; those of older versions are not known."""
        return tuple(dict.fromkeys(values["command"] for values in self._selections if values.get("command")))

    def sources(self) -> tuple[str, ...]:
        """Names of the sources in force, sorted."""
        return tuple(sorted(self.selection))

    def recipe(self, source: str) -> Recipe:
        """Recipe in force of a source."""
        if source not in self.selection:
            raise UnknownNameError("source", source, self.sources())
        file = self._source_folder(source, self.selection[source]) / "recipe.json"
        recipe = recipe_from_mapping(read_json(file))
        if recipe.digest16 != self.selection[source]:
            raise DamagedPartError(f"{file}: content does not match its folder's name; run extract again")
        return recipe

    def write_recipe(self, recipe: Recipe) -> None:
        """Store a recipe beside its features."""
        write_text(self._source_folder(recipe.source, recipe.digest16) / "recipe.json", recipe.to_json())

    def select(self, recipes: Iterable[Recipe], *, command: str = "") -> None:
        """Put recipes in force for their sources; other sources keep theirs. `command` is what asked for it."""
        chosen = {**self.selection, **{recipe.source: recipe.digest16 for recipe in recipes}}
        if chosen == self.selection and command in ("", *self.commands):
            return
        sequence = 1 + max((item["sequence"] for item in self._selections), default=0)
        values = {"sequence": sequence, "sources": chosen, "command": command}
        write_text(self.path / "sources" / f"{digest16(values)}.json", canonical_json(values))
        self.refresh()

    # Blocks

    def _source_folder(self, source: str, recipe16: str) -> Path:
        return self.path / "features" / source.replace(":", "_") / recipe16

    def block_folder(self, recipe: Recipe, roles: Roles | None) -> Path:
        """Folder of the parts of one network: `roles=None` for the frozen one."""
        name = FROZEN if roles is None else trained_digest16(roles)
        return self._source_folder(recipe.source, recipe.digest16) / name

    def network_path(self, recipe: Recipe, roles: Roles) -> Path:
        """Where the weights of a tuned network stand."""
        folder = self.path / "networks" / recipe.source.replace(":", "_") / recipe.digest16
        return folder / f"{trained_digest16(roles)}.safetensors"

    def roles(self, recipe: Recipe, holdout: HoldoutLike, *, plan: Plan | None = None) -> Roles | None:
        """What a network of this recipe and holdout is tuned on under a plan (the one in force); `None` if frozen."""
        if recipe.tuning is None:
            return None
        plan = plan or self.plan
        wanted = Holdout.of(holdout)
        if wanted.folds is None:
            raise InputError(f"{recipe.source} is tuned ({recipe.depth}), so it has no block of holdout *")
        if beyond := sorted(fold for fold in wanted.folds if not 0 <= fold < plan.folds):
            raise InputError(f"holdout {wanted}: fold {beyond[0]} is outside 0..{plan.folds - 1}")
        units = units_of(self.clips_with(recipe)) if any(status.missing for status in self.clips) else self.units
        side = [unit for unit in units if not wanted.covers(plan.assignment[unit.key])]
        return tuning_roles(side, recipe.tuning, seed=recipe.seed)

    def write_roles(self, recipe: Recipe, roles: Roles) -> None:
        """Store what a network was tuned on beside its features."""
        write_text(
            self.block_folder(recipe, roles) / "trained.json", canonical_json([list(role) for role in sorted(roles)])
        )

    def write_block_part(
        self, recipe: Recipe, roles: Roles | None, digests: Sequence[str], arrays: Mapping[str, np.ndarray]
    ) -> Path:
        """Write the features of some clips: `arrays` maps embedding, logits, activation to float32 [n, ...]."""
        attributes = {
            "format": "moodfuse-part",
            "schema": SCHEMA,
            "source": recipe.source,
            "recipe": recipe.digest16,
            "trained": FROZEN if roles is None else trained_digest16(roles),
        }
        content = {**arrays, "clip": np.array(digests, dtype="S64")}
        return write_part(self.block_folder(recipe, roles), digest16(list(digests))[:8], content, attributes)

    def read_rows(
        self, recipe: Recipe, roles: Roles | None, *, names: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        """Rows of every valid part of a network: clip digest to array name to row. Damaged parts are set aside."""
        rows: dict[str, dict[str, np.ndarray]] = {}
        for file in sorted(self.block_folder(recipe, roles).glob("*.h5")):
            try:
                arrays, _ = read_part(file)
            except DamagedPartError:
                set_aside(file)
                continue
            present = [name for name in names if name in arrays]
            for index, clip in enumerate(arrays["clip"]):
                rows.setdefault(clip.decode(), {name: arrays[name][index] for name in present})
        return rows

    def block(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> Block:
        """Features of the plan's clips from a source under a holdout, rows in the order of `clips`.

        A frozen source gives its one block, whatever the holdout. Under a tuned one, the network is looked up by
        the clips and labels that the plan (the one in force unless another is given) puts outside the holdout.

        Raises
        ------
        MissingBlockError
            If features of some clip are not in the cache.
        """
        recipe = self.recipe(source)
        wanted = Holdout.frozen() if recipe.tuning is None else Holdout.of(holdout)
        roles = self.roles(recipe, holdout, plan=plan)
        if roles is not None:
            self._check_roles(recipe, roles, wanted)
        rows = self.read_rows(recipe, roles, names=("embedding", "logits"))
        having = {status.digest for status in self.clips_with(recipe)}
        if lacking := [status.clip.id for status in self.clips if status.digest in having - set(rows)]:
            raise MissingBlockError(
                f"{source} {wanted}: no features of {len(lacking)} of {len(self.clips)} clips (first: {lacking[0]}); "
                f"run extract again with --source {source}"
            )
        blank = {name: np.zeros_like(value) for name, value in rows[next(iter(having))].items()} if having else {}
        chosen = [rows[status.digest] if status.digest in having else blank for status in self.clips]
        logits = np.stack([row["logits"] for row in chosen]) if all("logits" in row for row in chosen) else None
        return Block(
            source=source,
            holdout=wanted,
            ids=tuple(status.clip.id for status in self.clips),
            digests=tuple(status.digest for status in self.clips),
            embedding=np.stack([row["embedding"] for row in chosen]),
            logits=logits,
            seen=frozenset() if roles is None else frozenset(digest for digest, _, _ in roles),
            embedding_tuned=recipe.embedding_tuned and roles is not None,
            absent=frozenset(status.digest for status in self.clips if status.digest not in having),
        )

    def has_block(self, source: str, holdout: HoldoutLike, *, plan: Plan | None = None) -> bool:
        """Whether a network of this holdout left its features, without reading them."""
        roles = self.roles(self.recipe(source), holdout, plan=plan)
        return roles is None or (self.block_folder(self.recipe(source), roles) / "trained.json").is_file()

    def _check_roles(self, recipe: Recipe, roles: Roles, wanted: Holdout) -> None:
        file = self.block_folder(recipe, roles) / "trained.json"
        if not file.is_file():
            folds = wanted.folds or ()
            option = "" if len(folds) == 1 else " --crossfit" if folds else " --leaky"
            raise MissingBlockError(
                f"{recipe.source} {wanted}: no network was tuned on what the plan in force holds (its labels, groups "
                f"or folds changed, or this holdout was never asked for); run extract again with --source "
                f"{recipe.source}{option}"
            )
        if trained_digest16(tuple(role) for role in read_json(file)) != file.parent.name:
            raise DamagedPartError(f"{file}: content does not match its folder's name; run extract again")


def _plan_values(plan: Plan, sequence: int) -> dict[str, object]:
    values = asdict(plan)
    return {**values, "records": sorted(plan.records), "assignment": dict(plan.assignment), "sequence": sequence}


def record_name(status: ClipStatus) -> str:
    """Name of a status record: the digest of its content."""
    return digest16(asdict(status))
