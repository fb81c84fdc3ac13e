"""Digests: what a thing is named after.

Every digest is SHA-256 over bytes that are the same on every machine: canonical JSON (sorted keys, no spaces,
UTF-8) for records, and name, dtype, shape and little-endian C-order bytes for arrays. File names carry the first
16 hexadecimal digits.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> str:
    """JSON text of `value`, equal for equal values and always UTF-8: bytes of names that are not are escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode()


def digest(value: object) -> str:
    """SHA-256 (64 hex digits) of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest16(value: object) -> str:
    """First 16 hex digits of `digest`."""
    return digest(value)[:16]


def file_digest(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as stream:
        return stream_digest(stream)


def stream_digest(stream: BinaryIO, *, at_most: int | None = None) -> str:
    """SHA-256 (64 hex digits) of a stream's bytes from where it stands, and of no more than `at_most` of them."""
    state = hashlib.sha256()
    left = sys.maxsize if at_most is None else at_most
    while chunk := stream.read(min(_CHUNK_BYTES, left)):
        state.update(chunk)
        left -= len(chunk)
    return state.hexdigest()


def clip_digest(file_sha256: str, start_s: float, end_s: float | None) -> str:
    """Digest of a clip: its file's bytes and its window in seconds; neither name nor label."""
    return digest(
        {"file": file_sha256, "start_s": float(start_s), "end_s": None if end_s is None else float(end_s)}
    )


def content_digest(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> str:
    """SHA-256 of a part's whole content: names, dtypes, shapes, values and attributes."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        state.update(canonical_json([name, array.dtype.str, list(array.shape)]).encode())
        state.update(array.data if array.size else b"")
    state.update(canonical_json(dict(attributes)).encode())
    return state.hexdigest()


def trained_digest16(roles: Iterable[tuple[str, str, str]]) -> str:
    """`trained16`: the digest of the sorted (clip digest, label, role) that a network was tuned on."""
    return digest16(sorted(list(role) for role in roles))


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all of `parts` (a recipe's seed, a `trained16`, an epoch, ...)."""
    return int(digest([str(part) for part in parts])[:16], 16) >> 1
