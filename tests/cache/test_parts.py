"""HDF5 files that point elsewhere, or declare more than they hold, are damaged before a value is read."""

import io
import json
import re
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from faults.forging import forge, replace
from faults.looking import READERS, fault_of, file_of
from moodfuse.cache.blocks import open_features
from moodfuse.cache.digests import canonical_json
from moodfuse.cache.errors import CacheError, DamagedPartError, InputError, MissingBlockError
from moodfuse.cache.maintenance.verify import DAMAGED
from moodfuse.cache.media import Media, MediaStore, Rendition, decode_frame, read_frame
from moodfuse.cache.runs import read_run
from moodfuse.cache.storage.files import read_json
from moodfuse.cache.storage.parts import read_part, verify_part, write_part
from moodfuse.cache.store import FeatureCache

pytestmark = pytest.mark.usefixtures("unsynced")
Put = Callable[[h5py.File, Path], object]
ONES = np.ones((7, 4), np.float32)


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((7, 4), "f4")
    layout[:] = h5py.VirtualSource(str(other), "embedding", (7, 4))
    file.create_virtual_dataset("embedding", layout)


def array(data: object = None, **options: object) -> Put:
    return lambda file, other: file.create_dataset("embedding", data=data, **options)


ODD: dict[str, tuple[Put, str]] = {
    "external link": (
        lambda file, other: file.__setitem__("embedding", h5py.ExternalLink(str(other), "/embedding")),
        "link, which is not followed",
    ),
    "soft link": (
        lambda file, other: file.__setitem__("embedding", h5py.SoftLink("/logits")),
        "link, which is not followed",
    ),
    "external storage": (
        lambda file, other: file.create_dataset("embedding", (7, 4), "f4", external=[(str(other), 0, 112)]),
        "stored in another file",
    ),
    "virtual": (virtual, "stored in another file"),
    "group": (lambda file, other: file.create_group("embedding"), "a group"),
    "huge": (array(shape=(7, 1 << 36), dtype="f4"), "are stored"),
    "huge chunks": (
        array(shape=(7, 1 << 36), dtype="f4", chunks=(1, 1 << 20), compression="gzip"),
        "in chunks",
    ),
    "unwritten": (array(shape=(7, 4), dtype="f4"), "0 are stored"),
    "compressed": (array(ONES, compression="gzip"), "of shape (7, 4), stored in chunks; expected float32"),
    "texts": (array(["a"] * 7, dtype=h5py.string_dtype()), "obj"),
    "compound": (array(np.array([(1.0, 2.0)] * 7, "f4,f4")), "expected an array of numbers"),
    "null": (array(h5py.Empty("f4")), "of shape None"),
    "float64": (array(np.ones((7, 4))), "expected float32 of shape (N, D)"),
    "one axis": (array(np.ones(7, "f4")), "expected float32 of shape (N, D)"),
    "other rows": (array(np.ones((8, 4), "f4")), "of shape (8, 4); expected float32 of shape (N, D)"),
}


def small_part(cache: FeatureCache) -> Path:
    """The part of seven clips of the frozen source."""
    parts = cache.block_folder(cache.recipe("still"), None).glob("*.h5")
    return next(file for file in parts if len(read_part(file)[0]["clip"]) == 7)


@pytest.mark.parametrize("name", ODD)
def test_a_part_with_another_array_is_damaged(whole_cache: FeatureCache, tmp_path: Path, name: str) -> None:
    """Though every digest fits: nothing large is allocated, and the part is quarantined."""
    put, reason = ODD[name]
    part = small_part(whole_cache)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["embedding"] = ONES
    replace(part, "embedding", lambda file: put(file, tmp_path / "other.h5"))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedPartError, match=re.escape(reason)), open_features(part):
            pass
        fault = fault_of(whole_cache, part)
        assert fault is not None and fault.state == DAMAGED
        with pytest.raises(MissingBlockError, match="7 of 18"):
            FeatureCache(whole_cache.path).block("still", "*")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert not part.exists() and part.with_name(f"{part.name}.bad").exists()


@pytest.mark.parametrize("attributes", [None, "[]", "{", np.zeros(3)])
def test_attributes_that_are_not_a_json_object_are_damage(tmp_path: Path, attributes: object) -> None:
    part = write_part(tmp_path, "part", {"a": np.zeros(3)}, {"x": 1})

    def change(file: h5py.File) -> None:
        del file.attrs["attributes"]
        if attributes is not None:
            file.attrs["attributes"] = attributes

    forge(part, change)
    with pytest.raises(DamagedPartError):
        read_part(part)


@pytest.mark.parametrize("classes", [3, [1, 2]])
def test_classes_that_are_not_a_list_of_labels_are_damage(whole_cache: FeatureCache, classes: object) -> None:
    part = small_part(whole_cache)

    def change(file: h5py.File) -> None:
        file.attrs["attributes"] = json.dumps({**json.loads(file.attrs["attributes"]), "classes": classes})

    forge(part, change)
    with pytest.raises(MissingBlockError):
        FeatureCache(whole_cache.path).block("still", "*")
    assert not part.exists()


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "missing": lambda array: None,
    "longer": lambda array: np.concatenate([array, array[-1:]]),
    "one more axis": lambda array: array[..., None],
    "other numbers": lambda array: np.full(array.shape, -7, np.float16),
}


@pytest.mark.parametrize("kind", ["plan", "marks", "media", "features", "fits", "predictions"])
@pytest.mark.parametrize("how", CHANGES)
def test_arrays_of_another_form_are_damage_though_every_digest_fits(
    whole_cache: FeatureCache, kind: str, how: str
) -> None:
    part = file_of(whole_cache, kind)
    record = part.with_name("run.json")
    arrays, attributes = read_part(part)
    part.unlink()
    for name in arrays:
        changed = {**arrays, name: CHANGES[how](arrays[name])}
        changed = {key: array for key, array in changed.items() if array is not None}
        written = write_part(part.parent, part.stem.rpartition("-")[0], changed, attributes)
        checked = [written]
        if kind == "predictions":
            record.write_text(canonical_json({**read_json(record), "predictions": written.name}))
            checked.append(record)
        faults = [fault for file in checked if (fault := fault_of(whole_cache, file))]
        assert faults and not any("Error" in fault.reason for fault in faults)
        with suppress(CacheError, InputError):
            READERS[kind](FeatureCache(whole_cache.path))
        written.unlink(missing_ok=True)


def test_predictions_in_another_folder_are_not_read(whole_cache: FeatureCache) -> None:
    record = file_of(whole_cache, "run")
    values = read_json(record)
    other = record.parents[2] / values["predictions"]
    record.with_name(values["predictions"]).rename(other)
    record.write_text(canonical_json({**values, "predictions": f"../../{other.name}"}))
    with pytest.raises(CacheError, match="names predictions in another folder"):
        read_run(whole_cache, "run-1")


@pytest.mark.parametrize("attributes", [{"frame_hw": [1 << 20, 1 << 20]}, {"frame_hw": 3}, {"view": "both"}])
def test_media_with_other_attributes_are_damage(tmp_path: Path, attributes: dict[str, object]) -> None:
    """The size of the frames decides what is allocated."""
    store = MediaStore(tmp_path, Rendition("picture", "test"))
    clip = "ab" * 32
    part = store.write(
        clip, Media(np.zeros((2, 4, 6, 3), np.uint8), np.arange(2.0), np.zeros(0, np.float32), 0)
    )
    arrays, values = read_part(part)
    part.unlink()
    part = write_part(part.parent, clip[:32], arrays, {**values, **attributes})
    assert read_frame(tmp_path, clip, 0) is None and not part.exists()
    write_part(part.parent, clip[:32], arrays, {**values, **attributes})
    with pytest.raises(MissingBlockError):
        store.read(clip)


def test_a_small_file_of_a_huge_frame_is_not_decoded() -> None:
    """WebP packs one colour into a few bytes."""
    content = io.BytesIO()
    Image.new("RGB", (4096, 2305)).save(content, format="WEBP", lossless=True, method=0)
    data = np.frombuffer(content.getvalue(), np.uint8)
    assert len(data) < 10_000
    with pytest.raises(DamagedPartError, match="4096 x 2305 pixels; expected 9437184 at most"):
        decode_frame(data)


def test_a_verified_part_is_read_down_to_its_arrays(tmp_path: Path) -> None:
    """Another array under a header that fits is found by `verify_part`, not by `read_part`."""
    part = write_part(tmp_path, "part", {"a": np.zeros(3)}, {})
    replace(part, "a", lambda file: file.create_dataset("a", data=np.ones(3)))
    assert read_part(part)[0]["a"].tolist() == [1, 1, 1]
    with pytest.raises(DamagedPartError, match="arrays are not those of its header"):
        verify_part(part)
