"""What a source gives to a design matrix: one block, or cross-fitted logits whose rows come from several networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.errors import InputError, MissingBlockError, UnknownNameError
from moodfuse.cache.records import Block

Level = Literal["logits", "embedding"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class CrossFitted:
    """Logits of one source whose rows come from different networks.

    Attributes
    ----------
    blocks : tuple of Block
        The networks; all of one source, with logits of all clips.
    rows : tuple of tuple of int
        For each row, which of `blocks` it comes from; several are averaged.
    """

    blocks: tuple[Block, ...]
    rows: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.blocks or len({(block.source, block.digests) for block in self.blocks}) != 1:
            raise InputError("cross-fitted logits need blocks of one source over the same clips")
        if len(self.rows) != len(self.blocks[0].digests):
            raise InputError(
                f"{self.source}: {len(self.rows)} rows chosen for {len(self.blocks[0].digests)} clips"
            )
        if any(not chosen or not set(chosen) <= set(range(len(self.blocks))) for chosen in self.rows):
            raise InputError(f"{self.source}: a row names no network, or one that is not there")

    @property
    def source(self) -> str:
        """Name of the source."""
        return self.blocks[0].source

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """Logits [N, C], each row from its own networks."""
        stacked = np.stack([values_of(block, "logits") for block in self.blocks])
        found = np.empty(stacked.shape[1:], dtype=stacked.dtype)
        places: dict[tuple[int, ...], list[int]] = {}
        for row, blocks in enumerate(self.rows):
            places.setdefault(blocks, []).append(row)
        for blocks, rows in places.items():
            found[rows] = stacked[np.ix_(blocks, rows)].mean(axis=0)
        return found

    @property
    def absent(self) -> frozenset[str]:
        """Digests of clips that lack what the source reads."""
        return self.blocks[0].absent


Features = Block | CrossFitted
"""What a source gives to one design matrix."""


def check_level(level: str) -> Level:
    """The level itself, if it is one.

    Raises
    ------
    UnknownNameError
    """
    if level not in LEVELS:
        raise UnknownNameError("level", level, LEVELS)
    return level


def networks_of(features: Features) -> Iterator[Block]:
    """Every network behind some features."""
    yield from features.blocks if isinstance(features, CrossFitted) else (features,)


def values_of(features: Features, level: Level) -> NDArray[np.float32]:
    """The array of a level; embeddings of different networks share no axes, so they must come from one.

    Raises
    ------
    InputError
        If an embedding would come from several networks.
    MissingBlockError
        If a block has no logits at the logits level.
    """
    if level == "embedding":
        if isinstance(features, CrossFitted):
            raise InputError(
                f"{features.source}: rows of several networks cannot form one embedding; use level logits"
            )
        return features.embedding
    if features.logits is None:
        raise MissingBlockError(
            f"{features.source} {features.holdout}: no logits; derive them, or use level embedding"
        )
    return features.logits
