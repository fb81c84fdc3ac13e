"""New rows for a network's folder, and where they come out otherwise than rows that are there.

Rows that are held already are not written again: if they differ in a bit, that is said, and what was there first stays.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.blocks import CLASSES, Arrays, Owner, clips_of, joined, opened, read_from, sound_parts
from moodfuse.cache.columns import Digests, lookup, repeated
from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import CacheError
from moodfuse.cache.records import all_finite
from moodfuse.cache.storage.parts import write_part

log = logging.getLogger(__name__)
_NONDETERMINISM = (
    "%s: %d of %d rows came out otherwise than those that are kept, which stay (first clip: %.16s): the same recipe "
    "gives different numbers here; see `moodfuse cache verify`"
)


def write_rows(
    owner: Owner,
    clips: Sequence[str] | Digests,
    arrays: Arrays,
    *,
    stem: str = "",
    classes: Sequence[str] = (),
) -> int:
    """Add rows in one part; those that the folder holds already are compared, not written.

    Parameters
    ----------
    owner : Owner
    clips : sequence of str, or ndarray of S64, shape (n,)
    arrays : mapping of str to ndarray, shape (n, ...)
    stem : str
        First part of the file's name; by default from the clips.
    classes : sequence of str
        Class of each column of ``logits``.

    Returns
    -------
    int
        How many rows were there already with other values: they stay, and a warning says so.

    Raises
    ------
    CacheError
        If a value is not finite or not float32, or a clip comes twice with different rows, which names the clip; or if
        logits and classes do not fit.
    """
    digests = np.asarray(clips, dtype="S64")
    _check_values(owner, digests, arrays)
    if classes and "logits" in arrays and arrays["logits"].shape[1] != len(classes):
        width = arrays["logits"].shape[1]
        raise CacheError(
            f"{owner.folder}: logits have {width} columns; expected {len(classes)}: {', '.join(classes)}"
        )
    digests, arrays = _each_once(owner, digests, arrays)
    before = dict(sound_parts(owner))
    have = _among(digests, before.values())
    differing = _differing(
        owner, before, digests[have], {name: value[have] for name, value in arrays.items()}
    )
    if not have.all():
        new = ~have
        content = {**{name: value[new] for name, value in arrays.items()}, "clip": digests[new]}
        stem = stem or digest16([clip.decode() for clip in digests[new].tolist()])[:8]
        attributes = owner.attributes | ({CLASSES: list(classes)} if "logits" in arrays and classes else {})
        written = write_part(owner.folder, stem, content, attributes)
        differing += _differing_meanwhile(owner, written, before)
    return differing


def _check_values(owner: Owner, digests: Digests, arrays: Arrays) -> None:
    """Refuse what no reader could use, before it stands for ever."""
    for name, values in arrays.items():
        if len(values) != len(digests) or values.ndim < 2:
            raise CacheError(
                f"{owner.folder}: {name} is {list(values.shape)}; expected a row for each of {len(digests)} clips"
            )
        if not len(values) or (values.dtype == np.float32 and all_finite(values)):
            continue
        if values.dtype != np.float32:
            raise CacheError(
                f"{owner.folder}: {name} of clip {_name(digests[0])} is {values.dtype}; expected float32"
            )
        place = np.argwhere(~np.isfinite(values))[0].tolist()
        raise CacheError(
            f"{owner.source}: {name} of clip {_name(digests[place[0]])} is {values[tuple(place)]} in column "
            f"{place[1]}; nothing of it is kept. A network whose tuning diverged gives such numbers (lower its "
            "learning_rate), and so do damaged weights"
        )


def _name(digest: bytes) -> str:
    return digest.decode()[:16]


def _each_once(owner: Owner, digests: Digests, arrays: Arrays) -> tuple[Digests, Arrays]:
    """The rows with each clip once, as it comes first."""
    if repeated(digests) is None:
        return digests, arrays
    _, first, places = np.unique(digests, return_index=True, return_inverse=True)
    for name, values in arrays.items():
        if (different := np.flatnonzero(_rows_differ(values, values[first[places]]))).size:
            raise CacheError(
                f"{owner.folder}: two rows of {name} for clip {_name(digests[different[0]])} differ"
            )
    kept = np.sort(first)
    return digests[kept], {name: values[kept] for name, values in arrays.items()}


def _among(digests: Digests, parts: Iterable[Digests]) -> NDArray[np.bool_]:
    """Which clips some part holds: those of the parts are sought among these few, so that they need no sorting."""
    ranked, places = np.unique(digests, return_inverse=True)
    found = lookup(ranked, joined(parts))
    have = np.zeros(len(ranked), dtype=bool)
    have[found[found >= 0]] = True
    return np.asarray(have[places])


def _differing(owner: Owner, parts: Mapping[Path, Digests], digests: Digests, arrays: Arrays) -> int:
    """How many rows that are held differ in any bit from these."""
    if not len(digests):
        return 0
    kept = read_from(owner, parts, digests, tuple(arrays))
    different = np.zeros(len(digests), dtype=bool)
    for name, values in arrays.items():
        different |= _rows_differ(values, kept.arrays[name]) if name in kept.arrays else True
    different &= kept.found
    if different.any():
        log.warning(
            _NONDETERMINISM, owner.folder, different.sum(), len(digests), digests[different][0].decode()
        )
    return int(different.sum())


def _differing_meanwhile(owner: Owner, written: Path, before: Iterable[Path]) -> int:
    """How many rows of a part differ from those that others wrote meanwhile: the writer that looks last sees both."""
    others = [file for file, _ in sound_parts(owner, but={*before, written})]
    different = [clip for file in others for clip in _differing_clips(owner, file, written).tolist()]
    if different:
        rows = len(clips_of(owner, written))
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
    for file, clips in sound_parts(owner):
        for earlier in sorted({known[clip] for clip in clips.tolist() if clip in known}):
            if count := len(_differing_clips(owner, earlier, file)):
                found.append(f"{file}: {count} rows differ from those of {earlier.name}, which stand")
        for clip in clips.tolist():
            known.setdefault(clip, file)
    return found


def _differing_clips(owner: Owner, one: Path, other: Path) -> Digests:
    """Clips that two parts hold with values that differ in any bit."""
    common, here, there = np.intersect1d(clips_of(owner, one), clips_of(owner, other), return_indices=True)
    if not len(common):
        return common
    different = np.zeros(len(common), dtype=bool)
    with opened(owner, one) as (first, _), opened(owner, other) as (second, _):
        for name in (set(first) | set(second)) - {"clip"}:
            both = name in first and name in second
            different |= _rows_differ(first[name][()][here], second[name][()][there]) if both else True
    return common[different]
