"""What a cache folder records about its clips: the table of clips, decoding outcomes and fold plans."""

import csv
import io
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from moodfuse.cache.clip_table import ATTRIBUTES, statuses_from, table_arrays, table_name
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.folds import Unit, clip_groups
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import ClipStatus, Outcome, Plan
from moodfuse.cache.storage.files import (
    TEMPORARY_PREFIX,
    each_valid,
    facts_of,
    listing,
    names_in,
    remove_temporaries,
    set_aside,
    write_text,
)
from moodfuse.cache.storage.json_files import read_json, read_named, record_of
from moodfuse.cache.storage.layout import REPEAT
from moodfuse.cache.storage.parts import (
    SCHEMA,
    check_dtypes,
    read_part,
    schema_error,
    write_part,
    writer_version,
)

MARKER = "moodfuse-cache.json"
VIEW = "clips.csv"
FORMAT_OF_PLANS = "moodfuse-plan"
_VIEW_COLUMNS = (
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
)


class Manifest:
    """A cache folder, its clips and its plans.

    Parameters
    ----------
    path : path-like
        The folder.
    create : bool
        Create it if it does not exist, remove temporaries of killed writers, and set damaged plans aside;
        otherwise a missing or foreign folder, or a damaged plan, is an error.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        self._repairs = create
        marker = self.path / MARKER
        if (facts := facts_of(marker)) and stat.S_ISREG(facts.st_mode):
            check_schema(marker)
        elif not create:
            raise InputError(
                f"{self.path} is not a moodfuse cache; create one with: moodfuse extract DATA --cache {self.path}"
            )
        else:
            self._check_new()
            write_text(marker, marker_text())
        if create:
            remove_temporaries(self.path)

    def _check_new(self) -> None:
        """Refuse a folder with anything in it but the temporaries of a first writer that was killed."""
        facts = facts_of(self.path)
        if facts is None:
            return
        foreign = not stat.S_ISDIR(facts.st_mode) or any(
            not name.startswith(TEMPORARY_PREFIX) for name in names_in(self.path)
        )
        if foreign:
            raise InputError(f"{self.path} is not empty and not a moodfuse cache; name a new or empty folder")

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
                    continue  # superseded, and pruned by another process
                if not self._repairs:
                    raise DamagedPartError(
                        f"{error}; run moodfuse cache verify --repair, which may keep the folds; else run "
                        "extract again, or the cache import that made it"
                    ) from error
                set_aside(file, str(error))
        return tuple(plan for plan, _ in sorted(found, key=lambda item: (item[0].sequence, item[1])))

    def _plan_files(self) -> Iterator[Path]:
        home = self.path / "plans"
        repeats = (folder for folder in listing(home, prefix="repeat-") if re.fullmatch(REPEAT, folder.name))
        for folder in (home, *repeats):
            yield from listing(folder, prefix="plan-", suffix=".h5")

    @staticmethod
    def read_plan(file: Path) -> Plan:
        """The plan in a part, or `DamagedPartError`; its repeat must be that of its folder."""
        arrays, values = read_part(file)
        check_dtypes(file, arrays, {"clip": ("S64", 1), "fold": ("<i2", 1)})
        try:
            home = f"repeat-{values['repeat']}" if values["repeat"] else "plans"
            if values["format"] != FORMAT_OF_PLANS or file.parent.name != home:
                raise ValueError(f"format {values['format']!r}, repeat {values['repeat']!r}")
            if not isinstance(values["records"], list):
                raise TypeError("records is not a list")
            (table,) = values["records"]
            digests = arrays["clip"]
            if (digests[1:] <= digests[:-1]).any():
                raise ValueError("its clips are not sorted, or occur twice")
            settings = {name: values[name] for name in ("folds", "seed", "group_rule", "sequence", "repeat")}
            folds = zip(digests.astype("U64").tolist(), arrays["fold"].tolist(), strict=True)
            return Plan(**settings, records=(str(table),), assignment=dict(folds))
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedPartError(f"{file}: is not a plan ({error})") from error

    def plans_of(self, repeat: int) -> tuple[Plan, ...]:
        """Plans of one repeat, oldest first."""
        return tuple(plan for plan in self.all_plans if plan.repeat == repeat)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Plans without those of further repeats, oldest first."""
        return self.plans_of(0)

    @property
    def repeat_plans(self) -> tuple[Plan, ...]:
        """Further plans over the same clips as the plan in force, for repeated cross-validation: repeat 1, 2, ..."""
        found: list[Plan] = []
        while plans := self.plans_of(len(found) + 1):
            expected = (self.plan.folds, self.plan.seed + len(found) + 1, self.plan.records)
            if (plans[-1].folds, plans[-1].seed, plans[-1].records) != expected:
                break
            found.append(plans[-1])
        return tuple(found)

    @property
    def plan(self) -> Plan:
        """The plan in force; `InputError` if the cache has none yet."""
        if not self.plans:
            raise InputError(
                f"{self.path} has no fold plan yet; run: moodfuse extract DATA --cache {self.path}"
            )
        return self.plans[-1]

    # Clips

    @cached_property
    def statuses(self) -> tuple[ClipStatus, ...]:
        """Every clip of the data set in force, refused and test clips included, by id."""
        (name,) = self.plan.records
        file = self.path / "tables" / f"clips-{name}.h5"
        try:
            arrays, values = read_part(file)
            if values != ATTRIBUTES:
                raise DamagedPartError(f"{file}: is not a table of clips")
            return statuses_from(file, arrays)
        except DamagedPartError as error:
            raise DamagedPartError(
                f"{error}; run extract again, or the moodfuse cache import --labels that made it: both write the table "
                "of clips again"
            ) from error

    @cached_property
    def clips(self) -> tuple[ClipStatus, ...]:
        """The clips that the plan covers, by id: the rows of every block."""
        assignment = self.plan.assignment
        return tuple(status for status in self.statuses if status.ok and status.digest in assignment)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the order of every class axis."""
        return tuple(sorted({status.clip.label for status in self.clips}))

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The plan's groups."""
        return clip_groups(self.clips)

    def clips_with(self, recipe: Recipe) -> tuple[ClipStatus, ...]:
        """The plan's clips that have the modality which a source reads, by id."""
        clips = tuple(status for status in self.clips if status.missing != recipe.modality)
        return self.clips if len(clips) == len(self.clips) else clips

    # Decoding outcomes: clips/<aa>/<clip32>-<digest16>.json

    def write_outcome(self, outcome: Outcome) -> None:
        """Store the result of decoding a clip, as soon as it is known."""
        values = asdict(outcome)
        name = f"{outcome.digest[:32]}-{digest16(values)}.json"
        write_text(self.path / "clips" / outcome.digest[:2] / name, canonical_json(values))

    def outcomes(self, digests: Iterable[str]) -> dict[str, list[Outcome]]:
        """Every stored outcome of some clips, by clip digest; clips without one are left out.

        Damaged files are set aside; those of a newer version are skipped.
        """
        found: dict[str, list[Outcome]] = {}
        folders: dict[str, list[Path]] = {}
        for digest in digests:
            if digest[:2] not in folders:
                folders[digest[:2]] = listing(self.path / "clips" / digest[:2], suffix=".json")
            files = [file for file in folders[digest[:2]] if file.name.startswith(digest[:32])]
            if outcomes := [outcome for _, outcome in each_valid(files, read_outcome, skip_newer=True)]:
                found[digest] = outcomes
        return found

    # Writing

    def write_plan(self, plan: Plan, statuses: Sequence[ClipStatus]) -> bool:
        """Put a plan and its clips in force, unless they already are; returns whether anything changed."""
        if plan.records != (table_name(statuses),):
            raise InputError(f"the plan is of clips {plan.records}, not of the given {table_name(statuses)}")
        write_part(self.path / "tables", "clips", table_arrays(statuses), ATTRIBUTES)
        current = next(iter(self.plans_of(plan.repeat)[-1:]), None)
        changed = (
            current is None or _settings(plan) != _settings(current) or plan.assignment != current.assignment
        )
        if changed:
            folder = self.path / "plans" / (f"repeat-{plan.repeat}" if plan.repeat else "")
            sequence = 1 + (current.sequence if current else 0)
            write_part(folder, "plan", plan.to_arrays(), {**_settings(plan), "sequence": sequence})
            self.refresh()
        if not plan.repeat:
            write_text(self.path / VIEW, self.view_text(statuses))
        return changed

    def refresh(self) -> None:
        """Drop what was read, so that the folder is read again."""
        for name in ("all_plans", "statuses", "clips", "classes", "units"):
            self.__dict__.pop(name, None)

    def view_text(self, statuses: Sequence[ClipStatus]) -> str:
        """Content of `VIEW` for some clips under the plan in force."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_VIEW_COLUMNS)
        for status in sorted(statuses, key=lambda status: status.clip.id):
            clip = status.clip
            covered = status.ok and clip.split == "train"
            fold = self.plan.assignment.get(status.digest, "") if covered else ""
            end_s = "" if clip.end_s is None else clip.end_s
            declared = (clip.id, clip.path, clip.start_s, end_s, clip.label, status.group, fold)
            state = "ok" if status.ok else "refused"
            found = (status.digest, round(status.duration_s, 3), state, status.reason, status.detail)
            writer.writerow((*declared, *found))
        return text.getvalue()


def _settings(plan: Plan) -> dict[str, object]:
    """Attributes of a plan's part, without its sequence."""
    return {
        "format": FORMAT_OF_PLANS,
        "folds": plan.folds,
        "seed": plan.seed,
        "group_rule": plan.group_rule,
        "records": sorted(plan.records),
        "repeat": plan.repeat,
    }


def read_outcome(file: Path) -> Outcome:
    """A decoding outcome; its digest and its clip must be those in the file's name, else `DamagedPartError`."""
    outcome = record_of(Outcome, read_named(file), file)
    if (file.parent.name, file.name[:33]) != (str(outcome.digest)[:2], f"{str(outcome.digest)[:32]}-"):
        raise DamagedPartError(f"{file}: is of another clip than the one in its name")
    return outcome


def marker_text() -> str:
    """Content of the file that marks a cache."""
    marker = {"format": "moodfuse-cache", "schema": SCHEMA, "written_by": writer_version()}
    return canonical_json(marker) + "\n"


def check_schema(marker: Path) -> None:
    """Refuse a cache of another version of the format (`SchemaError`), or a damaged marker (`CacheError`)."""
    found = read_json(marker)
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise CacheError(
            f"{marker}: schema is {schema!r}; expected a number; run: moodfuse cache verify --repair --cache "
            f"{marker.parent}"
        )
    if schema != SCHEMA:
        raise schema_error(marker.parent, schema, found.get("written_by"))
