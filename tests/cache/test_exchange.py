"""Import and export: what goes in comes out bit for bit, in every format; the rest is refused, and nothing written."""

import csv
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cache.additions import write_rows
from cache.errors import CacheError, InputError, MoodfuseError, UnknownNameError
from cache.exchange import Imported, ImportSettings, import_features
from cache.export import export_features
from cache.manifest import table_name
from cache.planning import PlanChoice
from cache.recipe import Recipe, import_recipe
from cache.records import Holdout
from cache.store import FeatureCache

FORMATS = (".npz", ".npy", ".csv", ".parquet", "flat.parquet")
EXPORTS = (".npz", ".csv", ".parquet")
KINDS = ("f2", "f4", "f8", ">f4", ">f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
LABELS = ("a", "b", "a", "b", "a", "b")
IDS = tuple(f"clip {number}" for number in range(len(LABELS)))
bounded = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NASTY = st.text(st.sampled_from("ab \t\"'\n\r,;=-+@#é漢\u2028\ufeff\x1f\udc80\udcff"), min_size=1, max_size=12)
ANY_ID = NASTY | st.text(min_size=0, max_size=8) | st.sampled_from(["", "\0", "x" * 3000, "\ud800", "\udce9t\udce9"])


@pytest.fixture(autouse=True, scope="module")
def unsynced() -> Iterator[None]:
    """No waiting for the disk: hundreds of small caches are made here, and none outlives a power loss."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


def is_name(text: str) -> bool:
    """Whether a clip can be called so: bytes without NUL, and not none."""
    try:
        return (
            bool(text)
            and "\0" not in text
            and text == text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        )
    except UnicodeEncodeError:
        return False


NAMES = st.lists(ANY_ID.filter(is_name), min_size=len(LABELS), max_size=len(LABELS), unique=True)


@dataclass(frozen=True)
class Given:
    """A file of features to write."""

    ids: Sequence[str]
    embedding: np.ndarray
    logits: np.ndarray | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {"embedding": self.embedding} | ({} if self.logits is None else {"logits": self.logits})


def write_labels(file: Path, ids: Sequence[str], labels: Sequence[str] = LABELS, **columns: Sequence[object]) -> Path:
    """A table of labels, quoted as a spreadsheet would."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(("id", "label", *columns))
    writer.writerows(zip(ids, labels, *columns.values(), strict=True))
    file.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    return file


def write_csv(file: Path, found: Given) -> None:
    """Numbers by `repr`, and logits by the name of their class, last class first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    classes = sorted(set(LABELS))
    order = list(range(len(classes)))[::-1]
    logits = [f"logit:{classes[place]}" for place in order] if found.logits is not None else []
    writer.writerow(("id", *(f"e{number}" for number in range(found.embedding.shape[1])), *logits))
    for row, name in enumerate(found.ids):
        numbers = [*found.embedding[row].tolist(), *(found.logits[row][order].tolist() if logits else [])]
        writer.writerow((name, *map(repr, numbers)))
    file.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


def write_parquet(file: Path, found: Given, *, flat: bool) -> None:
    """Ids as bytes; arrays as lists, or as columns."""
    columns: dict[str, Any] = {"id": pyarrow.array([name.encode("utf-8", "surrogateescape") for name in found.ids])}
    for name, values in found.arrays.items():
        values = values.astype(values.dtype.newbyteorder("="))
        heads = [f"e{number}" for number in range(values.shape[1])]
        if name == "logits":
            heads = [f"logit:{label}" for label in sorted(set(LABELS))]
        if flat:
            columns |= {head: pyarrow.array(values[:, place]) for place, head in enumerate(heads)}
        else:
            columns[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def write(folder: Path, found: Given, form: str) -> dict[str, Path]:
    """The file, and what else of `ImportSettings` goes with it."""
    file = folder / f"features{form.removeprefix('flat')}"
    if form == ".npz":
        np.savez(file, id=np.array(found.ids), **found.arrays)
    elif form == ".npy":
        np.save(file, found.embedding)
        np.save(folder / "ids.npy", np.array([name.encode("utf-8", "surrogateescape") for name in found.ids]))
        return {"file": file, "ids": folder / "ids.npy"}
    elif form == ".csv":
        write_csv(file, found)
    else:
        write_parquet(file, found, flat=form != ".parquet")
    return {"file": file}


def bring(cache: Path, holdout: str = "*", source: str = "mine", **options: Any) -> Imported:
    """Import as the command does, with two folds."""
    options = {"plan": PlanChoice(2, 0) if options.get("labels") else PlanChoice(), **options}
    return import_features(ImportSettings(cache=cache, source=source, holdout=Holdout.of(holdout), **options))


def listing(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def numbers(kind: str) -> st.SearchStrategy[float]:
    """Values that a dtype holds, and float32 after it."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        edge = float(np.finfo(np.float32 if dtype.itemsize > 2 else np.float16).max)
        return st.floats(-edge, edge, width=8 * dtype.itemsize)  # type: ignore[arg-type]
    return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


@st.composite
def features(draw: Callable[..., Any]) -> Given:
    """Rows of every clip in any order, of any dtype that can be a feature."""
    kind, width, ids = draw(st.sampled_from(KINDS)), draw(st.integers(1, 3)), draw(NAMES)
    wanted = len(ids) * (width + 2)
    values = np.array(draw(st.lists(numbers(kind), min_size=wanted, max_size=wanted)), dtype=kind)
    values = values.reshape(len(ids), -1)
    return Given(ids, values[:, :width], values[:, width:] if draw(st.booleans()) else None)


@settings(bounded, max_examples=40)
@given(found=features(), form=st.sampled_from(FORMATS), to=st.sampled_from(EXPORTS), seed=st.integers(0, 9))
def test_round_trips(found: Given, form: str, to: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In through any format, out and in again through any other: ids and float32 bits are the same."""
    folder = tmp_path_factory.mktemp("trip")
    found = Given(found.ids, found.embedding, None if form == ".npy" else found.logits)
    order = np.random.default_rng(seed).permutation(len(found.ids)).tolist()
    labels = write_labels(folder / "labels.csv", [found.ids[row] for row in order])
    assert bring(folder / "one", labels=labels, **write(folder, found, form)).written == len(found.ids)
    block = FeatureCache(folder / "one").block("mine", "*")
    assert list(block.ids) == sorted(found.ids)
    rows = [found.ids.index(name) for name in block.ids]
    for name, values in found.arrays.items():
        assert getattr(block, name).tobytes() == values.astype(np.float32)[rows].tobytes()
    assert found.logits is not None or block.logits is None

    out = folder / f"out{to}"
    export_features(FeatureCache(folder / "one"), "mine", None, out)
    before = listing(folder / "one")
    assert bring(folder / "one", file=out).written == 0 and listing(folder / "one") == before
    assert bring(folder / "two", file=out, labels=labels).written == len(found.ids)
    again = FeatureCache(folder / "two").block("mine", "*")
    assert list(again.ids) == list(block.ids) and again.embedding.tobytes() == block.embedding.tobytes()
    assert again.logits is None if block.logits is None else again.logits.tobytes() == block.logits.tobytes()


def test_every_float32_survives_a_csv(tmp_path: Path) -> None:
    """Ten thousand bit patterns, subnormals, both zeros, and the decimal that rounds twice come back bit for bit."""
    bits = np.random.default_rng(0).integers(0, 2**32, 10_000, dtype=np.uint32).view(np.float32)
    odd = np.array([0x15AE43FD, 0x15AE43FE, 0x80000000, 0, 1, 0x007FFFFF, 0x7F7FFFFF], dtype=np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], odd])
    values = np.resize(values, (len(IDS), -(-len(values) // len(IDS))))
    labels = write_labels(tmp_path / "labels.csv", IDS)
    bring(tmp_path / "one", labels=labels, **write(tmp_path, Given(IDS, values), ".npz"))
    export_features(FeatureCache(tmp_path / "one"), "mine", None, tmp_path / "out.csv")
    bring(tmp_path / "two", file=tmp_path / "out.csv", labels=labels)
    assert FeatureCache(tmp_path / "two").block("mine", "*").embedding.tobytes() == values.tobytes()


@pytest.fixture
def known(tmp_path: Path) -> FeatureCache:
    """A cache of six clips with an imported source `other`."""
    labels = write_labels(tmp_path / "labels.csv", IDS)
    found = Given(IDS, np.arange(12.0).reshape(6, 2))
    bring(tmp_path / "known", source="other", labels=labels, **write(tmp_path, found, ".npz"))
    return FeatureCache(tmp_path / "known")


def refuse(folder: Path, match: str, **options: Any) -> None:
    """Hold an import to a clear refusal that leaves a cache, and the place of a new one, as they were."""
    before = listing(folder)
    with pytest.raises(InputError, match=match):
        bring(folder / "known", **options)
    with pytest.raises(InputError):
        bring(folder / "new", **({"labels": folder / "labels.csv"} | options))
    assert listing(folder) == before and not (folder / "new").exists()


BAD_KINDS = ("c8", "c16", "?", "O", "U3", "S3", "M8[s]", "m8[s]", "f16", [("a", "f4")])


@pytest.mark.parametrize("kind", BAD_KINDS, ids=str)
@pytest.mark.parametrize("name", ["embedding", "logits"])
def test_other_dtypes_are_refused(known: FeatureCache, tmp_path: Path, kind: Any, name: str) -> None:
    """Complex, bool, objects, text, dates, records and long doubles are no features; no pickle is read."""
    good = {"id": np.array(IDS), "embedding": np.zeros((6, 2))}
    np.savez(tmp_path / "bad.npz", **(good | {name: np.zeros((6, 2), dtype=kind)}))
    refuse(
        tmp_path, "expected float16, float32, float64 or whole numbers|allow_pickle=False", file=tmp_path / "bad.npz"
    )


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
    ("value", "kind", "cause"),
    [
        (np.nan, "f4", "is nan in column 1, not finite"),
        (-np.inf, "f2", "is -inf in column 1, not finite"),
        (1e39, "f8", "is 1e[+]39 in column 1, too large for float32"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_values_that_are_no_float32_are_refused(
    known: FeatureCache, tmp_path: Path, value: float, kind: str, cause: str, form: str
) -> None:
    """NaN, infinities and what is too large name the clip, in every format."""
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
    assert all(map(is_name, names)) and list(FeatureCache(folder / "one").block("mine", "*").ids) == sorted(names)


@settings(bounded, max_examples=100)
@given(
    form=st.sampled_from(FORMATS), place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans()
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


def test_what_is_there_is_not_overwritten(known: FeatureCache, tmp_path: Path) -> None:
    """Other values, other widths and another kind of holdout need another name; equal rows change nothing."""
    found = np.arange(12.0).reshape(6, 2)
    before = listing(known.path)
    assert bring(known.path, source="other", **write(tmp_path, Given(IDS[3:], found[3:]), ".csv")).written == 0
    assert listing(known.path) == before
    other = found.copy()
    other[5, 1] = -11
    for given_, cause in (
        (Given(IDS, other), r"holds other values of 1 clips \(first: 'clip 5'\); nothing is overwritten"),
        (Given(IDS, np.hstack([found, found])), r"has embedding \[N, 4\], but source 'other' holds embedding \[N, 2\]"),
        (Given(IDS, found, found), "has embedding .*, logits .*, but source 'other' holds embedding"),
    ):
        with pytest.raises(InputError, match=cause):
            bring(known.path, source="other", **write(tmp_path, given_, ".npz"))
    with pytest.raises(InputError, match=r"imported with holdout \*, and this is \{1\}"):
        bring(known.path, source="other", holdout="{1}", **write(tmp_path, Given(IDS, found), ".npz"))
    assert listing(known.path) == before


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file of an import the disk refuses, the error says so, and the same command completes it."""
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=[0, 0, 1, 1, 0, 1])
    files = write(tmp_path, Given(IDS, np.arange(12.0).reshape(6, 2)), ".npz")
    move = os.replace
    for refused in range(8):  # marker, clips, plan, view, recipe, what was seen, rows, selection
        left = [refused]

        def full(source: str, target: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            move(source, target)

        work = tmp_path / f"work-{refused}"
        monkeypatch.setattr("os.replace", full)
        with pytest.raises(CacheError, match="the disk is full: free space"):
            bring(work, holdout="{1}", labels=labels, **files)
        monkeypatch.setattr("os.replace", move)
        assert bring(work, holdout="{1}", labels=labels, **files).clips == 6
        assert FeatureCache(work).block("mine", {1}).embedding.tobytes() == np.arange(12, dtype=np.float32).tobytes()
        assert not list(work.rglob(".tmp-*"))


def test_two_copies_of_a_file_have_one_row(small_cache: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Rows of both that differ are refused by name; equal ones, or one alone, serve both, and are written once."""
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses.append(replace(statuses[0], clip=replace(statuses[0].clip, id="copy")))
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    ids = [status.clip.id for status in statuses]
    rows = np.arange(38.0).reshape(19, 2)
    with pytest.raises(InputError, match="rows of '000' and 'copy' differ, but both are one clip"):
        bring(cache.path, **write(tmp_path, Given(ids, rows), ".npz"))
    rows[18] = rows[0]
    for source, count in (("both", 19), ("one", 18)):
        done = bring(cache.path, source=source, **write(tmp_path, Given(ids[:count], rows[:count]), ".npz"))
        block = FeatureCache(cache.path).block(source, "*")
        assert done.written == 18 and block.embedding.tolist() == rows.tolist() and list(block.ids) == ids
    assert bring(cache.path, source="one", **write(tmp_path, Given(ids, rows), ".npz")).written == 0


LOGITS = np.array([[2.0, -1.0]] * 6)


@pytest.mark.parametrize(
    ("ids", "labels", "names"),
    [(IDS, ("c", "b") * 3, "b, c"), ((*IDS, "x", "y"), (*LABELS, "c", "c"), "a, b, c")],
    ids=["renamed", "one more"],
)
def test_logits_are_never_those_of_other_classes(
    known: FeatureCache, tmp_path: Path, ids: tuple[str, ...], labels: tuple[str, ...], names: str
) -> None:
    """A label renamed, or one more: the block, an export and rows of the new classes are refused by name."""
    logits = np.array([[2.0, -1.0]] * len(ids))
    bring(known.path, source="zs", **write(tmp_path, Given(IDS, np.ones((6, 2)), LOGITS), ".npz"))
    changed = write_labels(tmp_path / "changed.csv", ids, labels)
    embedding = np.ones((len(ids), 2))
    bring(known.path, source="two", labels=changed, **write(tmp_path, Given(ids, embedding), ".npz"))
    wide = np.ones((len(ids), len(set(labels))))
    with pytest.raises(InputError, match=r"are of b, c, but those of source 'zs' are of a, b|'zs' holds .*logits"):
        bring(known.path, source="zs", **write(tmp_path, Given(ids, embedding, wide), ".npz"))
    cache = FeatureCache(known.path, create=True)
    owner = cache.owner(cache.recipe("zs"), None)
    arrays = {"embedding": embedding.astype(np.float32), "logits": logits.astype(np.float32)}
    write_rows(owner, cache.clips.digests, arrays)  # as a writer that knows no classes would
    cause = rf"zs \*: its logits are of a, b, but the labels are {names}; import .*cache prune .* --source zs"
    with pytest.raises(InputError, match=cause):
        cache.block("zs", "*")
    with pytest.raises(InputError, match=cause):
        export_features(cache, "zs", None, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_logits_whose_classes_are_not_on_record_are_taken_by_width(known: FeatureCache, tmp_path: Path) -> None:
    """Parts of before have no classes: as many as there are labels are read, others refused."""
    cache = FeatureCache(known.path, create=True)
    for source, width in (("old", 2), ("wide", 3)):
        recipe = import_recipe(source, sees_labels=False)
        cache.write_recipe(recipe)
        logits = np.arange(6 * width, dtype=np.float32).reshape(6, width)
        write_rows(cache.owner(recipe, None), cache.clips.digests, {"embedding": logits, "logits": logits})
        cache.select([recipe])
    found = cache.block("old", "*").logits
    assert found is not None and found.shape == (6, 2)
    with pytest.raises(InputError, match=r"wide \*: its logits are of 3 classes, but the labels are a, b"):
        cache.block("wide", "*")


def test_logits_in_another_order_are_put_in_order(known: FeatureCache) -> None:
    """Another writer may have the same classes in any order; two orders in one block are refused."""
    cache = FeatureCache(known.path, create=True)
    clips, logits = cache.clips.digests, LOGITS.astype(np.float32)
    cache.write_recipe(turned := import_recipe("turned", sees_labels=False))
    owner = cache.owner(turned, None)
    write_rows(owner, clips[:4], {"embedding": logits[:4], "logits": logits[:4]}, classes=("b", "a"))
    cache.select([turned])
    write_rows(owner, clips[4:], {"embedding": logits[4:], "logits": logits[4:]})
    found = cache.block("turned", "*").logits
    assert found is not None and found.tolist() == [[-1.0, 2.0]] * 6
    cache.write_recipe(mixed := import_recipe("mixed", sees_labels=False))
    for rows, classes in ((slice(0, 4), ("b", "a")), (slice(4, 6), ("a", "b"))):
        arrays = {"embedding": logits[rows], "logits": logits[rows]}
        write_rows(cache.owner(mixed, None), clips[rows], arrays, classes=classes)
    cache.select([mixed])
    with pytest.raises(InputError, match="classes of their logits in different orders"):
        cache.block("mixed", "*")


def test_parquet_says_the_classes_of_its_lists(known: FeatureCache, tmp_path: Path) -> None:
    """So that lists of logits come back under the names that they had, whatever the labels are by then."""
    bring(known.path, source="zs", **write(tmp_path, Given(IDS, np.ones((6, 2)), LOGITS), ".npz"))
    out = tmp_path / "out.parquet"
    export_features(FeatureCache(known.path), "zs", None, out)
    turned = write_labels(tmp_path / "turned.csv", IDS, ["z" if label == "a" else label for label in LABELS])
    with pytest.raises(InputError, match="logits are of a, b; expected b, z"):
        bring(tmp_path / "new", file=out, labels=turned)
    table = pyarrow.parquet.read_table(out)
    for metadata, cause in ((b'["a"]', "classes do not fit"), (b"{}", "no list of labels"), (b"[", "cannot be read")):
        pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": metadata}), out)
        refuse(tmp_path, cause, source="two", file=out)
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"moodfuse.classes": b'["b","a"]'}), out)
    bring(known.path, source="two", file=out)
    found = FeatureCache(known.path).block("two", "*").logits
    assert found is not None and found.tolist() == [[-1.0, 2.0]] * 6


def test_a_changed_table_says_what_it_changes(tmp_path: Path) -> None:
    """Clips, labels, groups, folds, and sources left behind; wholly other ids are refused unless that is asked for."""
    found = np.arange(12.0).reshape(6, 2)
    files = write(tmp_path, Given(IDS, found), ".npz")
    wanted = ImportSettings(cache=tmp_path / "known", source="one", holdout=Holdout.frozen(), **files)
    said: list[str] = []
    labels = write_labels(tmp_path / "labels.csv", IDS, fold=[0, 0, 1, 1, 0, 1])
    import_features(replace(wanted, labels=labels), say=said.append)
    import_features(replace(wanted, source="two", labels=labels), say=said.append)
    assert not said
    changed = write_labels(
        tmp_path / "changed.csv",
        (*IDS[:5], "new", "newer"),
        ("b", "b", "a", *LABELS[3:], "a"),
        fold=[0, 0, 1, 1, 2, 1, 2],
        group=["g", *IDS[1:5], "new", "newer"],
    )
    rows = write(tmp_path, Given(("new", "newer"), found[:2]), ".npz")
    import_features(replace(wanted, labels=changed, **rows), say=said.append)
    assert said[:2] == [
        "5 rows are there already, and equal where the file has them",
        f"{changed} replaces the clips and folds in force: 2 clips added (first: 'new', 'newer'); 1 clips gone (first: "
        "'clip 5'); label of 1 clips changed (first: 'clip 0'); group of 1 clips changed (first: 'clip 0'); 3 folds in "
        "place of 2; 1 of 7 clips are in another fold",
    ]
    assert "source two * lacks features of 2 of 7 clips now; import them too, or take it out" in said[2]
    others = tuple(f"other {number}" for number in range(6))
    strange = write_labels(tmp_path / "strange.csv", others)
    files = write(tmp_path, Given(others, found), ".npz")
    before = listing(wanted.cache)
    with pytest.raises(InputError, match=r"none of its 6 ids \('other 0', .*add --replace"):
        import_features(replace(wanted, source="three", labels=strange, plan=PlanChoice(2), **files))
    assert listing(wanted.cache) == before
    import_features(replace(wanted, source="three", labels=strange, plan=PlanChoice(2), replace=True, **files))
    assert list(FeatureCache(wanted.cache).clips.ids) == list(others)


def test_a_fold_of_a_test_clip_declares_no_folds(tmp_path: Path) -> None:
    """Where this command deals the clips that count, nothing can have held a fold out; and no number of folds is 0."""
    ids, labels, split = (*IDS, "t"), (*LABELS, "a"), ["train"] * 6 + ["test"]
    table = write_labels(tmp_path / "labels.csv", ids, labels, split=split, fold=[""] * 6 + ["0"])
    files = write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz")
    with pytest.raises(InputError, match=r"--holdout \{0\}: this command deals clips to folds"):
        bring(tmp_path / "new", holdout="{0}", labels=table, **files)
    with pytest.raises(InputError, match="--folds is 0; expected 2 or more"):
        bring(tmp_path / "new", labels=table, plan=PlanChoice(0), **files)


def test_names_of_sources(known: FeatureCache, tmp_path: Path) -> None:
    """A path is no name, and a source that extract made is not imported over."""
    files = write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz")
    for name in ("", "a/b", "../a", "-a", "a b", "a" * 65, "torchvision:s3d", "c3d@mine"):
        refuse(tmp_path, "is not plain", source=name, **files)
    recipe = Recipe("c3d", "c3d", 1, "random", "{}", "frozen", None, embedding_tuned=False)
    known.write_recipe(recipe)
    known.select([recipe])
    with pytest.raises(InputError, match="'c3d' was made by extract"):
        bring(known.path, source="c3d", **files)


def test_holdouts(tmp_path: Path) -> None:
    """Features that saw labels are looked up by what they saw; a holdout must be one that they can have had."""
    files = write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz")
    plain = write_labels(tmp_path / "labels.csv", IDS)
    with pytest.raises(InputError, match=r"--holdout \{1\}: this command deals clips to folds"):
        bring(tmp_path / "new", holdout="{1}", labels=plain, **files)
    assert not (tmp_path / "new").exists()
    labels = write_labels(tmp_path / "folds.csv", IDS, fold=[0, 0, 1, 1, 0, 1])
    for holdout, cause in (("{2}", "has the folds 0..1, not 2"), ("{0,1}", "names every fold"), ("{-1}", "not -1")):
        with pytest.raises(InputError, match=cause):
            bring(tmp_path / "new", holdout=holdout, labels=labels, **files)
    assert not (tmp_path / "new").exists()
    done = bring(tmp_path / "work", holdout="{1}", labels=labels, **files)
    assert done.lacking == (Holdout.of(0),)
    block = FeatureCache(tmp_path / "work").block("mine", {1})
    assert block.holdout == Holdout.of(1) and block.embedding_tuned
    assert block.seen == {block.digests[row] for row in (0, 1, 4)}
    with pytest.raises(CacheError, match=r"moodfuse cache import --cache .* --source mine --holdout '\{0\}' FILE"):
        FeatureCache(tmp_path / "work").block("mine", {0})
    assert bring(tmp_path / "work", holdout="0", **files).lacking == ()
    with pytest.raises(InputError, match=r"imported with holdout folds, and this is \*"):
        bring(tmp_path / "work", **files)
    with pytest.raises(InputError, match="name one, such as --holdout"):
        export_features(FeatureCache(tmp_path / "work"), "mine", None, tmp_path / "out.npz")
    export_features(FeatureCache(tmp_path / "work"), "mine", Holdout.of(0), tmp_path / "out.npz")
    assert np.load(tmp_path / "out.npz")["fold"].tolist() == [0, 0, 1, 1, 0, 1]


def test_test_clips_are_dropped(tmp_path: Path) -> None:
    """Rows of clips that the plan does not cover are taken out, and said; a strange id beside them is refused."""
    labels = write_labels(tmp_path / "labels.csv", (*IDS, "t"), (*LABELS, "a"), split=["train"] * 6 + ["test"])
    said: list[str] = []
    files = write(tmp_path, Given((*IDS, "t"), np.ones((7, 2))), ".csv")
    wanted = ImportSettings(
        cache=tmp_path / "work", source="mine", holdout=Holdout.frozen(), labels=labels, plan=PlanChoice(2), **files
    )
    assert import_features(wanted, say=said.append).clips == 6
    assert "1 rows dropped" in said[0] and len(FeatureCache(tmp_path / "work").block("mine", "*").ids) == 6


def test_added_clips_need_only_their_own_rows(known: FeatureCache, tmp_path: Path) -> None:
    """A longer table makes a new plan in which clips keep their folds; only what is new is asked for and written."""
    before = dict(known.plan.assignment)
    labels = write_labels(tmp_path / "more.csv", (*IDS, "new"), (*LABELS, "a"))
    with pytest.raises(InputError, match=r"has no features of 1 of 7 clips \(first: 'new'\)"):
        bring(known.path, "*", "other", labels=labels, **write(tmp_path, Given(IDS[:1], np.arange(2.0)[None]), ".npz"))
    given_ = Given(("new",), np.full((1, 2), 7.0))
    assert bring(known.path, "*", "other", labels=labels, **write(tmp_path, given_, ".npz")).written == 1
    again = FeatureCache(known.path)
    assert {digest: again.plan.assignment[digest] for digest in before} == before
    assert again.block("other", "*").embedding[-1].tolist() == [7.0, 7.0] and len(again.clips) == 7


def test_a_table_must_agree_with_what_extract_read(small_cache: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Where clips come from media, --labels changes nothing: the first difference is named."""
    cache = small_cache()
    ids, labels = list(cache.clips.ids), [status.clip.label for status in cache.clips]
    folds = [cache.plan.assignment[status.digest] for status in cache.clips]
    files = write(tmp_path, Given(ids, np.ones((18, 2))), ".npz")
    good = write_labels(tmp_path / "good.csv", ids, labels, group=ids, fold=folds)
    options = {"plan": PlanChoice(), **files}
    assert bring(cache.path, labels=good, **options).written == 18
    assert FeatureCache(cache.path).plan == cache.plan
    before = listing(cache.path)
    turned = ["b", *labels[1:]]
    for columns, cause in (
        ({"labels": turned}, "label of clip '000' is 'b', but 'a'"),
        ({"group": ["x", *ids[1:]]}, "group of clip '000' is 'x', but '000'"),
        ({"fold": [(folds[0] + 1) % 3, *folds[1:]]}, "fold of clip '000' is"),
        ({"ids": ["x", *ids[1:]]}, r"1 of 18 ids are not clips of .* \(first: 'x'\)"),
        ({"split": ["test", *["train"] * 17]}, "split of clip '000' is 'test', but 'train'"),
    ):
        wrong = write_labels(tmp_path / "wrong.csv", **({"ids": ids, "labels": labels} | columns))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=cause):
            bring(cache.path, source="two", labels=wrong, **options)
    short = write_labels(tmp_path / "wrong.csv", ids[1:], labels[1:])
    with pytest.raises(InputError, match=r"lacks 1 of 18 clips .* \(first: '000'\)"):
        bring(cache.path, source="two", labels=short, **options)
    with pytest.raises(InputError, match="--folds is 5, but the plan in force has 3"):
        bring(cache.path, source="two", **(options | {"plan": PlanChoice(5)}))
    assert listing(cache.path) == before


def test_a_new_cache_needs_labels(tmp_path: Path) -> None:
    """Without clips there is nothing to match; the error says both ways to get them."""
    with pytest.raises(InputError, match=r"add --labels FILE\.csv .* or run: moodfuse extract"):
        bring(tmp_path / "new", **write(tmp_path, Given(IDS, np.ones((6, 2))), ".npz"))


def test_columns_of_a_csv(known: FeatureCache, tmp_path: Path) -> None:
    """Without e0 every numeric column counts, in the file's order, but not those of an export; the rest is named."""
    rows = "\n".join(f"clip {number},{number},a,1,{-number}" for number in range(6))
    (tmp_path / "some.csv").write_text(f"\ufeffid , width,label,fold,height\r\n{rows}\r\n\r\n")
    said: list[str] = []
    wanted = ImportSettings(known.path, tmp_path / "some.csv", "mine", Holdout.frozen())
    import_features(wanted, say=said.append)
    assert said == [
        f"{wanted.file}: columns taken: 'width', 'height'; columns passed over: 'label', 'fold'",
    ]
    table = "\n".join(f"clip {number},{number},7" for number in range(6))
    (tmp_path / "some.csv").write_text(f"id,e0,age\n{table}\n")
    import_features(replace(wanted, source="aged"), say=said.append)
    assert said[1:] == [f"{wanted.file}: columns passed over: 'age'"]
    assert FeatureCache(known.path).block("mine", "*").embedding.tolist() == [[n, -n] for n in range(6)]
    for text, cause in (
        ("id,e0,e2\n", "column e1 is missing"),
        ("id,label\n", "no column of an embedding"),
        ("e0,e1\n", r"column\(s\) id missing, found 'e0, e1'"),
        ("id,e0,e0\n", "line 1: column 'e0' stands there twice"),
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
        ("one.txt", "suffix '.txt' is not known; expected .npy or one of .npz"),
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
    pyarrow.parquet.write_table(pyarrow.table({"id": ids.dictionary_encode(), "embedding": lists, "note": ids}), file)
    assert bring(known.path, file=file).embedding == 2
    for columns, cause in (
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0]])}, "lists of different lengths"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [None])}, r"1 value\(s\) are missing"),
        ({"id": ids, "embedding": pyarrow.array([[1.0, 2.0]] * 5 + [[1.0, None]])}, r"1 value\(s\) are missing"),
        ({"id": ids, "embedding": pyarrow.array([[True, False]] * 6)}, "list<.*bool>; expected a list of float"),
        ({"id": ids, "embedding": ids}, "embedding is string; expected a list"),
        ({"id": ids, "e0": ids}, "column 'e0' is string; expected float or whole numbers"),
        ({"id": ids, "note": ids}, "no column of an embedding"),
        ({"id": pyarrow.array(range(6)), "e0": pyarrow.array(range(6))}, "column 'id' is int64; expected strings"),
        ({"id": pyarrow.array([*IDS[:5], None]), "e0": pyarrow.array(range(6))}, r"'id': 1 value\(s\) are missing"),
        ({"name": ids, "embedding": lists}, r"column\(s\) id missing"),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        refuse(tmp_path, cause, file=file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refuse(tmp_path, r"pip install 'moodfuse\[parquet\]'", file=file)
    with pytest.raises(InputError, match=r"pip install 'moodfuse\[parquet\]'"):
        export_features(known, "other", None, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*out.parquet")) and not list(tmp_path.glob(".tmp-*"))


def test_export_leaves_what_is_there(known: FeatureCache, tmp_path: Path) -> None:
    """A file that exists stays without --force; unknown names and suffixes list the known."""
    out = tmp_path / "out.npz"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists; name another --output, or replace it with --force"):
        export_features(known, "other", None, out)
    assert out.read_bytes() == b"mine"
    export_features(known, "other", None, out, force=True)
    found = np.load(out)
    assert sorted(found.files) == ["digest", "embedding", "fold", "group", "id", "label"]
    assert found["label"].tolist() == list(LABELS) and found["digest"].tolist() == list(known.clips.texts["digest"])
    with pytest.raises(InputError, match=r"suffix '.h5' is not known; expected one of .npz, .csv, .parquet"):
        export_features(known, "other", None, tmp_path / "out.h5")
    with pytest.raises(UnknownNameError, match="unknown source 'none'; known: other"):
        export_features(known, "none", None, tmp_path / "none.npz")
    (tmp_path / "file").touch()
    with pytest.raises(MoodfuseError, match="cannot be written"):
        export_features(known, "other", None, tmp_path / "file" / "out.npz")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_export_keeps_links_and_out_of_the_cache(known: FeatureCache, tmp_path: Path) -> None:
    """What a link leads to is replaced, the link stays; a place of the cache's own files is refused."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link.npz").symlink_to(tmp_path / "there" / "out.npz")
    for _ in range(2):
        export_features(known, "other", None, tmp_path / "link.npz", force=True)
        assert (tmp_path / "link.npz").is_symlink() and len(np.load(tmp_path / "there" / "out.npz")["id"]) == 6
    before = listing(known.path)
    for place in ("clips.csv", "features/out.npz", "features/other/x/frozen/a.npz", "runs/run-1/out.csv"):
        with pytest.raises(InputError, match="is a place of the cache's own files; name an --output outside"):
            export_features(known, "other", None, known.path / place, force=True)
    assert listing(known.path) == before
    export_features(known, "other", None, known.path / "out.csv")


def test_clips_that_lack_a_view_are_left_out(small_cache: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """A row that no network made is not exported as if one had."""
    cache = small_cache()
    statuses = [replace(status, missing="picture" if row == 3 else "") for row, status in enumerate(cache.statuses)]
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    recipe = Recipe("c3d", "c3d", 1, "random", "{}", "frozen", None, embedding_tuned=False)
    cache.write_recipe(recipe)
    cache.select([recipe])
    digests = [status.digest for status in cache.clips_with(recipe)]
    cache.write_block_part(recipe, None, digests, {"embedding": np.ones((17, 2), dtype=np.float32)})
    done = export_features(cache, "c3d", None, tmp_path / "out.npz")
    assert done.left_out == 1 and "003" not in np.load(tmp_path / "out.npz")["id"] and len(done.folds) == 17
