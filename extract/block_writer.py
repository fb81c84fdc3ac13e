"""Rows of features on their way into the cache: computed clip by clip, written part by part."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import CLIPS_PER_PART, FeatureCache, Roles
from moodfuse.extract.progress import track
from moodfuse.extract.sharing import shared_pieces

Row = Callable[[str], dict[str, np.ndarray]]
"""Computes the arrays of one clip."""


@dataclass(frozen=True)
class Shelf:
    """Where the rows of one network stand; `roles` is `None` for a frozen one."""

    cache: FeatureCache
    recipe: Recipe
    roles: Roles | None

    def add(self, rows: dict[str, dict[str, np.ndarray]]) -> None:
        """Write the arrays of some clips as one part."""
        arrays = {name: np.stack([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
        self.cache.write_block_part(self.recipe, self.roles, list(rows), arrays)


def write_rows(shelf: Shelf, digests: Sequence[str], row: Row, *, title: str = "") -> int:
    """Compute rows one by one, a part for every `CLIPS_PER_PART` of them; returns how many."""
    computed = _computed(shelf, digests, row)
    return sum(1 for _ in (track(computed, total=len(digests), what=title) if title else computed))


def _computed(shelf: Shelf, digests: Sequence[str], row: Row) -> Iterator[str]:
    """Compute what is still lacking piece by piece, in this process's own order; yields each clip."""
    for piece in shared_pieces(digests, CLIPS_PER_PART):
        have = shelf.cache.held(shelf.recipe, shelf.roles)
        rows: dict[str, dict[str, np.ndarray]] = {}
        for digest in piece:
            if digest not in have:
                rows[digest] = row(digest)
                yield digest
        if rows:
            shelf.add(rows)
