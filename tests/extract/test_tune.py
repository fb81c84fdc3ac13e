"""Batches that are made while the one before is at work."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from moodfuse.extract.training.fine_tune import prefetch


def numbered(count: int, made: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches; `made` tells how far it is."""
    for number in range(count):
        made.append(number)
        yield torch.full((2, 3), float(number)), torch.tensor([number, number])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_batches_keep_their_order_and_one_is_made_ahead(count: int) -> None:
    """All come once, in turn; never is more than one made that nobody asked for."""
    made: list[int] = []
    for place, (inputs, targets) in enumerate(prefetch(numbered(count, made))):
        assert torch.equal(inputs, torch.full((2, 3), float(place))) and targets.tolist() == [place, place]
        assert len(made) <= place + 2
    assert made == list(range(count))


def test_a_batch_that_cannot_be_made_is_an_error_in_its_turn() -> None:
    """What went before it comes; then its error is raised, not hidden in the thread."""

    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield from numbered(2, [])
        raise ValueError("clip 3")

    seen = []
    with pytest.raises(ValueError, match="clip 3"):
        for inputs, _ in prefetch(broken()):
            seen.append(float(inputs[0, 0]))
    assert seen == [0.0, 1.0]
