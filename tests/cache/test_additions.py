"""What is written is what every reader can use: each clip once, float32, finite."""

from collections.abc import Callable

import numpy as np
import pytest

from moodfuse.cache.blocks import part_files, write_rows
from moodfuse.cache.errors import CacheError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


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
