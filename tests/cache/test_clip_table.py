"""The table of clips keeps every value, and its arrays and digests stay those of caches that exist."""

import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.clip_table import pack_texts, statuses_from, table_arrays, table_name, unpack_texts
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.fits import clips_digest16
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache

ARCHIVE = Path(__file__).parent / "archives" / "format-2.tar.xz"


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


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ok", None),
        ("id_ends", np.array([3, 6], np.int64)),
        ("start_s", np.zeros(4)),
        ("label_row", np.array([0, 1, 99], np.int32)),
        ("duration_s", np.zeros(3, np.float16)),
        ("label", np.array([], np.uint8)),
    ],
)
def test_arrays_of_another_form_are_damage(name: str, array: np.ndarray | None) -> None:
    """A column that is missing, too long, out of range, or of another dtype or shape."""
    arrays = table_arrays(make_statuses(("a", "b", "c")))
    others = {key: value for key, value in arrays.items() if key != name}
    with pytest.raises(DamagedPartError, match="some/file: "):
        statuses_from(Path("some/file"), others if array is None else {**others, name: array})


def test_texts_are_packed_byte_for_byte() -> None:
    """And ends that do not fit the bytes are refused."""
    data, ends = pack_texts(["é", "", "\udcff", "abc"])
    assert data.tobytes() == b"\xc3\xa9\xffabc" and ends.tolist() == [2, 2, 3, 6]
    assert unpack_texts(data, ends) == ["é", "", "\udcff", "abc"]
    for wrong in (ends[::-1], ends[:-1], ends + 1):
        with pytest.raises(ValueError, match="do not fit"):
            unpack_texts(data, wrong)
