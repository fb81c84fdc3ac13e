"""The features of one network: the parts in its folder, which clips they hold, reading and adding rows.

A part is used if its bytes are those that were written and its attributes belong to the folder; any other is
quarantined, and its clips count as missing. Of several parts with the same clip the first by name counts.
Stored rows are never written again: where new values differ in a bit, a warning is logged and the old ones
stay.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import Digests, digest16, lookup, repeated
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.storage.files import listing, read_valid, set_aside
from moodfuse.cache.storage.layout import folder_of
from moodfuse.cache.storage.parts import SCHEMA, FileState, file_state, open_part, write_part

log = logging.getLogger(__name__)
FORMAT = "moodfuse-part"
CLASSES = "classes"
"""Attribute of a part with logits: the class of each column. Old parts may not have it."""
PART_BYTES = 1 << 25
"""Maximum bytes of arrays in a part of several clips."""
Arrays = Mapping[str, np.ndarray]
Part = tuple[Mapping[str, h5py.Dataset], Mapping[str, Any]]
"""Arrays of a part that is open, and its attributes."""


@dataclass(frozen=True)
class Owner:
    """The network whose features a folder holds: the attributes that every part in the folder must have."""

    folder: Path
    source: str
    recipe: str
    trained: str

    @property
    def attributes(self) -> dict[str, object]:
        """Attributes of every part in the folder."""
        network = {"source": self.source, "recipe": self.recipe, "trained": self.trained}
        return {"format": FORMAT, "schema": SCHEMA, **network}


@dataclass(frozen=True)
class Rows:
    """Arrays [N, ...] of the requested clips, in order, with 0 in rows of clips that were not found.

    `found` is bool [N]; `axes` are the classes of the columns of ``logits`` as the parts name them, each
    different axis once.
    """

    arrays: Arrays
    found: NDArray[np.bool_]
    axes: tuple[tuple[str, ...], ...] = ()


# Parts


def part_files(folder: Path) -> list[Path]:
    """Parts in a folder by name, without temporaries and quarantined files."""
    return listing(folder, suffix=".h5")


@contextmanager
def open_features(file: Path) -> Iterator[Part]:
    """The arrays of a part of features for reading, with its attributes; both are checked.

    Raises `DamagedPartError` if the content does not match the name, or it has no clips, no embedding, arrays
    of another form, or logits that do not fit the classes.
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
    """Check the form of an array: clips as 64 bytes each, anything else as float32 with a row per clip."""
    dtype, ndim = (np.dtype("S64"), 1) if name == "clip" else (np.dtype("<f4"), 2)
    if data.dtype != dtype or len(data.shape) != ndim or data.shape[:1] != rows or data.chunks:
        chunks = ", stored in chunks" if data.chunks else ""
        shape = "(N,)" if name == "clip" else f"({[*rows, 'N'][0]}, D)"
        raise DamagedPartError(
            f"{file}: {name} is {data.dtype} of shape {data.shape}{chunks}; expected {dtype} of shape "
            f"{shape}, stored without chunks or compression"
        )


@contextmanager
def _open_own(owner: Owner, file: Path) -> Iterator[Part]:
    """`open_features` of a part that must belong to `owner`."""
    with open_features(file) as (part, attributes):
        source = folder_of(str(attributes.get("source")))
        network = (source, attributes.get("recipe"), attributes.get("trained"))
        if network != (folder_of(owner.source), owner.recipe, owner.trained):
            raise DamagedPartError(f"{file}: belongs to {'/'.join(map(str, network))}")
        yield part, attributes


def clips_of(owner: Owner, file: Path) -> Digests:
    """Clips of a part, remembered per process: a writer lists every part of its folder for each new one."""
    return _clips_of(owner, file_state(file))


@lru_cache(maxsize=1 << 14)
def _clips_of(owner: Owner, state: FileState) -> Digests:
    file = Path(state[0])
    with _open_own(owner, file) as (part, _):
        clips: Digests = part["clip"][()]
    check_each_once(file, clips)
    return clips


def check_each_once(file: Path, clips: Digests) -> None:
    """Check that a part holds no clip twice; `DamagedPartError` if it does."""
    if clip := repeated(clips):
        raise DamagedPartError(f"{file}: holds clip {clip.decode()[:16]} twice")


def valid_parts(owner: Owner) -> Iterator[tuple[Path, Digests]]:
    """Every valid part with its clips; damaged ones are quarantined."""
    return read_valid(part_files(owner.folder), lambda file: clips_of(owner, file))


def _joined(parts: Iterable[Digests]) -> Digests:
    return np.concatenate([np.zeros(0, dtype="S64"), *parts])


# Reading


def held(owner: Owner) -> Digests:
    """Digests of the clips with a row in the folder, sorted, each once."""
    return np.unique(_joined(clips for _, clips in valid_parts(owner)))


def read_rows(owner: Owner, wanted: Digests, names: Sequence[str]) -> Rows:
    """Rows of the wanted clips, S64 [N]; an array that not every part has is left out."""
    # Two copies of a file have one digest: such a clip is read once, and copied to its other rows at the end.
    unique, first, inverse = np.unique(wanted, return_index=True, return_inverse=True)
    found = np.zeros(len(wanted), dtype=bool)
    arrays: dict[str, np.ndarray] = {}
    incomplete: set[str] = set()
    axes: set[tuple[str, ...]] = set()
    for file, clips in valid_parts(owner):
        index = lookup(unique, clips)
        rows = np.flatnonzero(index >= 0)
        rows = rows[~found[first[index[rows]]]]
        if not len(rows):
            continue
        target = first[index[rows]]
        try:
            with _open_own(owner, file) as (part, attributes):
                axes |= {tuple(attributes[CLASSES])} if attributes.get(CLASSES) else set()
                incomplete |= {name for name in names if name not in part}
                for name in set(names) & set(part):
                    data = part[name]
                    array = arrays.setdefault(name, np.zeros((len(wanted), data.shape[1]), data.dtype))
                    _check_width(file, data, array)
                    array[target] = data[()][rows]
        except DamagedPartError as error:  # damaged after it was listed; its rows may be in a later part
            set_aside(file, str(error))
            continue
        found[target] = True
    arrays = {name: array for name, array in arrays.items() if name not in incomplete}
    if len(unique) < len(wanted):
        for array in (*arrays.values(), found):
            array[:] = array[first[inverse]]
    return Rows(arrays, found, tuple(sorted(axes)))


def _check_width(file: Path, data: h5py.Dataset, array: np.ndarray) -> None:
    if data.shape[1] != array.shape[1]:
        raise CacheError(
            f"{file}: rows of {data.name} have {data.shape[1]} values, those of parts before it "
            f"{array.shape[1]}; move the part away that does not belong here, then run extract again"
        )


def align_logits(rows: Rows, classes: Sequence[str], *, where: str, remedy: str) -> np.ndarray | None:
    """Logits with their columns in the order of `classes`, float32 [N, C]; `None` where there are none.

    If the parts name no classes, only the width is checked. `where` and `remedy` begin and end the message of
    the `InputError` if the columns are of other classes.
    """
    logits = rows.arrays.get("logits")
    if logits is None:
        return None
    axes, width = rows.axes or (tuple(classes),), logits.shape[1]
    for axis in axes:
        if len(axis) != width or sorted(axis) != sorted(classes):
            columns = ", ".join(axis) if len(axis) == width else f"{width} classes"
            raise InputError(
                f"{where}: its logits are of {columns}, but the labels are {', '.join(classes)}; {remedy}"
            )
    if len(axes) > 1:
        raise InputError(f"{where}: its parts have the classes of their logits in different orders; {remedy}")
    if axes[0] == tuple(classes):
        return logits
    return np.ascontiguousarray(logits[:, [axes[0].index(label) for label in classes]])


# Writing


def write_rows(
    owner: Owner,
    clips: Sequence[str] | Digests,
    arrays: Arrays,
    *,
    classes: Sequence[str] = (),
) -> int:
    """Add rows, float32 [n, ...], in one part; rows that are stored are compared, not written.

    `classes` are those of the columns of ``logits``. Returns the number of rows that are stored with other
    values: those stay, and a warning is logged.
    """
    digests = np.asarray(clips, dtype="S64")
    if clip := repeated(digests):
        raise CacheError(f"{owner.folder}: two rows for clip {_short(clip)}; expected one per clip")
    _check_values(owner, digests, arrays, classes)
    known = np.isin(digests, held(owner))
    if not known.all():
        content = {**_take(arrays, ~known), "clip": digests[~known]}
        stem = digest16(digests[~known].astype("U64").tolist())[:8]
        attributes = owner.attributes | ({CLASSES: list(classes)} if "logits" in arrays and classes else {})
        write_part(owner.folder, stem, content, attributes)
    differing = _differing(owner, digests[known], _take(arrays, known))
    if len(differing):
        log.warning(
            f"{owner.folder}: {len(differing)} of {len(digests)} rows differ from the stored ones, which "
            f"stay (first clip: {_short(differing[0])}): the same recipe gives different numbers here; see "
            "`moodfuse cache verify`"
        )
    return len(differing)


def _take(arrays: Arrays, rows: NDArray[Any]) -> Arrays:
    return {name: values[rows] for name, values in arrays.items()}


def _check_values(owner: Owner, digests: Digests, arrays: Arrays, classes: Sequence[str]) -> None:
    for name, values in arrays.items():
        if len(values) != len(digests) or values.ndim < 2:
            shape = list(values.shape)
            raise CacheError(
                f"{owner.folder}: {name} is {shape}; expected a row for each of {len(digests)} clips"
            )
        if values.dtype != np.float32:
            raise CacheError(f"{owner.folder}: {name} is {values.dtype}; expected float32")
        if np.isfinite(values).all():
            continue
        row, column, *_ = np.argwhere(~np.isfinite(values))[0].tolist()
        raise CacheError(
            f"{owner.source}: {name} of clip {_short(digests[row])} is {values[row, column]} in column "
            f"{column}; nothing was stored. A network whose tuning diverged gives such numbers (lower its "
            "learning_rate), and so do damaged weights"
        )
    width = arrays["logits"].shape[1] if classes and "logits" in arrays else len(classes)
    if width != len(classes):
        raise CacheError(
            f"{owner.folder}: logits have {width} columns; expected {len(classes)}: {', '.join(classes)}"
        )


def _short(digest: bytes) -> str:
    return digest.decode()[:16]


def _differing(owner: Owner, digests: Digests, arrays: Arrays) -> Digests:
    """Clips whose stored rows differ from these in any bit."""
    if not len(digests):
        return digests
    stored = read_rows(owner, digests, tuple(arrays))
    different = np.zeros(len(digests), dtype=bool)
    for name, values in arrays.items():
        different |= _rows_differ(values, stored.arrays[name]) if name in stored.arrays else True
    return digests[different & stored.found]


def _rows_differ(one: np.ndarray, other: np.ndarray) -> NDArray[np.bool_]:
    """Which rows differ in any bit, bool [n]."""
    if one.shape != other.shape:
        return np.ones(len(one), dtype=bool)
    bits = [np.ascontiguousarray(array).view(np.uint32) for array in (one, other)]
    return np.asarray((bits[0] != bits[1]).any(axis=1))


def disagreements(owner: Owner) -> list[str]:
    """Sentences on parts of a folder that hold clips with other values than earlier parts."""
    parts = list(valid_parts(owner))
    clips, counts = np.unique(_joined(clips for _, clips in parts), return_counts=True)
    stored: dict[bytes, tuple[Path, dict[str, bytes]]] = {}
    sentences = []
    for file, digests in parts:
        rows = np.flatnonzero(np.isin(digests, clips[counts > 1]))
        with _open_own(owner, file) as (part, _):
            arrays = {name: part[name][()][rows] for name in sorted(part)}
        differing: Counter[Path] = Counter()
        for number, clip in enumerate(arrays["clip"].tolist()):
            values = {name: array[number].tobytes() for name, array in arrays.items()}
            first, first_values = stored.setdefault(clip, (file, values))
            differing[first] += values != first_values
        sentences += [
            f"{file}: {count} rows differ from those of {first.name}, which are used"
            for first, count in sorted(differing.items())
            if count
        ]
    return sentences
