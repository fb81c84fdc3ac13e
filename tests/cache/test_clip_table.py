"""The table of clips keeps every value, and its arrays and digests stay those of caches that exist."""

import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.clip_table import CODED, pack_texts, statuses_from, table_arrays, table_name, unpack_texts
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache

ARCHIVE = Path(__file__).parent / "archives" / "format-2.tar.xz"
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "missing": lambda array: None,
    "longer": lambda array: np.concatenate([array, array[-1:]]),
    "shorter": lambda array: array[:-1],
    "one more axis": lambda array: array[..., None],
    "other numbers": lambda array: np.full(array.shape, -7, np.float16),
    "large": lambda array: np.full_like(array, 99) if array.dtype.kind in "iu" else array.astype("S65"),
}


def make_statuses(labels: Sequence[str]) -> list[ClipStatus]:
    """A readable clip per label."""
    clips = [Clip(f"{number:03d}", f"/data/{number}.mp4", label) for number, label in enumerate(labels)]
    return [ClipStatus(clip, digest(clip.id), digest(clip.path), clip.id, ok=True) for clip in clips]


def test_arrays_and_digests_of_an_archived_cache_are_made_again(tmp_path: Path) -> None:
    """Bit for bit, with the names of its table, its plan and the folder of its fits."""
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(tmp_path, filter="data")
    cache = FeatureCache(tmp_path)
    (file,) = (tmp_path / "tables").glob("*.h5")
    arrays, _ = read_part(file)
    made = table_arrays(reversed(cache.statuses))
    assert set(made) == set(arrays)
    for name, array in arrays.items():
        assert (made[name].dtype, made[name].tobytes()) == (array.dtype, array.tobytes()), name
    assert table_name(cache.statuses) == file.stem.removeprefix("clips-") == cache.plan.records[0]
    plan, _ = read_part(next((tmp_path / "plans").glob("plan-*.h5")))
    for name, array in cache.plan.to_arrays().items():
        assert (array.dtype, array.tobytes()) == (plan[name].dtype, plan[name].tobytes())
    assert clips_digest16(cache.clips) == "9d73bce897e5e56b"


def test_every_value_comes_back() -> None:
    """Names of any bytes, undeclared groups, folds and ends, refused clips; rows are sorted by id."""
    statuses = make_statuses(("b", "a", "b"))
    clip = Clip("é\udcff", "/\udcfe", "c", group="", start_s=1.5, end_s=20.0, fold=3, split="test")
    statuses.append(ClipStatus(clip, "", "", "g", ok=False, reason="r", detail="d", missing="sound"))
    statuses[1] = replace(statuses[1], clip=replace(statuses[1].clip, id="zz"))
    back = statuses_from(Path("file"), table_arrays(statuses))
    assert list(back) == sorted(statuses, key=lambda status: status.clip.id)
    assert statuses_from(Path("file"), table_arrays([])) == ()


@pytest.mark.parametrize("how", CHANGES)
def test_arrays_of_another_form_are_damage(how: str) -> None:
    """Each array in turn; only the bytes of a text, a declared fold and unused texts may be others."""
    arrays = table_arrays(make_statuses(("a", "b", "c")))
    for name in arrays:
        changed = CHANGES[how](arrays[name])
        text = changed is not None and (changed.dtype, changed.shape) == (np.uint8, arrays[name].shape)
        unused = how == "longer" and name.removesuffix("_ends") in CODED
        if (
            text
            or unused
            or (name, how) == ("declared_fold", "large")
            or np.array_equal(changed, arrays[name])
        ):
            continue
        others = {key: array for key, array in arrays.items() if key != name}
        with pytest.raises(DamagedPartError, match="some/file: "):
            statuses_from(Path("some/file"), others if changed is None else {**others, name: changed})


def test_a_row_that_is_no_clip_is_damage() -> None:
    """Such as one with an empty label."""
    arrays = table_arrays(make_statuses(("a", "a")))
    arrays["label"], arrays["label_ends"] = pack_texts([""])
    with pytest.raises(DamagedPartError, match=re.escape("some/file: 000: label '' is empty")):
        statuses_from(Path("some/file"), arrays)


def test_texts_are_packed_byte_for_byte() -> None:
    """And ends that do not fit the bytes are refused."""
    data, ends = pack_texts(["é", "", "\udcff", "abc"])
    assert data.tobytes() == b"\xc3\xa9\xffabc" and ends.tolist() == [2, 2, 3, 6]
    assert unpack_texts(data, ends) == ["é", "", "\udcff", "abc"]
    for wrong in (ends[::-1], ends[:-1], ends + 1):
        with pytest.raises(ValueError, match="do not fit"):
            unpack_texts(data, wrong)
