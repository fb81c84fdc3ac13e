"""What a cache folder records about its clips: the table of clips, decoding outcomes and fold plans."""

import csv
import io
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from moodfuse._version import __version__
from moodfuse.cache.clip_table import ATTRIBUTES, statuses_from, table_arrays, table_name
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.folds import ClipGroup, clip_groups
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import ClipStatus, Outcome, Plan
from moodfuse.cache.storage.files import (
    file_status,
    listing,
    make_record,
    quarantine,
    read_json,
    read_named,
    read_valid,
    remove_temporaries,
    write_text,
)
from moodfuse.cache.storage.layout import REPEAT
from moodfuse.cache.storage.parts import SCHEMA, check_dtypes, read_part, schema_error, write_part

MARKER = "moodfuse-cache.json"
VIEW = "clips.csv"
FORMAT_OF_PLANS = "moodfuse-plan"
_SETTINGS = ("folds", "seed", "group_rule", "repeat")
_VIEW_COLUMNS = (
    *("id", "path", "start_s", "end_s", "label", "group", "fold"),
    *("digest", "duration_s", "status", "reason", "detail"),
)


class Manifest:
    """A cache folder, its clips and its plans.

    Parameters
    ----------
    path : path-like
        The folder.
    create : bool
        Create it if it does not exist, remove temporaries of killed writers, and quarantine damaged plans;
        otherwise a missing or foreign folder, or a damaged plan, is an error.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        self._repairs = create
        marker = self.path / MARKER
        if (facts := file_status(marker)) and stat.S_ISREG(facts.st_mode):
            check_schema(marker)
        elif not create:
            command = f"moodfuse extract DATA --cache {self.path}"
            raise InputError(f"{self.path} is not a moodfuse cache; create one with: {command}")
        elif self.path.exists() and (not self.path.is_dir() or listing(self.path)):
            raise InputError(f"{self.path} is not empty and not a moodfuse cache; name a new or empty folder")
        else:
            write_text(marker, marker_text())
        if create:
            remove_temporaries(self.path)

    # Plans

    @cached_property
    def all_plans(self) -> tuple[Plan, ...]:
        """Plans of every repeat, oldest first."""
        home = self.path / "plans"
        repeats = (folder for folder in listing(home) if re.fullmatch(REPEAT, folder.name))
        files = [
            file for folder in (home, *repeats) for file in listing(folder, prefix="plan-", suffix=".h5")
        ]
        plans = []
        for file in files:
            try:
                plans.append((self.read_plan(file), file.name))
            except DamagedPartError as error:
                if not self._repairs:
                    raise DamagedPartError(
                        f"{error}; run moodfuse cache verify --repair, which may keep the folds; else run "
                        "extract again, or the cache import that made it"
                    ) from error
                quarantine(file, str(error))
        return tuple(plan for plan, _ in sorted(plans, key=lambda pair: (pair[0].sequence, pair[1])))

    @staticmethod
    def read_plan(file: Path) -> Plan:
        """The plan in a part, or `DamagedPartError`; its repeat must be that of its folder."""
        arrays, values = read_part(file)
        check_dtypes(file, arrays, {"clip": ("S64", 1), "fold": ("<i2", 1)})
        try:
            home = f"repeat-{values['repeat']}" if values["repeat"] else "plans"
            if values["format"] != FORMAT_OF_PLANS or file.parent.name != home:
                raise ValueError(f"format {values['format']!r}, repeat {values['repeat']!r}")
            digests = arrays["clip"].astype("U64").tolist()
            if digests != sorted(set(digests)):
                raise ValueError("its clips are not sorted, or occur twice")
            settings = {name: values[name] for name in (*_SETTINGS, "sequence")}
            assignment = dict(zip(digests, arrays["fold"].tolist(), strict=True))
            (table,) = values["records"]
            return Plan(**settings, records=(str(table),), assignment=assignment)
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedPartError(f"{file}: is not a plan ({error})") from error

    def plans_of_repeat(self, repeat: int) -> tuple[Plan, ...]:
        """Plans of one repeat, oldest first."""
        return tuple(plan for plan in self.all_plans if plan.repeat == repeat)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Plans without those of further repeats, oldest first."""
        return self.plans_of_repeat(0)

    @property
    def repeat_plans(self) -> tuple[Plan, ...]:
        """Further plans of the current plan's clips, for repeated cross-validation: repeat 1, 2, ..."""
        current: list[Plan] = []
        while plans := self.plans_of_repeat(len(current) + 1):
            expected = (self.plan.folds, self.plan.seed + len(current) + 1, self.plan.records)
            if (plans[-1].folds, plans[-1].seed, plans[-1].records) != expected:
                break
            current.append(plans[-1])
        return tuple(current)

    @property
    def plan(self) -> Plan:
        """The current plan; `InputError` if the cache has none yet."""
        if not self.plans:
            command = f"moodfuse extract DATA --cache {self.path}"
            raise InputError(f"{self.path} has no fold plan yet; run: {command}")
        return self.plans[-1]

    # Clips

    @cached_property
    def statuses(self) -> tuple[ClipStatus, ...]:
        """Every clip of the current dataset, refused and test clips included, by id."""
        (name,) = self.plan.records
        file = self.path / "tables" / f"clips-{name}.h5"
        try:
            arrays, values = read_part(file)
            if values != ATTRIBUTES:
                raise DamagedPartError(f"{file}: is not a table of clips")
            return statuses_from(file, arrays)
        except DamagedPartError as error:
            raise DamagedPartError(
                f"{error}; run extract again, or the moodfuse cache import --labels that made it: both write "
                "the table of clips again"
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
    def clip_groups(self) -> tuple[ClipGroup, ...]:
        """The plan's groups."""
        return clip_groups(self.clips)

    def clips_with(self, recipe: Recipe) -> tuple[ClipStatus, ...]:
        """The plan's clips that have the modality which a source reads, by id."""
        modality = recipe.modality
        return tuple(status for status in self.clips if status.missing != modality)

    # Decoding outcomes: clips/<aa>/<clip32>-<digest16>.json

    def write_outcome(self, outcome: Outcome) -> None:
        """Store the result of decoding a clip, as soon as it is known."""
        values = asdict(outcome)
        name = f"{outcome.digest[:32]}-{digest16(values)}.json"
        write_text(self.path / "clips" / outcome.digest[:2] / name, canonical_json(values))

    def outcomes(self, digests: Iterable[str]) -> dict[str, list[Outcome]]:
        """Every stored outcome of clips, by clip digest; clips without one are left out.

        Damaged files are quarantined; those of a newer version are skipped.
        """
        stored: dict[str, list[Outcome]] = {}
        for digest in digests:
            files = sorted((self.path / "clips" / digest[:2]).glob(f"{digest[:32]}-*.json"))
            if outcomes := [outcome for _, outcome in read_valid(files, read_outcome, skip_newer=True)]:
                stored[digest] = outcomes
        return stored

    # Writing

    def write_plan(self, plan: Plan, statuses: Sequence[ClipStatus]) -> bool:
        """Make a plan and its clips the current ones; returns whether anything changed."""
        if plan.records != (table_name(statuses),):
            raise InputError(f"the plan was made for clips {plan.records}, got clips {table_name(statuses)}")
        write_part(self.path / "tables", "clips", table_arrays(statuses), ATTRIBUTES)
        current = next(iter(self.plans_of_repeat(plan.repeat)[-1:]), None)
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
        for name in set(vars(self)) - {"path", "_repairs"}:
            delattr(self, name)

    def view_text(self, statuses: Sequence[ClipStatus]) -> str:
        """Content of ``clips.csv`` under the current plan."""
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
            decoded = (status.digest, round(status.duration_s, 3), state, status.reason, status.detail)
            writer.writerow((*declared, *decoded))
        return text.getvalue()


def _settings(plan: Plan) -> dict[str, object]:
    """Attributes of a plan's part, without its sequence."""
    settings = {name: getattr(plan, name) for name in _SETTINGS}
    return {"format": FORMAT_OF_PLANS, **settings, "records": sorted(plan.records)}


def read_outcome(file: Path) -> Outcome:
    """A decoding outcome; `DamagedPartError` if its digest or clip is not that in the file's name."""
    outcome = make_record(Outcome, read_named(file), file)
    if (file.parent.name, file.name[:33]) != (str(outcome.digest)[:2], f"{str(outcome.digest)[:32]}-"):
        raise DamagedPartError(f"{file}: is of another clip than the one in its name")
    return outcome


def marker_text() -> str:
    """Content of the file that marks a cache."""
    return canonical_json({"format": "moodfuse-cache", "schema": SCHEMA, "written_by": __version__}) + "\n"


def check_schema(marker: Path) -> None:
    """Check the marker: `SchemaError` if another version wrote the cache, `CacheError` if it is damaged."""
    values = read_json(marker)
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise CacheError(
            f"{marker}: schema is {schema!r}; expected a number; run: moodfuse cache verify --repair --cache "
            f"{marker.parent}"
        )
    if schema != SCHEMA:
        raise schema_error(marker.parent, schema, values.get("written_by"))
