"""Digests: SHA-256 over bytes that are the same on every machine.

A record is hashed as canonical JSON (sorted keys, no spaces, UTF-8), an array as its name, dtype, shape and
little-endian C-order bytes. File names carry the first 16 hexadecimal digits.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.bytes_]
"""Clip digests, S64 [N]."""


def canonical_json(value: object) -> str:
    """JSON text of `value`, the same for equal values, always UTF-8 (stray bytes of names are escaped)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()


def digest(value: object) -> str:
    """SHA-256 (64 hex digits) of a JSON-serialisable value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest16(value: object) -> str:
    """First 16 hex digits of `digest`."""
    return digest(value)[:16]


def file_digest(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def clip_digest(file_sha256: str, start_s: float, end_s: float | None) -> str:
    """Digest of a clip: the bytes of its file and its window in seconds; neither its name nor its label."""
    return digest(
        {"file": file_sha256, "start_s": float(start_s), "end_s": None if end_s is None else float(end_s)}
    )


def content_digest(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> str:
    """SHA-256 of the whole content of a part: names, dtypes, shapes, values and attributes."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        state.update(canonical_json([name, array.dtype.str, list(array.shape)]).encode())
        state.update(array.data if array.size else b"")
    state.update(canonical_json(dict(attributes)).encode())
    return state.hexdigest()


def training_digest16(training_clips: Iterable[tuple[str, str, str]]) -> str:
    """`trained16`: digest of the sorted (clip digest, label, role) that a network was tuned on."""
    return digest16(sorted(list(role) for role in training_clips))


def derived_seed(*parts: object) -> int:
    """A 63-bit random seed that depends on all of `parts` (a recipe's seed, a `trained16`, an epoch, ...)."""
    return int(digest([str(part) for part in parts])[:16], 16) >> 1


def digest_array(digests: Iterable[str]) -> Digests:
    """Digests as an array, S64 [N]."""
    return np.array(list(digests), dtype="S64")


def lookup(ordered: Digests, digests: Digests) -> NDArray[np.int64]:
    """Index of each digest in a sorted array, int64 [N]; -1 where it is missing."""
    if not len(ordered):
        return np.full(len(digests), -1, dtype=np.int64)
    index = np.searchsorted(ordered, digests)
    index[index == len(ordered)] = 0
    return np.where(ordered[index] == digests, index, -1)


def repeated(digests: Digests) -> bytes | None:
    """A digest that occurs more than once, or `None`."""
    values, counts = np.unique(digests, return_counts=True)
    return bytes(values[counts > 1][0]) if (counts > 1).any() else None
