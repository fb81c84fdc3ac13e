"""Which columns of a table become the embedding, and which values a feature can have."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bringing import FORMATS, IDS, Given, refuse, write
from moodfuse.cache.errors import InputError
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.readers import read_features

pytestmark = pytest.mark.usefixtures("unsynced")

ROWS = 12
FEATURES = {"feat_0": [0.5 * row * row - 7 for row in range(ROWS)], "feat_1": [0.25] * ROWS}
both_forms = pytest.mark.parametrize("form", [".csv", ".parquet"])


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


def uses(file: Path, *patterns: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Columns of the embedding, of an index, and others that were ignored."""
    columns = read_features(file, columns=patterns).columns
    return columns.embedding, columns.index, columns.ignored


@pytest.mark.parametrize("kind", ["c8", "?", "O", "U3", "M8[s]", "f16", [("a", "f4")]], ids=str)
@pytest.mark.parametrize("name", ["embedding", "logits"])
def test_arrays_of_other_dtypes_are_refused(
    known: FeatureCache, tmp_path: Path, kind: Any, name: str
) -> None:
    arrays = {"id": np.array(IDS), "embedding": np.zeros((6, 2))} | {name: np.zeros((6, 2), dtype=kind)}
    np.savez(tmp_path / "bad.npz", **arrays)
    objects = rf"{name} is an array of Python objects .*save np.stack\({name}\).astype\('float32'\)"
    cause = objects if kind == "O" else "expected float16, float32, float64 or whole numbers"
    refuse(tmp_path, cause, file=tmp_path / "bad.npz")


@pytest.mark.parametrize("shape", [(6,), (6, 0), (0, 2), (5, 2), (6, 2, 1), ()], ids=str)
def test_arrays_of_other_shapes_are_refused(
    known: FeatureCache, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    for name in ("embedding", "logits"):
        arrays = {"id": np.array(IDS), "embedding": np.zeros((6, 2))} | {name: np.zeros(shape)}
        np.savez(tmp_path / "bad.npz", **arrays)
        refuse(tmp_path, f"{name} is .*, with 6 ids", file=tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("value", "kind", "cause"),
    [
        (np.nan, "f4", "is nan in column 1, not finite"),
        (-np.inf, "f2", "is -inf in column 1, not finite"),
        (1e39, "f8", "is 1e[+]39 in column 1, too large for float32"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_values_that_are_not_finite_as_float32_name_the_clip(
    known: FeatureCache, tmp_path: Path, value: float, kind: str, cause: str, form: str
) -> None:
    embedding = np.zeros((6, 2), dtype=kind)
    embedding[4, 1] = value
    refuse(tmp_path, f"of clip 'clip 4' {cause}", **write(tmp_path, Given(IDS, embedding), form))


@both_forms
@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, range(50, 98, 4)) for name in ("", "Unnamed: 0", "Unnamed: 0.1", "Index", "level_1")),
        ("__index_level_0__", range(0, -ROWS, -1)),
        ("row", range(ROWS)),
        ("row", range(1, ROWS + 1)),
        ("row", [7, 3, 11, 0, 1, 2, 9, 8, 10, 4, 6, 5]),
    ],
)
def test_index_columns_are_ignored_unless_named(tmp_path: Path, name: str, values: Any, form: str) -> None:
    file = table_file(tmp_path, {name: list(values), **FEATURES}, form)
    found = read_features(file)
    assert uses(file) == (tuple(FEATURES), (name,), ())
    assert found.arrays["embedding"].tolist() == [list(row) for row in zip(*FEATURES.values(), strict=True)]
    assert f"index columns ignored: {name!r}" in found.columns.lines()
    if name:
        assert uses(file, f"{name},feat_0") == ((name, "feat_0"), (), ("feat_1",))


@both_forms
def test_numbers_that_do_not_number_rows_are_features(tmp_path: Path, form: str) -> None:
    columns = {
        "bpm": [60, 61, 62, 70, 71, 75, 80, 90, 100, 120, 121, 180],
        "gap": [*range(ROWS - 1), ROWS],
        "consecutive": list(range(2, ROWS + 2)),
        "ties": [0, *range(ROWS - 1)],
        "falling": list(range(2 * ROWS, ROWS, -1)),
        "halves": [row / 2 for row in range(ROWS)],
        "large": [2.0**row for row in range(ROWS)],
    }
    assert uses(table_file(tmp_path, columns, form)) == (tuple(columns), (), ())
    numbered = {"e0": list(range(ROWS)), "e1": columns["ties"]}
    assert uses(table_file(tmp_path, numbered, form)) == (("e0", "e1"), (), ())
    with pytest.raises(InputError, match=r"its only numeric columns number the rows \('row'\)"):
        read_features(table_file(tmp_path, {"row": list(range(ROWS))}, form))


def test_the_index_that_parquet_names_is_ignored(tmp_path: Path) -> None:
    columns = {**FEATURES, "take": [30, 2, 25, 7, 18, 40, 3, 9, 11, 5, 60, 1]}
    for index, is_index in (('["take", "id"]', True), ('[{"kind": "range"}]', False), ("[]", False)):
        file = table_file(tmp_path, columns, ".parquet", pandas=f'{{"index_columns": {index}}}')
        expected = (tuple(FEATURES), ("take",), ()) if is_index else ((*FEATURES, "take"), (), ())
        assert uses(file) == expected
    with pytest.raises(InputError, match="cannot be read as .parquet"):
        read_features(table_file(tmp_path, columns, ".parquet", pandas='{"index_columns": 3}'))


@both_forms
@pytest.mark.parametrize(
    ("patterns", "columns", "guessed"),
    [
        (("b,a",), "b a", ""),
        (("b", " a ,b", "a"), "b a", ""),
        (("x,y", "a"), "x,y a", ""),
        (("feat_*",), "feat_0 feat_1", "feat_0 feat_1"),
        (("feat_*", "feat_1,row"), "feat_0 feat_1 row", "feat_0"),
        (("feat_[1]", "a,"), "feat_1 a", "feat_1"),
        (("mfcc[0]",), "mfcc[0]", ""),
        (("*",), "a b x,y mfcc[0] feat_0 feat_1", "a b x,y mfcc[0] feat_0 feat_1"),
    ],
)
def test_columns_are_chosen_by_name_or_pattern_in_the_order_of_the_user(
    tmp_path: Path, patterns: tuple[str, ...], columns: str, guessed: str, form: str
) -> None:
    names = ("a", "b", "x,y", "mfcc[0]")
    values = {name: [row * row % 7 + place for row in range(ROWS)] for place, name in enumerate(names)}
    table = {**values, **FEATURES, "row": list(range(ROWS)), "fold": [row % 2 for row in range(ROWS)]}
    found = read_features(table_file(tmp_path, table, form), columns=patterns)
    assert (found.columns.embedding, found.columns.guessed) == (
        tuple(columns.split()),
        set(guessed.split()),
    )
    expected = [[table[name][row] for name in columns.split()] for row in range(ROWS)]
    assert found.arrays["embedding"].tolist() == expected


@both_forms
def test_columns_of_text_and_of_datasets_are_ignored(tmp_path: Path, form: str) -> None:
    table = {"filename": ["a1.mp4"] * ROWS, **FEATURES, "start_s": [0.5] * ROWS, "mood": ["sad"] * ROWS}
    expected = (tuple(FEATURES), (), ("filename", "start_s", "mood"))
    assert uses(table_file(tmp_path, table, form)) == expected


def test_columns_that_cannot_be_chosen_are_named(tmp_path: Path) -> None:
    table = {**FEATURES, "note": ["x"] * ROWS, "logit:a": [0.5] * ROWS}
    known = "known: 'feat_0', 'feat_1', 'note'$"
    for form, cause in (
        (".csv", "'note' is 'x'; expected a number"),
        (".parquet", "'note' is string; expected float"),
    ):
        file = table_file(tmp_path, table, form)
        for pattern, message in (
            ("feat_0,z*", rf"--columns: unknown column 'z\*'; {known}"),
            ("id", f"unknown column 'id'; {known}"),
            ("logit:a", f"unknown column 'logit:a'; {known}"),
            ("note", cause),
            (",", "no embedding column"),
        ):
            with pytest.raises(InputError, match=message):
                read_features(file, columns=(pattern,))


def test_of_more_than_twenty_columns_the_first_are_listed(tmp_path: Path) -> None:
    table = {f"f{number}": [0.5] * ROWS for number in range(20)}
    (line,) = read_features(table_file(tmp_path, table, ".csv")).columns.lines()
    assert line == "columns of the embedding: " + ", ".join(f"'f{number}'" for number in range(20))
    (line,) = read_features(table_file(tmp_path, table | {"f20": [0.5] * ROWS}, ".csv")).columns.lines()
    assert line == "columns of the embedding: " + ", ".join(f"'f{number}'" for number in range(20)) + ", ..."
