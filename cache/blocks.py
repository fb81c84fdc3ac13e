"""The features of one network: the parts in its folder, which clips they hold, reading and adding rows.

A part is used if its bytes are those that were written and its attributes belong to the folder; any other is
quarantined, and its clips count as missing. Of several parts with the same clip the first by name counts.
Stored rows are never written again: where new values differ in a bit, a warning is logged and the old ones
stay.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.digests import Digests, digest16, lookup, repeated
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError
from moodfuse.cache.storage.files import listing, read_valid
from moodfuse.cache.storage.layout import folder_of
from moodfuse.cache.storage.parts import SCHEMA, open_part, write_part

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
class NetworkFolder:
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
    """Arrays [N, ...] of the requested clips, in order, with 0 in rows of clips that have none.

    `present` is bool [N]; `axes` are the classes of the columns of ``logits`` as the parts name them, each
    different axis once.
    """

    arrays: Arrays
    present: NDArray[np.bool_]
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
        if missing := {"clip", "embedding"} - set(part):
            raise DamagedPartError(f"{file}: has no array {missing.pop()!r}")
        for name, data in part.items():
            dtype, ndim, form = ("S64", 1, "(N,)") if name == "clip" else ("<f4", 2, "(N, D)")
            is_aligned = len(data.shape) == ndim and len(data) == len(part["clip"])
            if data.dtype != dtype or not is_aligned or data.chunks:
                chunks = ", stored in chunks" if data.chunks else ""
                raise DamagedPartError(
                    f"{file}: {name} is {data.dtype} of shape {data.shape}{chunks}; expected "
                    f"{np.dtype(dtype)} of shape {form}, a row per clip, stored without chunks or compression"
                )
        classes = attributes.get(CLASSES, [])
        width = part["logits"].shape[1] if "logits" in part else 0
        if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
            raise DamagedPartError(f"{file}: its classes are {classes!r:.99}; expected a list of labels")
        if classes and width != len(classes):
            raise DamagedPartError(
                f"{file}: has {width} columns of logits; expected {len(classes)}, one per class"
            )
        yield part, attributes


@contextmanager
def _open_own(owner: NetworkFolder, file: Path) -> Iterator[Part]:
    """`open_features` of a part that must belong to `owner`."""
    with open_features(file) as (part, attributes):
        source = folder_of(str(attributes.get("source")))
        network = (source, attributes.get("recipe"), attributes.get("trained"))
        if network != (folder_of(owner.source), owner.recipe, owner.trained):
            raise DamagedPartError(f"{file}: belongs to {'/'.join(map(str, network))}")
        yield part, attributes


def read_part_clips(owner: NetworkFolder, file: Path) -> Digests:
    """Clips of a part that must belong to `owner`."""
    with _open_own(owner, file) as (part, _):
        clips: Digests = part["clip"][()]
    check_each_once(file, clips)
    return clips


def check_each_once(file: Path, clips: Digests) -> None:
    """Check that a part holds no clip twice; `DamagedPartError` if it does."""
    if clip := repeated(clips):
        raise DamagedPartError(f"{file}: holds clip {clip.decode()[:16]} twice")


def valid_parts(owner: NetworkFolder) -> Iterator[tuple[Path, Digests]]:
    """Every valid part with its clips; damaged ones are quarantined."""
    return read_valid(part_files(owner.folder), lambda file: read_part_clips(owner, file))


# Reading


def held(owner: NetworkFolder) -> Digests:
    """Digests of the clips with a row in the folder, sorted, each once."""
    return np.unique(np.concatenate([np.zeros(0, "S64"), *(clips for _, clips in valid_parts(owner))]))


def read_rows(owner: NetworkFolder, digests: Digests, names: Sequence[str]) -> Rows:
    """Rows of the clips, S64 [N]; an array that not every part has is left out.

    Copies of a file have one digest, and so the same row.
    """

    def read(file: Path) -> tuple[Arrays, tuple[str, ...]]:
        with _open_own(owner, file) as (part, attributes):
            arrays = {name: part[name][()] for name in ("clip", *names) if name in part}
            classes = tuple(attributes.get(CLASSES) or ())
        check_each_once(file, arrays["clip"])
        return arrays, classes

    present = np.zeros(len(digests), dtype=bool)
    arrays: dict[str, np.ndarray] = {}
    complete = set(names)
    axes: set[tuple[str, ...]] = set()
    for file, (part, classes) in read_valid(part_files(owner.folder), read):
        order = np.argsort(part["clip"])
        index = lookup(part["clip"][order], digests)
        new = (index >= 0) & ~present
        if not new.any():
            continue
        present |= new
        complete &= set(part)
        if classes:
            axes.add(classes)
        for name in complete:
            shape = (len(digests), part[name].shape[1])
            array = arrays.setdefault(name, np.zeros(shape, np.float32))
            if array.shape != shape:
                raise CacheError(
                    f"{file}: rows of {name} have {shape[1]} values, those of parts before it "
                    f"{array.shape[1]}; move this part away, then run extract again"
                )
            array[new] = part[name][order[index[new]]]
    return Rows({name: arrays[name] for name in complete & set(arrays)}, present, tuple(sorted(axes)))


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
    return np.ascontiguousarray(logits[:, [axes[0].index(label) for label in classes]])


# Writing


def write_rows(
    owner: NetworkFolder,
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


def _check_values(owner: NetworkFolder, digests: Digests, arrays: Arrays, classes: Sequence[str]) -> None:
    for name, values in arrays.items():
        if len(values) != len(digests) or values.ndim < 2 or values.dtype != np.float32:
            raise CacheError(
                f"{owner.folder}: {name} is {values.dtype}{list(values.shape)}; expected float32, a row "
                f"for each of {len(digests)} clips"
            )
        if not np.isfinite(values).all():
            row, column, *_ = np.argwhere(~np.isfinite(values))[0].tolist()
            raise CacheError(
                f"{owner.source}: {name} of clip {_short(digests[row])} is {values[row, column]} in "
                f"column {column}; nothing was stored. A network whose tuning diverged gives such numbers "
                "(lower its learning_rate), and so do damaged weights"
            )
    if classes and "logits" in arrays and arrays["logits"].shape[1] != len(classes):
        raise CacheError(
            f"{owner.folder}: logits have {arrays['logits'].shape[1]} columns; expected {len(classes)}: "
            f"{', '.join(classes)}"
        )


def _short(digest: bytes) -> str:
    return digest.decode()[:16]


def _differing(owner: NetworkFolder, digests: Digests, arrays: Arrays) -> Digests:
    """Clips whose stored rows differ from these in any bit."""
    if not len(digests):
        return digests
    stored = read_rows(owner, digests, tuple(arrays))
    different = np.zeros(len(digests), dtype=bool)
    for name, values in arrays.items():
        stored_values = stored.arrays.get(name)
        if stored_values is None or stored_values.shape != values.shape:
            different[:] = True
        else:
            bits = [np.ascontiguousarray(array).view(np.uint32) for array in (values, stored_values)]
            different |= (bits[0] != bits[1]).any(axis=1)
    return digests[different & stored.present]


def disagreements(owner: NetworkFolder) -> list[str]:
    """Sentences on parts of a folder that hold clips with other values than earlier parts."""
    stored: dict[bytes, tuple[Path, list[bytes]]] = {}
    sentences = []
    for file, _ in valid_parts(owner):
        with _open_own(owner, file) as (part, _):
            arrays = [part[name][()] for name in sorted(part)]
            clips = part["clip"][()].tolist()
        differing: Counter[str] = Counter()
        for row, clip in enumerate(clips):
            values = [array[row].tobytes() for array in arrays]
            first, first_values = stored.setdefault(clip, (file, values))
            differing[first.name] += values != first_values
        sentences += [
            f"{file}: {count} rows differ from those of {first}, which are used"
            for first, count in sorted(differing.items())
            if count
        ]
    return sentences
