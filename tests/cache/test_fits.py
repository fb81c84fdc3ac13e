"""Kept fits come back bit for bit, are found by their key alone, and a damaged part costs nothing but its fits."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.digests import digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.fits import KEPT_EVERY_S, KeptFit, KeptFits, check_fits, clips_digest16
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]


def fit(number: int, *, rows: int = 4, columns: int = 2) -> KeptFit:
    """A fit whose values tell its number."""
    values = np.random.default_rng(number).random((rows, columns))
    return KeptFit(values, 1.0 + number, number % 2 == 1, {"C": float(number)})


def same(one: KeptFit, other: KeptFit) -> bool:
    """Whether two fits are equal, bit for bit."""
    facts = [(item.temperature, item.chosen, item.settings) for item in (one, other)]
    return facts[0] == facts[1] and np.array_equal(one.values, other.values)


KEYS = [digest(number) for number in range(4)]


@pytest.fixture
def store(small_cache: MakeCache) -> KeptFits:
    """Two parts: fits of different shapes, one key in both."""
    cache = small_cache()
    fits = KeptFits(cache.path, cache.clips)
    fits.keep(KEYS[0], fit(0))
    fits.keep(KEYS[1], fit(1, rows=18, columns=3))
    fits.flush()
    fits.keep(KEYS[2], fit(2, rows=0))
    fits.flush()
    return fits


def test_fits_come_back(store: KeptFits) -> None:
    """Values, shapes and what was chosen; an unknown key finds nothing, and nothing is written for nothing."""
    store.flush()
    found = store.find(KEYS)
    assert set(found) == set(KEYS[:3]) and len(list(store.folder.iterdir())) == 2
    assert same(found[KEYS[0]], fit(0)) and same(found[KEYS[1]], fit(1, rows=18, columns=3))
    assert found[KEYS[2]].values.shape == (0, 2) and not store.find([])


def test_a_store_that_does_not_write(store: KeptFits) -> None:
    """Keeps nothing."""
    store._writes = False
    store.keep(KEYS[3], fit(3))
    store.flush()
    assert KEYS[3] not in store.find(KEYS)


def test_fits_are_written_after_a_while(store: KeptFits, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that waits too long is written with the next one."""
    clock = iter((0.0, 1.0, KEPT_EVERY_S + 1.0))
    monkeypatch.setattr("moodfuse.cache.fits.time.monotonic", lambda: next(clock))
    store.keep(KEYS[3], fit(3))
    assert KEYS[3] not in store.find(KEYS)
    store.keep(digest("last"), fit(5))
    assert KEYS[3] in store.find(KEYS)


def test_a_damaged_part_is_set_aside(store: KeptFits, caplog: pytest.LogCaptureFixture) -> None:
    """Its fits are not found, the others are, and the log names it."""
    file = max(store.folder.glob("*.h5"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        found = store.find(KEYS)
    assert not set(found) & set(KEYS[:2]) and KEYS[2] in found
    assert file.with_name(file.name + ".bad").exists() and "set aside" in caplog.text


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("values", lambda array: array[:-1]),
        ("shape", lambda array: array[:1]),
        ("temperature", lambda array: array.astype(np.float32)),
        ("key", None),
    ],
)
def test_parts_that_are_no_fits_are_refused(
    store: KeptFits, tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    """Whole by its digest, but not what kept fits are."""
    file = max(store.folder.glob("*.h5"), key=lambda path: path.stat().st_size)
    arrays, attributes = read_part(file)
    check_fits(file, arrays, attributes)
    wrong = {key: array for key, array in arrays.items() if key != name}
    if change is not None:
        wrong[name] = change(arrays[name])
    with pytest.raises(DamagedPartError):
        check_fits(file, wrong, attributes)
    with pytest.raises(DamagedPartError, match="no fits of its folder's clips"):
        check_fits(tmp_path / "other" / file.name, arrays, attributes)
    file.unlink()
    write_part(store.folder, "fits", wrong, attributes)
    assert not set(store.find(KEYS)) & set(KEYS[:2])


def test_the_folder_follows_labels_and_groups_alone(small_cache: MakeCache) -> None:
    """Another label, group or clip is another folder; another path is not."""
    clips = small_cache().clips
    statuses = list(clips)
    first = statuses[0]

    def name(changed: object) -> str:
        return clips_digest16([changed, *statuses[1:]])  # type: ignore[list-item]

    names = [
        clips_digest16(clips),
        name(replace(first, clip=replace(first.clip, label="b"))),
        name(replace(first, group="other")),
        name(replace(first, missing="sound")),
        clips_digest16(statuses[1:]),
    ]
    assert len(set(names)) == len(names)
    assert name(replace(first, clip=replace(first.clip, path="/elsewhere"))) == names[0]
