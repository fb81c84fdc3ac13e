"""The parts in a folder: which are used, reading their rows, and adding rows that every reader can use."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest

from moodfuse.cache.blocks import NetworkFolder, held, open_features, part_files, read_rows, write_rows
from moodfuse.cache.digests import Digests, digest, digest_array, lookup, repeated
from moodfuse.cache.errors import CacheError, DamagedPartError
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.storage.parts import write_part
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
NET = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture
def cache(small_cache: MakeCache) -> FeatureCache:
    """A cache of 18 clips with the recipe of a frozen source."""
    cache = small_cache()
    cache.write_recipe(STILL)
    return cache


@pytest.fixture
def owner(cache: FeatureCache) -> NetworkFolder:
    """The network of the frozen source."""
    return cache.owner(STILL, None)


@pytest.fixture
def clips(cache: FeatureCache) -> Digests:
    """Digests of the 18 clips."""
    return digest_array(clip.digest for clip in cache.clips)


def values_of(count: int, width: int = 3) -> np.ndarray:
    """Different numbers everywhere."""
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


@pytest.mark.parametrize("name", ["format", "source", "recipe", "trained"])
def test_a_part_of_another_network_is_quarantined(
    cache: FeatureCache, owner: NetworkFolder, clips: Digests, name: str
) -> None:
    arrays = {"clip": clips, "embedding": values_of(18)}
    part = write_part(owner.folder, "a", arrays, {**owner.attributes, name: "other"})
    assert [fault.relative_path.rpartition("/")[2] for fault in verify(cache.path).faults] == [part.name]
    assert not read_rows(owner, clips, ("embedding",)).present.any()
    assert part.with_name(f"{part.name}.bad").exists() and not part_files(owner.folder)


def test_a_part_that_holds_a_clip_twice_is_damaged(
    cache: FeatureCache, owner: NetworkFolder, clips: Digests
) -> None:
    twice = np.concatenate([clips, clips[4:5]])
    write_part(owner.folder, "a", {"clip": twice, "embedding": values_of(19)}, owner.attributes)
    (fault,) = verify(cache.path).faults
    assert f"holds clip {clips[4].decode()[:16]} twice" in fault.reason
    assert not len(held(owner))


@pytest.mark.parametrize(
    ("arrays", "classes", "reason"),
    [
        ({"logits": 2}, ["a", "b"], "has no array 'embedding'"),
        ({"embedding": 3}, ["a", "b"], "has 0 columns of logits; expected 2, one per class"),
        ({"embedding": 3, "logits": 3}, ["a", "b"], "has 3 columns of logits; expected 2, one per class"),
        ({"embedding": 3}, [], None),
        ({"embedding": 3, "logits": 2}, [], None),
        ({"embedding": 3, "logits": 2}, ["a", "b"], None),
    ],
)
def test_a_part_has_an_embedding_and_the_logits_of_its_classes(
    cache: FeatureCache,
    owner: NetworkFolder,
    clips: Digests,
    arrays: dict[str, int],
    classes: list[str],
    reason: str | None,
) -> None:
    """A source may have no logits, and a part may not name their classes."""
    values = {name: values_of(18, width) for name, width in arrays.items()}
    attributes = owner.attributes | ({"classes": classes} if classes else {})
    write_part(owner.folder, "a", {"clip": clips, **values}, attributes)
    assert [fault.reason for fault in verify(cache.path).faults] == ([] if reason is None else [reason])
    assert len(held(owner)) == (18 if reason is None else 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"embedding": np.ones((18, 2))},
            "embedding is float64 of shape (18, 2); expected float32 of shape (N, D), a row per clip",
        ),
        ({"embedding": np.ones(18, np.float32)}, "embedding is float32 of shape (18,); expected float32"),
        (
            {"clip": np.zeros(18, "S65")},
            "clip is |S65 of shape (18,); expected |S64 of shape (N,)",
        ),
        (
            {"clip": np.zeros((18, 1), "S64")},
            "clip is |S64 of shape (18, 1); expected |S64 of shape (N,)",
        ),
    ],
)
def test_arrays_of_another_form_are_described(
    owner: NetworkFolder, clips: Digests, changed: dict[str, np.ndarray], message: str
) -> None:
    part = write_part(
        owner.folder, "a", {"clip": clips, "embedding": values_of(18), **changed}, owner.attributes
    )
    with pytest.raises(DamagedPartError, match=re.escape(message)), open_features(part):
        pass


@pytest.mark.parametrize("name", ["embedding", "logits"])
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda rows: rows.astype(np.float64), r"is float64\[4, 3\]; expected float32"),
        (
            lambda rows: np.where(rows == 7, np.float32(np.nan), rows),
            "is nan in column 1; nothing was stored",
        ),
        (lambda rows: rows[:-1], r"is float32\[3, 3\]; expected float32, a row for each of 4 clips"),
    ],
    ids=["float64", "nan", "short"],
)
def test_values_that_no_reader_could_use_are_not_written(
    cache: FeatureCache, clips: Digests, name: str, change: Callable[[np.ndarray], np.ndarray], cause: str
) -> None:
    arrays = {"embedding": values_of(4)} | {name: change(values_of(4))}
    with pytest.raises(CacheError, match=f"{name}.*{cause}") as raised:
        cache.write_block_part(STILL, None, clips[:4], arrays)
    assert ("column" in cause) == (clips[2].decode()[:16] in str(raised.value))
    assert not cache.held(STILL, None) and not part_files(cache.block_folder(STILL, None))


def test_a_clip_has_one_row(owner: NetworkFolder, clips: Digests) -> None:
    with pytest.raises(
        CacheError, match=f"two rows for clip {clips[1].decode()[:16]}; expected one per clip"
    ):
        write_rows(owner, clips[[1, 0, 1]], {"embedding": values_of(3)})


def test_stored_rows_stay_and_other_values_are_reported(
    cache: FeatureCache, owner: NetworkFolder, clips: Digests, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.write_block_part(STILL, None, clips[:10], {"embedding": values_of(10)}) == 0
    before = [(file.name, file.read_bytes()) for file in part_files(owner.folder)]
    other = values_of(10)[5:] + np.float32(0.5)
    assert cache.write_block_part(STILL, None, clips[5:10], {"embedding": other}) == 5
    assert "5 of 5 rows differ from the stored ones" in caplog.text
    assert [(file.name, file.read_bytes()) for file in part_files(owner.folder)] == before


def test_a_damaged_part_is_quarantined(cache: FeatureCache, owner: NetworkFolder, clips: Digests) -> None:
    """Its rows count as missing, those of other parts are read."""
    for half in (slice(9), slice(9, None)):
        cache.write_block_part(STILL, None, clips[half], {"embedding": values_of(18)[half]})
    damaged = part_files(owner.folder)[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    rows = read_rows(owner, clips, ("embedding",))
    assert rows.present.sum() == 9 and len(part_files(owner.folder)) == 1
    assert np.array_equal(rows.arrays["embedding"][rows.present], values_of(18)[rows.present])


def test_a_part_of_another_width_is_an_error(cache: FeatureCache, clips: Digests) -> None:
    cache.write_block_part(STILL, None, clips[:9], {"embedding": values_of(9)})
    cache.write_block_part(STILL, None, clips[9:], {"embedding": values_of(9, 1)})
    with pytest.raises(CacheError, match=r"\.h5: rows of embedding have \d values.*move this part away"):
        cache.rows(STILL, None, cache.clips, ("embedding",))


def test_writers_of_the_same_clips_at_once_leave_one_value_per_clip(
    cache: FeatureCache, owner: NetworkFolder, clips: Digests
) -> None:
    values = values_of(18)

    def write(seed: int) -> None:
        for row in np.random.default_rng(seed).permutation(18).reshape(6, 3):
            assert (
                FeatureCache(cache.path).write_block_part(STILL, None, clips[row], {"embedding": values[row]})
                == 0
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert np.array_equal(read_rows(owner, clips, ("embedding",)).arrays["embedding"], values)
    assert not verify(cache.path).faults and not list(cache.path.rglob(".tmp-*"))


def test_selections_of_two_processes_are_both_current(cache: FeatureCache) -> None:
    one, two = FeatureCache(cache.path), FeatureCache(cache.path)
    with patch.object(FeatureCache, "_selections", ()):
        one.select([STILL], command="first")
        two.select([NET], command="second")
    both = FeatureCache(cache.path)
    assert both.sources() == ("net", "still") and set(both.commands) == {"first", "second"}


def test_digests_are_looked_up_as_in_a_dictionary() -> None:
    known = np.sort(digest_array(digest(number) for number in range(500)))
    wanted = digest_array(digest(number) for number in range(1000))
    index = {name: number for number, name in enumerate(known.tolist())}
    assert lookup(known, wanted).tolist() == [index.get(name, -1) for name in wanted.tolist()]
    assert lookup(known[:0], wanted[:2]).tolist() == [-1, -1] and not len(lookup(known, wanted[:0]))
    assert repeated(known) is None and repeated(known[:0]) is None
    assert repeated(np.concatenate([known, known[7:8]])) == known[7]
