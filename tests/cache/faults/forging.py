"""Parts that were changed and given a header that fits: digest of the bytes, size, and its own digest."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import h5py

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.storage.parts import HEADER_BYTES


def forge(part: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a part in place as HDF5, and make its header fit; its name and the content digest stay."""
    with h5py.File(part, "r+") as file:
        change(file)
    seal(part)


def seal(part: Path) -> None:
    """Make the header of a part fit its bytes."""
    data = part.read_bytes()
    values = json.loads(data[:HEADER_BYTES])
    del values["check"]
    values |= {"body": hashlib.sha256(data[HEADER_BYTES:]).hexdigest(), "size": len(data)}
    header = canonical_json({**values, "check": digest16(values)}).encode().ljust(HEADER_BYTES - 1) + b"\n"
    part.write_bytes(header + data[HEADER_BYTES:])


def replace(part: Path, name: str, put: Callable[[h5py.File], None]) -> None:
    """Take an array out of a part, and put something else in its place."""

    def change(file: h5py.File) -> None:
        del file[name]
        put(file)

    forge(part, change)
