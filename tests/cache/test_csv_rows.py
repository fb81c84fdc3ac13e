"""CSV files that users give: separators, line numbers, malformed rows; tables of labels, warnings on them."""

from pathlib import Path

import pytest

from moodfuse.cache.csv_rows import (
    csv_rows,
    describe_doubtful_labels,
    describe_unused_columns,
    read_labels,
)
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Clip


def table(folder: Path, text: str | bytes) -> Path:
    """A CSV of these bytes."""
    file = folder / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b;c;d\n1,2\n", [(1, ["a", "b;c;d"]), (2, ["1", "2"])]),
        ('a;"b, c"\n1;2,5\n', [(1, ["a", "b, c"]), (2, ["1", "2,5"])]),
        ('"a;b;c",d\n1,2\n', [(1, ["a;b;c", "d"]), (2, ["1", "2"])]),
        (";;\n\r\n a ; b;\n1;2;\n;;\n", [(3, ["a", "b", ""]), (4, ["1", "2", ""])]),
        ('a,b\n"1\n\n1",2\n\n3,4\n', [(1, ["a", "b"]), (2, ["1\n\n1", "2"]), (6, ["3", "4"])]),
        ("\ufeffa,b\r1, 2 \r", [(1, ["a", "b"]), (2, ["1", " 2 "])]),
        (b"a,b\n\xff,2\n", [(1, ["a", "b"]), (2, ["\udcff", "2"])]),
    ],
)
def test_the_header_decides_the_separator(text: str | bytes, expected: list, tmp_path: Path) -> None:
    """A comma outside quotes wins; cells keep their spaces; a row has the number of its first line."""
    assert list(csv_rows(table(tmp_path, text))) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b\n1;2;3\n", "line 2: 3 cells; expected 2, .* that contains a semicolon in double quotes"),
        ("a\tb\n1\n", "line 2: 1 cells; expected 2, .* that contains a tab in"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16, .*; save the file as UTF-8"),
        ("a;b;a\n", "line 1: column 'a' occurs twice; remove one"),
        (",,\n\n", "is empty; expected a first line of column names"),
    ],
)
def test_malformed_tables_are_refused_with_the_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"table\.csv.*{message}"):
        list(csv_rows(table(tmp_path, text)))


def test_columns_become_clips(tmp_path: Path) -> None:
    text = "note,fold,label,id,group,split\nx,1.0,sad,a,song,\ny,0,fear,b,,TEST\n"
    one, two = read_labels(table(tmp_path, text))
    assert one.clip == Clip("a", "", "sad", group="song", fold=1) and one.group == "song"
    assert two.clip == Clip("b", "", "fear", fold=0, split="test") and two.group == "b"
    assert one.digest == digest({"id": "a"}) and one.ok and not one.file_sha256 and one.decoder == "import"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("id , label\n\n a ,sad\n\nb, sad \n", [" a ", "b"]),
        ('id,label\n"a\nb","sad"\n"c, ""d""",sad', ["a\nb", 'c, "d"']),
        (b"id,label\nclip\xe9,sad\n\xff,sad\n", ["clip\udce9", "\udcff"]),
    ],
)
def test_ids_are_taken_as_they_are(tmp_path: Path, text: str | bytes, ids: list[str]) -> None:
    statuses = read_labels(table(tmp_path, text))
    assert [status.clip.id for status in statuses] == ids
    assert {status.clip.label for status in statuses} == {"sad"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\n", "has no clips"),
        ("name,label\na,sad\n", r"column\(s\) id missing, found 'name, label'"),
        ('id,label\n"a\nb",sad\n,sad\n', "line 4: the id is empty"),
        ("id,label\na,\u200b\n", r"line 2: label '\\u200b' is empty"),
        ('id,label\n"a\n",sad\nb,sad\n"a\n",fear\n', r"line 5: 'a\\n' is already in line 2"),
        (b"id,label\na,tr\xe4urig\n", "line 2: 'tr.*urig' is not UTF-8; save the file as UTF-8"),
        ("id,label,fold\na,sad,-1\n", "line 2: fold is '-1'; expected a whole number"),
        ("id,label,split\na,sad,valid\n", "line 2: split is 'valid'; expected 'train' or 'test'"),
    ],
)
def test_doubtful_labels_are_refused_with_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"table\.csv.*{message}"):
        read_labels(table(tmp_path, text))


def clips(labels: list[str], groups: list[str | None] | None = None) -> list[Clip]:
    """Clips with these labels and groups."""
    pairs = zip(labels, groups or [None] * len(labels), strict=True)
    return [Clip(str(row), "", label, group) for row, (label, group) in enumerate(pairs)]


def test_similar_labels_and_groups_are_counted() -> None:
    """Names that differ in case, invisible characters or spaces; of many, three are shown."""
    names = [
        "straße",
        "STRASSE",
        "STRASSE",
        "happy",
        "happy\u200b",
        "very sad",
        "very\u00a0 sad",
        "e",
        "\u00e9",
    ]
    (line,) = describe_doubtful_labels(clips([*names, "fear", "fears"]))
    assert line.startswith("6 labels differ only in ") and "use one spelling" in line
    assert "'STRASSE' (2 clips) and 'straße' (1 clip)" in line and r"'happy\u200b' (1 clip)" in line
    (line,) = describe_doubtful_labels(clips(["sad"] * 9, names))
    assert line.startswith("6 groups differ only in ") and "different groups" in line
    (line,) = describe_doubtful_labels(clips([name for text in "abcde" for name in (text, text.upper())]))
    assert line.startswith("10 labels") and "'C' (1 clip) and 'c' (1 clip); ..." in line and "'d'" not in line


def test_names_that_look_like_missing_values_are_counted() -> None:
    (line,) = describe_doubtful_labels(clips(["sad"] * 6, ["NaN", None, "NaN", "song", "nana", "nonet"]))
    assert line.startswith("groups that look like a missing value: 'NaN' (2 clips)")
    assert "leave the cell empty" in line
    (line,) = describe_doubtful_labels(clips(["sad", "-", "sad"]))
    assert line.startswith("labels that look like a missing value: '-' (1 clip)")


def test_different_labels_and_groups_cause_no_warning() -> None:
    assert describe_doubtful_labels(clips(["sad", "fear", "sad", "fear"], ["a", "b", None, "a b"])) == []


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    """Without columns that have no name; a table of known columns causes no line."""
    file = table(tmp_path, "id,label,artist,,Group\na,sad,x,1,y\n")
    (line,) = describe_unused_columns(file, ("id", "label"), ("group", "fold"))
    assert line == (
        f"WARNING {file}: columns not used: 'artist', 'Group'; optional columns are group, fold; groups are "
        "read from the column 'group' only"
    )
    assert describe_unused_columns(table(tmp_path, "group,id,label\n"), ("id", "label"), ("group",)) == []
