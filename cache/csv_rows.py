"""CSV files as rows with the line that each begins in. Quoted line feeds are kept; a doubtful file is refused.

Text is UTF-8, with or without a byte order mark. Bytes that are no UTF-8 come as Python's ``surrogateescape`` has them,
for a clip's name may be any bytes; a column where they can only be a mistake is held to `check_text`.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cache.errors import InputError
from cache.files import open_regular


def csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row, the header first, its names without the spaces around them.

    Raises
    ------
    InputError
        If the file cannot be read, is no CSV, or a row has other cells than the header; it names the line.
    """
    line, width = 1, 0
    try:
        with open_regular(file) as start:
            check_encoding(start.read(2), file)
        with open_regular(file, "r", newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.reader(stream, strict=True)
            for cells in reader:
                if cells and not width:
                    width = len(cells)
                    yield line, _header(file, line, [cell.strip() for cell in cells])
                elif cells:  # a blank line is no row
                    if len(cells) != width:
                        raise InputError(f"{file}, line {line}: {len(cells)} cells; expected {width}, as in the header")
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}, line {line}: not CSV ({error}); expected cells separated by commas, quotes in a cell doubled"
        ) from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    if not width:
        raise InputError(f"{file}: is empty; expected a first line of column names")


def _header(file: Path, line: int, names: list[str]) -> list[str]:
    if doubled := sorted(name for name, count in Counter(names).items() if name and count > 1):
        raise InputError(f"{file}, line {line}: column {doubled[0]!r} stands there twice; drop one")
    return names


def check_columns(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a header that lacks a column.

    Raises
    ------
    InputError
    """
    if missing := [name for name in wanted if name not in names]:
        found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"{file}: column(s) {', '.join(missing)} missing, found {found!r}; expected names separated by commas in "
            "the first line"
        )


def check_encoding(start: bytes, file: Path) -> None:
    """Refuse a file that begins as UTF-16 does.

    Raises
    ------
    InputError
    """
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{file}: is UTF-16, as some spreadsheets save text; save the file as UTF-8")


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
