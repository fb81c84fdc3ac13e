"""Which parts of a folder are taken: those that say that they belong there, with each clip once."""

from collections.abc import Callable

import numpy as np
import pytest

from cache.blocks import held, part_files, read_rows
from cache.parts import write_part
from cache.recipe import Recipe
from cache.store import FeatureCache
from cache.verify import verify

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
    owner, clips = cache.owner(STILL, None), cache.clips.digests
    cache.write_recipe(STILL)
    arrays = {"clip": clips, "embedding": np.ones((len(clips), 2), dtype=np.float32)}
    part = write_part(owner.folder, "a", arrays, {**owner.attributes, **other})
    assert [fault.place.rpartition("/")[2] for fault in verify(cache.path).faults] == [part.name]
    assert not read_rows(owner, clips, ("embedding",)).found.any()
    assert part.with_name(f"{part.name}.bad").exists() and not part_files(owner.folder)


def test_a_part_that_holds_a_clip_twice_is_damaged(small_cache: MakeCache) -> None:
    """Nobody could say which row is meant: it is not read, and verify says so."""
    cache = small_cache()
    owner, clips = cache.owner(STILL, None), cache.clips.digests
    twice = np.concatenate([clips, clips[4:5]])
    arrays = {"clip": twice, "embedding": np.arange(38, dtype=np.float32).reshape(19, 2)}
    write_part(owner.folder, "a", arrays, owner.attributes)
    (fault,) = verify(cache.path).faults
    assert f"holds clip {clips[4].decode()[:16]} twice" in fault.reason
    assert not len(held(owner))
