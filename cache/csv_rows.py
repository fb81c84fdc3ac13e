"""The reader of every CSV file that a user gives: rows with their line numbers; a malformed file is refused.

Cells are separated by commas, semicolons (as spreadsheets write them where the comma is the decimal point) or
tabs. Text is UTF-8, with or without a byte order mark. Other bytes are read by Python's ``surrogateescape``,
as a file name may be any bytes; columns where they can only be a mistake are checked by `check_text`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from moodfuse.cache.errors import InputError
from moodfuse.cache.storage.files import open_regular

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_STATED = re.compile(r"sep=([,;\t])\s*")
"""A line that spreadsheets write before the header."""
_QUOTED = re.compile(r'"[^"]*(?:"|$)')


def csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row; the first is the header, its names without the spaces around them.

    The header decides the separator: a comma if it has any, else the more frequent of semicolon and tab; a
    line such as ``sep=;`` before it states the separator. Blank lines, and rows whose cells are all blank,
    are skipped.

    Raises `InputError` if the file cannot be read, is not CSV, or a row has more or fewer cells than the
    header; it names the line.
    """
    line, names, separator, record = 1, list[str](), ",", list[str]()
    try:
        with open_regular(file) as start:
            check_encoding(start.read(2), file)
        with open_regular(file, "r", newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            first, separator = _find_separator(stream)
            reader = csv.reader(_recorded(chain(first, stream), record), delimiter=separator, strict=True)
            for cells in reader:
                text = "".join(record)
                record.clear()
                if any(cell.strip() for cell in cells):
                    where = f"{file}, line {line}"
                    if names:
                        _check_row(where, names, cells, separator, text)
                    else:
                        cells = names = _header(where, cells, separator, text)
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line}: not CSV ({error}); expected cells separated by {_SEPARATORS[separator]}s, quotes "
            "in a cell doubled"
        ) from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    if not names:
        raise InputError(f"{file}: is empty; expected a first line of column names")


def _recorded(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """The same lines, each also appended to a list."""
    for line in lines:
        record.append(line)
        yield line


def _find_separator(stream: Iterable[str]) -> tuple[list[str], str]:
    """The lines read until the header, a line that states the separator as a blank one, and the separator."""
    first: list[str] = []
    for text in stream:
        if stated := _STATED.fullmatch(text):
            return [*first, "\n"], stated[1]
        first.append(text)
        if text.strip(",; \t\r\n"):
            unquoted = _QUOTED.sub("", text)
            return first, "," if "," in unquoted else max(",;\t", key=unquoted.count)
    return first, ","


def _header(where: str, cells: Sequence[str], separator: str, text: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if doubled := sorted(name for name, count in Counter(names).items() if name and count > 1):
        raise InputError(f"{where}: column {doubled[0]!r} occurs twice; remove one")
    if any("\0" in name for name in names):
        raise InputError(f"{where}: has NUL characters; is the file UTF-16? Save it as UTF-8")
    _check_cells(where, names, cells, separator, text)
    return names


def _check_row(where: str, names: Sequence[str], cells: Sequence[str], separator: str, text: str) -> None:
    if len(cells) != len(names):
        raise InputError(
            f"{where}: {len(cells)} cells; expected {len(names)}, as in the header; put a cell that contains a "
            f"{_SEPARATORS[separator]} in double quotes"
        )
    _check_cells(where, names, cells, separator, text)


def _check_cells(where: str, names: Sequence[str], cells: Sequence[str], separator: str, text: str) -> None:
    """Refuse NUL characters, and a space before a quote, which would be part of the value; `text` is the whole row."""
    for name, cell in zip(names, cells, strict=True):
        if "\0" in cell:
            raise InputError(f"{where}: {name} has a NUL character; is the file UTF-16?")
        space_then_quote = cell[:1].isspace() and cell.lstrip()[:1] == '"'
        if space_then_quote and (separator + cell in text or text.startswith(cell)):  # not in a quoted cell
            raise InputError(f"{where}: {name} has a space before its quote; remove the space")


def check_columns(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a header in which a column is missing (`InputError`)."""
    if missing := [name for name in wanted if name not in names]:
        found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"{file}: column(s) {', '.join(missing)} missing, found {found!r}; expected names separated by commas, "
            "semicolons or tabs in the first line"
        )


def check_encoding(start: bytes, file: Path) -> None:
    """Refuse a file that begins as UTF-16 does (`InputError`)."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{file}: is UTF-16, as some editors and spreadsheets save text; save the file as UTF-8"
        )


def check_text(text: str, where: str) -> None:
    """Refuse text that is not UTF-8, as of a file that was saved in another encoding (`InputError`)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {text!r} is not UTF-8; save the file as UTF-8") from error
