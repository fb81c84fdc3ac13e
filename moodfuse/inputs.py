"""What `predict` is asked to label: files, folders of them, and lists."""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cache.errors import InputError
from cache.files import open_regular
from moodfuse.model.model import Ask

MEDIA = frozenset(
    f".{name}"
    for name in (
        *("3gp", "avi", "flv", "m2ts", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "mts"),
        *("oga", "ogg", "ogv", "ts", "wav", "webm", "wmv"),
    )
)
LISTS = frozenset({".csv", ".txt"})


def expand(inputs: Sequence[str]) -> Iterator[Ask]:
    """Every file to label, in the order of the inputs; those of a folder by name, at any depth.

    Parameters
    ----------
    inputs : sequence of str
        Files; folders, of which the media files are taken; ``.txt`` lists of a path a line, and ``.csv`` tables with a
        column ``path`` and, if any, ``start_s`` and ``end_s``. Paths in a list are below the folder that it is in.

    Raises
    ------
    InputError
        If a folder holds no media file, a list names none, or one of them or a folder below cannot be read.
    """
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            endings = ", ".join(sorted(MEDIA))
            yield from _some(_folder(path), f"{path}: holds no media file; expected names that end in {endings}")
        elif path.suffix.lower() in LISTS:
            yield from _some(_listed(path), f"{path}: the list names no file; expected a path in each line")
        else:
            yield Ask(name)


def _some(asks: Iterator[Ask], otherwise: str) -> Iterator[Ask]:
    """What was found, and an error where that is nothing."""
    none = True
    for ask in asks:
        none = False
        yield ask
    if none:
        raise InputError(otherwise)


def _folder(folder: Path) -> Iterator[Ask]:
    for where, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in MEDIA and not name.startswith("."):
                yield Ask(os.path.join(where, name))


def _refuse_folder(error: OSError) -> None:
    """Raise what `os.walk` would pass over: the files of that folder would be missing without a word."""
    raise InputError(
        f"{error.filename}: the folder cannot be read ({error.strerror or error}); correct its permissions, or name "
        "the others instead of the one above it"
    ) from error


def _listed(path: Path) -> Iterator[Ask]:
    try:
        with open_regular(path, "r", newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            if path.suffix.lower() == ".txt":
                yield from (
                    Ask(str(path.parent / line))
                    for line in stream.read().replace("\r\n", "\n").split("\n")
                    if line.strip()
                )
                return
            rows = csv.DictReader(stream)
            if "path" not in (rows.fieldnames or ()):
                raise InputError(f"{path}: no column 'path'; found {', '.join(rows.fieldnames or ()) or 'nothing'}")
            for number, row in enumerate(rows, start=2):
                if row["path"]:
                    start_s, end_s = (_seconds(path, number, row, name) for name in ("start_s", "end_s"))
                    yield Ask(str(path.parent / row["path"]), start_s or 0.0, end_s)
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: the list cannot be read ({error})") from error


def _seconds(path: Path, number: int, row: dict[str, str], name: str) -> float | None:
    text = (row.get(name) or "").strip()
    try:
        found = float(text) if text else None
        if found is not None and not math.isfinite(found):
            raise ValueError("not finite")
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {name} is {text!r}; expected seconds") from error
    return found
