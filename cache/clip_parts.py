"""Parts that hold one clip each, as media and marks do: ``<folder>/<xx>/<clip32>-<digest16>.h5``.

`xx` and `clip32` are the first 2 and 32 digits of the clip's digest, so that no listing grows with the data set. Of
several parts of a clip the first sound one stands; damaged ones, and those of another clip or under other rules than
their place says, are set aside.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.cache.digests import digest16
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.storage.files import listing, set_aside
from moodfuse.cache.storage.parts import SCHEMA, FileState, check_part, file_state, read_part, write_part

Arrays = dict[str, np.ndarray]
_at_home: set[FileState] = set()
"""Parts whose attributes this process has held to their place; to open HDF5 for each look would take longer."""


def clip_files(folder: Path, digest: str) -> list[Path]:
    """The parts of a clip, by name, not read."""
    return listing(folder / digest[:2], prefix=f"{digest[:32]}-", suffix=".h5")


def check_place(file: Path, attributes: Mapping[str, Any], *, form: str) -> None:
    """Hold a part to its place: its clip stands in its name and folder, its rules name the folder above.

    Parameters
    ----------
    file : Path
    attributes : mapping
        Its own.
    form : str
        The `format` that parts have there.

    Raises
    ------
    DamagedPartError
    """
    found, clip = attributes.get("format"), str(attributes.get("clip"))
    if found != form:
        raise DamagedPartError(f"{file}: is of format {found!r}, not {form!r}")
    if (file.parent.name, file.name.rpartition("-")[0]) != (clip[:2], clip[:32]):
        raise DamagedPartError(f"{file}: belongs to another clip than its name says")
    if digest16(attributes.get("rules")) != file.parent.parent.name:
        raise DamagedPartError(f"{file}: was made by other rules than its folder says")


def find_clip(folder: Path, digest: str, *, form: str) -> Path | None:
    """The part of a clip whose bytes are what was written there, or `None`; `form` as for `check_place`."""
    for file in clip_files(folder, digest):
        try:
            check_part(file)
            if (state := file_state(file)) not in _at_home:
                check_place(file, read_part(file, names=())[1], form=form)
                _at_home.add(state)
            return file
        except DamagedPartError as error:
            set_aside(file, str(error))
    return None


def read_clip_part(
    folder: Path, digest: str, *, form: str, check: Callable[[Path, Arrays, Mapping[str, Any]], None]
) -> tuple[Arrays, dict[str, Any]] | None:
    """Arrays and attributes of a clip's part, or `None` where there is none.

    Parameters
    ----------
    folder : Path
    digest : str
        Of the clip.
    form : str
        As for `check_place`.
    check : callable
        Raises `DamagedPartError` where the arrays and attributes of a part are not what they should be.
    """
    for file in clip_files(folder, digest):
        try:
            arrays, attributes = read_part(file)
            check_place(file, attributes, form=form)
            check(file, arrays, attributes)
            return arrays, attributes
        except DamagedPartError as error:
            set_aside(file, str(error))
    return None


def write_clip_part(
    folder: Path,
    digest: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
    *,
    form: str,
    packed: Collection[str] = (),
) -> Path:
    """Write the part of a clip; `form` as for `check_place`, `packed` as for `write_part`."""
    values = {"format": form, "schema": SCHEMA, "clip": digest, **attributes}
    return write_part(folder / digest[:2], digest[:32], arrays, values, packed=packed)
