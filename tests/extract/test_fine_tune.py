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


def test_the_error_of_a_batch_is_raised_in_order() -> None:
    """The batches before it come first; the thread does not hide the error."""

    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield from numbered(2, [])
        raise ValueError("clip 3")

    batches = prefetch(broken())
    assert [float(next(batches)[0][0, 0]) for _ in range(2)] == [0.0, 1.0]
    with pytest.raises(ValueError, match="clip 3"):
        next(batches)
