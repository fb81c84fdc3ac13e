"""Seals of network files: safetensors that carry the digest of their own content. No tensor library is needed.

safetensors has no checksum: a flipped bit in a weight is a weight. So the metadata key of a file that
moodfuse writes holds, with the facts about the network, a ``seal``: SHA-256 of the header without it and of
the data.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.storage.files import read_regular, withheld

METADATA_KEY = "moodfuse"
SEAL = "seal"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


def seal_of(data: bytes | memoryview) -> str:
    """The seal of a safetensors file's bytes, whether they have one or not; `ValueError` if they are another format."""
    header, facts, body = _split(memoryview(data))
    facts.pop(SEAL, None)
    header.pop("__metadata__", None)
    return hashlib.sha256(
        canonical_json([header, facts]).encode() + hashlib.sha256(body).digest()
    ).hexdigest()


def _split(data: memoryview) -> tuple[dict[str, Any], dict[str, Any], memoryview]:
    """Header, facts in its metadata, and tensor data."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or not 2 <= length <= min(_MAX_HEADER_BYTES, len(data) - _LENGTH_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    facts = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    if not isinstance(facts, dict):
        raise ValueError("its metadata is not an object")
    return header, facts, data[_LENGTH_BYTES + length :]


def check_sealed(path: Path) -> None:
    """Check a network file against its seal.

    Raises `DamagedPartError` if it has none, is not a regular file, or its content differs from what was
    sealed; `CacheError` if the file cannot be read.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise withheld(path, "read", error) from error
    try:
        valid = _split(memoryview(data))[1].get(SEAL) == seal_of(data)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedPartError(f"{path}: is not a safetensors file ({error})") from error
    if not valid:
        raise DamagedPartError(f"{path}: its bytes differ from those that were sealed")
