"""The reader of every CSV that comes in: rows with the line that each begins in; a malformed file is refused.

Cells are separated by commas, semicolons (as spreadsheets write them where the comma is the decimal point) or tabs.
Text is UTF-8, with or without a byte order mark. Bytes that are not UTF-8 come as Python's ``surrogateescape`` has
them, for a file name may be any bytes; a column where they can only be a mistake is held to `check_text`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from moodfuse.cache.errors import InputError
from moodfuse.cache.storage.files import open_regular

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_STATED = re.compile(r"sep=([,;\t])\s*")
"""A line that spreadsheets write before the header."""
_QUOTED = re.compile(r'"[^"]*(?:"|$)')


def csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row, the header first, its names without the spaces around them.

    The header decides the separator: a comma if it has any, else the more frequent of semicolon and tab; a line such as
    ``sep=;`` before it states the separator. Blank lines, and rows whose cells are all blank, are skipped.

    Raises
    ------
    InputError
        If the file cannot be read, is not CSV, or a row has more or fewer cells than the header; it names the line.
    """
    line, names, separator, record = 1, list[str](), ",", list[str]()
    try:
        with open_regular(file) as start:
            check_encoding(start.read(2), file)
        with open_regular(file, "r", newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            first = []
            for text in stream:
                if stated := _STATED.fullmatch(text):
                    separator = stated[1]
                    first.append("\n")
                    break
                first.append(text)
                if text.strip(",; \t\r\n"):
                    separator = _separator(text)
                    break
            reader = csv.reader(_recorded(chain(first, stream), record), delimiter=separator, strict=True)
            for cells in reader:
                text = "".join(record)
                record.clear()
                if any(cell.strip() for cell in cells):
                    if names:
                        _check_row(f"{file}, line {line}", names, cells, separator, text)
                        yield line, cells
                    else:
                        names = _header(f"{file}, line {line}", cells, separator, text)
                        yield line, names
                line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line}: not CSV ({error}); expected cells separated by {_SEPARATORS[separator]}, quotes "
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


def _separator(header: str) -> str:
    """The separator of a file by its first line."""
    unquoted = _QUOTED.sub("", header)
    return "," if "," in unquoted else max(",;\t", key=unquoted.count)


def _header(where: str, cells: Sequence[str], separator: str, text: str) -> list[str]:
    """The names in a header, whose text is `text`, or an error if they cannot be used."""
    names = [cell.strip() for cell in cells]
    if doubled := sorted(name for name, count in Counter(names).items() if name and count > 1):
        raise InputError(f"{where}: column {doubled[0]!r} occurs twice; remove one")
    if any("\0" in name for name in names):
        raise InputError(f"{where}: holds NUL characters; is the file UTF-16? Save it as UTF-8")
    for name, cell in zip(names, cells, strict=True):
        _check_quote(where, name, cell, separator, text)
    return names


def _check_row(where: str, names: Sequence[str], cells: Sequence[str], separator: str, text: str) -> None:
    """Refuse a row that was probably meant otherwise; `text` is the row as it stands in the file."""
    if len(cells) != len(names):
        one = _SEPARATORS[separator].removesuffix("s")
        raise InputError(
            f"{where}: {len(cells)} cells; expected {len(names)}, as in the header; put a cell that holds a {one} in "
            "double quotes"
        )
    together = "".join(cells)
    if '"' not in together and "\0" not in together:
        return
    for name, cell in zip(names, cells, strict=True):
        if "\0" in cell:
            raise InputError(f"{where}: {name} holds a NUL character, which no name has; is the file UTF-16?")
        _check_quote(where, name, cell, separator, text)


def _check_quote(where: str, name: str, cell: str, separator: str, text: str) -> None:
    """Refuse a cell with a blank before its quote, whose quotes would be part of the value."""
    blank_then_quote = cell[:1].isspace() and cell.lstrip()[:1] == '"'
    if blank_then_quote and (
        separator + cell in text or text.startswith(cell)
    ):  # a quoted cell has its quotes doubled
        raise InputError(f"{where}: {name} has a blank before its quote; remove the blank")


def check_columns(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a header that lacks a column.

    Raises
    ------
    InputError
    """
    if missing := [name for name in wanted if name not in names]:
        found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"{file}: column(s) {', '.join(missing)} missing, found {found!r}; expected names separated by commas, "
            "semicolons or tabs in the first line"
        )


def check_encoding(start: bytes, file: Path) -> None:
    """Refuse a file that begins as UTF-16 does.

    Raises
    ------
    InputError
    """
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{file}: is UTF-16, as some editors and spreadsheets save text; save the file as UTF-8"
        )


def check_text(text: str, where: str) -> None:
    """Refuse text that is no UTF-8, as of a file that was saved in another encoding.

    Raises
    ------
    InputError
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {text!r} is not UTF-8; save the file as UTF-8") from error
