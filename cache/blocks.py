"""The parts of one network in its folder: which clips they hold, their rows put in order, new rows added.

A part is taken when its bytes are what was written and it says that it belongs here; any other is set aside, and its
clips count as missing. Of several parts that hold a clip the first by name stands. Rows that are held already are not
written again: if they come out otherwise, that is said, and what was there first stays.
"""

import json
import logging
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cache.columns import Digests, lookup
from cache.errors import CacheError, DamagedPartError
from cache.files import set_aside
from cache.identity import digest16
from cache.parts import SCHEMA, FileState, file_state, open_part, write_part

log = logging.getLogger(__name__)
FORMAT = "moodfuse-part"
PART_BYTES = 1 << 25
"""A part of several clips holds so many bytes of arrays at most."""
Arrays = Mapping[str, np.ndarray]
_NONDETERMINISM = (
    "%s: %d of %d rows came out otherwise than those that are kept, which stay (first clip: %.16s): the same recipe "
    "gives different numbers here; see `moodfuse cache verify`"
)
_REMEMBERED_PARTS, _REMEMBERED_CLIPS = 1 << 14, 1 << 10
"""The clips of so many checked parts are remembered, where a part holds no more than so many: 64 bytes each."""
_clips: dict[tuple[FileState, str, str], Digests] = {}


@dataclass(frozen=True)
class Owner:
    """Whose rows a folder holds.

    Attributes
    ----------
    folder : Path
    source, recipe, trained : str
        As the attributes of a part have them; a part of another recipe or training does not belong here.
    """

    folder: Path
    source: str
    recipe: str
    trained: str

    @property
    def attributes(self) -> dict[str, object]:
        """Attributes of every part in the folder."""
        return {
            "format": FORMAT,
            "schema": SCHEMA,
            "source": self.source,
            "recipe": self.recipe,
            "trained": self.trained,
        }


@dataclass(frozen=True)
class Rows:
    """Arrays of some clips, in the order they were asked for.

    Attributes
    ----------
    arrays : mapping of str to ndarray, shape (N, ...)
        Rows of clips that were not found are 0.
    found : ndarray of bool, shape (N,)
    """

    arrays: Arrays
    found: NDArray[np.bool_]


def part_files(folder: Path) -> list[Path]:
    """Parts in a folder by name; temporaries and what was set aside are none."""
    if not folder.is_dir():
        return []
    return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".h5") and not name.startswith(".")]


@contextmanager
def _opened(owner: Owner, file: Path) -> Iterator[h5py.File]:
    with open_part(file) as part:
        attributes = json.loads(part.attrs["attributes"])
        if (attributes.get("recipe"), attributes.get("trained")) != (owner.recipe, owner.trained):
            raise DamagedPartError(f"{file}: belongs to {attributes.get('recipe')}/{attributes.get('trained')}")
        yield part


def _parts(owner: Owner, *, but: Container[Path] = ()) -> Iterator[tuple[Path, Digests]]:
    """Every sound part, but some, with its clips; a damaged one is set aside."""
    for file in (file for file in part_files(owner.folder) if file not in but):
        try:
            yield file, _clips_of(owner, file)
        except DamagedPartError as error:
            set_aside(file, str(error))


def _clips_of(owner: Owner, file: Path) -> Digests:
    """Clips of a part; of one that this process has checked and that was not replaced since, from memory.

    A writer looks at every part of its folder for each that it writes: opening them all takes a minute at 500 parts.
    """
    key = (file_state(file), owner.recipe, owner.trained)
    clips = _clips.get(key)
    if clips is None:
        with _opened(owner, file) as part:
            clips = np.asarray(part["clip"][()], dtype="S64")
        if len(clips) <= _REMEMBERED_CLIPS:
            if len(_clips) >= _REMEMBERED_PARTS:
                _clips.clear()
            _clips[key] = clips
    return clips


def held(owner: Owner) -> Digests:
    """Digests of the clips that the folder's sound parts hold, sorted, each once."""
    return _sorted(clips for _, clips in _parts(owner))


def _sorted(parts: Iterable[Digests]) -> Digests:
    return np.unique(np.concatenate([np.zeros(0, dtype="S64"), *parts]))


def read_rows(owner: Owner, wanted: Digests, names: Sequence[str]) -> Rows:
    """Rows of the wanted clips; each array in one piece of memory, filled part by part.

    Parameters
    ----------
    owner : Owner
    wanted : ndarray of S64, shape (N,)
    names : sequence of str
        Arrays; one that some part lacks is left out.
    """
    return _read(owner, dict(_parts(owner)), wanted, names)


def _read(owner: Owner, parts: Mapping[Path, Digests], wanted: Digests, names: Sequence[str]) -> Rows:
    places = _places(list(parts.values()), wanted)
    found = np.zeros(len(wanted), dtype=bool)
    arrays: dict[str, np.ndarray] = {}
    lacking: set[str] = set()
    for file, rows in zip(parts, places, strict=True):
        new = np.flatnonzero((rows >= 0) & ~found[rows])
        if not len(new):
            continue
        try:
            with _opened(owner, file) as part:
                for name in names:
                    if name not in part:
                        lacking.add(name)
                        continue
                    data = part[name]
                    if name not in arrays:
                        arrays[name] = np.zeros((len(wanted), *data.shape[1:]), dtype=data.dtype)
                    _check_fits(file, data, len(rows), arrays[name])
                    _fill(arrays[name], data, rows, new)
        except DamagedPartError as error:  # since it was listed; its rows may stand in a later part
            set_aside(file, str(error))
            continue
        found[rows[new]] = True
    return Rows({name: array for name, array in arrays.items() if name not in lacking}, found)


def _check_fits(file: Path, data: h5py.Dataset, clips: int, out: np.ndarray) -> None:
    """Refuse an array that has not a row a clip, and one whose rows are not like those of the parts before."""
    if data.shape[:1] != (clips,):
        raise DamagedPartError(f"{file}: {data.name} of shape {data.shape} for {clips} clips")
    if data.shape[1:] != out.shape[1:] or data.dtype != out.dtype:
        raise CacheError(
            f"{file}: rows of {data.name} are {data.dtype}{list(data.shape[1:])}, those of parts before it "
            f"{out.dtype}{list(out.shape[1:])}; move the part away that does not belong here, then run extract again"
        )


def _fill(out: np.ndarray, data: h5py.Dataset, rows: NDArray[np.int64], new: NDArray[np.int64]) -> None:
    """Copy rows `new` of a dataset to their places; without a copy in between where they lie in one stretch."""
    first = int(rows[0])
    if len(new) == len(rows) and rows[-1] - first == len(rows) - 1 and (np.diff(rows) == 1).all():
        data.read_direct(out, dest_sel=np.s_[first : first + len(rows)])
    else:
        out[rows[new]] = data[()][new]


def _places(parts: Sequence[Digests], wanted: Digests) -> list[NDArray[np.int64]]:
    """Place of every clip of every part among the wanted ones; -1 for one that is not wanted.

    Parts that hold a stretch of the wanted clips in their order, as imports do, are matched without sorting.
    """
    starts = {clips[0]: number for number, clips in enumerate(parts) if len(clips)}
    found: dict[int, NDArray[np.int64]] = {}
    cursor = 0
    while cursor < len(wanted) and (number := starts.get(wanted[cursor])) is not None:
        size = len(parts[number])
        if number in found or not np.array_equal(parts[number], wanted[cursor : cursor + size]):
            break
        found[number] = np.arange(cursor, cursor + size)
        cursor += size
    if rest := [number for number in range(len(parts)) if number not in found]:
        order = np.append(np.argsort(wanted, kind="stable"), -1)  # what is not wanted is found at place -1
        places = order[lookup(wanted[order[:-1]], np.concatenate([parts[number] for number in rest]))]
        found |= zip(rest, np.split(places, np.cumsum([len(parts[number]) for number in rest[:-1]])), strict=True)
    return [found[number] for number in range(len(parts))]


def write_rows(owner: Owner, clips: Sequence[str] | Digests, arrays: Arrays, *, stem: str = "") -> int:
    """Add rows in one part; those that the folder holds already are compared, not written.

    Parameters
    ----------
    owner : Owner
    clips : sequence of str, or ndarray of S64, shape (n,)
    arrays : mapping of str to ndarray, shape (n, ...)
    stem : str
        First part of the file's name; by default from the clips.

    Returns
    -------
    int
        How many rows were there already with other values: they stay, and a warning says so.
    """
    digests = np.asarray(clips, dtype="S64")
    before = dict(_parts(owner))
    have = lookup(_sorted(before.values()), digests) >= 0
    differing = _differing(owner, before, digests[have], {name: value[have] for name, value in arrays.items()})
    if not have.all():
        new = ~have
        content = {**{name: value[new] for name, value in arrays.items()}, "clip": digests[new]}
        stem = stem or digest16([clip.decode() for clip in digests[new].tolist()])[:8]
        written = write_part(owner.folder, stem, content, owner.attributes)
        differing += _differing_meanwhile(owner, written, before)
    return differing


def _differing(owner: Owner, parts: Mapping[Path, Digests], digests: Digests, arrays: Arrays) -> int:
    """How many rows that are held differ in any bit from these."""
    if not len(digests):
        return 0
    kept = _read(owner, parts, digests, tuple(arrays))
    different = np.zeros(len(digests), dtype=bool)
    for name, values in arrays.items():
        different |= _rows_differ(values, kept.arrays[name]) if name in kept.arrays else True
    different &= kept.found
    if different.any():
        log.warning(_NONDETERMINISM, owner.folder, different.sum(), len(digests), digests[different][0].decode())
    return int(different.sum())


def _differing_meanwhile(owner: Owner, written: Path, before: Iterable[Path]) -> int:
    """How many rows of a part differ from those that others wrote meanwhile: the writer that looks last sees both."""
    others = [file for file, _ in _parts(owner, but={*before, written})]
    different = [clip for file in others for clip in _differing_clips(owner, file, written).tolist()]
    if different:
        rows = len(_clips_of(owner, written))
        log.warning(_NONDETERMINISM, owner.folder, len(different), rows, different[0].decode())
    return len(different)


def _rows_differ(one: np.ndarray, other: np.ndarray) -> NDArray[np.bool_]:
    """Which rows differ in any bit, bool [n]."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return np.ones(len(one), dtype=bool)
    bits = [np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8) for array in (one, other)]
    return np.asarray((bits[0] != bits[1]).any(axis=1))


def disagreements(owner: Owner) -> list[str]:
    """Sentences on clips that two parts of a folder hold with different values."""
    known: dict[bytes, Path] = {}
    found = []
    for file, clips in _parts(owner):
        for earlier in sorted({known[clip] for clip in clips.tolist() if clip in known}):
            if count := len(_differing_clips(owner, earlier, file)):
                found.append(f"{file}: {count} rows differ from those of {earlier.name}, which stand")
        for clip in clips.tolist():
            known.setdefault(clip, file)
    return found


def _differing_clips(owner: Owner, one: Path, other: Path) -> Digests:
    """Clips that two parts hold with values that differ in any bit."""
    common, here, there = np.intersect1d(_clips_of(owner, one), _clips_of(owner, other), return_indices=True)
    if not len(common):
        return common
    different = np.zeros(len(common), dtype=bool)
    with _opened(owner, one) as first, _opened(owner, other) as second:
        for name in (set(first) | set(second)) - {"clip"}:
            both = name in first and name in second
            different |= _rows_differ(first[name][()][here], second[name][()][there]) if both else True
    return common[different]
