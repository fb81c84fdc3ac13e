"""The one reader of CSV: separators, line numbers, and what is refused."""

from pathlib import Path

import pytest

from moodfuse.cache.csv_rows import csv_rows
from moodfuse.cache.errors import InputError


def rows(folder: Path, text: str | bytes) -> list[tuple[int, list[str]]]:
    """Rows of a file with just these bytes."""
    file = folder / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(csv_rows(file))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b\n1,2\n", [(1, ["a", "b"]), (2, ["1", "2"])]),
        ("a;b\n1;2,5\n", [(1, ["a", "b"]), (2, ["1", "2,5"])]),
        ("a\tb\n1\t2;3\n", [(1, ["a", "b"]), (2, ["1", "2;3"])]),
        ("a,b;c;d\n1,2\n", [(1, ["a", "b;c;d"]), (2, ["1", "2"])]),
        ('a;"b, c"\n1;2\n', [(1, ["a", "b, c"]), (2, ["1", "2"])]),
        ('"a;b;c",d\n1,2\n', [(1, ["a;b;c", "d"]), (2, ["1", "2"])]),
        (";;\n\r\n a ; b;\n1;2;\n;;\n", [(3, ["a", "b", ""]), (4, ["1", "2", ""])]),
        ('a,b\n"1\n\n1",2\n\n3,4\n', [(1, ["a", "b"]), (2, ["1\n\n1", "2"]), (6, ["3", "4"])]),
        ('id,b\n" ""x""",2\n', [(1, ["id", "b"]), (2, [' "x"', "2"])]),
        ('a," ""b"""\n1,2\n', [(1, ["a", '"b"']), (2, ["1", "2"])]),
        ("a\n1;2\n", [(1, ["a"]), (2, ["1;2"])]),
        ("\ufeffa,b\r1, 2 \r", [(1, ["a", "b"]), (2, ["1", " 2 "])]),
        ("sep=;\r\na;b\r\n1,5;2\r\n", [(2, ["a", "b"]), (3, ["1,5", "2"])]),
        ('a,b\n1," ""x"""\n', [(1, ["a", "b"]), (2, ["1", ' "x"'])]),
        (b"a,b\n\xff,2\n", [(1, ["a", "b"]), (2, ["\udcff", "2"])]),
    ],
)
def test_the_first_line_decides_the_separator(text: str | bytes, found: list, tmp_path: Path) -> None:
    """A comma outside quotes wins; cells keep their spaces; each row has the number of the line that it begins in."""
    assert rows(tmp_path, text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a;b\n1;2;3\n",
            "line 2: 3 cells; expected 2, as in the header; put a cell that contains a semicolon in double",
        ),
        ("a\tb\n1\n", "line 2: 1 cells; expected 2, .* that contains a tab in"),
        ('a,b\n1, "x"\n', "line 2: b has a space before its quote; remove the space"),
        ('a,b\n "x",1\n', "line 2: a has a space before its quote; remove the space"),
        ('path, "label"\n1,2\n', 'line 1: "label" has a space before its quote; remove the space'),
        (' "a";b\n1;2\n', 'line 1: "a" has a space before its quote; remove the space'),
        ("a,b\n1,2\0\n", "line 2: b has a NUL character"),
        ("a,b\n1,2\n".encode("utf-16-le"), "line 1: has NUL characters; is the file UTF-16"),
        ("a;b;a\n", "line 1: column 'a' occurs twice; remove one"),
        (",,\n\n", "is empty; expected a first line of column names"),
    ],
)
def test_malformed_tables_are_refused_with_the_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    """A malformed table is an error with the line and what was found there."""
    with pytest.raises(InputError, match=rf"table\.csv.*{message}"):
        rows(tmp_path, text)
