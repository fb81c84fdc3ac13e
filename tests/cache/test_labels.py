"""A table of labels is read as it is meant, or refused with the line."""

from pathlib import Path

import pytest

from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Clip
from moodfuse.cache.transfer.labels import label_warnings, read_labels


def table(folder: Path, text: str | bytes) -> Path:
    """A CSV of just these bytes."""
    file = folder / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_columns_become_clips(tmp_path: Path) -> None:
    """Id, label, group, fold and split in any order; a clip without a group is its own; other columns are no matter."""
    text = "note,fold,label,id,group,split\nx,1,sad,a,song,\ny,0,fear,b,,TEST\n"
    one, two = read_labels(table(tmp_path, text))
    assert (one.clip.id, one.clip.label, one.clip.group, one.group, one.clip.fold) == (
        "a",
        "sad",
        "song",
        "song",
        1,
    )
    assert (two.clip.group, two.group, two.clip.fold, two.clip.split) == (None, "b", 0, "test")
    assert one.digest == digest({"id": "a"}) and one.ok and not one.file_sha256
    assert (one.decoder, one.clip.path) == ("import", "")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("\ufeffid,label\r\na,sad\r\nb,sad\r\n", ["a", "b"]),
        ("id , label\n\n a ,sad\n\nb, sad \n", [" a ", "b"]),
        ('id,label\n"a\nb","sad"\n"c, ""d""",sad', ["a\nb", 'c, "d"']),
        ("id,label\n=1+1,sad\n-a,sad\n", ["=1+1", "-a"]),
        (b"id,label\nclip\xe9,sad\n\xff,sad\n", ["clip\udce9", "\udcff"]),
        ("id,label\né\u2028漢,sad\n\x1f,sad", ["é\u2028漢", "\x1f"]),
        ("id,label,fold\na,sad,1.0\nb,sad,0", ["a", "b"]),
        ("id;label\na,b;sad\nc; sad\n;\n", ["a,b", "c"]),
    ],
    ids=[
        "BOM, CRLF",
        "blank lines",
        "quoted line feed",
        "formulas",
        "bytes",
        "unicode",
        "float folds",
        "semicolons",
    ],
)
def test_tables_of_every_origin_are_read(tmp_path: Path, text: str | bytes, ids: list[str]) -> None:
    """What spreadsheets, scripts and file systems make of a name comes back as that name."""
    found = read_labels(table(tmp_path, text))
    assert [status.clip.id for status in found] == ids and {status.clip.label for status in found} == {"sad"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a first line"),
        ("id,label\n", "holds no clip"),
        ("name,label\na,sad\n", r"column\(s\) id missing, found 'name, label'"),
        (
            "id|label\na|sad\n",
            r"column\(s\) id, label missing, found 'id\|label'; expected names separated by commas",
        ),
        ("id,label,label\na,sad,sad\n", "line 1: column 'label' occurs twice"),
        ('id,label\n"a\nb",sad\n,sad\n', "line 4: the id is empty"),
        ("id,label\na,sad\nb,\n", "line 3: label '' is empty"),
        ("id,label\na,\u200b\n", r"line 2: label '\\u200b' is empty"),
        ("id,label\na,x/y\n", "line 2: label 'x/y' is empty or a path"),
        ('id,label\n"a\n",sad\nb,sad\n"a\n",fear\n', r"line 5: 'a\\n' stands in line 2 already"),
        ("id,label\na,sad,1\n", "line 2: 3 cells; expected 2"),
        ("id,label\na\n", "line 2: 1 cells; expected 2"),
        ('id,label\n"a,sad\nb,sad\n', "line 2: not CSV"),
        ('id,label\n"a"b,sad\n', "line 2: not CSV"),
        (b"id,label\na,tr\xe4urig\n", "line 2: 'tr.*urig' is not UTF-8; save the file as UTF-8"),
        ("id,label\na\0,sad\n", "line 2: id has a NUL"),
        ("id,label\na,sad\n".encode("utf-16"), "is UTF-16, .*; save the file as UTF-8"),
        ("id,label,fold\na,sad,-1\n", "line 2: fold is '-1'; expected a whole number"),
        ("id,label,fold\na,sad,1.5\n", "line 2: fold is '1.5'; expected a whole number"),
        ("id,label,fold\na,sad,40000\n", "line 2: fold is '40000'; expected a whole number"),
        ("id,label,split\na,sad,valid\n", "line 2: split is 'valid'; expected 'train' or 'test'"),
    ],
)
def test_doubtful_tables_are_refused_with_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    """The file, the line where there is one, what was found and what is expected."""
    with pytest.raises(InputError, match=rf"labels\.csv.*{message}"):
        read_labels(table(tmp_path, text))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        read_labels(tmp_path / "none.csv")


def clips(labels: list[str], groups: list[str | None] | None = None) -> list[Clip]:
    """Clips with these labels and groups."""
    groups = groups or [None] * len(labels)
    return [
        Clip(str(row), "", label, group)
        for row, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("happy", "Happy", "'Happy' (2 clips) and 'happy' (1 clip)"),
        ("straße", "STRASSE", "'STRASSE' (2 clips) and 'straße' (1 clip)"),
        (
            "f\u00e2ch\u00e9",
            "fa\u0302che\u0301",
            "'fa\\u0302che\\u0301' (2 clips) and 'f\\xe2ch\\xe9' (1 clip)",
        ),
        ("happy", "happy\u200b", "'happy' (1 clip) and 'happy\\u200b' (2 clips)"),
        ("happy", "\ufeffhappy", "'happy' (1 clip) and '\\ufeffhappy' (2 clips)"),
        ("happy", " happy ", "' happy ' (2 clips) and 'happy' (1 clip)"),
        ("very sad", "very\u00a0 sad", "'very sad' (1 clip) and 'very\\xa0 sad' (2 clips)"),
    ],
)
def test_labels_that_look_alike_are_shown_so_that_they_differ(one: str, other: str, shown: str) -> None:
    """Labels that differ in case, Unicode form, spaces or invisible characters make one line with both spellings."""
    (line,) = label_warnings(clips([one, other, other, "fear", "fears", "sad", "\u00e9", "e"]))
    assert line.startswith("2 labels differ only in ") and shown in line and "use one spelling" in line
    (line,) = label_warnings(clips(["sad"] * 3, [one, other, other]))
    assert (
        line.startswith("2 groups differ only in ") and shown in line and "count as different groups" in line
    )


def test_many_spellings_make_one_line() -> None:
    """Of many similar labels three examples are shown, and all are counted."""
    (line,) = label_warnings(clips([name for text in "abcde" for name in (text, text.upper())]))
    assert line.startswith("10 labels") and "'C' (1 clip) and 'c' (1 clip); ..." in line and "'d'" not in line


@pytest.mark.parametrize(
    "name", ["nan", "NaN", "None", "NULL", "null", "NA", "<NA>", "n/a", "N/A", "-", "NaT", "#N/A"]
)
def test_missing_values_that_became_names(name: str) -> None:
    """A group or a label that is named like a missing value makes one line with its number of clips."""
    groups = [name, None, name, "song", "nana", "nonet"]
    (line,) = label_warnings(clips(["sad"] * 6, groups))
    assert (
        line.startswith(f"groups that look like a missing value: {name!r} (2 clips)")
        and "leave the cell empty" in line
    )
    if "/" not in name:
        (line,) = label_warnings(clips(["sad", name, "sad"]))
        assert (
            line.startswith(f"labels that look like a missing value: {name!r} (1 clip)") and "fill in" in line
        )


def test_labels_and_groups_as_they_should_be_bring_no_line() -> None:
    """Different labels and groups, and clips without a group, make no warning."""
    assert label_warnings(clips(["sad", "fear", "sad", "fear"], ["a", "b", None, "a b"])) == []
