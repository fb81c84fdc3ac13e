"""HDF5 files that point elsewhere, or are larger than they look, are refused before a value is read."""

import io
import json
import os
import re
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from faults.forging import forge, replace
from faults.looking import fault_of, file_of, place
from moodfuse.cache.audits import MarkStore
from moodfuse.cache.blocks import open_features
from moodfuse.cache.digests import canonical_json, digest
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, MissingBlockError
from moodfuse.cache.fits import KeptFits
from moodfuse.cache.maintenance.verify import DAMAGED, verify
from moodfuse.cache.media import Media, MediaStore, Rendition, decode_frame, kept_frame
from moodfuse.cache.runs import read_run
from moodfuse.cache.storage.hdf5 import checked_arrays, open_hdf5, read_array
from moodfuse.cache.storage.json_files import read_json
from moodfuse.cache.storage.layout import KINDS, entries
from moodfuse.cache.storage.parts import read_part, verify_part, write_part
from moodfuse.cache.store import FeatureCache
from moodfuse.cache.transfer.exporting import export_features

pytestmark = [pytest.mark.usefixtures("unsynced"), pytest.mark.timeout(120)]  # a pipe never ends
Put = Callable[[h5py.File], None]
PARTS = ("plan", "table", "marks", "media", "features", "fits", "predictions")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Another file, as HDF5 and as bytes: what must not be read."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["embedding"] = np.full((7, 4), 42.0, np.float32)
    (tmp_path / "secret.raw").write_bytes(np.full((7, 4), 42.0, np.float32).tobytes())
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def external(file: h5py.File, raw: Path) -> None:
    file.create_dataset("embedding", (7, 4), "f4", external=[(str(raw), 0, 112)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((7, 4), "f4")
    layout[:] = h5py.VirtualSource(str(other), "embedding", (7, 4))
    file.create_virtual_dataset("embedding", layout)


ELSEWHERE: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external link": (
        lambda file, home: file.__setitem__(
            "embedding", h5py.ExternalLink(str(home / "secret.h5"), "/embedding")
        ),
        "link",
    ),
    "soft link": (lambda file, home: file.__setitem__("embedding", h5py.SoftLink("/logits")), "link"),
    "external storage": (lambda file, home: external(file, home / "secret.raw"), "stored in another file"),
    "virtual": (lambda file, home: virtual(file, home / "secret.h5"), "stored in another file"),
    "virtual over a pipe": (lambda file, home: virtual(file, home / "pipe"), "stored in another file"),
}


def bomb(file: h5py.File) -> None:
    """A chunk of 16 bytes whose stream decompresses to 60 million."""
    array = file.create_dataset("embedding", (7, 4), "f4", chunks=(7, 4), compression="gzip")
    array.id.write_direct_chunk((0, 0), zlib.compress(bytes(60_000_000), 9))


def plain(values: object, dtype: object = None) -> Put:
    return lambda file: file.__setitem__("embedding", np.array(values, dtype=dtype))


def huge(**options: object) -> Put:
    return lambda file: file.create_dataset("embedding", (7, 1 << 36), "f4", **options) and None


ODD: dict[str, tuple[Put, str]] = {
    "group": (lambda file: file.create_group("embedding") and None, "a group"),
    "huge contiguous": (huge(), "are stored"),
    "huge compressed": (huge(chunks=(1, 1 << 20), compression="gzip"), "in chunks"),
    "unwritten": (lambda file: file.create_dataset("embedding", (7, 4), "f4") and None, "0 are stored"),
    "compressed": (
        lambda file: (
            file.create_dataset("embedding", data=np.ones((7, 4), "f4"), compression="gzip") and None
        ),
        "of shape (7, 4), stored in chunks; expected float32",
    ),
    "bomb": (bomb, "of shape (7, 4), stored in chunks; expected float32"),
    "lzf": (
        lambda file: file.create_dataset("embedding", data=np.ones((7, 4), "f4"), compression="lzf") and None,
        "filters",
    ),
    "texts": (
        lambda file: file.create_dataset("embedding", data=["a"] * 7, dtype=h5py.string_dtype()) and None,
        "obj",
    ),
    "compound": (plain([(1.0, 2.0)] * 7, "f4,f4"), "expected an array of numbers"),
    "null": (lambda file: file.__setitem__("embedding", h5py.Empty("f4")), "of shape None"),
    "float64": (plain(np.ones((7, 4))), "expected float32 of shape (7, D)"),
    "one axis": (plain(np.ones(7, "f4")), "expected float32 of shape (7, D)"),
    "other rows": (plain(np.ones((8, 4), "f4")), "of shape (8, 4); expected float32 of shape (7, D)"),
}
LARGE = ("huge contiguous", "huge compressed", "bomb")
"""What would take much memory; these are exported too, to see that the part is set aside."""


def small_part(cache: FeatureCache) -> Path:
    """The part of seven clips of the frozen source."""
    return next(
        file for file in cache.block_folder(cache.recipe("still"), None).glob("*.h5") if rows(file) == 7
    )


def rows(file: Path) -> int:
    return len(read_part(file)[0]["clip"])


def check_refused(cache: FeatureCache, part: Path, output: Path, reason: str) -> None:
    """Opening a part says why not; `verify` reports it; for `export` its rows are missing, and it is set aside."""
    with pytest.raises(DamagedPartError, match=re.escape(reason)), open_features(part):
        pass
    (fault,) = verify(cache.path).faults
    assert (fault.place, fault.state) == (place(cache, part), DAMAGED)
    with pytest.raises(MissingBlockError, match="7 of 18|extract again"):
        export_features(FeatureCache(cache.path), "still", None, output)
    assert not output.exists() and not part.exists() and part.with_name(f"{part.name}.bad").exists()
    assert not verify(cache.path).faults


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_part_that_points_elsewhere_is_damaged(whole_cache: FeatureCache, secret: Path, name: str) -> None:
    """Links, external storage and virtual datasets are not followed, though the header fits."""
    put, reason = ELSEWHERE[name]
    part = small_part(whole_cache)
    replace(part, "embedding", lambda file: put(file, secret))
    with pytest.raises(DamagedPartError, match=reason):
        read_part(part)
    with pytest.raises(DamagedPartError, match=reason):
        verify_part(part)
    check_refused(whole_cache, part, secret / "out.csv", reason)


@pytest.mark.parametrize("name", ODD)
def test_a_part_of_other_arrays_is_damaged(whole_cache: FeatureCache, tmp_path: Path, name: str) -> None:
    """Before anything is allocated: groups, huge shapes, compression, odd dtypes, and rows that are not features."""
    put, reason = ODD[name]
    part = small_part(whole_cache)
    replace(part, "embedding", put)
    if name not in LARGE:
        with pytest.raises(DamagedPartError, match=re.escape(reason)), open_features(part):
            pass
        fault = fault_of(whole_cache, part)
        assert fault is not None and fault.state == DAMAGED
        return
    tracemalloc.start()
    try:
        check_refused(whole_cache, part, tmp_path / "out.csv", reason)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_part_of_very_many_arrays_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes time to open."""
    part = write_part(tmp_path, "many", {name: np.zeros(1) for name in "abc"}, {})
    assert list(read_part(part)[0]) == ["a", "b", "c"]
    monkeypatch.setattr("moodfuse.cache.storage.hdf5.MAX_ARRAYS", 2)
    with pytest.raises(DamagedPartError, match="it has 3 arrays; expected 2 at most"):
        read_part(part)


def test_an_array_that_is_linked_many_times_is_larger_than_its_file(tmp_path: Path) -> None:
    """Hard links to one array are each within the file, but not all of them together."""
    part = write_part(tmp_path, "many", {"a": np.zeros(100_000)}, {})

    def change(file: h5py.File) -> None:
        for number in range(50):
            file[f"b{number}"] = file["a"]

    forge(part, change)
    with pytest.raises(DamagedPartError, match="its arrays have 40800000 bytes, but the file 8"):
        read_part(part)


@pytest.mark.parametrize("filters", [{"compression": "gzip"}, {"compression": "gzip", "shuffle": True}])
def test_compressed_arrays_are_read_to_their_size_and_no_further(
    tmp_path: Path, filters: dict[str, object]
) -> None:
    """One in several chunks comes back; one whose stream goes on behind the declared size is refused."""
    values = np.arange(10_000, dtype=np.float32)
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(3000,), **filters)
        array = file.create_dataset("long", (4,), "f4", chunks=(4,), **filters)
        array.id.write_direct_chunk((0,), zlib.compress(bytes(17)))
        array = file.create_dataset("short", (4,), "f4", chunks=(4,), **filters)
        array.id.write_direct_chunk((0,), zlib.compress(bytes(15)))
        array = file.create_dataset("noise", (4,), "f4", chunks=(4,), **filters)
        array.id.write_direct_chunk((0,), bytes(16))
        array = file.create_dataset("stored", (4,), "f4", chunks=(4,), **filters)
        array.id.write_direct_chunk((0,), bytes(16), filter_mask=3)
        file.create_dataset("absent", (4,), "f4", chunks=(4,), **filters)
    with open_hdf5(tmp_path / "good.h5") as file:
        arrays = checked_arrays(file)
        assert np.array_equal(read_array(arrays["a"]), values)
        for name in ("long", "short", "noise", "stored", "absent"):
            with pytest.raises((ValueError, OSError, RuntimeError)):
                read_array(arrays[name])


@pytest.mark.parametrize("attributes", [None, "[]", "{", "[" * 100_000, np.zeros(3), b"\xff"])
def test_attributes_that_are_none_are_damage(tmp_path: Path, attributes: object) -> None:
    """The attribute of the root group has to be the text of a JSON object."""
    part = write_part(tmp_path, "some", {"a": np.zeros(3)}, {"x": 1})

    def change(file: h5py.File) -> None:
        del file.attrs["attributes"]
        if attributes is not None:
            file.attrs["attributes"] = attributes

    forge(part, change)
    with pytest.raises(DamagedPartError):
        read_part(part)


@pytest.mark.parametrize("classes", [3, "ab", [1, 2], None])
def test_classes_that_are_no_list_of_labels_are_damage(whole_cache: FeatureCache, classes: object) -> None:
    """The classes of the columns of logits are read from the attributes."""
    part = small_part(whole_cache)

    def change(file: h5py.File) -> None:
        file.attrs["attributes"] = json.dumps({**json.loads(file.attrs["attributes"]), "classes": classes})

    forge(part, change)
    with pytest.raises(MissingBlockError):
        FeatureCache(whole_cache.path).block("still", "*")
    assert not part.exists()


def _read_fits(cache: FeatureCache) -> None:
    KeptFits(cache.path, cache.clips).find([digest("fit")])


READERS: dict[str, Callable[[FeatureCache], object]] = {
    "plan": lambda cache: cache.plan,
    "table": lambda cache: list(cache.statuses),
    "marks": lambda cache: MarkStore(cache, "test").read(cache.statuses[0].digest),
    "media": lambda cache: MediaStore(cache.path / "media", Rendition("sound", "test")).read(
        cache.statuses[0].digest
    ),
    "features": lambda cache: [cache.block("net@a", 0), cache.block("still", "*")],
    "fits": _read_fits,
    "predictions": lambda cache: read_run(cache, "run-1"),
}


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "missing": lambda array: None,
    "longer": lambda array: np.concatenate([array, array[-1:]]),
    "one more axis": lambda array: array[..., None],
    "texts": lambda array: np.full(array.shape, b"abc"),
    "other numbers": lambda array: np.full(array.shape, -7, np.float16),
    "large": lambda array: np.full_like(array, 99) if array.dtype.kind in "iu" else array.astype("S65"),
}


HARMLESS = {("marks", name, "large") for name in ("frame_hashes", "peak_bins", "peak_times")}
"""Any whole number may be a mark."""


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind != "table"])
@pytest.mark.parametrize("how", CHANGES)
def test_arrays_of_another_form_are_damage_though_every_digest_fits(
    whole_cache: FeatureCache, kind: str, how: str
) -> None:
    """Each array in turn, in a part that is written as any other: `verify` reports it, without a library error."""
    part = file_of(whole_cache, kind)
    record = part.with_name("run.json")
    arrays, attributes = read_part(part)
    part.unlink()
    for name in arrays:
        array = CHANGES[how](arrays[name])
        changed = (
            {**arrays, name: array}
            if array is not None
            else {key: arrays[key] for key in arrays if key != name}
        )
        written = write_part(part.parent, part.stem.rpartition("-")[0], changed, attributes)
        if kind == "predictions":
            record.write_text(canonical_json({**read_json(record), "predictions": written.name}))
        if name == max(arrays):
            assert all("Error" not in fault.reason for fault in verify(whole_cache.path).faults)
        blamed = (
            (written, record) if kind == "predictions" else (written,)
        )  # the record, if they do not fit it
        faults = [fault for file in blamed if (fault := fault_of(whole_cache, file))]
        assert bool(faults) == ((kind, name, how) not in HARMLESS)
        assert all("Error" not in fault.reason for fault in faults)
        with suppress(CacheError, InputError):
            READERS[kind](FeatureCache(whole_cache.path))
        written.unlink(missing_ok=True)


def test_predictions_in_another_folder_are_not_read(whole_cache: FeatureCache) -> None:
    """The record of a run names a file beside it."""
    record = file_of(whole_cache, "run")
    values = read_json(record)
    other = record.parents[2] / values["predictions"]
    record.with_name(values["predictions"]).rename(other)
    record.write_text(canonical_json({**values, "predictions": f"../../{other.name}"}))
    with pytest.raises(CacheError, match="names predictions in another folder"):
        read_run(whole_cache, "run-1")


@pytest.mark.parametrize(
    "attributes", [{"frame_hw": [1 << 20, 1 << 20]}, {"frame_hw": 3}, {"view": "both"}, {"view": 1}]
)
@pytest.mark.parametrize("missing", [False, True])
def test_media_whose_attributes_are_none_are_damage(
    tmp_path: Path, attributes: dict[str, object], missing: bool
) -> None:
    """The size of the frames decides what is allocated."""
    store = MediaStore(tmp_path, Rendition("picture", "test"))
    clip = "ab" * 32
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    part = store.write(clip, Media(frames, np.arange(2.0), np.zeros(0, np.float32), 0))
    arrays, values = read_part(part)
    part.unlink()
    values = {key: value for key, value in values.items() if key not in attributes} | (
        {} if missing else attributes
    )
    part = write_part(part.parent, clip[:32], arrays, values)
    assert kept_frame(tmp_path, clip, 0) is None and not part.exists()
    write_part(part.parent, clip[:32], arrays, values)
    with pytest.raises(MissingBlockError):
        store.read(clip)


def test_a_small_file_of_a_huge_frame_is_refused() -> None:
    """WebP packs one colour into a few bytes."""
    content = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(content, format="WEBP", lossless=True, method=0)
    data = np.frombuffer(content.getvalue(), np.uint8)
    assert len(data) < 10_000
    with pytest.raises(DamagedPartError, match="8000 x 8000 pixels; expected 9437184 at most"):
        decode_frame(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_in_place_of_a_file_of_a_cache_is_not_waited_for(whole_cache: FeatureCache, kind: str) -> None:
    """Every kind of file: `verify` ends, and so do the readers."""
    places = {entry.place for entry in entries(whole_cache.path) if entry.kind == kind}
    for name in places:
        (whole_cache.path / name).unlink()
        os.mkfifo(whole_cache.path / name)
    faults = {fault.place: fault.reason for fault in verify(whole_cache.path).faults}
    if kind not in ("view", "output"):
        assert places and places <= faults.keys()
        assert {faults[name] for name in places} == {"is no plain file, but a pipe, a socket or a device"}
    for read in READERS.values():
        with suppress(CacheError, InputError):
            read(FeatureCache(whole_cache.path))
