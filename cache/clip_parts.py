"""Parts that hold one clip each, as media and marks do: ``<folder>/<xx>/<clip32>-<digest16>.h5``.

`xx` and `clip32` are the first 2 and 32 digits of the clip's digest, so that no listing grows with the data set. Of
several parts of a clip the first sound one stands; damaged ones are set aside.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import DamagedPartError
from cache.files import listing, set_aside
from cache.parts import SCHEMA, is_intact, read_part, write_part


def clip_files(folder: Path, digest: str) -> list[Path]:
    """The parts of a clip, by name, not read."""
    return listing(folder / digest[:2], prefix=f"{digest[:32]}-", suffix=".h5")


def find_clip(folder: Path, digest: str) -> Path | None:
    """The part of a clip whose bytes are what was written, or `None`."""
    for file in clip_files(folder, digest):
        if is_intact(file):
            return file
        set_aside(file)
    return None


def read_clip_part(folder: Path, digest: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays and attributes of a clip's part, or `None` where there is none."""
    for file in clip_files(folder, digest):
        try:
            return read_part(file)
        except DamagedPartError as error:
            set_aside(file, str(error))
    return None


def write_clip_part(
    folder: Path,
    digest: str,
    arrays: Mapping[str, np.ndarray],
    attributes: Mapping[str, object],
    *,
    packed: Collection[str] = (),
) -> Path:
    """Write the part of a clip; `packed` as for `write_part`."""
    values = {"schema": SCHEMA, "clip": digest, **attributes}
    return write_part(folder / digest[:2], digest[:32], arrays, values, packed=packed)
