"""JSON files, and records in JSON files that are named by the digest of their content."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import DamagedPartError, SchemaError
from moodfuse.cache.storage.files import read_regular, withheld

R = TypeVar("R")


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises `CacheError` if the file cannot be read; `DamagedPartError` if it is not JSON, or not a regular
    file.
    """
    try:
        return json.loads(read_regular(path).decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise withheld(path, "read", error) from error
    except (ValueError, RecursionError) as error:
        raise DamagedPartError(
            f"{path}: not JSON ({error}); run extract again, or moodfuse cache verify"
        ) from error


def _finite(text: str) -> float:
    """Only finite numbers are written, and others have no digest."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def read_named(file: Path) -> dict[str, Any]:
    """The JSON object of a file ``<digest16>.json`` or ``<anything>-<digest16>.json``.

    The digest is checked before anything else: content that does not match the name is damage; content that
    does, and has unknown keys, is of a newer version.

    Raises `DamagedPartError` if the content is not an object, or does not match the name; `CacheError` if the
    file cannot be read.
    """
    values = read_json(file)
    if digest16(values) != file.stem.rsplit("-", 1)[-1]:
        raise DamagedPartError(f"{file}: its content does not match its name")
    if not isinstance(values, dict):
        raise DamagedPartError(f"{file}: is not a JSON object")
    return values


def check_keys(kind: type, values: Mapping[str, Any], file: Path) -> None:
    """Refuse keys that are not fields of the dataclass `kind`: a newer version wrote them (`SchemaError`)."""
    if unknown := sorted(set(values) - {item.name for item in fields(kind)}):
        raise SchemaError(
            f"{file}: has {unknown[0]!r}, which a newer version wrote; upgrade moodfuse to read it"
        )


def record_of(kind: type[R], values: Mapping[str, Any], file: Path) -> R:
    """The dataclass `kind` made of a JSON object.

    Raises `SchemaError` if it has unknown keys; `DamagedPartError` if keys are missing.
    """
    check_keys(kind, values, file)
    try:
        return kind(**values)
    except TypeError as error:
        raise DamagedPartError(f"{file}: is not a {kind.__name__} ({error})") from error
