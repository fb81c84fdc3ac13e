"""Files of features of every format are read as intended, or refused with a reason, and nothing is written."""

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
from moodfuse.cache.csv_rows import read_labels
from moodfuse.cache.errors import InputError
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import export_features
from moodfuse.cache.transfer.importing import ImportSettings, import_features
from moodfuse.cache.transfer.readers import read_features

pytestmark = pytest.mark.usefixtures("unsynced")


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
        ((*IDS, IDS[2]), r"1 id\(s\) occur twice \(first: 'clip 2'\)"),
    ],
    ids=["unknown", "missing", "none", "twice"],
)
def test_ids_must_be_those_of_the_clips(
    known: FeatureCache, tmp_path: Path, form: str, ids: tuple[str, ...], cause: str
) -> None:
    refuse(tmp_path, cause, **write(tmp_path, Given(ids, np.ones((len(ids), 2), dtype=np.float32)), form))


@settings(bounded, max_examples=80)
@given(
    ids=st.lists(NASTY, min_size=4, max_size=6, unique=True) | st.lists(ANY_ID, max_size=6),
    labels=st.just(LABELS) | st.lists(st.sampled_from(["a", "b", "", "../a", "é", "\udce9"]), max_size=6),
)
def test_any_ids_and_labels_are_read_exactly_or_refused(
    ids: list[str], labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
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
    block = FeatureCache(folder / "one").block("mine", "*")
    assert all(map(is_name, names)) and list(block.ids) == sorted(names)


@settings(bounded, max_examples=100)
@given(
    form=st.sampled_from(FORMATS),
    place=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
@example(form=".npy", place=0.3046875, value=0, cut=False)
def test_damaged_files_are_refused_or_give_finite_features(
    form: str, place: float, value: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
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


def test_parquet_keeps_the_classes_of_its_lists_of_logits(known: FeatureCache, tmp_path: Path) -> None:
    given_ = Given(IDS, np.ones((6, 2)), np.array([[2.0, -1.0]] * 6))
    bring(known.path, source="zs", **write(tmp_path, given_, ".npz"))
    out = tmp_path / "out.parquet"
    export_features(FeatureCache(known.path), "zs", None, out)
    turned = write_labels(tmp_path / "turned.csv", IDS, ["z" if label == "a" else label for label in LABELS])
    with pytest.raises(InputError, match="logits are of a, b; expected b, z"):
        bring(tmp_path / "new", file=out, labels=turned)
    table = pyarrow.parquet.read_table(out)
    for metadata, cause in (
        (b'["a"]', "classes do not match"),
        (b"{}", "not a list of labels"),
        (b"[", "cannot be read"),
    ):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": metadata}), out)
        refuse(tmp_path, cause, source="two", file=out)
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": b'["b","a"]'}), out)
    bring(known.path, source="two", file=out)
    found = FeatureCache(known.path).block("two", "*").logits
    assert found is not None and found.tolist() == [[-1.0, 2.0]] * 6


def test_a_csv_reports_its_columns_and_names_the_line_of_a_mistake(
    known: FeatureCache, tmp_path: Path
) -> None:
    rows = "\n".join(f"clip {number},{number},a,1,{-number}" for number in range(6))
    (tmp_path / "some.csv").write_text(f"\ufeffid , width,label,fold,height\r\n{rows}\r\n\r\n")
    lines: list[str] = []
    wanted = ImportSettings(known.path, tmp_path / "some.csv", "mine", Holdout.frozen())
    import_features(wanted, report=lines.append)
    assert lines[:2] == [
        f"{wanted.file}: columns of the embedding: 'width', 'height'",
        f"{wanted.file}: columns ignored: 'label', 'fold'",
    ]
    assert FeatureCache(known.path).block("mine", "*").embedding.tolist() == [[n, -n] for n in range(6)]
    table = "\n".join(f"clip {number},{number},7" for number in range(6))
    (tmp_path / "some.csv").write_text(f"id,e0,age\n{table}\n")
    import_features(replace(wanted, source="aged"), report=lines.append)
    assert lines[4] == f"{wanted.file}: columns ignored: 'age'"
    for text, cause in (
        ("id,e0,e2\n", "column e1 is missing"),
        ("id,label\n", "no embedding column"),
        ("e0,e1\n", r"column\(s\) id missing, found 'e0, e1'"),
        ("id,e0,e0\n", "line 1: column 'e0' occurs twice"),
        ("id,x\nclip 0,1\nclip 1,tall\n", "line 3: column 'x' is 'tall'; expected a number"),
        ("id,x\nclip 0,1_000\n", "line 2: column 'x' is '1_000'; expected a number"),
        ("id,x\nclip 0,٣\n", "line 2: column 'x' is '٣'; expected a number"),
        ('id,e0\n"clip\n0",1\nclip 1,2,3\n', "line 4: 3 cells; expected 2"),
        ("id,e0,logit:a,logit:c\nclip 0,1,1,1\n", "logits are of a, c; expected a, b"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        refuse(tmp_path, cause, file=tmp_path / "bad.csv")


def test_files_of_another_format_are_refused_with_what_was_expected(
    known: FeatureCache, tmp_path: Path
) -> None:
    embedding = np.ones((6, 2))
    np.save(tmp_path / "one.npy", embedding)
    np.savez(tmp_path / "other.npz", ids=np.array(IDS), embedding=embedding)
    np.savez(tmp_path / "whole.npz", id=np.arange(6), embedding=embedding)
    (tmp_path / "array.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    (tmp_path / "several.npy").write_bytes((tmp_path / "other.npz").read_bytes())
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join((*IDS, "")).encode())
    for name, cause in (
        ("none.npz", "none.npz: cannot be read as .npz .No such file"),
        ("none.csv", "none.csv: cannot be read"),
        ("none.parquet", "none.parquet: cannot be read"),
        ("one.txt", "unknown suffix '.txt'; expected .npy, .npz, .csv or .parquet"),
        ("one.npy", "add --ids FILE"),
        ("other.npz", "has no array id, only ids, embedding"),
        ("whole.npz", r"id is int64\[6\]; expected strings"),
        ("array.npz", "no archive as numpy.savez writes it"),
    ):
        refuse(tmp_path, cause, file=tmp_path / name)
    refuse(tmp_path, "magic string", file=tmp_path / "several.npy", ids=tmp_path / "ids.txt")
    refuse(tmp_path, "--ids goes with a .npy", file=tmp_path / "other.npz", ids=tmp_path / "ids.txt")
    refuse(tmp_path, "--columns goes with .csv and .parquet", file=tmp_path / "other.npz", columns=("e0",))
    assert bring(known.path, file=tmp_path / "one.npy", ids=tmp_path / "ids.txt").written == 6


def test_parquet_of_other_types(known: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pyarrow.array(IDS)
    file = tmp_path / "some.parquet"
    lists = pyarrow.array([[1.0, 2.0]] * 6, pyarrow.large_list(pyarrow.float16()))
    table = pyarrow.table({"id": ids.dictionary_encode(), "embedding": lists, "note": ids})
    pyarrow.parquet.write_table(table, file)
    assert bring(known.path, file=file).embedding == 2
    ragged, rows = pyarrow.array([[1.0, 2.0]] * 5 + [[1.0]]), pyarrow.array(range(6))
    for columns, cause in (
        ({"id": ids, "embedding": ragged}, "lists of different lengths"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [None])}, r"1 value\(s\) are missing"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0, None]])}, r"1 value\(s\) are"),
        ({"id": ids, "embedding": pyarrow.array([[True, False]] * 6)}, "list<.*bool>; expected a list of"),
        ({"id": ids, "embedding": ids}, "embedding is string; expected a list"),
        ({"id": ids, "e0": ids}, "column 'e0' is string; expected float or whole numbers"),
        ({"id": ids, "note": ids}, "no embedding column"),
        ({"id": rows, "e0": rows}, "column 'id' is int64; expected strings"),
        ({"id": pyarrow.array([*IDS[:5], None]), "e0": rows}, r"'id': 1 value\(s\) are missing"),
        ({"name": ids, "embedding": lists}, r"column\(s\) id missing"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        refuse(tmp_path, cause, file=file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(tmp_path, r"pip install 'moodfuse\[parquet\]'", file=file)
    with pytest.raises(InputError, match=r"pip install 'moodfuse\[parquet\]'"):
        export_features(known, "other", None, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*out.parquet")) and not list(tmp_path.glob(".tmp-*"))


def test_arrays_of_objects_are_refused_with_what_to_save_instead(known: FeatureCache, tmp_path: Path) -> None:
    good = {"id": np.array(IDS), "embedding": np.ones((6, 2)), "logits": np.ones((6, 2))}
    good["classes"] = np.array(["a", "b"])
    for name in ("id", "classes"):
        np.savez(tmp_path / "bad.npz", **(good | {name: good[name].astype(object)}))
        cause = rf"bad.npz: {name} is an array of Python objects .*save np.array\({name}\).astype\(str\)"
        refuse(tmp_path, cause, file=tmp_path / "bad.npz")
    np.save(tmp_path / "ids.npy", np.array(IDS, dtype=object))
    np.save(tmp_path / "rows.npy", np.ones((6, 2)))
    cause = r"ids.npy: ids is an array of Python objects"
    refuse(tmp_path, cause, file=tmp_path / "rows.npy", ids=tmp_path / "ids.npy")


# Files that declare more than they have


def npz(file: Path, arrays: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of members with any bytes."""
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in arrays.items():
            archive.writestr(name, data)
    return file


def npy(dtype: str, shape: tuple[int, ...], data: bytes = b"") -> bytes:
    """A ``.npy`` with any header and any bytes."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": dtype, "fortran_order": False, "shape": shape})
    return content.getvalue() + data


IDS_NPY = npy("<U6", (6,), np.array(IDS, dtype="<U6").tobytes())
ROWS_NPY = npy("<f4", (6, 1), bytes(24))
ZEROS = npy("<f4", (6, 3 << 20), bytes(18 << 22))
"""75 million bytes that compress to 75 thousand."""


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail where the code inside takes more than 50 MB."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["embedding", "id", "classes"])
def test_an_npz_that_needs_much_more_memory_than_its_size_is_refused(tmp_path: Path, name: str) -> None:
    good = {"id.npy": IDS_NPY, "embedding.npy": ROWS_NPY}
    file = npz(tmp_path / "bomb.npz", {**good, f"{name}.npy": ZEROS})
    assert file.stat().st_size < 1 << 20
    cause = r"bomb\.npz: \d+ bytes that become 75\d{6} in memory.*100 times.*numpy\.savez"
    with little_memory(), pytest.raises(InputError, match=cause):
        read_features(file)


def test_compressed_features_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 1000), np.float32)
    values[3] = 0
    np.savez_compressed(tmp_path / "a.npz", id=np.array(IDS), embedding=values, unread=np.zeros(20_000_000))
    assert np.array_equal(read_features(tmp_path / "a.npz").arrays["embedding"], values)
    file = npz(tmp_path / "b.npz", {"id.npy": IDS_NPY, "embedding.npy": ZEROS}, zipfile.ZIP_STORED)
    assert read_features(file).arrays["embedding"].shape[1] == 3 << 20


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
    file = npz(tmp_path / "x.npz", {"id.npy": IDS_NPY, "embedding.npy": ROWS_NPY}, method)
    with pytest.raises(InputError, match=r"id\.npy is compressed by method 1[24]; expected .*numpy\.savez"):
        read_features(file)


@pytest.mark.parametrize("kind", ["flat", "lists"])
def test_a_parquet_that_needs_much_more_memory_than_its_size_is_refused(tmp_path: Path, kind: str) -> None:
    columns: dict[str, object]
    if kind == "flat":
        columns = {"id": pyarrow.array(np.zeros(10_000_000, np.int8)), "e0": np.zeros(10_000_000, np.float32)}
    else:
        rows = pyarrow.ListArray.from_arrays(np.arange(4) * 5_000_000, np.zeros(15_000_000, np.float32))
        columns = {"id": ["a", "b", "c"], "embedding": rows}
    file = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file, compression="zstd")
    assert file.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"bomb\.parquet: \d+ bytes that become \d+ in memory; expected at"):
        read_features(file)


def test_a_long_id_that_parquet_stores_once_takes_memory_once(tmp_path: Path) -> None:
    columns = {"id": ["x" * 100_000] * 1000, "e0": np.zeros(1000)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "long.parquet", compression="zstd")
    with little_memory(), pytest.raises(InputError, match=r"999 id\(s\) occur twice"):
        read_features(tmp_path / "long.parquet")


def test_a_small_parquet_that_compresses_well_is_read(tmp_path: Path) -> None:
    table = {"id": [str(row) for row in range(20_000)], "e0": np.ones(20_000), "e1": np.zeros(20_000)}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet", compression="zstd")
    found = read_features(tmp_path / "a.parquet")
    assert found.arrays["embedding"].shape == (20_000, 2) and found.ids[-1] == "19999"


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_pipe_or_a_folder_is_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    cause = r"expected a regular file"
    with pytest.raises(InputError, match=cause):
        read_features(tmp_path / name, ids=tmp_path / "ids.txt" if name == "a.npy" else None)
    np.save(tmp_path / "good.npy", np.zeros((6, 1)))
    with pytest.raises(InputError, match=cause):
        read_features(tmp_path / "good.npy", ids=tmp_path / name)
    with pytest.raises(InputError, match=cause):
        read_labels(tmp_path / name)
