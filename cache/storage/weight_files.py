"""Seals of network files: safetensors that carry the digest of their own content. No tensor library is needed.

safetensors has no checksum: a flipped bit in a weight is a weight. So the one metadata key of a file that moodfuse
writes holds, beside the facts about the network, ``seal``: SHA-256 of the header without it and of the data.
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
_LONGEST_HEADER = 100_000_000


def seal_of(data: bytes | memoryview) -> str:
    """The seal of a safetensors file's bytes, whether they carry one or not.

    Raises
    ------
    ValueError
        If they are no safetensors file.
    """
    header, facts, body = _split(memoryview(data))
    facts.pop(SEAL, None)
    header.pop("__metadata__", None)
    return hashlib.sha256(
        canonical_json([header, facts]).encode() + hashlib.sha256(body).digest()
    ).hexdigest()


def _split(data: memoryview) -> tuple[dict[str, Any], dict[str, Any], memoryview]:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or not 2 <= length <= min(_LONGEST_HEADER, len(data) - _LENGTH_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    facts = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    if not isinstance(facts, dict):
        raise ValueError("its metadata is no record")
    return header, facts, data[_LENGTH_BYTES + length :]


def check_sealed(path: Path) -> None:
    """Hold a network file to its seal.

    Raises
    ------
    DamagedPartError
        If it has none, is not a regular file, or has another content than when it was sealed.
    CacheError
        If the file cannot be read.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise withheld(path, "read", error) from error
    try:
        facts = _split(memoryview(data))[1]
        good = facts.get(SEAL) == seal_of(data)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedPartError(f"{path}: is no safetensors file ({error})") from error
    if not good:
        raise DamagedPartError(f"{path}: its bytes are not the ones that were sealed")
