"""A table of labels is read as intended, or refused with the line."""

from pathlib import Path

import pytest

from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.labels import label_warnings, read_labels
from moodfuse.cache.records import Clip


def table(folder: Path, text: str | bytes) -> Path:
    """A CSV of these bytes."""
    file = folder / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_columns_become_clips(tmp_path: Path) -> None:
    text = "note,fold,label,id,group,split\nx,1,sad,a,song,\ny,0,fear,b,,TEST\n"
    one, two = read_labels(table(tmp_path, text))
    assert one.clip == Clip("a", "", "sad", group="song", fold=1) and one.group == "song"
    assert two.clip == Clip("b", "", "fear", fold=0, split="test") and two.group == "b"
    assert one.digest == digest({"id": "a"}) and one.ok and not one.file_sha256 and one.decoder == "import"


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
)
def test_tables_of_every_origin_are_read(tmp_path: Path, text: str | bytes, ids: list[str]) -> None:
    statuses = read_labels(table(tmp_path, text))
    assert [status.clip.id for status in statuses] == ids
    assert {status.clip.label for status in statuses} == {"sad"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a first line"),
        ("id,label\n", "has no clips"),
        ("name,label\na,sad\n", r"column\(s\) id missing, found 'name, label'"),
        ('id,label\n"a\nb",sad\n,sad\n', "line 4: the id is empty"),
        ("id,label\na,sad\nb,\n", "line 3: label '' is empty"),
        ("id,label\na,\u200b\n", r"line 2: label '\\u200b' is empty"),
        ("id,label\na,x/y\n", "line 2: label 'x/y' is empty or a path"),
        ('id,label\n"a\n",sad\nb,sad\n"a\n",fear\n', r"line 5: 'a\\n' is already in line 2"),
        (b"id,label\na,tr\xe4urig\n", "line 2: 'tr.*urig' is not UTF-8; save the file as UTF-8"),
        ("id,label,fold\na,sad,-1\n", "line 2: fold is '-1'; expected a whole number"),
        ("id,label,fold\na,sad,1.5\n", "line 2: fold is '1.5'; expected a whole number"),
        ("id,label,fold\na,sad,40000\n", "line 2: fold is '40000'; expected a whole number"),
        ("id,label,split\na,sad,valid\n", "line 2: split is 'valid'; expected 'train' or 'test'"),
    ],
)
def test_doubtful_tables_are_refused_with_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"labels\.csv.*{message}"):
        read_labels(table(tmp_path, text))


def clips(labels: list[str], groups: list[str | None] | None = None) -> list[Clip]:
    """Clips with these labels and groups."""
    pairs = zip(labels, groups or [None] * len(labels), strict=True)
    return [Clip(str(row), "", label, group) for row, (label, group) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("happy", "Happy", "'Happy' (2 clips) and 'happy' (1 clip)"),
        ("straße", "STRASSE", "'STRASSE' (2 clips) and 'straße' (1 clip)"),
        ("f\u00e2ch\u00e9", "fa\u0302che\u0301", r"'fa\u0302che\u0301' (2 clips) and 'f\xe2ch\xe9' (1 clip)"),
        ("happy", "happy\u200b", r"'happy' (1 clip) and 'happy\u200b' (2 clips)"),
        ("happy", " happy ", "' happy ' (2 clips) and 'happy' (1 clip)"),
        ("very sad", "very\u00a0 sad", r"'very sad' (1 clip) and 'very\xa0 sad' (2 clips)"),
    ],
)
def test_similar_labels_and_groups_are_shown_so_that_they_differ(one: str, other: str, shown: str) -> None:
    (line,) = label_warnings(clips([one, other, other, "fear", "fears", "sad", "\u00e9", "e"]))
    assert line.startswith("2 labels differ only in ") and shown in line and "use one spelling" in line
    (line,) = label_warnings(clips(["sad"] * 3, [one, other, other]))
    assert line.startswith("2 groups differ only in ") and shown in line and "different groups" in line


def test_of_many_spellings_three_are_shown() -> None:
    (line,) = label_warnings(clips([name for text in "abcde" for name in (text, text.upper())]))
    assert line.startswith("10 labels") and "'C' (1 clip) and 'c' (1 clip); ..." in line and "'d'" not in line


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "NULL", "NA", "<NA>", "N/A", "-", "NaT", "#N/A"])
def test_names_that_look_like_missing_values_are_counted(name: str) -> None:
    groups = [name, None, name, "song", "nana", "nonet"]
    (line,) = label_warnings(clips(["sad"] * 6, groups))
    assert line.startswith(f"groups that look like a missing value: {name!r} (2 clips)")
    assert "leave the cell empty" in line
    if "/" not in name:
        (line,) = label_warnings(clips(["sad", name, "sad"]))
        assert line.startswith(f"labels that look like a missing value: {name!r} (1 clip)")


def test_different_labels_and_groups_cause_no_warning() -> None:
    assert label_warnings(clips(["sad", "fear", "sad", "fear"], ["a", "b", None, "a b"])) == []
