"""The header of a part: the first 512 bytes, HDF5's user block, which say what stands behind them."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, SchemaError
from moodfuse.cache.storage.files import open_regular, withheld

SCHEMA = 2
HEADER_BYTES = 512
KIND = "moodfuse-hdf5"
NEVER_RELEASED = "was never released and is read no more; run extract again into another --cache folder"


@dataclass(frozen=True)
class Header:
    """The first 512 bytes of a part.

    Attributes
    ----------
    content : str
        Digest of the arrays and attributes, 64 hexadecimal digits; the first 16 stand in the file's name.
    body : str
        SHA-256 of every byte behind the header.
    size : int
        Bytes of the whole file.
    rows : int
        Length of the first axis of the array ``clip``, 0 where there is none: a listing need not open HDF5.
    schema : int
    kind : str
    written_by : str
        Version of moodfuse that wrote the part, for whoever cannot read it; empty where that is not known.
    """

    content: str
    body: str
    size: int
    rows: int
    schema: int = SCHEMA
    kind: str = KIND
    written_by: str = ""

    def __post_init__(self) -> None:
        kinds = [type(getattr(self, item.name)) for item in fields(self)]
        if kinds != [str, str, int, int, int, str, str] or self.rows < 0:
            raise ValueError("its values are of other kinds")

    def to_bytes(self) -> bytes:
        """The header as it stands in the file: canonical JSON with a digest of its own, spaces, a line feed."""
        return _padded(asdict(self))


_KEYS = {item.name for item in fields(Header)}


def read_header(path: Path) -> Header:
    """Header of a part, its own form checked but not what stands behind it.

    Raises
    ------
    DamagedPartError
        If it is no header.
    SchemaError
        If another version wrote it.
    CacheError
        If the file cannot be read.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read(HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_header(path, data, size)


def parse_header(path: Path, data: bytes, size: int) -> Header:
    """The header that the first bytes of a part are; keys that are not known are passed over.

    Parameters
    ----------
    path : Path
        For messages.
    data : bytes
        The first `HEADER_BYTES` of the file.
    size : int
        Bytes of the whole file.

    Raises
    ------
    DamagedPartError
        If it is no header, or of a file of another size.
    SchemaError
        If another version wrote it.
    """
    try:
        values = json.loads(data)
        del values["check"]
        if _padded(values) != data or values["kind"] != KIND:
            raise ValueError("its own digest is another")
        if values["schema"] != SCHEMA:
            raise _other_schema(path, values)
        header = Header(**{name: value for name, value in values.items() if name in _KEYS})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedPartError(f"{path}: has no header of a part ({error})") from error
    if size != header.size:
        raise DamagedPartError(f"{path}: {size} bytes, not the {header.size} that were written")
    return header


def _other_schema(path: Path, values: Mapping[str, Any]) -> SchemaError:
    schema = values["schema"]
    if schema < SCHEMA:
        return SchemaError(f"{path}: part of schema {schema}, which {NEVER_RELEASED}")
    return SchemaError(
        f"{path}: part of schema {schema}, newer than the {SCHEMA} that this moodfuse reads; upgrade "
        f"(pip install {wanted_version(values.get('written_by'))})"
    )


def wanted_version(writer: object) -> str:
    """What pip shall install to read what some version wrote."""
    return f"'moodfuse>={writer}'" if isinstance(writer, str) and writer else "--upgrade moodfuse"


@cache
def writer_version() -> str:
    """The version of this moodfuse; empty where it runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("moodfuse")
    except PackageNotFoundError:
        return ""


def _padded(values: Mapping[str, Any]) -> bytes:
    return canonical_json({**values, "check": digest16(values)}).encode().ljust(HEADER_BYTES - 1) + b"\n"


def unreadable(path: Path, error: OSError) -> CacheError:
    """The error to raise where a part cannot be opened: one that is gone counts as damaged."""
    if isinstance(error, FileNotFoundError):
        return DamagedPartError(f"{path}: is gone")
    return withheld(path, "read", error)
