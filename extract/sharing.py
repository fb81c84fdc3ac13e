"""Several processes at one cache without a coordinator: each begins elsewhere, and leaves out what it finds done."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def shared_order(items: Sequence[T]) -> list[T]:
    """The items in an order of this process's own; what a piece of work gives does not depend on the order."""
    return random.SystemRandom().sample(items, len(items))


def shared_pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in pieces of some size, the pieces in an order of this process's own."""
    return shared_order([items[start : start + size] for start in range(0, len(items), size)])
