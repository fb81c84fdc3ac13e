"""Records kept as JSON in files that are named by the digest of their content.

The digest is looked at before anything else: a file whose content is not its name is damage, whatever stands in it. One
whose content is its name and has keys that this version does not know was written by a newer one, and is no damage.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import DamagedPartError, SchemaError
from moodfuse.cache.storage.files import read_json

R = TypeVar("R")


def read_named(file: Path) -> dict[str, Any]:
    """The JSON object of a file ``<digest16>.json`` or ``<anything>-<digest16>.json``.

    Raises
    ------
    DamagedPartError
        If it is none, or another than its name says.
    CacheError
        If the file cannot be read.
    """
    values = read_json(file)
    if digest16(values) != file.stem.rsplit("-", 1)[-1]:
        raise DamagedPartError(f"{file}: its content does not match its name")
    if not isinstance(values, dict):
        raise DamagedPartError(f"{file}: is no JSON object")
    return values


def check_keys(kind: type, values: Mapping[str, Any], file: Path) -> None:
    """Refuse keys that a record of this version has not.

    Parameters
    ----------
    kind : type
        The dataclass of the record.
    values : mapping
        Of a file whose digest was checked.
    file : Path

    Raises
    ------
    SchemaError
    """
    if unknown := sorted(set(values) - {item.name for item in fields(kind)}):
        raise SchemaError(
            f"{file}: has {unknown[0]!r}, which a newer version wrote; upgrade moodfuse to read it"
        )


def record_of(kind: type[R], values: Mapping[str, Any], file: Path) -> R:
    """The record that a JSON object is; `values` and `file` as for `check_keys`.

    Raises
    ------
    SchemaError
        If it has keys that are not known.
    DamagedPartError
        If it lacks some.
    """
    check_keys(kind, values, file)
    try:
        return kind(**values)
    except TypeError as error:
        raise DamagedPartError(f"{file}: is no {kind.__name__} ({error})") from error
