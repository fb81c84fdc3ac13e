"""The parts in a folder: which are used, reading their rows, and adding rows that every reader can use."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from moodfuse.cache.blocks import held, open_features, part_files, read_rows, write_rows
from moodfuse.cache.digests import digest_array
from moodfuse.cache.errors import CacheError, DamagedPartError
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.storage.parts import write_part
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


@pytest.mark.parametrize(
    "other",
    [{"format": "moodfuse-plan"}, {"source": "c3d"}, {"recipe": "0" * 16}, {"trained": "0" * 16}],
    ids=lambda other: next(iter(other)),
)
def test_a_part_of_another_place_is_set_aside(small_cache: MakeCache, other: dict[str, str]) -> None:
    """Whatever attribute says that it belongs elsewhere, its rows are not read, and verify says so."""
    cache = small_cache()
    owner, clips = cache.owner(STILL, None), digest_array(clip.digest for clip in cache.clips)
    cache.write_recipe(STILL)
    arrays = {"clip": clips, "embedding": np.ones((len(clips), 2), dtype=np.float32)}
    part = write_part(owner.folder, "a", arrays, {**owner.attributes, **other})
    assert [fault.place.rpartition("/")[2] for fault in verify(cache.path).faults] == [part.name]
    assert not read_rows(owner, clips, ("embedding",)).found.any()
    assert part.with_name(f"{part.name}.bad").exists() and not part_files(owner.folder)


def test_a_part_that_holds_a_clip_twice_is_damaged(small_cache: MakeCache) -> None:
    """Nobody could say which row is meant: it is not read, and verify says so."""
    cache = small_cache()
    owner, clips = cache.owner(STILL, None), digest_array(clip.digest for clip in cache.clips)
    twice = np.concatenate([clips, clips[4:5]])
    arrays = {"clip": twice, "embedding": np.arange(38, dtype=np.float32).reshape(19, 2)}
    write_part(owner.folder, "a", arrays, owner.attributes)
    (fault,) = verify(cache.path).faults
    assert f"holds clip {clips[4].decode()[:16]} twice" in fault.reason
    assert not len(held(owner))


@pytest.mark.parametrize(
    ("arrays", "classes", "reason"),
    [
        ({}, [], "has no array 'embedding'"),
        ({"logits": 2}, ["a", "b"], "has no array 'embedding'"),
        ({"embedding": 3}, ["a", "b"], "has 0 columns of logits; expected 2, one per class"),
        ({"embedding": 3, "logits": 3}, ["a", "b"], "has 3 columns of logits; expected 2, one per class"),
        ({"embedding": 3}, [], None),
        ({"embedding": 3, "logits": 2}, [], None),
        ({"embedding": 3, "logits": 2}, ["a", "b"], None),
    ],
)
def test_a_part_has_an_embedding_and_the_logits_of_its_classes(
    small_cache: MakeCache, arrays: dict[str, int], classes: list[str], reason: str | None
) -> None:
    """A source may have no logits, and a part may not name their classes; what is named has to be there."""
    cache = small_cache()
    owner, clips = cache.owner(STILL, None), digest_array(clip.digest for clip in cache.clips)
    cache.write_recipe(STILL)
    values = {name: np.ones((len(clips), width), np.float32) for name, width in arrays.items()}
    attributes = owner.attributes | ({"classes": classes} if classes else {})
    write_part(owner.folder, "a", {"clip": clips, **values}, attributes)
    assert [fault.reason for fault in verify(cache.path).faults] == ([] if reason is None else [reason])
    assert len(held(owner)) == (len(clips) if reason is None else 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"embedding": np.ones((18, 2))},
            "embedding is float64 of shape (18, 2); expected float32 of shape (18, D), stored without chunks or "
            "compression",
        ),
        (
            {"embedding": np.ones(18, np.float32)},
            "embedding is float32 of shape (18,); expected float32 of shape (18",
        ),
        (
            {"clip": np.zeros(18, "S65")},
            "clip is bytes of length 65 of shape (18,); expected bytes of length 64 and",
        ),
        (
            {"clip": np.zeros((18, 1), "S64")},
            "clip is bytes of length 64 of shape (18, 1); expected bytes of length 64 and",
        ),
    ],
)
def test_arrays_of_another_form_are_described(
    small_cache: MakeCache, changed: dict[str, np.ndarray], message: str
) -> None:
    """The message has the type and the shape that were found and expected."""
    cache = small_cache()
    owner, clips = cache.owner(STILL, None), digest_array(clip.digest for clip in cache.clips)
    arrays = {"clip": clips, "embedding": np.ones((len(clips), 2), np.float32), **changed}
    with (
        pytest.raises(DamagedPartError, match=re.escape(message)),
        open_features(write_part(owner.folder, "a", arrays, owner.attributes)),
    ):
        pass


def rows_of(count: int, width: int = 3) -> np.ndarray:
    """Different numbers in every place."""
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


@pytest.mark.parametrize("name", ["embedding", "logits", "activation"])
@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (lambda rows: rows.astype(np.float64), "is float64; expected float32"),
        (
            lambda rows: np.where(rows == 7, np.float32(np.nan), rows),
            "is nan in column 1; nothing was stored",
        ),
        (
            lambda rows: np.where(rows == 7, np.float32(-np.inf), rows),
            "is -inf in column 1.*lower its learning_rate",
        ),
        (lambda rows: rows[:-1], r"is \[3, 3\]; expected a row for each of 4 clips"),
    ],
    ids=["float64", "nan", "inf", "short"],
)
def test_what_no_reader_could_use_is_refused(
    small_cache: MakeCache, name: str, harm: Callable[[np.ndarray], np.ndarray], cause: str
) -> None:
    """By name of the array and of the clip; nothing is written, so the clips still count as missing."""
    cache = small_cache()
    clips = [status.digest for status in cache.clips][:4]
    arrays = {"embedding": rows_of(4)} | {name: harm(rows_of(4))}
    with pytest.raises(CacheError, match=f"{name}.*{cause}") as refused:
        cache.write_block_part(STILL, None, clips, arrays)
    assert clips[2 if "column" in cause else 0][:16] in str(refused.value) or "expected a row" in cause
    assert not cache.held(STILL, None) and not part_files(cache.block_folder(STILL, None))


def test_a_clip_has_one_row(small_cache: MakeCache) -> None:
    """A clip with two rows is refused by its digest."""
    cache = small_cache()
    one, two = [status.digest for status in cache.clips][:2]
    with pytest.raises(CacheError, match=f"two rows for clip {two[:16]}; expected one per clip"):
        write_rows(cache.owner(STILL, None), [two, one, two], {"embedding": rows_of(3)})
