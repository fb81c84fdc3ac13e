"""What other packages use of `cache.storage`, and the checksums of network files.

safetensors has no checksum: a flipped bit in a weight would go unnoticed. So the metadata of a file that
moodfuse writes holds, with the facts about the network, a ``seal``: SHA-256 of the header without it and of
the data. No tensor library is needed to check it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.storage.files import (
    discard,
    quarantine,
    read_error,
    read_regular,
    temporaries,
    write_atomic,
    write_text,
)
from moodfuse.cache.storage.parts import check_array, get_member, open_hdf5, read_array

__all__ = [
    "CHECKSUM_KEY",
    "METADATA_KEY",
    "check_array",
    "check_checksum",
    "compute_checksum",
    "discard",
    "get_member",
    "open_hdf5",
    "quarantine",
    "read_array",
    "read_regular",
    "temporaries",
    "write_atomic",
    "write_text",
]
METADATA_KEY = "moodfuse"
CHECKSUM_KEY = "seal"
_LENGTH_BYTES = 8


def compute_checksum(data: bytes | memoryview) -> str:
    """The checksum of a safetensors file's bytes, except for the one in it; `ValueError` for other files."""
    header, facts, body = _split(memoryview(data))
    facts.pop(CHECKSUM_KEY, None)
    header.pop("__metadata__", None)
    content = canonical_json([header, facts]).encode() + hashlib.sha256(body).digest()
    return hashlib.sha256(content).hexdigest()


def _split(data: memoryview) -> tuple[dict[str, Any], dict[str, Any], memoryview]:
    """Header, facts in its metadata, and tensor data."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if not 2 <= length <= len(data) - _LENGTH_BYTES:
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    facts = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    if not isinstance(facts, dict):
        raise ValueError("its metadata is not an object")
    return header, facts, data[_LENGTH_BYTES + length :]


def check_checksum(path: Path) -> None:
    """Check a network file against its checksum.

    Raises `DamagedPartError` if it has none, or its content differs; `CacheError` if it cannot be read.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise read_error(path, "read", error) from error
    try:
        valid = _split(memoryview(data))[1].get(CHECKSUM_KEY) == compute_checksum(data)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedPartError(f"{path}: is not a safetensors file ({error})") from error
    if not valid:
        raise DamagedPartError(f"{path}: its bytes differ from those that were written")
