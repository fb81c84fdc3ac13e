"""Files of features of every format are read, or refused with a reason."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bringing import FORMATS, IDS, Given, bring, refuse, write, write_csv
from moodfuse.cache.csv_rows import read_labels
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import export_features
from moodfuse.cache.transfer.importing import ImportSettings, import_features
from moodfuse.cache.transfer.readers import read_features

pytestmark = pytest.mark.usefixtures("unsynced")

ROWS = 12
FEATURES = {"feat_0": [0.5 * row * row - 7 for row in range(ROWS)], "feat_1": [0.25] * ROWS}
both_forms = pytest.mark.parametrize("form", [".csv", ".parquet"])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["f2", "f8", "i8"])
def test_values_of_any_number_type_are_read_as_float32(tmp_path: Path, form: str, kind: str) -> None:
    values = np.array([[0, 1], [2, 100], [7, 3]], dtype=kind)
    ids = ("é 漢", "a\nb", 'c, "\udcff"')
    given = Given(ids, values, None if form == ".npy" else values)
    features = read_features(**write(tmp_path, given, form))
    assert list(features.ids) == list(ids)
    for name, array in features.arrays.items():
        assert array.dtype == np.float32 and array.tolist() == values.tolist(), name


@pytest.mark.parametrize("form", FORMATS)
def test_ids_must_be_those_of_the_clips(known: FeatureCache, tmp_path: Path, form: str) -> None:
    for ids, cause in (
        ((*IDS, "clip 6", "clip 7"), r"2 of 8 ids are not clips of the cache \(first: 'clip 6', 'clip 7'\)"),
        (IDS[:4], r"has no features of 2 of 6 clips \(first: 'clip 4', 'clip 5'\)"),
        ((*IDS, IDS[2]), r"1 id\(s\) occur twice \(first: 'clip 2'\)"),
    ):
        refuse(tmp_path, cause, **write(tmp_path, Given(ids, np.ones((len(ids), 2))), form))


@pytest.mark.parametrize("form", FORMATS)
def test_values_that_are_not_finite_name_the_clip(tmp_path: Path, form: str) -> None:
    for value in (np.nan, -np.inf, 1e39):
        embedding = np.zeros((6, 2))
        embedding[4, 1] = value
        cause = r"of clip 'clip 4' is .* in column 1; expected a finite float32"
        with pytest.raises(InputError, match=cause):
            read_features(**write(tmp_path, Given(IDS, embedding), form))


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_are_refused(tmp_path: Path, form: str) -> None:
    files = write(tmp_path, Given(IDS, np.arange(12.0).reshape(6, 2)), form)
    data = files["file"].read_bytes()
    for end in (1, len(data) // 2, len(data) - 1) if form != ".csv" else (1, len(data) - 3):
        files["file"].write_bytes(data[:end])
        with pytest.raises(InputError, match=files["file"].name):
            read_features(**files)


def test_arrays_that_cannot_be_features_are_refused(tmp_path: Path) -> None:
    good = {"id": np.array(IDS), "embedding": np.zeros((6, 2)), "logits": np.zeros((6, 2))}
    for name, values, cause in (
        ("embedding", np.zeros((6, 2), "c8"), "embedding is complex64; expected numbers"),
        ("logits", np.zeros((6, 2), "?"), "logits is bool; expected numbers"),
        ("embedding", np.zeros((6, 2), "O"), "cannot be read as .npz .Object arrays"),
        ("id", np.array(IDS, "O"), r"Object arrays .*save texts as values.astype\(str\)"),
        ("id", np.arange(6), r"ids are int64\[6\]; expected strings, \[N\], as .astype\(str\)"),
        ("embedding", np.zeros(6), r"embedding is \[6\], with 6 ids"),
        ("logits", np.zeros((5, 2)), r"logits is \[5, 2\], with 6 ids"),
        ("embedding", np.zeros((6, 0)), r"embedding is \[6, 0\], with 6 ids"),
        ("classes", np.array(["a"]), "classes do not match the columns of logits"),
    ):
        np.savez(tmp_path / "bad.npz", **(good | {name: values}))
        with pytest.raises(InputError, match=cause):
            read_features(tmp_path / "bad.npz")


def test_files_of_another_format_are_refused_with_what_was_expected(
    known: FeatureCache, tmp_path: Path
) -> None:
    embedding = np.ones((6, 2))
    np.save(tmp_path / "one.npy", embedding)
    np.savez(tmp_path / "other.npz", ids=np.array(IDS), embedding=embedding)
    (tmp_path / "array.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    (tmp_path / "several.npy").write_bytes((tmp_path / "other.npz").read_bytes())
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join((*IDS, "")).encode())
    for name, options, cause in (
        ("none.npz", {}, "none.npz: cannot be read as .npz .No such file"),
        ("none.csv", {}, "none.csv: cannot be read"),
        ("one.txt", {}, "unknown suffix '.txt'; expected .npy, .npz, .csv or .parquet"),
        ("one.npy", {}, "add --ids FILE"),
        ("other.npz", {}, "has no array id, only ids, embedding"),
        ("array.npz", {}, "cannot be read as .npz .*; expected arrays .* as numpy.savez writes them"),
        ("several.npy", {"ids": tmp_path / "ids.txt"}, "cannot be read as .npy"),
        ("other.npz", {"ids": tmp_path / "ids.txt"}, "--ids is for .npy files"),
        ("other.npz", {"columns": ("e0",)}, "--columns is for .csv and .parquet files"),
    ):
        refuse(tmp_path, cause, file=tmp_path / name, **options)
    assert bring(known.path, file=tmp_path / "one.npy", ids=tmp_path / "ids.txt").written == 6


def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "good.npy", np.zeros((6, 1)))
    for read in (
        lambda: read_features(tmp_path / "pipe.csv"),
        lambda: read_features(tmp_path / "folder.npy", ids=tmp_path / "ids.txt"),
        lambda: read_features(tmp_path / "good.npy", ids=tmp_path / "pipe.csv"),
        lambda: read_labels(tmp_path / "pipe.csv"),
    ):
        with pytest.raises(InputError, match=r"expected a regular file"):
            read()


# Tables


def table_file(folder: Path, columns: dict[str, Any], form: str, **metadata: str) -> Path:
    """A table of twelve clips with these columns, after the column id."""
    columns = {"id": [f"clip {row}" for row in range(ROWS)], **columns}
    file = folder / f"table{form}"
    if form == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), file)
    else:
        write_csv(file, [tuple(columns), *zip(*columns.values(), strict=True)])
    return file


def uses(file: Path, *patterns: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of the embedding, and those that were ignored."""
    features = read_features(file, columns=patterns)
    return features.columns, features.ignored


@both_forms
@pytest.mark.parametrize(
    ("name", "values"),
    [("Unnamed: 0", range(50, 98, 4)), ("", range(ROWS)), ("row", [7, 3, 11, 12, 1, 2, 9, 8, 10, 4, 6, 5])],
)
def test_index_columns_are_ignored_unless_named(tmp_path: Path, name: str, values: Any, form: str) -> None:
    file = table_file(tmp_path, {name: list(values), **FEATURES}, form)
    found = read_features(file)
    assert uses(file) == (tuple(FEATURES), (name,))
    assert found.arrays["embedding"].tolist() == [list(row) for row in zip(*FEATURES.values(), strict=True)]
    assert f"columns ignored: {name!r}" in found.describe_columns()
    if name:
        assert uses(file, f"{name},feat_0") == ((name, "feat_0"), ("feat_1",))


@both_forms
def test_numbers_that_do_not_number_rows_are_features(tmp_path: Path, form: str) -> None:
    columns = {
        "gap": [*range(ROWS - 1), ROWS],
        "from two": list(range(2, ROWS + 2)),
        "ties": [0, *range(ROWS - 1)],
    }
    assert uses(table_file(tmp_path, columns, form)) == (tuple(columns), ())
    numbered = {"e0": list(range(ROWS)), "e1": columns["ties"], "age": columns["gap"]}
    assert uses(table_file(tmp_path, numbered, form)) == (("e0", "e1"), ("age",))
    with pytest.raises(InputError, match="only some that number the rows"):
        read_features(table_file(tmp_path, {"row": list(range(ROWS))}, form))


def test_the_index_of_pandas_is_ignored(tmp_path: Path) -> None:
    columns = {**FEATURES, "take": [30, 2, 25, 7, 18, 40, 3, 9, 11, 5, 60, 1]}
    for index, is_index in (('["take", "id"]', True), ('[{"kind": "range"}]', False)):
        file = table_file(tmp_path, columns, ".parquet", pandas=f'{{"index_columns": {index}}}')
        assert uses(file) == ((tuple(FEATURES), ("take",)) if is_index else ((*FEATURES, "take"), ()))


@both_forms
@pytest.mark.parametrize(
    ("patterns", "columns", "guessed"),
    [
        (("b,a",), "b a", ""),
        (("b", " a ,b", "a"), "b a", ""),
        (("feat_*", "feat_1,row"), "feat_0 feat_1 row", "feat_0"),
        (("mfcc[0]",), "mfcc[0]", ""),
        (("*",), "a b mfcc[0] feat_0 feat_1", "a b mfcc[0] feat_0 feat_1"),
    ],
)
def test_columns_are_chosen_by_name_or_pattern_in_the_order_of_the_user(
    tmp_path: Path, patterns: tuple[str, ...], columns: str, guessed: str, form: str
) -> None:
    names = ("a", "b", "mfcc[0]")
    values = {name: [row * row % 7 + place for row in range(ROWS)] for place, name in enumerate(names)}
    table = {**values, **FEATURES, "row": list(range(ROWS)), "fold": [row % 2 for row in range(ROWS)]}
    found = read_features(table_file(tmp_path, table, form), columns=patterns)
    assert found.columns == tuple(columns.split())
    assert found.guessed == set(guessed.split())
    expected = [[table[name][row] for name in columns.split()] for row in range(ROWS)]
    assert found.arrays["embedding"].tolist() == expected


@both_forms
def test_columns_of_text_and_of_datasets_are_ignored(tmp_path: Path, form: str) -> None:
    table = {"filename": ["a1.mp4"] * ROWS, **FEATURES, "start_s": [0.5] * ROWS, "mood": ["sad"] * ROWS}
    file = table_file(tmp_path, table, form)
    assert uses(file) == (tuple(FEATURES), ("filename", "start_s", "mood"))
    for pattern, cause in (
        (
            "feat_0,z*",
            r"--columns: unknown column 'z\*'; known: 'filename', 'feat_0', 'feat_1', 'start_s', 'mood'$",
        ),
        ("id", "unknown column 'id'"),
        ("mood", "'mood' is '?(sad|string)'?; expected a? ?number"),
        (",", "no embedding column"),
    ):
        with pytest.raises(InputError, match=cause):
            read_features(file, columns=(pattern,))


def test_a_csv_reports_its_columns_and_names_the_line_of_a_mistake(
    known: FeatureCache, tmp_path: Path
) -> None:
    rows = "\n".join(f"clip {number},{number},a,1,{-number}" for number in range(6))
    (tmp_path / "some.csv").write_text(f"\ufeffid , width,label,fold,height\r\n{rows}\r\n\r\n")
    lines: list[str] = []
    settings = ImportSettings(known.path, tmp_path / "some.csv", "mine", Holdout.frozen())
    import_features(settings, report=lines.append)
    assert lines[:2] == [
        f"{settings.file}: columns of the embedding: 'width', 'height'",
        f"{settings.file}: columns ignored: 'label', 'fold'",
    ]
    assert FeatureCache(known.path).block("mine", "*").embedding.tolist() == [[n, -n] for n in range(6)]
    for text, cause in (
        ("id,label\n", "no embedding column"),
        ("e0,e1\n", r"column\(s\) id missing, found 'e0, e1'"),
        ("id,x\nclip 0,1\nclip 1,tall\n", "line 3: column 'x' is 'tall'; expected a number"),
        ('id,e0\n"clip\n0",1\nclip 1,2,3\n', "line 4: 3 cells; expected 2"),
        ("id,e0,logit:a,logit:c\nclip 0,1,1,1\n", "logits are of a, c; expected a, b"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        refuse(tmp_path, cause, file=tmp_path / "bad.csv")


def test_parquet_of_other_types(known: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pyarrow.array(IDS)
    file = tmp_path / "some.parquet"
    lists = pyarrow.array([[1.0, 2.0]] * 6, pyarrow.large_list(pyarrow.float16()))
    table = pyarrow.table({"id": ids.dictionary_encode(), "embedding": lists, "note": ids})
    pyarrow.parquet.write_table(table, file)
    assert bring(known.path, file=file).embedding == 2
    rows = pyarrow.array(range(6))
    for columns, cause in (
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0]])}, "same number of values"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [None])}, "same number of values"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0, None]])}, "'clip 5' is nan"),
        ({"id": ids, "embedding": ids}, "cannot be read as .parquet"),
        ({"id": ids, "e0": ids}, "column 'e0' is string; expected numbers"),
        ({"id": ids, "note": ids}, "no embedding column"),
        ({"id": rows, "e0": rows}, "column 'id' is int64; expected strings"),
        ({"id": pyarrow.array([*IDS[:5], None]), "e0": rows}, "expected strings in every row"),
        ({"name": ids, "embedding": lists}, r"column\(s\) id missing"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        refuse(tmp_path, cause, file=file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(tmp_path, r"pip install 'moodfuse\[parquet\]'", file=file)
    with pytest.raises(InputError, match=r"pip install 'moodfuse\[parquet\]'"):
        export_features(known, "other", None, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*out.parquet")) and not list(tmp_path.glob(".tmp-*"))
