"""What remains to be computed for a source, decided from what the cache holds.

Several `extract` processes may share a cache without a coordinator: each takes chunks of work in an order of
its own, and leaves out what is already done.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from moodfuse.cache.folds import holdouts
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import CLIPS_PER_PART, FeatureCache, TrainingClips
from moodfuse.cache.terminal import track
from moodfuse.extract.settings import NetworkChoice

T = TypeVar("T")
MIN_CLIPS = 8  # measuring takes about as long as fewer clips take to pass a network


@dataclass(frozen=True)
class Work:
    """What the cache does not hold of one source."""

    recipe: Recipe
    trunk: tuple[str, ...]  # digests of the clips that have to pass the frozen trunk
    networks: tuple[TrainingClips, ...]  # the training clips of each network whose block is incomplete
    to_tune: int  # number of `networks` without weights
    clips: int  # clips that each network embeds
    body: bool = False  # whether the part of the network that tuning leaves unchanged has to be stored

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.trunk or self.networks or self.body)

    @property
    def is_long(self) -> bool:
        """Whether the work takes so long that measuring it first pays."""
        return bool(self.networks) or self.body or len(self.trunk) >= MIN_CLIPS


def find_work(cache: FeatureCache, recipe: Recipe, choice: NetworkChoice) -> Work:
    """What the cache does not hold of a source under the current plans."""
    digests = {status.digest for status in cache.clips_with(recipe)}
    networks = tuple(
        training_clips
        for training_clips in dict.fromkeys(_wanted_networks(cache, recipe, choice))
        if digests - cache.held(recipe, training_clips) or not cache.has_record(recipe, training_clips)
    )
    trunk: set[str] = set()
    if recipe.depth == "frozen" or (recipe.depth == "head" and networks):
        trunk = digests - cache.held(frozen_counterpart(recipe), None)
    to_tune = sum(not cache.network_path(recipe, training_clips).is_file() for training_clips in networks)
    body = not recipe.tunes_trunk and not cache.network_path(recipe, None).is_file()
    return Work(recipe, tuple(sorted(trunk)), networks, to_tune, len(digests), body)


def _wanted_networks(cache: FeatureCache, recipe: Recipe, choice: NetworkChoice) -> Iterator[TrainingClips]:
    """The training clips of the networks of a tuned recipe: one for every holdout of every plan."""
    if recipe.tuning is None:
        return
    options = {"crossfit": choice.crossfit, "leaky": choice.leaky}
    for plan in (cache.plan, *cache.repeat_plans)[: choice.repeats]:
        for holdout in holdouts(plan, cache.clips, modalities=choice.modalities, **options):
            training_clips = cache.training_clips(recipe, holdout, plan=plan)
            assert training_clips is not None  # the recipe is tuned
            yield training_clips


def find_clips_to_decode(cache: FeatureCache, works: Sequence[Work]) -> tuple[ClipStatus, ...]:
    """Clips to decode: those that have to pass a frozen trunk, and all clips of a trunk that is tuned."""
    wanted = {digest for work in works for digest in work.trunk}
    for work in works:
        if work.networks and work.recipe.tunes_trunk:
            wanted |= {status.digest for status in cache.clips_with(work.recipe)}
    return tuple(status for status in cache.clips if status.digest in wanted)


# Sharing the work


def shared_order(items: Sequence[T]) -> list[T]:
    """The items in an order that differs between processes; results do not depend on the order."""
    return random.SystemRandom().sample(items, len(items))


def shared_chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in chunks of `size`, the chunks in an order that differs between processes."""
    return shared_order([items[start : start + size] for start in range(0, len(items), size)])


class BlockWriter:
    """Writes the features of one network in parts; `training_clips` are its training clips, `None` if it is
    frozen.
    """

    def __init__(self, cache: FeatureCache, recipe: Recipe, training_clips: TrainingClips | None) -> None:
        self.cache, self.recipe, self.training_clips = cache, recipe, training_clips
        self.added = 0
        self._rows: dict[str, dict[str, np.ndarray]] = {}
        self._held: set[str] | None = None

    def needs(self, digest: str) -> bool:
        """Whether there was no row of a clip when the last part was written."""
        if self._held is None:
            self._held = self.cache.held(self.recipe, self.training_clips)
        return digest not in self._held and digest not in self._rows

    def add(self, digest: str, row: dict[str, np.ndarray]) -> None:
        """Add the arrays of a clip; rows are written when they fill a part."""
        self._rows[digest] = row
        self.added += 1
        if len(self._rows) == CLIPS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write the rows in memory."""
        if self._rows:
            rows = list(self._rows.values())
            arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            self.cache.write_block_part(self.recipe, self.training_clips, list(self._rows), arrays)
            self._rows = {}
        self._held = None

    def compute(
        self, digests: Sequence[str], embed: Callable[[str], dict[str, np.ndarray]], *, title: str = ""
    ) -> int:
        """Compute and write the rows of clips that the cache does not hold; returns the number of rows."""
        order = [digest for chunk in shared_chunks(digests, CLIPS_PER_PART) for digest in chunk]
        for number, digest in enumerate(track(order, total=len(order), what=title)):
            if number and number % CLIPS_PER_PART == 0:  # another process may have written rows
                self.flush()
            if self.needs(digest):
                self.add(digest, embed(digest))
        self.flush()
        return self.added
