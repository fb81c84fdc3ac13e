"""Check of every byte of a cache.

`CHECKS` has the check of each kind of file. No file stops the others from being checked, and a check changes
nothing.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.cache.audits import FORMAT_OF_MARKS, check_marks, read_audit_file
from moodfuse.cache.blocks import NetworkFolder, check_each_once, disagreements, open_features, part_files
from moodfuse.cache.clip_table import ATTRIBUTES, statuses_from
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, MoodfuseError, SchemaError
from moodfuse.cache.files import check_checksum
from moodfuse.cache.fits import check_fits
from moodfuse.cache.maintenance.listing import read_record
from moodfuse.cache.manifest import MARKER, VIEW, Manifest, check_schema, read_outcome
from moodfuse.cache.media import FORMAT as FORMAT_OF_MEDIA
from moodfuse.cache.media import check_clip_part, check_media
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import SAMPLE_RATE_HZ, WINDOW_S
from moodfuse.cache.runs import check_predictions
from moodfuse.cache.storage.files import check_keys, file_status, listing, read_named, read_regular
from moodfuse.cache.storage.layout import BAD, FOLDER, TEMPORARY, UNKNOWN, Entry, entries, folder_of
from moodfuse.cache.storage.parts import SCHEMA, open_part, verify_part
from moodfuse.cache.store import FROZEN, FeatureCache, check_trained, read_recipe
from moodfuse.cache.terminal import track

DAMAGED, MISSING, UNREADABLE = "damaged", "missing", "unreadable"
_FOLDERS = ("plans", "tables", "sources", "features")
"""Folders by which a cache without its marker is recognized."""


@dataclass(frozen=True)
class Fault:
    """A bad file, by its path below the cache folder.

    `DAMAGED`: its content is not what was written. `MISSING`: the current plan or sources need it.
    `UNREADABLE`: the system denies access, or a newer version wrote it.
    """

    relative_path: str
    kind: str
    reason: str
    state: str = DAMAGED


@dataclass(frozen=True)
class Verification:
    """What a check of a cache found.

    `disagreements` are sentences on clips that two intact parts of a folder hold with different values;
    `others` are the paths of files that were not checked, by kind: ``bad``, ``temporary``, ``unknown`` and
    ``output``.
    """

    checked: int
    bytes: int
    faults: tuple[Fault, ...]
    disagreements: tuple[str, ...]
    stale_clips_csv: bool
    others: Mapping[str, tuple[str, ...]]


# One check per kind of file

Check = Callable[[Entry], object]
"""Raises `DamagedPartError`, or the error of reading the file."""


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise DamagedPartError(reason)


def _read_canonical_json(file: Path, *, end: bytes = b"") -> Any:
    data = read_regular(file).removesuffix(end)
    values = json.loads(data.decode("utf-8"))
    _require(data == canonical_json(values).encode(), "its text is not canonical, so it was changed")
    return values


def _record(check: Callable[[Path], object]) -> Check:
    """Check a JSON record with its own reader."""

    def check_entry(entry: Entry) -> None:
        _read_canonical_json(entry.path)
        check(entry.path)

    return check_entry


def _part(check: Callable[[Path, dict[str, np.ndarray], dict[str, Any]], object]) -> Check:
    """Check an HDF5 part: bytes, name and content, then its arrays and attributes."""

    def check_entry(entry: Entry) -> None:
        check(entry.path, *verify_part(entry.path))

    return check_entry


def _check_marker(entry: Entry) -> None:
    values = _read_canonical_json(entry.path, end=b"\n")
    header = (values["format"], values["schema"], "written_by" in values)
    _require(header == ("moodfuse-cache", SCHEMA, True), "does not mark a cache")


def _check_table(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    _require(attributes == ATTRIBUTES, "holds no table of clips")
    statuses_from(file, arrays)


def _check_media(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    check_clip_part(file, attributes, form=FORMAT_OF_MEDIA)
    check_media(file, arrays, attributes)
    if attributes["view"] == "sound":
        length, samples = len(arrays["waveform"]), attributes["waveform_samples"]
        expected = int(attributes.get("sample_rate_hz", SAMPLE_RATE_HZ) * WINDOW_S)
        _require(length == expected, f"its waveform has {length} samples; expected {expected}")
        _require(0 <= samples <= length, f"{samples} of its {length} samples are declared as from the file")


def _check_marks(file: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> None:
    check_clip_part(file, attributes, form=FORMAT_OF_MARKS)
    check_marks(file, arrays, attributes)


def _check_recipe(entry: Entry) -> None:
    values = _read_canonical_json(entry.path)
    if digest16({key: value for key, value in values.items() if key != "source"}) == entry.parents[2]:
        check_keys(Recipe, values, entry.path)
    read_recipe(entry.path)


def _check_features(entry: Entry) -> None:
    arrays, _ = verify_part(entry.path)
    with open_features(entry.path) as (_, attributes):
        source = folder_of(str(attributes.get("source")))
        owner = (source, attributes.get("recipe"), attributes.get("trained"))
    _require(owner == entry.parents[1:], f"belongs to {'/'.join(map(str, owner))}")
    check_each_once(entry.path, arrays["clip"])


def _check_run(entry: Entry) -> None:
    values = _read_canonical_json(entry.path)
    predictions = Path(values.pop("predictions")).name
    with open_part(entry.path.with_name(predictions)) as (arrays, attributes):
        is_same = attributes["record"] == digest16(values)
        _require(is_same, "is not the record that was written with the predictions")
        shapes = {name: array.shape for name, array in arrays.items()}
    for number in range(len(values["results"])):
        name = f"probabilities_{number:04d}"
        _require(name in shapes, f"its predictions have no array {name!r}")
    expected = (len(values["ids"]), len(values["classes"]))
    for name, shape in shapes.items():
        repeats = (len(values.get("repeat_folds", ())),) if name.startswith("repeats_") else ()
        _require(shape == (*repeats, *expected), f"its predictions have {name} of shape {shape}")


CHECKS: dict[str, Check] = {
    "marker": _check_marker,
    "plan": _part(lambda file, arrays, attributes: Manifest.read_plan(file)),
    "table": _part(_check_table),
    "outcome": _record(read_outcome),
    "choice": _record(read_named),
    "audit": _record(read_audit_file),
    "marks": _part(_check_marks),
    "media": _part(_check_media),
    "recipe": _check_recipe,
    "training": _record(check_trained),
    "features": _check_features,
    "network": lambda entry: check_checksum(entry.path),
    "checkpoint": lambda entry: check_checksum(entry.path),
    "fits": _part(check_fits),
    "run": _check_run,
    "predictions": _part(check_predictions),
}
"""Check of each kind of file; ``clips.csv``, reports and models have no digest and are not checked."""


# All files


def verify(root: Path, *, show_progress: bool = False) -> Verification:
    """Check every byte of a cache; with `show_progress` a progress bar is shown on a terminal.

    Raises `InputError` if the folder is not a cache, and `SchemaError` if another version of the format wrote
    it.
    """
    faults = _check_is_cache(root)
    files = tuple(entries(root))
    faults += [
        Fault(entry.relative_path, FOLDER, entry.fault, UNREADABLE) for entry in files if entry.kind == FOLDER
    ]
    to_check = [entry for entry in files if entry.kind in CHECKS]
    what = "Checking" if show_progress else ""
    for entry in track(to_check, total=len(to_check), what=what, transient=True):
        if fault := _check(entry):
            faults.append(fault)
    damaged_folders = {(root / fault.relative_path).parent for fault in faults}
    folders = dict.fromkeys(entry.path.parent for entry in to_check if entry.kind == "features")
    differing = [
        sentence
        for folder in folders
        if folder not in damaged_folders
        for sentence in disagreements(NetworkFolder(folder, *folder.parts[-3:]))
    ]
    missing, stale_clips_csv = _check_current(root, faults)
    others = {
        kind: tuple(entry.relative_path for entry in files if entry.kind == kind)
        for kind in (BAD, TEMPORARY, UNKNOWN, "output")
    }
    size = sum(entry.bytes for entry in to_check)
    return Verification(len(to_check), size, (*faults, *missing), tuple(differing), stale_clips_csv, others)


def _check_is_cache(root: Path) -> list[Fault]:
    marker = root / MARKER
    if file_status(marker) is None:
        if not any(file_status(root / name) for name in _FOLDERS):
            raise InputError(f"{root} is not a moodfuse cache: it has no {MARKER}; name the folder of one")
        return [Fault(MARKER, "marker", "is missing", MISSING)]
    try:
        check_schema(marker)
    except SchemaError:
        raise
    except CacheError:
        pass  # found again when all files are checked
    return []


def _check(entry: Entry) -> Fault | None:
    """The fault of a file, if any."""
    if entry.fault:
        return Fault(entry.relative_path, entry.kind, entry.fault, UNREADABLE if entry.denied else DAMAGED)
    try:
        CHECKS[entry.kind](entry)
    except Exception as error:  # noqa: BLE001 - the other files are still checked
        if not os.path.lexists(entry.path):
            return None  # another process removed it meanwhile
        is_damage = isinstance(error, DamagedPartError) or not isinstance(error, OSError | MemoryError)
        return Fault(
            entry.relative_path,
            entry.kind,
            _describe_error(entry, error),
            DAMAGED if is_damage else UNREADABLE,
        )
    return None


def _describe_error(entry: Entry, error: Exception) -> str:
    if isinstance(error, MoodfuseError):
        return str(error).removeprefix(f"{entry.path}: ")
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return f"has unexpected content ({type(error).__name__}: {error})"


def _check_current(root: Path, faults: Sequence[Fault]) -> tuple[tuple[Fault, ...], bool]:
    """Missing files that the current plan and sources need, and whether ``clips.csv`` is stale."""
    if any(fault.kind == FOLDER for fault in faults):
        return (), False
    try:
        cache = FeatureCache(root)
        missing = tuple(_find_missing_files(cache))
        if missing or not cache.plans or file_status(root / VIEW) is None:
            return missing, False
        view = cache.view_text(cache.statuses).encode("utf-8", "backslashreplace")
    except (OSError, LookupError, TypeError, ValueError):
        if not faults:
            raise
        return (), False
    try:
        return (), read_regular(root / VIEW) != view
    except OSError as error:
        return (Fault(VIEW, "view", f"cannot be read ({error.strerror or error})", UNREADABLE),), False


def _find_missing_files(cache: FeatureCache) -> Iterator[Fault]:
    for name in cache.plan.records if cache.plans else ():
        table = f"tables/clips-{name}.h5"
        if not (cache.path / table).exists():
            yield Fault(table, "table", "is missing, but the current plan is of its clips", MISSING)
            return
    for source, digest in sorted(cache.selection.items()):
        folder = cache.source_folder(source, digest)
        relative_path = folder.relative_to(cache.path).as_posix()
        if not (folder / "recipe.json").exists():
            reason = f"is missing, but {source} is a current source"
            yield Fault(f"{relative_path}/recipe.json", "recipe", reason, MISSING)
            continue
        recipe = read_record(folder / "recipe.json")
        for block in listing(folder) if recipe and recipe.sees_labels else ():
            record = block / "trained.json"
            if block.is_dir() and block.name != FROZEN and not record.exists() and part_files(block):
                reason = "is missing, so no reader finds the features in its folder"
                yield Fault(f"{relative_path}/{block.name}/trained.json", "training", reason, MISSING)
