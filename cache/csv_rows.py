"""CSV files that a user gives: rows with line numbers, datasets as ``id,label``, warnings on labels.

Cells are separated by commas, semicolons (as spreadsheets write them where the comma is the decimal point) or
tabs. Text is UTF-8, with or without a byte order mark. Other bytes are read by Python's ``surrogateescape``,
as a file name may be any bytes; columns where they can only be a mistake are checked by `check_text`.
"""

import csv
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from moodfuse.cache.console import comparison_key, first_few
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import IMPORT
from moodfuse.cache.records import Clip, ClipStatus, check_label
from moodfuse.cache.storage.files import open_regular

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_MAX_FOLDS = int(np.iinfo(np.int16).max)
_MISSING = frozenset(
    ["nan", "-nan", "none", "null", "nil", "na", "n/a", "<na>", "#n/a", "#na", "nat", "-", "?", "unknown"]
)
"""What programs write for a missing value, in lower case."""
_EXAMPLES = 3
_LISTED_COLUMNS = 8
LABEL_COLUMNS = ("id", "label")
OPTIONAL_LABEL_COLUMNS = ("group", "fold", "split")


def csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row; the first is the header, its names without the spaces around them.

    The header decides the separator: a comma if it has any, else the more frequent of semicolon and tab.
    Blank lines, and rows whose cells are all blank, are skipped.

    Raises `InputError` if the file cannot be read, is not CSV, or a row has more or fewer cells than the
    header; it names the line.
    """
    line, names, separator = 1, list[str](), ","
    try:
        with open_regular(file, "r", newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            header = next((text for text in stream if text.strip(",; \t\r\n")), "")
            check_encoding(header.encode("utf-8", "surrogateescape"), file)
            stream.seek(0)
            separator = _find_separator(header)
            reader = csv.reader(stream, delimiter=separator, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    if not names:
                        cells = names = [cell.strip() for cell in cells]
                    _check_cells(f"{file}, line {line}", names, cells, separator)
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line}: not CSV ({error}); expected cells separated by {_SEPARATORS[separator]}s, "
            "quotes in a cell doubled"
        ) from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    if not names:
        raise InputError(f"{file}: is empty; expected a first line of column names")


def _find_separator(header: str) -> str:
    unquoted = re.sub(r'"[^"]*(?:"|$)', "", header)
    return "," if "," in unquoted else max(",;\t", key=unquoted.count)


def _check_cells(where: str, names: list[str], cells: list[str], separator: str) -> None:
    if len(cells) != len(names):
        raise InputError(
            f"{where}: {len(cells)} cells; expected {len(names)}, as in the header; put a cell that contains "
            f"a {_SEPARATORS[separator]} in double quotes"
        )
    if cells is names and (repeated := [name for name in names if name and names.count(name) > 1]):
        raise InputError(f"{where}: column {repeated[0]!r} occurs twice; remove one")


def read_records(
    file: Path, required: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row by column name; the cell of an absent optional column is empty.

    Raises `InputError` as `csv_rows` does, or if a required column is missing.
    """
    rows = csv_rows(file)
    _, names = next(rows)
    check_columns(file, names, required)
    for line, cells in rows:
        yield line, dict.fromkeys(optional, "") | dict(zip(names, cells, strict=True))


def check_columns(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise `InputError` if a column is missing from a header."""
    if missing := [name for name in wanted if name not in names]:
        columns = ", ".join(names[:_LISTED_COLUMNS]) + (", ..." if len(names) > _LISTED_COLUMNS else "")
        raise InputError(
            f"{file}: column(s) {', '.join(missing)} missing, found {columns!r}; expected names separated by "
            "commas, semicolons or tabs in the first line"
        )


def describe_unused_columns(file: Path, required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """A line if a table has other columns than these, such as groups under another name; else none."""
    _, names = next(csv_rows(file))
    unused = [name for name in names if name and name not in (*required, *optional)]
    if not unused:
        return []
    return [
        f"WARNING {file}: columns not used: {first_few(unused, count=_LISTED_COLUMNS)}; optional columns are "
        f"{', '.join(optional)}; groups are read from the column 'group' only"
    ]


def check_encoding(start: bytes, file: Path) -> None:
    """Raise `InputError` if a file begins as UTF-16 does."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{file}: is UTF-16, as some editors and spreadsheets save text; save the file as UTF-8"
        )


def check_text(text: str, where: str) -> None:
    """Raise `InputError` if text is not UTF-8, as of a file that was saved in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {text!r} is not UTF-8; save the file as UTF-8") from error


# Cells


def read_listed_path(file: Path, text: str, where: str) -> str:
    """A path from a table, relative to its folder; spaces around it are removed unless such a file exists."""
    if not text.strip():
        raise InputError(f"{where}: the path is empty")
    return text if os.path.lexists(file.parent / text) else text.strip()


def read_number(where: str, name: str, text: str) -> float | None:
    """The number in a cell, `None` if it is blank; `where` names the line in an `InputError`."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {name} is {text!r}; expected a number such as 2.5")
    return value


def read_fold(where: str, text: str) -> int | None:
    """The fold in a cell, `None` if blank; programs write 2 as ``2.0`` where a column has empty cells."""
    fold = read_number(where, "fold", text)
    if fold is None:
        return None
    if fold not in range(_MAX_FOLDS):
        raise InputError(f"{where}: fold is {text!r}; expected a whole number from 0 to {_MAX_FOLDS - 1}")
    return int(fold)


# Datasets


def read_labels(file: Path) -> list[ClipStatus]:
    """The clips that a CSV ``id,label[,group][,fold][,split]`` declares, in its order; their decoder is
    ``"import"``.

    Ids are taken as they are, with spaces and line feeds; other cells are stripped, and other columns
    ignored, so an exported file declares its clips too. Raises `InputError` with the line of an id that is
    missing or repeated, or of a cell that cannot be used.
    """
    statuses: dict[str, tuple[int, ClipStatus]] = {}
    for line, cells in read_records(file, LABEL_COLUMNS, OPTIONAL_LABEL_COLUMNS):
        where, clip_id = f"{file}, line {line}", cells["id"]
        if clip_id in statuses:
            first = statuses[clip_id][0]
            raise InputError(f"{where}: {clip_id!r} is already in line {first}; remove one of the rows")
        statuses[clip_id] = line, _read_status(cells, where)
    if not statuses:
        raise InputError(f"{file}: has no clips; expected a row of id,label for each")
    return [status for _, status in statuses.values()]


def _read_status(cells: Mapping[str, str], where: str) -> ClipStatus:
    clip_id = cells["id"]
    if not clip_id:
        raise InputError(f"{where}: the id is empty")
    label, group, fold, split = (cells[name].strip() for name in ("label", "group", "fold", "split"))
    check_label(label, where)
    check_text(label, where)
    split = split.lower() or "train"
    if split not in ("train", "test"):
        raise InputError(f"{where}: split is {split!r}; expected 'train' or 'test'")
    clip = Clip(
        id=clip_id, path="", label=label, group=group or None, fold=read_fold(where, fold), split=split
    )
    return ClipStatus(clip, digest({"id": clip_id}), "", group or clip_id, ok=True, decoder=IMPORT)


def describe_doubtful_labels(clips: Iterable[Clip]) -> list[str]:
    """A line for each kind of label or group that is probably a mistake, with counts and what to do."""
    clips = list(clips)
    labels = Counter(clip.label for clip in clips)
    groups = Counter(clip.group for clip in clips if clip.group is not None)
    in_labels = "used as a class; fill in the labels, or remove these clips"
    in_groups = "all kept in one fold; leave the cell empty where a clip has no group"
    return [
        *_warnings("labels", "classes", labels, in_labels),
        *_warnings("groups", "groups", groups, in_groups),
    ]


def _warnings(what: str, counted_as: str, clips: Mapping[str, int], if_missing: str) -> Iterator[str]:
    spellings = defaultdict[str, list[str]](list)
    for name in sorted(clips):
        spellings[comparison_key(name)].append(f"{name!r} ({clips[name]} clip{'s' * (clips[name] > 1)})")
    similar = [names for _, names in sorted(spellings.items()) if len(names) > 1]
    if similar:
        examples = "; ".join(" and ".join(names) for names in similar[:_EXAMPLES])
        yield (
            f"{sum(map(len, similar))} {what} differ only in case, Unicode form, spaces or invisible "
            f"characters, and count as different {counted_as}: {examples}"
            f"{'; ...' * (len(similar) > _EXAMPLES)}; if they mean the same, use one spelling"
        )
    missing = [name for key in sorted(spellings.keys() & _MISSING) for name in spellings[key]]
    if missing:
        yield f"{what} that look like a missing value: {', '.join(missing)}, {if_missing}"
