"""Check of every byte of a cache: each file against its name, header or seal, and what is in force for completeness.

Nothing is changed, and no file, whatever it is, stops the others from being checked. `CHECKS` has the check of each
kind of file.
"""

import json
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.cache.audits import FORMAT_OF_MARKS, audit_in, check_marks
from moodfuse.cache.blocks import Owner, check_each_once, disagreements, open_features, part_files
from moodfuse.cache.clip_table import ATTRIBUTES, statuses_from
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, SchemaError
from moodfuse.cache.files import check_sealed
from moodfuse.cache.fits import check_fits
from moodfuse.cache.maintenance.networks import read_record
from moodfuse.cache.manifest import MARKER, VIEW, Manifest, check_schema, read_outcome
from moodfuse.cache.media import FORMAT as FORMAT_OF_MEDIA
from moodfuse.cache.media import check_media, check_place
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.runs import check_predictions
from moodfuse.cache.storage.files import check_keys, facts_of, listing, read_named, read_regular
from moodfuse.cache.storage.layout import BAD, FOLDER, TEMPORARY, UNKNOWN, Entry, entries, folder_of
from moodfuse.cache.storage.parts import SCHEMA, open_part, verify_part
from moodfuse.cache.store import FROZEN, FeatureCache, check_trained, read_recipe

DAMAGED, MISSING, UNREADABLE = "damaged", "missing", "unreadable"
WAVEFORM_SAMPLES = 480_000
"""Length of every waveform: 30 seconds at 16 kHz."""
_FOLDERS_IN_FORCE = ("plans", "tables", "sources", "features")
"""Folders that show what is in force; a cache that has lost its marker is recognized by them."""
_RECORDS_IN_FORCE = ("marker", "plan", "table", "choice", "recipe", "training")


@dataclass(frozen=True)
class Fault:
    """A bad file, by its path below the cache folder.

    `DAMAGED`: it does not hold what was written, so it may be set aside. `MISSING`: what is in force needs it.
    `UNREADABLE`: the system refuses to read it, or a newer version wrote it.
    """

    place: str
    kind: str
    reason: str
    state: str = DAMAGED


@dataclass(frozen=True)
class Verification:
    """What a check of a cache found.

    Attributes
    ----------
    checked, bytes : int
        Number and bytes of the files that were checked.
    faults : tuple of Fault
    disagreements : tuple of str
        Sentences on clips that two intact parts of a folder hold with different values.
    stale_clips_csv : bool
        Whether ``clips.csv`` differs from the plan in force: it was edited, or `extract` was stopped.
    others : mapping of str to tuple of str
        Places of what was not checked, by kind: ``bad`` (set aside earlier), ``temporary``, ``unknown``, ``output``.
    """

    checked: int
    bytes: int
    faults: tuple[Fault, ...]
    disagreements: tuple[str, ...]
    stale_clips_csv: bool
    others: Mapping[str, tuple[str, ...]]


# One check per kind of file

Check = Callable[[Entry], np.ndarray | None]
"""Takes a file; raises `DamagedPartError`, or the error of reading it. That of features returns their clips."""


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise DamagedPartError(reason)


def _json(entry: Entry, *, ending: bytes = b"") -> Any:
    """A record whose text is canonical JSON, as every record is written; it may have one ending."""
    data = read_regular(entry.path).removesuffix(ending)
    values = json.loads(data.decode("utf-8"))
    _require(data == canonical_json(values).encode(), "its text is not canonical, so it was changed")
    return values


def _record(check: Callable[[Path], object]) -> Check:
    """Check of a JSON record by its own reader."""

    def check_entry(entry: Entry) -> None:
        _json(entry)
        check(entry.path)

    return check_entry


def _part(check: Callable[[Path, dict[str, np.ndarray], dict[str, Any]], object]) -> Check:
    """Check of an HDF5 part: bytes, name and content, and then its arrays and attributes."""

    def check_entry(entry: Entry) -> None:
        check(entry.path, *verify_part(entry.path))

    return check_entry


def _check_marker(entry: Entry) -> None:
    values = _json(entry, ending=b"\n")
    found = (values["format"], values["schema"], "written_by" in values)
    _require(found == ("moodfuse-cache", SCHEMA, True), "does not mark a cache")


def _check_table(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    _require(attributes == ATTRIBUTES, "holds no table of clips")
    statuses_from(file, arrays)


def _check_choice(file: Path) -> None:
    values = read_named(file)
    kinds = (type(values["sequence"]), type(values["sources"]))
    _require(kinds == (int, dict), "is not a choice of sources")


def _check_media(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    check_place(file, attributes, form=FORMAT_OF_MEDIA)
    check_media(file, arrays, attributes)
    if attributes["view"] == "sound":
        length, samples = len(arrays["waveform"]), attributes["waveform_samples"]
        expected = WAVEFORM_SAMPLES
        _require(length == expected, f"its waveform has {length} samples; expected {expected}")
        _require(0 <= samples <= length, f"{samples} of its {length} samples are declared as from the file")


def _check_marks(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    check_place(file, attributes, form=FORMAT_OF_MARKS)
    check_marks(file, arrays, attributes)


def _check_recipe(entry: Entry) -> None:
    values = _json(entry)
    if digest16({key: value for key, value in values.items() if key != "source"}) == entry.parents[2]:
        check_keys(Recipe, values, entry.path)
    recipe = read_recipe(entry.path)
    _require(folder_of(recipe.source) == entry.parents[1], "belongs to another source than its folder")


def _check_features(entry: Entry) -> np.ndarray:
    arrays, _ = verify_part(entry.path)
    with open_features(entry.path) as (_, attributes):
        source = folder_of(str(attributes.get("source")))
        owner = (source, attributes.get("recipe"), attributes.get("trained"))
    _require(owner == entry.parents[1:], f"belongs to {'/'.join(map(str, owner))}")
    check_each_once(entry.path, arrays["clip"])
    return arrays["clip"]


def _check_run(entry: Entry) -> None:
    values = _json(entry)
    predictions = values.pop("predictions")
    _require(predictions.rpartition("/")[2] == predictions, "names predictions in another folder")
    with open_part(entry.path.with_name(predictions)) as (part, attributes):
        is_same = attributes["record"] == digest16(values)
        _require(is_same, "is not the record that was written with the predictions")
        shapes = {name: array.shape for name, array in part.items()}
    for number in range(len(values["results"])):
        name = f"probabilities_{number:04d}"
        _require(name in shapes, f"its predictions have no array {name!r}")
    for name, shape in shapes.items():
        repeats = (len(values.get("repeat_folds", ())),) if name.startswith("repeats_") else ()
        expected = (*repeats, len(values["ids"]), len(values["classes"]))
        _require(shape == expected, f"its predictions have {name} of shape {shape}; expected {expected}")


CHECKS: dict[str, Check] = {
    "marker": _check_marker,
    "plan": _part(lambda file, arrays, attributes: Manifest.read_plan(file)),
    "table": _part(_check_table),
    "outcome": _record(read_outcome),
    "choice": _record(_check_choice),
    "audit": _record(audit_in),
    "marks": _part(_check_marks),
    "media": _part(_check_media),
    "recipe": _check_recipe,
    "training": _record(check_trained),
    "features": _check_features,
    "network": lambda entry: check_sealed(entry.path),
    "checkpoint": lambda entry: check_sealed(entry.path),
    "fits": _part(check_fits),
    "run": _check_run,
    "predictions": _part(check_predictions),
}
"""Check of each kind of file. ``clips.csv`` and the reports and models of runs have no digest and are not checked."""


# All files


def verify(root: Path, *, on_progress: Callable[[int, int], object] | None = None) -> Verification:
    """Check every byte of a cache; `on_progress` receives the bytes checked so far, and all bytes to check.

    Raises
    ------
    InputError
        If the folder is not a cache.
    SchemaError
        If another version of the format wrote it.
    """
    faults = list(_marker_faults(root))
    found = tuple(entries(root))
    faults += [Fault(entry.place, FOLDER, entry.fault, UNREADABLE) for entry in found if entry.kind == FOLDER]
    to_check = [entry for entry in found if entry.kind in CHECKS]
    total = sum(entry.bytes for entry in to_check)
    clips: dict[Path, list[np.ndarray]] = defaultdict(list)
    done = 0
    for entry in to_check:
        if fault := _check(entry, clips):
            faults.append(fault)
        done += entry.bytes
        if on_progress is not None:
            on_progress(done, total)
    damaged_folders = {(root / fault.place).parent for fault in faults}
    differing: list[str] = []
    for folder, parts in clips.items():
        together = np.concatenate(parts)
        if folder not in damaged_folders and len(np.unique(together)) < len(together):
            differing += disagreements(Owner(folder, *folder.parts[-3:]))
    missing, stale_clips_csv = _check_in_force(root, faults)
    others = {
        kind: tuple(entry.place for entry in found if entry.kind == kind)
        for kind in (BAD, TEMPORARY, UNKNOWN, "output")
    }
    return Verification(len(to_check), total, (*faults, *missing), tuple(differing), stale_clips_csv, others)


def _marker_faults(root: Path) -> Iterator[Fault]:
    """A missing marker of what is evidently a cache; an existing one is checked with the other files."""
    if _is_gone(root / MARKER):
        if not any(facts_of(root / name) for name in _FOLDERS_IN_FORCE):
            raise InputError(f"{root} is not a moodfuse cache: it has no {MARKER}; name the folder of one")
        yield Fault(MARKER, "marker", "is gone", MISSING)
    elif (facts := facts_of(root / MARKER)) and stat.S_ISREG(facts.st_mode):
        try:
            check_schema(root / MARKER)
        except SchemaError:
            raise
        except CacheError:
            return


def _check(entry: Entry, clips: dict[Path, list[np.ndarray]]) -> Fault | None:
    """The fault of a file, if any; clips of features are added to those of their folder."""
    if entry.fault:
        return Fault(entry.place, entry.kind, entry.fault, UNREADABLE if entry.denied else DAMAGED)
    try:
        held = CHECKS[entry.kind](entry)
    except Exception as error:  # noqa: BLE001 - whatever a file holds, the others are still checked
        if not os.path.lexists(entry.path):
            return None  # another process removed it meanwhile
        is_damage = isinstance(error, DamagedPartError) or not isinstance(error, OSError | MemoryError)
        state = DAMAGED if is_damage else UNREADABLE
        return Fault(entry.place, entry.kind, _reason(entry, error), state)
    if held is not None:
        clips[entry.path.parent].append(held)
    return None


def _reason(entry: Entry, error: Exception) -> str:
    if isinstance(error, CacheError | InputError):
        return str(error).removeprefix(f"{entry.path}: ")
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"is not what it should be ({type(error).__name__}: {error})"


# What is in force


def _check_in_force(root: Path, faults: Sequence[Fault]) -> tuple[tuple[Fault, ...], bool]:
    """Missing files that what is in force needs, and whether ``clips.csv`` is stale."""
    try:
        cache = FeatureCache(root)
        missing = tuple(_missing_files(cache))
        expected = None if missing or not cache.plans else cache.view_text(cache.statuses)
    except (OSError, LookupError, TypeError, ValueError):
        if not any(map(_hides_what_is_in_force, faults)):
            raise
        return (), False
    if expected is None or facts_of(root / VIEW) is None:
        return missing, False
    try:
        return missing, read_regular(root / VIEW) != expected.encode("utf-8", "backslashreplace")
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        return (*missing, Fault(VIEW, "view", reason, UNREADABLE)), False


def _hides_what_is_in_force(fault: Fault) -> bool:
    is_folder = fault.kind == FOLDER and fault.place.partition("/")[0] in _FOLDERS_IN_FORCE
    return is_folder or fault.kind in _RECORDS_IN_FORCE


def _is_gone(path: Path) -> bool:
    """Whether there is no such name; a file that the system refuses to show is there, and a fault of its own."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _missing_files(cache: FeatureCache) -> Iterator[Fault]:
    for name in cache.plan.records if cache.plans else ():
        place = f"tables/clips-{name}.h5"
        if _is_gone(cache.path / place):
            yield Fault(place, "table", "is gone, but the plan in force is of its clips", MISSING)
            return
    for source, digest in sorted(cache.selection.items()):
        place = f"features/{folder_of(source)}/{digest}"
        folder = cache.path / place
        if _is_gone(folder / "recipe.json"):
            yield Fault(f"{place}/recipe.json", "recipe", f"is gone, but {source} is in force", MISSING)
            continue
        recipe = read_record(folder / "recipe.json")
        for block in listing(folder) if recipe and recipe.sees_labels else ():
            unrecorded = block.is_dir() and block.name != FROZEN and _is_gone(block / "trained.json")
            if unrecorded and part_files(block):
                reason = "is gone, so no reader finds the features in its folder"
                yield Fault(f"{place}/{block.name}/trained.json", "training", reason, MISSING)
