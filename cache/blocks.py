"""The parts of one network in its folder: which clips they hold, their rows put in order.

A part is taken when its bytes are what was written and it says that it belongs here; any other is set aside, and its
clips count as missing. Of several parts that hold a clip the first by name stands.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.columns import Digests, lookup, repeated
from moodfuse.cache.errors import CacheError, DamagedPartError
from moodfuse.cache.storage.files import listing, set_aside
from moodfuse.cache.storage.layout import folder_of
from moodfuse.cache.storage.parts import SCHEMA, FileState, file_state, open_part

FORMAT = "moodfuse-part"
CLASSES = "classes"
"""Attribute of a part with logits: the class of each column. Parts of before it was written lack it."""
PART_BYTES = 1 << 25
"""A part of several clips holds so many bytes of arrays at most."""
Arrays = Mapping[str, np.ndarray]
_CLIP, _VALUE = np.dtype("S64"), np.dtype("<f4")
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
    axes : tuple of tuple of str
        The classes of the columns of ``logits``, as each part that says so has them; each such axis once.
    """

    arrays: Arrays
    found: NDArray[np.bool_]
    axes: tuple[tuple[str, ...], ...] = ()


def part_files(folder: Path) -> list[Path]:
    """Parts in a folder by name; temporaries and what was set aside are none."""
    return listing(folder, suffix=".h5")


@contextmanager
def opened(owner: Owner, file: Path) -> Iterator[tuple[Mapping[str, h5py.Dataset], Mapping[str, Any]]]:
    """The arrays of a checked part for reading, with its attributes, after checking that it belongs to `owner`.

    Raises
    ------
    DamagedPartError
    """
    with open_features(file) as (part, attributes):
        _check_belongs(owner, file, attributes)
        yield part, attributes


@contextmanager
def open_features(file: Path) -> Iterator[tuple[Mapping[str, h5py.Dataset], Mapping[str, Any]]]:
    """The arrays of a part of features of any source for reading, with its attributes; both are checked before.

    Raises
    ------
    DamagedPartError
        If it is not what its name says, or holds something else than features: it has no clips, no embedding, arrays of
        another form, or logits that do not fit its classes.
    """
    with open_part(file) as (part, attributes):
        if attributes.get("format") != FORMAT:
            raise DamagedPartError(f"{file}: is of format {attributes.get('format')!r}; expected {FORMAT!r}")
        classes = attributes.get(CLASSES, [])
        if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
            raise DamagedPartError(f"{file}: its classes are {classes!r:.99}; expected a list of labels")
        for name in ("clip", "embedding"):
            if name not in part:
                raise DamagedPartError(f"{file}: has no array {name!r}")
        for name, data in part.items():
            _check_array(file, name, data, part["clip"].shape[:1])
        width = part["logits"].shape[1] if "logits" in part else 0
        if classes and width != len(classes):
            raise DamagedPartError(
                f"{file}: has {width} columns of logits; expected {len(classes)}, one per class"
            )
        yield part, attributes


def _check_array(file: Path, name: str, data: h5py.Dataset, rows: tuple[int, ...]) -> None:
    """Check that an array is what a part of features has: clips as 64 bytes each, or float32 with a row a clip."""
    dtype, ndim = (_CLIP, 1) if name == "clip" else (_VALUE, 2)
    if data.dtype != dtype or len(data.shape) != ndim or data.shape[:1] != rows or data.chunks:
        found = f"bytes of length {data.dtype.itemsize}" if data.dtype.kind == "S" else data.dtype
        wanted = (
            "bytes of length 64 and shape (N,)"
            if name == "clip"
            else f"float32 of shape ({[*rows, 'N'][0]}, D)"
        )
        raise DamagedPartError(
            f"{file}: {name} is {found} of shape {data.shape}{', stored in chunks' if data.chunks else ''}; expected "
            f"{wanted}, stored without chunks or compression"
        )


def _check_belongs(owner: Owner, file: Path, attributes: Mapping[str, Any]) -> None:
    """Hold a part to its folder. Of sources whose folders have one name the recipe decides."""
    found = (folder_of(str(attributes.get("source"))), attributes.get("recipe"), attributes.get("trained"))
    if found != (folder_of(owner.source), owner.recipe, owner.trained):
        raise DamagedPartError(f"{file}: belongs to {'/'.join(map(str, found))}")


def sound_parts(owner: Owner, *, but: Container[Path] = ()) -> Iterator[tuple[Path, Digests]]:
    """Every sound part, but some, with its clips; a damaged one is set aside."""
    for file in (file for file in part_files(owner.folder) if file not in but):
        try:
            yield file, clips_of(owner, file)
        except DamagedPartError as error:
            set_aside(file, str(error))


def clips_of(owner: Owner, file: Path) -> Digests:
    """Clips of a part; of one that this process has checked and that was not replaced since, from memory.

    A writer looks at every part of its folder for each that it writes: opening them all takes a minute at 500 parts.
    """
    key = (file_state(file), owner.recipe, owner.trained)
    clips = _clips.get(key)
    if clips is None:
        with opened(owner, file) as (part, _):
            clips = part["clip"][()]
        check_each_once(file, clips)
        if len(clips) <= _REMEMBERED_CLIPS:
            if len(_clips) >= _REMEMBERED_PARTS:
                _clips.clear()
            _clips[key] = clips
    return clips


def check_each_once(file: Path, clips: Digests) -> None:
    """Refuse a part that holds a clip twice: which of the rows is meant, nobody could say.

    Raises
    ------
    DamagedPartError
    """
    if clip := repeated(clips):
        raise DamagedPartError(f"{file}: holds clip {clip.decode()[:16]} twice")


def held(owner: Owner) -> Digests:
    """Digests of the clips that the folder's sound parts hold, sorted, each once."""
    return np.unique(joined(clips for _, clips in sound_parts(owner)))


def joined(parts: Iterable[Digests]) -> Digests:
    """The clips of some parts, one after the other."""
    return np.concatenate([np.zeros(0, dtype="S64"), *parts])


def read_rows(owner: Owner, wanted: Digests, names: Sequence[str]) -> Rows:
    """Rows of the wanted clips; each array in one piece of memory, filled part by part.

    Parameters
    ----------
    owner : Owner
    wanted : ndarray of S64, shape (N,)
    names : sequence of str
        Arrays; one that some part lacks is left out.
    """
    return read_from(owner, dict(sound_parts(owner)), wanted, names)


def read_from(owner: Owner, parts: Mapping[Path, Digests], wanted: Digests, names: Sequence[str]) -> Rows:
    """`read_rows` from parts that are listed already, each with its clips."""
    places = _places(list(parts.values()), wanted)
    found = np.zeros(len(wanted), dtype=bool)
    arrays: dict[str, np.ndarray] = {}
    lacking: set[str] = set()
    axes: set[tuple[str, ...]] = set()
    for file, rows in zip(parts, places, strict=True):
        new = np.flatnonzero((rows >= 0) & ~found[rows])
        if not len(new):
            continue
        try:
            with opened(owner, file) as (part, attributes):
                axes |= {tuple(attributes[CLASSES])} if attributes.get(CLASSES) else set()
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
    arrays = {name: array for name, array in arrays.items() if name not in lacking}
    _fill_twins(wanted, arrays, found)
    return Rows(arrays, found, tuple(sorted(axes)))


def _fill_twins(wanted: Digests, arrays: Arrays, found: NDArray[np.bool_]) -> None:
    """Give a clip that is wanted twice, as two copies of one file are, its rows in the other places as well."""
    if found.all() or not found.any():
        return
    here, open_places = np.flatnonzero(found), np.flatnonzero(~found)
    order = here[np.argsort(wanted[here])]
    twins = lookup(wanted[order], wanted[open_places])
    filled = open_places[twins >= 0]
    for array in arrays.values():
        array[filled] = array[order[twins[twins >= 0]]]
    found[filled] = True


def _check_fits(file: Path, data: h5py.Dataset, clips: int, out: np.ndarray) -> None:
    """Refuse an array that has not a row a clip, and one whose rows are not like those of the parts before."""
    if data.shape[:1] != (clips,):
        raise DamagedPartError(f"{file}: {data.name} of shape {data.shape} for {clips} clips")
    if data.shape[1:] != out.shape[1:]:
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
        if number in found or not _same(parts[number], wanted[cursor : cursor + size]):
            break
        found[number] = np.arange(cursor, cursor + size)
        cursor += size
    if rest := [number for number in range(len(parts)) if number not in found]:
        order = np.append(np.argsort(wanted, kind="stable"), -1)  # what is not wanted is found at place -1
        places = order[lookup(wanted[order[:-1]], np.concatenate([parts[number] for number in rest]))]
        found |= zip(
            rest, np.split(places, np.cumsum([len(parts[number]) for number in rest[:-1]])), strict=True
        )
    return [found[number] for number in range(len(parts))]


def _same(one: Digests, other: Digests) -> bool:
    """Whether two stretches hold the same clips: compared as numbers, which takes an eighth of the time of texts."""
    numbers = [np.ascontiguousarray(clips).view(np.uint64) for clips in (one, other)]
    return np.array_equal(numbers[0], numbers[1])
