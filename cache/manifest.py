"""The manifest of a cache: its folder, the clips, what became of each, and the fold plans."""

import csv
import io
import logging
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from moodfuse.cache.clip_table import ATTRIBUTES, ClipTable
from moodfuse.cache.columns import Assignment
from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, SchemaError
from moodfuse.cache.folds import Unit, units_of
from moodfuse.cache.outcomes import read_outcomes, write_outcome
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import ClipStatus, Outcome, Plan
from moodfuse.cache.storage.files import (
    TEMPORARY_PREFIX,
    facts_of,
    listing,
    names_in,
    read_json,
    set_aside,
    sweep_temporaries,
    write_text,
)
from moodfuse.cache.storage.headers import NEVER_RELEASED, SCHEMA, wanted_version, writer_version
from moodfuse.cache.storage.layout import REPEAT
from moodfuse.cache.storage.parts import check_dtypes, read_part, write_part

log = logging.getLogger(__name__)
MARKER = "moodfuse-cache.json"
VIEW = "clips.csv"
FORMAT_OF_PLANS = "moodfuse-plan"
VIEW_COLUMNS = (
    *(
        "id",
        "path",
        "start_s",
        "end_s",
        "label",
        "group",
        "fold",
        "digest",
        "duration_s",
        "status",
        "reason",
        "detail",
    ),
)


class Manifest:
    """A cache folder, its clips and its plans.

    Parameters
    ----------
    path : path-like
        The folder.
    create : bool
        Make it where it does not exist, sweep what killed writers left, and set damaged plans aside; otherwise a
        missing or foreign folder, or a damaged plan, is an error.

    Raises
    ------
    InputError
        If the folder is missing, foreign, or a Python package.
    SchemaError
        If it was written by another version of the format that cannot be read.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        self._mends = create
        if facts_of(self.path / "__init__.py"):
            raise InputError(
                f"{self.path} is a Python package, not a cache folder; use another folder, such as --cache work"
            )
        marker = self.path / MARKER
        if (facts := facts_of(marker)) and stat.S_ISREG(facts.st_mode):
            check_schema(marker)
        elif not create:
            raise InputError(
                f"{self.path} is not a moodfuse cache; make one with: moodfuse extract DATA --cache {self.path}"
            )
        else:
            folder = facts_of(self.path)
            if folder and (not stat.S_ISDIR(folder.st_mode) or _foreign(self.path)):
                raise InputError(
                    f"{self.path} is not empty and not a moodfuse cache; name a new or empty folder"
                )
            write_text(marker, marker_text())
        if create:
            sweep_temporaries(self.path)

    # Plans

    @cached_property
    def all_plans(self) -> tuple[Plan, ...]:
        """Plans of every repeat, oldest first."""
        found = []
        for file in self._plan_files():
            try:
                found.append((self.read_plan(file), file.name))
            except DamagedPartError as error:
                if not file.exists():
                    continue  # superseded, and pruned meanwhile
                if not self._mends:
                    mend = (
                        "run moodfuse cache verify --repair, which may keep the folds; else run extract again"
                    )
                    raise DamagedPartError(f"{error}; {mend}, or the cache import that made it") from error
                set_aside(file, str(error))
        return tuple(plan for plan, _ in sorted(found, key=lambda item: (item[0].sequence, item[1])))

    def _plan_files(self) -> Iterator[Path]:
        """Files of plans, those of further repeats included; no other folder is looked into."""
        home = self.path / "plans"
        repeats = (folder for folder in listing(home, prefix="repeat-") if re.fullmatch(REPEAT, folder.name))
        for folder in (home, *repeats):
            yield from listing(folder, prefix="plan-", suffix=".h5")

    @staticmethod
    def read_plan(file: Path) -> Plan:
        """The plan that a part holds, or `DamagedPartError`; it is held to the folder that it stands in."""
        arrays, values = read_part(file)
        check_dtypes(file, arrays, {"clip": ("S64", 1), "fold": ("<i2", 1)})
        try:
            home = f"repeat-{values['repeat']}" if values["repeat"] else "plans"
            if values["format"] != FORMAT_OF_PLANS or file.parent.name != home:
                raise ValueError(f"format {values['format']!r}, repeat {values['repeat']!r}")
            if not isinstance(values["records"], list):
                raise TypeError("records is no list")
            (table,) = values["records"]
            settings = {name: values[name] for name in ("folds", "seed", "group_rule", "sequence", "repeat")}
            assignment = Assignment(arrays["clip"], arrays["fold"])
            return Plan(**settings, records=(str(table),), assignment=assignment)
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedPartError(f"{file}: is no plan ({error})") from error

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
            raise InputError(
                f"{self.path} holds no fold plan yet; run: moodfuse extract DATA --cache {self.path}"
            )
        return self.plans[-1]

    # Clips

    @cached_property
    def statuses(self) -> ClipTable:
        """Status of every clip of the data set in force, refused and test clips included, by id."""
        (name,) = self.plan.records
        file = self.path / "tables" / f"clips-{name}.h5"
        try:
            arrays, values = read_part(file)
            if values != ATTRIBUTES:
                raise DamagedPartError(f"{file}: holds no table of clips")
            return ClipTable.from_arrays(file, arrays)
        except DamagedPartError as error:
            raise DamagedPartError(
                f"{error}; run extract again, or the moodfuse cache import --labels that made it: both write the table "
                "of clips anew"
            ) from error

    @cached_property
    def clips(self) -> ClipTable:
        """The clips that the plan covers, by id: the rows of every block."""
        table = self.statuses
        return table.take(
            table.numbers["ok"] & (Assignment.of(self.plan.assignment).folds_of(table.digests) >= 0)
        )

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the order of every class axis."""
        return self.clips.labels

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The plan's groups."""
        return units_of(self.clips)

    def clips_with(self, recipe: Recipe) -> ClipTable:
        """The plan's clips that have what a source reads, by id."""
        return (
            self.clips if recipe.view is None else self.clips.take(~self.clips.where("missing", recipe.view))
        )

    # What became of clips

    def write_outcome(self, outcome: Outcome) -> None:
        """Keep what became of a clip, as soon as it is known."""
        write_outcome(self.path / "clips", outcome)

    def outcomes(self, digests: Iterable[str]) -> dict[str, list[Outcome]]:
        """Every outcome on record of some clips, by clip digest; clips without one are left out."""
        return read_outcomes(self.path / "clips", digests)

    # Writing

    def write_plan(self, plan: Plan, statuses: Sequence[ClipStatus]) -> bool:
        """Put a plan and its clips in force, unless they already are; returns whether anything changed."""
        table = ClipTable.of(statuses)
        if plan.records != (table_name(table),):
            raise InputError(
                f"plan of clips {plan.records} cannot be kept with the clips {table_name(table)}"
            )
        write_part(self.path / "tables", "clips", table.to_arrays(), ATTRIBUTES)
        current = next(iter(self.plans_of(plan.repeat)[-1:]), None)
        changed = current is None or _plan_arrays(plan, 0) != _plan_arrays(current, 0)
        if changed:
            folder = self.path / "plans" / (f"repeat-{plan.repeat}" if plan.repeat else "")
            assignment = Assignment.of(plan.assignment)
            arrays = {"clip": assignment.digests, "fold": assignment.folds}
            write_part(
                folder, "plan", arrays, _plan_arrays(plan, 1 + (current.sequence if current else 0))[0]
            )
            self.refresh()
        if not plan.repeat:
            write_text(self.path / VIEW, self.view_text(table))
        return changed

    def refresh(self) -> None:
        """Forget what was read, so that the next look sees the folder as it is."""
        for name in ("all_plans", "statuses", "clips", "classes", "units"):
            self.__dict__.pop(name, None)

    def view_text(self, table: ClipTable) -> str:
        """What `VIEW` holds of a table under the plan in force."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(VIEW_COLUMNS)
        folds = Assignment.of(self.plan.assignment).folds_of(table.digests).tolist()
        for status, fold in zip(table, folds, strict=True):
            clip = status.clip
            place = fold if status.ok and clip.split == "train" and fold >= 0 else ""
            state = "ok" if status.ok else "refused"
            row = (
                clip.id,
                clip.path,
                clip.start_s,
                "" if clip.end_s is None else clip.end_s,
                clip.label,
                status.group,
            )
            writer.writerow(
                (*row, place, status.digest, round(status.duration_s, 3), state, status.reason, status.detail)
            )
        return text.getvalue()


def _foreign(folder: Path) -> list[str]:
    """What stands in a folder beside the temporaries of a first writer that was killed."""
    return [name for name in names_in(folder) if not name.startswith(TEMPORARY_PREFIX)]


def _plan_arrays(plan: Plan, sequence: int) -> tuple[dict[str, object], bytes]:
    """Attributes of a plan's part under a sequence, and its assignment in a form to compare."""
    attributes: dict[str, object] = {
        "format": FORMAT_OF_PLANS,
        "folds": plan.folds,
        "seed": plan.seed,
        "group_rule": plan.group_rule,
        "records": sorted(plan.records),
        "sequence": sequence,
        "repeat": plan.repeat,
    }
    assignment = Assignment.of(plan.assignment)
    return attributes, assignment.digests.tobytes() + assignment.folds.astype("<i2").tobytes()


def table_name(statuses: Sequence[ClipStatus]) -> str:
    """Name of the table of some clips, for `Plan.records`: the digest of its content, 16 digits."""
    return ClipTable.of(statuses).digest[:16]


def marker_text() -> str:
    """What the file that marks a cache holds."""
    return (
        canonical_json({"format": "moodfuse-cache", "schema": SCHEMA, "written_by": writer_version()}) + "\n"
    )


def check_schema(marker: Path) -> None:
    """Refuse a cache of another version of the format.

    Raises
    ------
    SchemaError
        If this version of moodfuse does not read it.
    CacheError
        If the file is damaged.
    """
    found = read_json(marker)
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise CacheError(
            f"{marker}: schema is {schema!r}; expected a number; run: moodfuse cache verify --repair --cache "
            f"{marker.parent}"
        )
    if schema > SCHEMA:
        raise SchemaError(
            f"{marker.parent}: cache schema {schema} is newer than the {SCHEMA} that this moodfuse reads; upgrade "
            f"(pip install {wanted_version(found.get('written_by'))}), or name another --cache folder"
        )
    if schema < SCHEMA:
        raise SchemaError(f"{marker.parent}: cache schema {schema} {NEVER_RELEASED}")
