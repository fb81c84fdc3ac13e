"""Cached fits come back bit for bit, by their key alone; a damaged part costs only its fits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.digests import digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.fits import FLUSH_EVERY_S, CachedFit, FitCache, check_fits, clips_digest16
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
KEYS = [digest(number) for number in range(4)]


def fit(number: int, *, rows: int = 4, columns: int = 2) -> CachedFit:
    """A fit with values of its own."""
    values = np.random.default_rng(number).random((rows, columns))
    return CachedFit(values, 1.0 + number, number % 2 == 1, {"C": float(number)})


def check_same(one: CachedFit, other: CachedFit) -> None:
    """Two fits are equal, bit for bit."""
    np.testing.assert_array_equal(one.values, other.values)
    assert replace(one, values=None) == replace(other, values=None)  # type: ignore[arg-type]


@pytest.fixture
def store(small_cache: MakeCache) -> FitCache:
    """Two parts: two fits of different shapes, and an empty one."""
    cache = small_cache()
    fits = FitCache(cache.path, cache.clips)
    fits.keep(KEYS[0], fit(0))
    fits.keep(KEYS[1], fit(1, rows=18, columns=3))
    fits.flush()
    fits.keep(KEYS[2], fit(2, rows=0))
    fits.flush()
    return fits


def largest(store: FitCache) -> Path:
    """The part with the first two fits."""
    return max(store.folder.glob("*.h5"), key=lambda path: path.stat().st_size)


def test_fits_come_back(store: FitCache) -> None:
    store.flush()
    stored = store.find(KEYS)
    assert set(stored) == set(KEYS[:3]) and len(list(store.folder.iterdir())) == 2
    check_same(stored[KEYS[0]], fit(0))
    check_same(stored[KEYS[1]], fit(1, rows=18, columns=3))
    assert stored[KEYS[2]].values.shape == (0, 2) and not store.find([])


def test_fits_are_written_after_a_while(store: FitCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that waits too long is written with the next one."""
    clock = iter((0.0, 1.0, FLUSH_EVERY_S + 1.0))
    monkeypatch.setattr("moodfuse.cache.fits.time.monotonic", lambda: next(clock))
    store.keep(KEYS[3], fit(3))
    assert KEYS[3] not in store.find(KEYS)
    store.keep(digest("last"), fit(5))
    assert KEYS[3] in store.find(KEYS)


def test_a_damaged_part_is_quarantined(store: FitCache) -> None:
    file = largest(store)
    file.write_bytes(file.read_bytes()[:-1])
    assert set(store.find(KEYS)) == {KEYS[2]}
    assert file.with_name(file.name + ".bad").exists()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("values", lambda array: array[:-1]),
        ("shape", lambda array: array[:1]),
        ("temperature", lambda array: array.astype(np.float32)),
        ("key", None),
    ],
)
def test_parts_of_another_form_are_damaged(
    store: FitCache, tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    file = largest(store)
    arrays, attributes = read_part(file)
    check_fits(file, arrays, attributes)
    wrong = {key: array for key, array in arrays.items() if key != name}
    if change is not None:
        wrong[name] = change(arrays[name])
    with pytest.raises(DamagedPartError):
        check_fits(file, wrong, attributes)
    with pytest.raises(DamagedPartError, match="its fits belong to other clips"):
        check_fits(tmp_path / "other" / file.name, arrays, attributes)
    file.unlink()
    write_part(store.folder, "fits", wrong, attributes)
    assert not set(store.find(KEYS)) & set(KEYS[:2])


def test_the_folder_follows_clips_labels_and_groups_alone(small_cache: MakeCache) -> None:
    first, *others = small_cache().clips

    def name(**changes: object) -> str:
        return clips_digest16([replace(first, **changes), *others])  # type: ignore[arg-type]

    names = [
        name(),
        name(clip=replace(first.clip, label="b")),
        name(group="other"),
        name(missing="sound"),
        clips_digest16(others),
    ]
    assert len(set(names)) == len(names)
    assert name(clip=replace(first.clip, path="/elsewhere")) == names[0]
