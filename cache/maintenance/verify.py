"""Every byte of a cache checked: each file against its name, its header or its seal, and what is in force against
what it needs. Nothing is changed here, and no file, whatever it is, stops the others from being checked."""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodfuse.cache.blocks import Owner, disagreements, part_files
from moodfuse.cache.digests import Digests
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, SchemaError
from moodfuse.cache.maintenance.checks import CHECKS
from moodfuse.cache.maintenance.recipe_listing import read_record
from moodfuse.cache.manifest import MARKER, VIEW, check_schema
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.storage.files import facts_of, listing, read_regular
from moodfuse.cache.storage.layout import BAD, FOLDER, TEMPORARY, UNKNOWN, Entry, entries, folder_of
from moodfuse.cache.store import FROZEN, FeatureCache

DAMAGED, MISSING, UNREADABLE = "damaged", "missing", "unreadable"
_SIGNS = ("plans", "tables", "sources", "features")
"""Folders by which a cache is known that has lost its marker; what stands in them says what is in force."""
_RECORDS = ("marker", "plan", "table", "choice", "recipe", "training")


@dataclass(frozen=True)
class Fault:
    """A bad file.

    Attributes
    ----------
    place : str
        Path below the cache folder.
    kind : str
    reason : str
    state : str
        `DAMAGED`: it holds something else than was written, so it may be set aside. `MISSING`: what is in force needs
        it. `UNREADABLE`: the system does not give it out, or a newer version wrote it.
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
    checked : int
        Files that were checked.
    bytes : int
        Bytes of those.
    faults : tuple of Fault
    disagreements : tuple of str
        Sentences on clips that two sound parts of a folder hold with different values.
    stale_view : bool
        Whether ``clips.csv`` is not what the plan in force gives: it was edited, or `extract` was stopped.
    others : mapping of str to tuple of str
        Places of what was not checked, by kind: ``bad`` (set aside earlier), ``temporary``, ``unknown``, ``output``.
    """

    checked: int
    bytes: int
    faults: tuple[Fault, ...]
    disagreements: tuple[str, ...]
    stale_view: bool
    others: Mapping[str, tuple[str, ...]]


def _ignore(count: int) -> None:
    """Take a number of bytes, and tell nobody."""


def verify(
    root: Path, *, begin: Callable[[int], object] = _ignore, tick: Callable[[int], object] = _ignore
) -> Verification:
    """Check every byte of a cache.

    Parameters
    ----------
    root : Path
    begin : callable of int
        Is told how many bytes there are to check.
    tick : callable of int
        Is told of bytes that have been checked.

    Raises
    ------
    InputError
        If the folder is no cache.
    SchemaError
        If another version of the format wrote it.
    """
    faults = list(_marker_faults(root))
    found = tuple(entries(root))
    wanted = [entry for entry in found if entry.kind in CHECKS]
    begin(sum(entry.bytes for entry in wanted))
    faults += [Fault(entry.place, FOLDER, entry.fault, UNREADABLE) for entry in found if entry.kind == FOLDER]
    clips: dict[Path, list[Digests]] = defaultdict(list)
    for entry in wanted:
        if fault := _check(entry, clips):
            faults.append(fault)
        tick(entry.bytes)
    broken = {(root / fault.place).parent for fault in faults}
    differing = tuple(
        sentence
        for folder, held in clips.items()
        if folder not in broken
        for sentence in _disagreements(folder, held)
    )
    missing, stale_view = _in_force(root, faults)
    return Verification(
        checked=len(wanted),
        bytes=sum(entry.bytes for entry in wanted),
        faults=(*faults, *missing),
        disagreements=differing,
        stale_view=stale_view,
        others={
            kind: tuple(entry.place for entry in found if entry.kind == kind)
            for kind in (BAD, TEMPORARY, UNKNOWN, "output")
        },
    )


def _marker_faults(root: Path) -> Iterator[Fault]:
    """A missing marker of what is a cache all the same; what its content is, is checked with the other files."""
    if _is_gone(root / MARKER):
        if not any(facts_of(root / name) for name in _SIGNS):
            raise InputError(f"{root} is not a moodfuse cache: it has no {MARKER}; name the folder of one")
        yield Fault(MARKER, "marker", "is gone", MISSING)
    elif (facts := facts_of(root / MARKER)) and stat.S_ISREG(facts.st_mode):
        try:
            check_schema(root / MARKER)
        except SchemaError:
            raise
        except CacheError:
            return


def _check(entry: Entry, clips: dict[Path, list[Digests]]) -> Fault | None:
    """What is wrong with a file; the clips that it holds features of are added to those of its folder."""
    if entry.fault:
        return Fault(entry.place, entry.kind, entry.fault, UNREADABLE if entry.denied else DAMAGED)
    try:
        held = CHECKS[entry.kind](entry)
    except Exception as error:  # noqa: BLE001 - whatever a file holds, the others are still checked
        if not os.path.lexists(entry.path):
            return None  # another process took it away meanwhile
        return Fault(entry.place, entry.kind, _reason(entry, error), _state(error))
    if held is not None:
        clips[entry.path.parent].append(held)
    return None


def _state(error: Exception) -> str:
    if isinstance(error, DamagedPartError):
        return DAMAGED
    return UNREADABLE if isinstance(error, OSError | MemoryError) else DAMAGED


def _reason(entry: Entry, error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, CacheError):
        return f"cannot be read ({error.strerror or error})"
    if isinstance(error, CacheError | InputError):
        return str(error).removeprefix(f"{entry.path}: ")
    return f"is not what it should be ({type(error).__name__}: {error})"


def _disagreements(folder: Path, held: Sequence[Digests]) -> Iterator[str]:
    """What two parts of a folder hold differently; parts are opened only where some clip stands in two of them."""
    together = np.concatenate(held)
    if len(np.unique(together)) < len(together):
        *_, source, recipe, trained = folder.parts
        yield from disagreements(Owner(folder, source, recipe, trained))


# What is in force


def _in_force(root: Path, faults: Sequence[Fault]) -> tuple[tuple[Fault, ...], bool]:
    """Files that what is in force needs and that are not there, and whether the view of the clips is stale."""
    try:
        cache = FeatureCache(root)
        missing = tuple(_missing(cache))
        wanted = None if missing or not cache.plans else cache.view_text(cache.statuses)
    except (OSError, LookupError, TypeError, ValueError):
        if not any(map(_tells, faults)):
            raise
        return (), False  # what is in force cannot be told while a record of it is bad
    try:
        stale = wanted is not None and _is_view_stale(root / VIEW, wanted)
    except OSError as error:
        return (
            *missing,
            Fault(VIEW, "view", f"cannot be read ({error.strerror or error})", UNREADABLE),
        ), False
    return missing, stale


def _is_view_stale(view: Path, wanted: str) -> bool:
    return facts_of(view) is not None and read_regular(view) != wanted.encode("utf-8", "backslashreplace")


def _tells(fault: Fault) -> bool:
    """Whether a fault is of what says, or holds what says, what is in force."""
    return fault.kind in _RECORDS or (fault.kind == FOLDER and fault.place.partition("/")[0] in _SIGNS)


def _is_gone(path: Path) -> bool:
    """Whether there is no such name; what the system withholds is there, and a fault of its own."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _missing(cache: FeatureCache) -> Iterator[Fault]:
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
        elif recipe := read_record(folder / "recipe.json"):
            for trained in _unrecorded(folder, recipe):
                reason = "is gone, so that no reader finds the features beside it"
                yield Fault(f"{place}/{trained}/trained.json", "training", reason, MISSING)


def _unrecorded(folder: Path, recipe: Recipe) -> Iterator[str]:
    """Networks of a recipe whose record is not there, though features are: whatever they are, nothing else tells it."""
    for block in listing(folder):
        unrecorded = block.is_dir() and block.name != FROZEN and _is_gone(block / "trained.json")
        if recipe.sees_labels and unrecorded and part_files(block):
            yield block.name
