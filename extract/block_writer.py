"""Write the features of a network into the cache, and divide work between processes that share a cache.

Processes need no coordinator: each takes pieces of work in an order of its own, and leaves out what is already done.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import CLIPS_PER_PART, FeatureCache, Roles
from moodfuse.extract.progress import track

T = TypeVar("T")


def shared_order(items: Sequence[T]) -> list[T]:
    """The items in an order that differs between processes; results do not depend on the order."""
    return random.SystemRandom().sample(items, len(items))


def shared_pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in pieces of `size`, the pieces in an order that differs between processes."""
    return shared_order([items[start : start + size] for start in range(0, len(items), size)])


@dataclass(frozen=True)
class BlockWriter:
    """Writes the features of one network; `roles` is what it was tuned on, `None` for a frozen one."""

    cache: FeatureCache
    recipe: Recipe
    roles: Roles | None

    def held(self) -> set[str]:
        """Digests of the clips whose features are in the cache."""
        return self.cache.held(self.recipe, self.roles)

    def write(self, rows: dict[str, dict[str, np.ndarray]]) -> None:
        """Write the arrays of some clips, by digest, as one part."""
        arrays = {name: np.stack([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
        self.cache.write_block_part(self.recipe, self.roles, list(rows), arrays)

    def compute(
        self, digests: Sequence[str], row: Callable[[str], dict[str, np.ndarray]], *, title: str = ""
    ) -> int:
        """Compute and write the rows of clips that the cache does not hold; returns how many."""
        computed = self._computed(digests, row)
        return sum(1 for _ in (track(computed, total=len(digests), what=title) if title else computed))

    def _computed(self, digests: Sequence[str], row: Callable[[str], dict[str, np.ndarray]]) -> Iterator[str]:
        for piece in shared_pieces(digests, CLIPS_PER_PART):
            held = self.held()
            rows: dict[str, dict[str, np.ndarray]] = {}
            for digest in piece:
                if digest not in held:
                    rows[digest] = row(digest)
                    yield digest
            if rows:
                self.write(rows)
