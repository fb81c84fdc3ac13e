"""Harm that is done to a file.

Every kind that a disk does: bits flipped, bytes smashed, pages of zeros, ends cut off, things added, blocks in
each other's place, and, worse than any disk, headers edited so that they stay a header.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.storage.parts import HEADER_BYTES
from moodfuse.cache.storage.weight_files import METADATA_KEY

Mutation = Callable[[bytes, np.random.Generator], bytes]
SECTORS = (512, 4096)


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """One bit."""
    found = bytearray(data)
    found[random.integers(len(data))] ^= 1 << int(random.integers(8))
    return bytes(found)


def smash(data: bytes, random: np.random.Generator) -> bytes:
    """Up to 64 bytes, or a whole stretch, of noise."""
    length = int(random.integers(1, random.choice([2, 64, len(data)]) + 1))
    start = int(random.integers(0, max(1, len(data) - length + 1)))
    return data[:start] + random.bytes(length)[: len(data) - start] + data[start + length :]


def zero_page(data: bytes, random: np.random.Generator) -> bytes:
    """A sector or a page of zeros, aligned."""
    size = int(random.choice(SECTORS))
    start = int(random.integers(0, -(-len(data) // size))) * size
    return data[:start] + bytes(len(data[start : start + size])) + data[start + size :]


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """The end is missing."""
    sizes = (int(random.integers(len(data))), len(data) - 1, len(data) // 1024 * 512, 0)
    return data[: sizes[random.integers(len(sizes))]]


def extend(data: bytes, random: np.random.Generator) -> bytes:
    """Something stands behind the end: noise, zeros, or the file again."""
    more = [random.bytes(int(random.integers(1, 5000))), bytes(int(random.integers(1, 5000))), data, b"\n"]
    return data + more[int(random.integers(len(more)))]


def swap(data: bytes, random: np.random.Generator) -> bytes:
    """Two blocks stand in each other's place."""
    size = max(1, min(int(random.choice([8, 64, *SECTORS])), len(data) // 2))
    one, other = sorted(int(place) * size for place in random.integers(0, len(data) // size, 2))
    first, second = data[one : one + size], data[other : other + size]
    return (
        data[:one] + second + data[one + size : other] + first + data[other + size :]
        if one != other
        else data
    )


def _edited(values: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """A record with one value taken away, added, or changed to another of its kind or of none."""
    strange: list[Any] = [0, -1, 1 << 70, True, None, "", "0" * 64, [], {}, 0.5, 3, 99, "moodfuse", "\ud800"]
    edited = dict(values)
    name = str(random.choice(sorted(values)))
    value = strange[int(random.integers(len(strange)))]
    how = int(random.integers(4))
    if how == 0:
        del edited[name]
    elif how == 1:
        edited[f"{name}_"] = value
    else:
        edited[name] = values[name] + 1 if how == 2 and isinstance(values[name], int) else value
    return edited


def edit(data: bytes, random: np.random.Generator) -> bytes:
    """What a header or a record says is changed, in good JSON."""
    if not data.startswith((b"{", b"[")):
        return _edit_network(data, random)
    return _edit_part(data, random) if b'"body"' in data[:HEADER_BYTES] else _edit_record(data, random)


def _edit_part(data: bytes, random: np.random.Generator) -> bytes:
    """Half of the time with the right digest of its own."""
    values = json.loads(data[:HEADER_BYTES])
    check = values.pop("check")
    edited = _edited(values, random)
    check = digest16(edited) if random.random() < 0.5 else check
    return (
        canonical_json({**edited, "check": check}).encode().ljust(HEADER_BYTES - 1)
        + b"\n"
        + data[HEADER_BYTES:]
    )


def _edit_network(data: bytes, random: np.random.Generator) -> bytes:
    length = int.from_bytes(data[:8], "little")
    values = json.loads(data[8 : 8 + length])
    part = str(random.choice(sorted(values)))
    if part == "__metadata__":
        values[part] = {METADATA_KEY: canonical_json(_edited(json.loads(values[part][METADATA_KEY]), random))}
    else:
        values[part] = _edited(values[part], random)
    header = canonical_json(values).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _edit_record(data: bytes, random: np.random.Generator) -> bytes:
    values = json.loads(data)
    if isinstance(values, list):
        del values[random.integers(len(values))]
        return canonical_json(values).encode()
    return canonical_json(_edited(values, random)).encode()


MUTATIONS: dict[str, Mutation] = {
    "bit": flip,
    "smash": smash,
    "zeros": zero_page,
    "cut": cut,
    "longer": extend,
    "swap": swap,
    "edit": edit,
}
