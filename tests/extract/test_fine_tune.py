"""Batches that are prepared while the one before is in use."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from moodfuse.extract.training.fine_tune import prefetch


def numbered(count: int, made: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches with their numbers, which are appended to `made`."""
    for number in range(count):
        made.append(number)
        yield torch.full((2, 3), float(number)), torch.tensor([number, number])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_batches_keep_their_order_and_one_is_made_ahead(count: int) -> None:
    """Each comes once and in order, and at most one is made before it is asked for."""
    made: list[int] = []
    for place, (inputs, targets) in enumerate(prefetch(numbered(count, made))):
        assert torch.equal(inputs, torch.full((2, 3), float(place))) and targets.tolist() == [place, place]
        assert len(made) <= place + 2
    assert made == list(range(count))
