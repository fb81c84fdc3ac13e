"""What `predict` is asked to label: files, folders of them, and lists."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moodfuse.cache.csv_rows import check_columns, check_encoding, csv_rows
from moodfuse.cache.errors import InputError
from moodfuse.cache.files import read_regular
from moodfuse.extract.dataset.scan import (
    MEDIA_SUFFIXES,
    find_media,
    ignored_lines,
    listed_path,
    long_window_lines,
    number_in_row,
)
from moodfuse.model.model import Ask

log = logging.getLogger(__name__)
LISTS = frozenset({".csv", ".tsv", ".txt"})


def expand(inputs: Sequence[str], *, say: Callable[[str], object] = log.info) -> list[Ask]:
    """Every file to label, in the order of the inputs; those of a folder by name, at any depth.

    Parameters
    ----------
    inputs : sequence of str
        Files; folders, of which the media files are taken; ``.txt`` lists of a path a line, and ``.csv`` or ``.tsv``
        tables with a column ``path`` and, if any, ``start_s`` and ``end_s``. Paths in a list are below the folder that
        it is in.
    say : callable
        Takes a line for each reason for which files of a folder are left out, and warnings.

    Raises
    ------
    InputError
        If a folder holds no media file, a list names none, or one of them or a folder below cannot be read.
    """
    asks: list[Ask] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            asks += _folder(path, say)
        elif path.suffix.lower() in LISTS:
            listed = list(_lines(path) if path.suffix.lower() == ".txt" else _table(path))
            if not listed:
                raise InputError(f"{path}: the list names no file; expected a path in each line")
            asks += listed
        else:
            asks.append(Ask(name))
    for line in long_window_lines((ask.start_s, ask.end_s) for ask in asks):
        say(line)
    return asks


def _folder(folder: Path, say: Callable[[str], object]) -> list[Ask]:
    found = find_media(folder)
    left_out = ignored_lines(folder, found.ignored)
    if not found.media:
        endings = ", ".join(sorted(MEDIA_SUFFIXES))
        raise InputError(
            "\n".join([f"{folder}: holds no media file; expected names that end in {endings}", *left_out])
        )
    for line in left_out:
        say(line)
    return [Ask(str(file)) for file in found.media]


def _lines(path: Path) -> Iterator[Ask]:
    """Files of a list with a path a line."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: the list cannot be read ({error.strerror or error})") from error
    check_encoding(data, path)
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield Ask(str(path.parent / listed_path(path, line, f"{path}, line {number}")))


def _table(path: Path) -> Iterator[Ask]:
    """Files, and windows of files, of a table."""
    rows = csv_rows(path)
    _, names = next(rows)
    check_columns(path, names, ["path"])
    for line, cells in rows:
        where, row = f"{path}, line {line}", dict(zip(names, cells, strict=True))
        file = str(path.parent / listed_path(path, row["path"], where))
        start_s, end_s = (number_in_row(where, name, row.get(name, "")) for name in ("start_s", "end_s"))
        yield Ask(file, start_s or 0.0, end_s)
