"""Files of features of every kind are read as they are meant, or refused with a reason, and nothing is written."""

import csv
import io
import os
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bringing import (
    ANY_ID,
    FORMATS,
    IDS,
    LABELS,
    NASTY,
    Given,
    bounded,
    bring,
    is_name,
    refuse,
    write,
    write_labels,
)
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import export_features
from moodfuse.cache.transfer.features import Features
from moodfuse.cache.transfer.importing import ImportSettings, import_features
from moodfuse.cache.transfer.labels import read_labels
from moodfuse.cache.transfer.readers import read_features

pytestmark = pytest.mark.usefixtures("unsynced")

BAD_KINDS = ("c8", "c16", "?", "O", "U3", "S3", "M8[s]", "m8[s]", "f16", [("a", "f4")])


@pytest.mark.parametrize("kind", BAD_KINDS, ids=str)
@pytest.mark.parametrize("name", ["embedding", "logits"])
def test_other_dtypes_are_refused(known: FeatureCache, tmp_path: Path, kind: Any, name: str) -> None:
    """Complex, bool, objects, text, dates, records and long doubles are no features; no pickle is read."""
    good = {"id": np.array(IDS), "embedding": np.zeros((6, 2))}
    np.savez(tmp_path / "bad.npz", **(good | {name: np.zeros((6, 2), dtype=kind)}))
    objects = rf"{name} is an array of Python objects .*save np.stack\({name}\).astype\('float32'\)"
    cause = objects if kind == "O" else "expected float16, float32, float64 or whole numbers"
    refuse(tmp_path, cause, file=tmp_path / "bad.npz")


SHAPES = ((6,), (6, 0), (0, 2), (5, 2), (7, 2), (6, 2, 1), ())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_shapes_are_refused(known: FeatureCache, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """An embedding is a row a clip, with columns; logits are a column a class."""
    for name in ("embedding", "logits"):
        arrays = {"id": np.array(IDS), "embedding": np.zeros((6, 2))} | {name: np.zeros(shape)}
        np.savez(tmp_path / "bad.npz", **arrays)
        refuse(tmp_path, f"{name} is .* beside 6 ids", file=tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", id=np.array(IDS), embedding=np.zeros((6, 2)), logits=np.zeros((6, 3)))
    refuse(tmp_path, "logits have 3 columns; expected 2, .* a, b", file=tmp_path / "bad.npz")


@pytest.mark.parametrize(
    "case",
    [
        (np.nan, "f4", "is nan in column 1, not finite"),
        (-np.inf, "f2", "is -inf in column 1, not finite"),
        (1e39, "f8", "is 1e[+]39 in column 1, too large for float32"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_values_that_are_no_float32_are_refused(
    known: FeatureCache, tmp_path: Path, case: tuple[float, str, str], form: str
) -> None:
    """NaN, infinities and what is too large name the clip, in every format."""
    value, kind, cause = case
    embedding = np.zeros((6, 2), dtype=kind)
    embedding[4, 1] = value
    refuse(tmp_path, f"of clip 'clip 4' {cause}", **write(tmp_path, Given(IDS, embedding), form))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("ids", "cause"),
    [
        (
            (*IDS, "clip 6", "clip 7"),
            r"2 of 8 ids are not clips of the cache \(first: 'clip 6', 'clip 7'\); .* 'clip 0'",
        ),
        (IDS[:4], r"has no features of 2 of 6 clips \(first: 'clip 4', 'clip 5'\)"),
        ((), r"has no features of 6 of 6 clips|is .*\[0\]; expected strings|'id' is null; expected strings"),
        ((*IDS, IDS[2]), r"1 id\(s\) stand there twice \(first: 'clip 2'\)"),
    ],
    ids=["unknown", "missing", "none", "twice"],
)
def test_ids_must_be_those_of_the_clips(
    known: FeatureCache, tmp_path: Path, form: str, ids: tuple[str, ...], cause: str
) -> None:
    """Unknown, missing and repeated ids are named, in every format."""
    refuse(tmp_path, cause, **write(tmp_path, Given(ids, np.ones((len(ids), 2), dtype=np.float32)), form))


@settings(bounded, max_examples=80)
@given(
    ids=st.lists(NASTY, min_size=4, max_size=6, unique=True) | st.lists(ANY_ID, max_size=6),
    labels=st.just(LABELS) | st.lists(st.sampled_from(["a", "b", "", "../a", "é", "\udce9"]), max_size=6),
)
def test_any_ids_and_labels_are_right_or_refused(
    ids: list[str], labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands in a table of labels and in a file, it is a cache that holds just that, or an InputError."""
    folder = tmp_path_factory.mktemp("any")
    rows = list(zip(ids, labels, strict=False))
    names = [name for name, _ in rows]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("id", "label"), *rows])
    (folder / "labels.csv").write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    np.savez(folder / "mine.npz", id=np.array(names, dtype=np.str_), embedding=np.ones((len(rows), 1)))
    try:
        bring(folder / "one", file=folder / "mine.npz", labels=folder / "labels.csv")
    except InputError:
        assert not (folder / "one").exists()
        return
    assert all(map(is_name, names)) and list(FeatureCache(folder / "one").block("mine", "*").ids) == sorted(
        names
    )


@settings(bounded, max_examples=100)
@given(
    form=st.sampled_from(FORMATS),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
@example(form=".npy", place=0.3046875, value=0, cut=False)
def test_damaged_files_are_right_or_refused(
    form: str, place: float, value: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A byte smashed or a tail lost: the import is refused and leaves nothing, or what it took is finite and whole."""
    folder = tmp_path_factory.mktemp("damage")
    labels = write_labels(folder / "labels.csv", IDS)
    files = write(folder, Given(IDS, np.arange(12.0).reshape(6, 2), None), form)
    data = bytearray(files["file"].read_bytes())
    at = int(place * len(data))
    data[at] = value
    files["file"].write_bytes(data[:at] if cut else data)
    try:
        bring(folder / "one", labels=labels, **files)
    except InputError:
        assert not (folder / "one").exists()
        return
    assert np.isfinite(FeatureCache(folder / "one").block("mine", "*").embedding).all()


def test_parquet_says_the_classes_of_its_lists(known: FeatureCache, tmp_path: Path) -> None:
    """So that lists of logits come back under the names that they had, whatever the labels are by then."""
    bring(
        known.path,
        source="zs",
        **write(tmp_path, Given(IDS, np.ones((6, 2)), np.array([[2.0, -1.0]] * 6)), ".npz"),
    )
    out = tmp_path / "out.parquet"
    export_features(FeatureCache(known.path), "zs", None, out)
    turned = write_labels(tmp_path / "turned.csv", IDS, ["z" if label == "a" else label for label in LABELS])
    with pytest.raises(InputError, match="logits are of a, b; expected b, z"):
        bring(tmp_path / "new", file=out, labels=turned)
    table = pyarrow.parquet.read_table(out)
    for metadata, cause in (
        (b'["a"]', "classes do not fit"),
        (b"{}", "no list of labels"),
        (b"[", "cannot be read"),
    ):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": metadata}), out)
        refuse(tmp_path, cause, source="two", file=out)
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": b'["b","a"]'}), out)
    bring(known.path, source="two", file=out)
    found = FeatureCache(known.path).block("two", "*").logits
    assert found is not None and found.tolist() == [[-1.0, 2.0]] * 6


def test_columns_of_a_csv(known: FeatureCache, tmp_path: Path) -> None:
    """Without e0 every numeric column counts, in the file's order, but not those of an export; the rest is named."""
    rows = "\n".join(f"clip {number},{number},a,1,{-number}" for number in range(6))
    (tmp_path / "some.csv").write_text(f"\ufeffid , width,label,fold,height\r\n{rows}\r\n\r\n")
    said: list[str] = []
    wanted = ImportSettings(known.path, tmp_path / "some.csv", "mine", Holdout.frozen())
    import_features(wanted, say=said.append)
    assert said[:2] == [
        f"{wanted.file}: columns of the embedding: 'width', 'height'",
        f"{wanted.file}: columns passed over: 'label', 'fold'",
    ]
    table = "\n".join(f"clip {number},{number},7" for number in range(6))
    (tmp_path / "some.csv").write_text(f"id,e0,age\n{table}\n")
    import_features(replace(wanted, source="aged"), say=said.append)
    assert said[3:5] == [
        f"{wanted.file}: columns of the embedding: 'e0'",
        f"{wanted.file}: columns passed over: 'age'",
    ]
    assert FeatureCache(known.path).block("mine", "*").embedding.tolist() == [[n, -n] for n in range(6)]
    for text, cause in (
        ("id,e0,e2\n", "column e1 is missing"),
        ("id,label\n", "no column of an embedding"),
        ("e0,e1\n", r"column\(s\) id missing, found 'e0, e1'"),
        ("id,e0,e0\n", "line 1: column 'e0' occurs twice"),
        ("id,x\nclip 0,1\nclip 1,tall\n", "line 3: column 'x' is 'tall'; expected a number"),
        ("id,x\nclip 0,1_000\n", "line 2: column 'x' is '1_000'; expected a number"),
        ("id,x\nclip 0,٣\n", "line 2: column 'x' is '٣'; expected a number"),
        ('id,e0\n"clip\n0",1\nclip 1,2,3\n', "line 4: 3 cells; expected 2"),
        ('id,e0\n"clip 0,1\n', "line 2: not CSV"),
        ("", "is empty"),
        ("id,e0,logit:a,logit:c\nclip 0,1,1,1\n", "logits are of a, c; expected a, b"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        refuse(tmp_path, cause, file=tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text("id,e0\nclip 0,1\n", encoding="utf-16")
    refuse(tmp_path, "is UTF-16, .*; save the file as UTF-8", file=tmp_path / "bad.csv")


def test_files_that_are_none(known: FeatureCache, tmp_path: Path) -> None:
    """Missing files, unknown suffixes, files of another kind and missing arrays say what was expected."""
    embedding = np.ones((6, 2))
    np.save(tmp_path / "one.npy", embedding)
    np.savez(tmp_path / "lacks.npz", ids=np.array(IDS), embedding=embedding)
    np.savez(tmp_path / "whole.npz", id=np.arange(6), embedding=embedding)
    (tmp_path / "array.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    (tmp_path / "several.npy").write_bytes((tmp_path / "lacks.npz").read_bytes())
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join((*IDS, "")).encode())
    for name, cause in (
        ("none.npz", "none.npz: cannot be read as .npz .No such file"),
        ("none.csv", "none.csv: cannot be read"),
        ("none.parquet", "none.parquet: cannot be read"),
        ("one.txt", "suffix '.txt' is not known; expected .npy, .npz, .csv or .parquet"),
        ("one.npy", "add --ids FILE"),
        ("lacks.npz", "lacks id, holds ids, embedding"),
        ("whole.npz", r"id is int64\[6\]; expected strings"),
        ("array.npz", "is one array"),
    ):
        refuse(tmp_path, cause, file=tmp_path / name)
    refuse(tmp_path, "several.npy: is an .npz", file=tmp_path / "several.npy", ids=tmp_path / "ids.txt")
    refuse(tmp_path, "--ids goes with a .npy", file=tmp_path / "lacks.npz", ids=tmp_path / "ids.txt")
    assert bring(known.path, file=tmp_path / "one.npy", ids=tmp_path / "ids.txt").written == 6


def test_parquet_of_other_kinds(known: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Categories and long lists are read; nulls, ragged lists and other types are refused; pyarrow is asked for."""
    ids = pyarrow.array(IDS)
    file = tmp_path / "some.parquet"
    lists = pyarrow.array([[1.0, 2.0]] * 6, pyarrow.large_list(pyarrow.float16()))
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ids.dictionary_encode(), "embedding": lists, "note": ids}), file
    )
    assert bring(known.path, file=file).embedding == 2
    for columns, cause in (
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0]])}, "lists of different lengths"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [None])}, r"1 value\(s\) are missing"),
        (
            {"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0, None]])},
            r"1 value\(s\) are missing",
        ),
        (
            {"id": ids, "embedding": pyarrow.array([[True, False]] * 6)},
            "list<.*bool>; expected a list of float",
        ),
        ({"id": ids, "embedding": ids}, "embedding is string; expected a list"),
        ({"id": ids, "e0": ids}, "column 'e0' is string; expected float or whole numbers"),
        ({"id": ids, "e0": pyarrow.array(range(6)), "e1": ids}, "column 'e1' is string; expected float"),
        ({"id": ids, "note": ids}, "no column of an embedding"),
        (
            {"id": pyarrow.array(range(6)), "e0": pyarrow.array(range(6))},
            "column 'id' is int64; expected strings",
        ),
        (
            {"id": pyarrow.array([*IDS[:5], None]), "e0": pyarrow.array(range(6))},
            r"'id': 1 value\(s\) are missing",
        ),
        ({"name": ids, "embedding": lists}, r"column\(s\) id missing"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        refuse(tmp_path, cause, file=file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(tmp_path, r"pip install 'moodfuse\[parquet\]'", file=file)
    with pytest.raises(InputError, match=r"pip install 'moodfuse\[parquet\]'"):
        export_features(known, "other", None, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*out.parquet")) and not list(tmp_path.glob(".tmp-*"))


ROWS = 12
FEATURES = {"feat_0": [0.5 * row * row - 7 for row in range(ROWS)], "feat_1": [0.25] * ROWS}


def table_file(folder: Path, columns: dict[str, Any], form: str, **metadata: str) -> Path:
    """A table of twelve clips with these columns, after the column id."""
    columns = {"id": [f"clip {row}" for row in range(ROWS)], **columns}
    file = folder / f"table{form}"
    if form == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), file)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return file


def taken(found: Features) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Columns of the embedding, of an index, and others that were passed over."""
    return found.columns, found.index_columns, found.passed_over


@pytest.mark.parametrize("form", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(
            (name, range(50, 98, 4))
            for name in ("", "Unnamed: 0", "Unnamed: 0.1", "index", "Index", "level_0", "level_1")
        ),
        ("__index_level_0__", range(0, -ROWS, -1)),
        ("row", range(ROWS)),
        ("row", range(1, ROWS + 1)),
        ("row", [7, 3, 11, 0, 1, 2, 9, 8, 10, 4, 6, 5]),
    ],
)
def test_index_columns_are_passed_over(tmp_path: Path, name: str, values: Any, form: str) -> None:
    """Columns with an index name of pandas or R, or that number the rows, are not part of the embedding."""
    found = read_features(table_file(tmp_path, {name: list(values), **FEATURES}, form))
    assert taken(found) == (tuple(FEATURES), (name,), ())
    assert found.embedding.tolist() == [list(row) for row in zip(*FEATURES.values(), strict=True)]
    assert f"index columns passed over: {name!r}" in found.column_lines
    if name:
        found = read_features(
            table_file(tmp_path, {name: list(values), **FEATURES}, form), columns=(f"{name},feat_0",)
        )
        assert taken(found) == ((name, "feat_0"), (), ("feat_1",)) and found.embedding[:, 0].tolist() == list(
            values
        )


@pytest.mark.parametrize("form", [".csv", ".parquet"])
def test_numbers_that_do_not_number_rows_are_features(tmp_path: Path, form: str) -> None:
    """Sorted whole numbers with gaps, counts with ties, fractions, and whatever is called e0, e1, ... stay."""
    columns = {
        "bpm": [60, 61, 62, 70, 71, 75, 80, 90, 100, 120, 121, 180],
        "gap": [*range(ROWS - 1), ROWS],
        "consecutive": list(range(2, ROWS + 2)),
        "ties": [0, *range(ROWS - 1)],
        "falling": list(range(2 * ROWS, ROWS, -1)),
        "halves": [row / 2 for row in range(ROWS)],
        "large": [2.0**row for row in range(ROWS)],
    }
    assert taken(read_features(table_file(tmp_path, columns, form))) == (tuple(columns), (), ())
    named = {"e0": list(range(ROWS)), "e1": columns["ties"]}
    assert taken(read_features(table_file(tmp_path, named, form))) == (("e0", "e1"), (), ())
    with pytest.raises(InputError, match=r"its only columns of numbers number the rows \('row'\)"):
        read_features(table_file(tmp_path, {"row": list(range(ROWS))}, form))


def test_the_index_that_parquet_names_is_passed_over(tmp_path: Path) -> None:
    """A column that the pandas metadata of a Parquet file names as index is not part of the embedding."""
    shuffled = [30, 2, 25, 7, 18, 40, 3, 9, 11, 5, 60, 1]
    columns = {**FEATURES, "take": shuffled}
    for index, kept in (('["take", "id"]', False), ('[{"kind": "range"}]', True), ("3", None), ("[]", True)):
        file = table_file(tmp_path, columns, ".parquet", pandas=f'{{"index_columns": {index}}}')
        if kept is None:
            with pytest.raises(InputError, match="cannot be read as .parquet"):
                read_features(file)
        else:
            expected = ((*FEATURES, "take"), (), ()) if kept else (tuple(FEATURES), ("take",), ())
            assert taken(read_features(file)) == expected
    assert taken(read_features(table_file(tmp_path, columns, ".parquet", pandas="[]")))[0] == (
        *FEATURES,
        "take",
    )


@pytest.mark.parametrize("form", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("wanted", "columns", "guessed"),
    [
        (("b",), ("b",), set()),
        (("b,a",), ("b", "a"), set()),
        (("b", " a ,b", "a"), ("b", "a"), set()),
        (("x, y", "a"), ("x, y", "a"), set()),
        (("feat_*",), ("feat_0", "feat_1"), {"feat_0", "feat_1"}),
        (("feat_*", "feat_1,row"), ("feat_0", "feat_1", "row"), {"feat_0"}),
        (("feat_[1]", "a,"), ("feat_1", "a"), {"feat_1"}),
        (("mfcc[0]",), ("mfcc[0]",), set()),
        (
            ("*",),
            ("a", "b", "x, y", "mfcc[0]", "feat_0", "feat_1"),
            {"a", "b", "x, y", "mfcc[0]", "feat_0", "feat_1"},
        ),
    ],
)
def test_columns_are_chosen_by_name_or_pattern(
    tmp_path: Path, wanted: tuple[str, ...], columns: tuple[str, ...], guessed: set[str], form: str
) -> None:
    """`--columns` keeps the order of the user; a pattern matches no index column and no column of an export."""
    names = ("a", "b", "x, y", "mfcc[0]")
    values = {name: [row * row % 7 + place for row in range(ROWS)] for place, name in enumerate(names)}
    table = {**values, **FEATURES, "row": list(range(ROWS)), "fold": [row % 2 for row in range(ROWS)]}
    found = read_features(table_file(tmp_path, table, form), columns=wanted)
    assert (found.columns, set(found.guessed)) == (columns, guessed)
    assert found.embedding.tolist() == [[table[name][row] for name in columns] for row in range(ROWS)]


@pytest.mark.parametrize("form", [".csv", ".parquet"])
def test_columns_of_text_and_of_data_sets_are_passed_over(tmp_path: Path, form: str) -> None:
    """File names and moods are no features, nor are the columns of a data set, even where they hold numbers."""
    table = {"filename": ["a1.mp4"] * ROWS, **FEATURES, "start_s": [0.5] * ROWS, "mood": ["sad"] * ROWS}
    assert taken(read_features(table_file(tmp_path, table, form))) == (
        tuple(FEATURES),
        (),
        ("filename", "start_s", "mood"),
    )


def test_columns_that_cannot_be_chosen(tmp_path: Path) -> None:
    """Unknown columns, columns of text and `--columns` for an array are errors that say what is expected."""
    table = {**FEATURES, "note": ["x"] * ROWS, "logit:a": [0.5] * ROWS}
    known = "known: 'feat_0', 'feat_1', 'note'$"
    for form, numbers in (
        (".csv", "'note' is 'x'; expected a number"),
        (".parquet", "'note' is string; expected float"),
    ):
        file = table_file(tmp_path, table, form)
        for wanted, cause in (
            ("feat_2", f"--columns: unknown column 'feat_2'; {known}"),
            ("feat_0,z*", rf"--columns: unknown column 'z\*'; {known}"),
            ("id", f"unknown column 'id'; {known}"),
            ("logit:a", f"unknown column 'logit:a'; {known}"),
            ("note", numbers),
            (",", "no column of an embedding"),
        ):
            with pytest.raises(InputError, match=cause):
                read_features(file, columns=(wanted,))
    np.savez(tmp_path / "a.npz", id=np.array(IDS), embedding=np.ones((6, 2)))
    with pytest.raises(InputError, match="--columns goes with .csv and .parquet"):
        read_features(tmp_path / "a.npz", columns=("e0",))


def test_many_columns_are_counted(tmp_path: Path) -> None:
    """Up to twenty columns are listed in full; of more, the number, the first and the last are shown."""
    table = {f"f{number}": [0.5] * ROWS for number in range(20)}
    (line,) = read_features(table_file(tmp_path, table, ".csv")).column_lines
    assert line == "columns of the embedding: " + ", ".join(f"'f{number}'" for number in range(20))
    (line,) = read_features(table_file(tmp_path, table | {"f20": [0.5] * ROWS}, ".csv")).column_lines
    assert line == "columns of the embedding: 21, from 'f0' to 'f20'"


def test_arrays_of_objects_are_named_with_the_remedy(known: FeatureCache, tmp_path: Path) -> None:
    """An array of Python objects in .npz or .npy is refused by name with the remedy, and never unpickled."""
    good = {
        "id": np.array(IDS),
        "embedding": np.ones((6, 2)),
        "logits": np.ones((6, 2)),
        "classes": np.array(["a", "b"]),
    }
    for name, remedy in (
        ("id", r"np.array\(id\).astype\(str\)"),
        ("classes", r"np.array\(classes\).astype\(str\)"),
        ("embedding", r"np.stack\(embedding\).astype\('float32'\)"),
        ("logits", r"np.stack\(logits\).astype\('float32'\)"),
    ):
        np.savez(tmp_path / "bad.npz", **(good | {name: good[name].astype(object)}))
        refuse(
            tmp_path,
            rf"bad.npz: {name} is an array of Python objects .*save {remedy}",
            file=tmp_path / "bad.npz",
        )
    np.save(tmp_path / "ids.npy", np.array(IDS, dtype=object))
    np.save(tmp_path / "rows.npy", np.ones((6, 2)))
    refuse(
        tmp_path,
        r"ids.npy: ids is an array of Python objects",
        file=tmp_path / "rows.npy",
        ids=tmp_path / "ids.npy",
    )
    np.save(tmp_path / "rows.npy", np.ones((6, 2), dtype=object))
    np.save(tmp_path / "ids.npy", np.array(IDS))
    refuse(tmp_path, r"rows.npy: embedding is an array", file=tmp_path / "rows.npy", ids=tmp_path / "ids.npy")


# What is larger than it looks


def npz(file: Path, arrays: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of members with any bytes."""
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)
    return file


def npy(dtype: str, shape: tuple[int, ...], data: bytes = b"") -> bytes:
    """A ``.npy`` whose header says something, with any bytes behind it."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": False, "shape": shape})
    return content.getvalue() + data


IDS_NPY = npy("<U6", (6,), np.array(IDS, dtype="<U6").tobytes())
ZEROS = npy("<f4", (6, 3 << 20), bytes(18 << 22))
"""75 million bytes that compress to 75 thousand."""


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail where more than 50 MB are taken by what runs inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["embedding", "logits", "id", "classes"])
def test_an_npz_that_becomes_much_larger_is_refused(tmp_path: Path, name: str) -> None:
    """An .npz with one array that compresses too well is refused; the same arrays uncompressed are read."""
    good = {"id.npy": IDS_NPY, "embedding.npy": npy("<f4", (6, 1), bytes(24))}
    file = npz(tmp_path / "bomb.npz", {**good, f"{name}.npy": ZEROS})
    assert file.stat().st_size < 1 << 20
    with (
        little_memory(),
        pytest.raises(InputError, match=r"bomb\.npz: \d+ bytes that become 75\d{6}.*100 times.*numpy\.savez"),
    ):
        read_features(file)
    if name == "embedding":
        assert (
            read_features(npz(file, {**good, "embedding.npy": ZEROS}, zipfile.ZIP_STORED)).embedding.shape[1]
            == 3 << 20
        )


def test_compressed_features_are_read(tmp_path: Path) -> None:
    """A compressed .npz of usual features, or a small one of zeros, is read; arrays that are not read do not count."""
    values = np.random.default_rng(0).standard_normal((6, 1000), np.float32)
    values[3] = 0
    np.savez_compressed(tmp_path / "a.npz", id=np.array(IDS), embedding=values, unread=np.zeros(20_000_000))
    assert np.array_equal(read_features(tmp_path / "a.npz").embedding, values)
    np.savez_compressed(tmp_path / "b.npz", id=np.array(IDS), embedding=np.zeros((6, 1_000_000), np.float32))
    assert not read_features(tmp_path / "b.npz").embedding.any()


HEADERS = {
    "huge": ("<f4", (6, 1 << 40)),
    "overflowing": ("<f4", (1 << 32, 1 << 33)),
    "wide texts": ("<U100000000", (6,)),
    "texts of no bytes": ("<U0", (1 << 40,)),
    "cut short": ("<f4", (6, 7)),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("form", [".npy", ".npz", "ids"])
def test_an_array_that_is_declared_larger_than_its_file_is_refused(
    tmp_path: Path, name: str, form: str
) -> None:
    """A declared size beyond the file is refused before NumPy allocates it, in ``.npy``, ``.npz`` and ids."""
    data = npy(*HEADERS[name], bytes(100))
    good = tmp_path / "good.npy"
    np.save(good, np.zeros((6, 2), np.float32))
    file = tmp_path / f"bad{'.npy' if form == 'ids' else form}"
    if form == ".npz":
        npz(file, {"id.npy": IDS_NPY, "embedding.npy": data})
    else:
        file.write_bytes(data)
    with little_memory(), pytest.raises(InputError, match=r"bad\.np[yz].* is declared as .* but 100 follow"):
        read_features(good if form == "ids" else file, ids=None if form == ".npz" else file)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_of_another_compression_is_refused(tmp_path: Path, method: int) -> None:
    """An .npz that is compressed by BZIP2 or LZMA, which NumPy does not write, is refused."""
    file = npz(
        tmp_path / "x.npz", {"id.npy": IDS_NPY, "embedding.npy": npy("<f4", (6, 1), bytes(24))}, method
    )
    with pytest.raises(
        InputError, match=r"id\.npy is compressed by method 1[24]; expected what numpy\.savez"
    ):
        read_features(file)


@pytest.mark.parametrize("kind", ["flat", "lists", "ids"])
def test_a_parquet_that_becomes_much_larger_is_refused(tmp_path: Path, kind: str) -> None:
    """A Parquet file that stores one value, or one long id, for very many rows is refused."""
    columns: dict[str, object]
    if kind == "flat":
        columns = {"id": pyarrow.array(np.zeros(10_000_000, np.int8)), "e0": np.zeros(10_000_000, np.float32)}
    elif kind == "lists":
        rows = pyarrow.ListArray.from_arrays(np.arange(4) * 5_000_000, np.zeros(15_000_000, np.float32))
        columns = {"id": ["a", "b", "c"], "embedding": rows}
    else:
        columns = {"id": ["x" * 100_000] * 1000, "e0": np.zeros(1000)}
    file = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")
    assert file.stat().st_size < 1 << 20
    with pytest.raises(
        InputError, match=r"bomb\.parquet: \d+ bytes that become \d+; expected 100 times the file"
    ):
        read_features(file)


def test_parquet_of_many_rows_and_one_value_is_read_where_it_is_small(tmp_path: Path) -> None:
    """A small Parquet file with a constant column is read, although it compresses well."""
    table = pyarrow.table(
        {"id": [str(row) for row in range(20_000)], "e0": np.ones(20_000), "e1": np.zeros(20_000)}
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    found = read_features(tmp_path / "a.parquet")
    assert found.embedding.shape == (20_000, 2) and found.embedding[:, 0].all() and found.ids[-1] == "19999"


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_pipe_or_a_folder_is_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    """A pipe or a folder in place of features, ids or labels is an error that names it."""
    make(tmp_path / name)
    found = r"is a (pipe|folder); expected a regular file"
    with pytest.raises(InputError, match=found):
        read_features(tmp_path / name, ids=tmp_path / "ids.txt" if name == "a.npy" else None)
    np.save(tmp_path / "good.npy", np.zeros((6, 1)))
    with pytest.raises(InputError, match=found):
        read_features(tmp_path / "good.npy", ids=tmp_path / name)
    with pytest.raises(InputError, match=found):
        read_labels(tmp_path / name)


@pytest.mark.timeout(60)
def test_a_csv_of_very_many_columns_is_read(tmp_path: Path) -> None:
    """Repeated names are found in one pass: comparing each with all would take minutes."""
    names = ",".join(f"c{number}" for number in range(100_000))
    (tmp_path / "wide.csv").write_text(f"id,label,{names},c7\n")
    with pytest.raises(InputError, match="column 'c7' occurs twice"):
        read_labels(tmp_path / "wide.csv")
