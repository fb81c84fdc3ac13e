"""Class weights of fine-tuning, and batches that are prepared while the one before is in use."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from moodfuse.cache.recipe import UNCORRECTED, Recipe, Tuning
from moodfuse.extract.training.fine_tune import TuningData, prefetch, tune

RECIPE = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 0.05, 60, batch=50), True)


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


def mean_probabilities(class_weight: str) -> list[float]:
    """Mean probabilities of two overlapping classes, 40 and 10 clips, by a linear network tuned on them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 1, generator=generator) + torch.tensor([0.0] * 40 + [1.0] * 10)[:, None]
    torch.manual_seed(0)
    network = nn.Linear(1, 2)
    clips = tuple((str(row), "ab"[row >= 40], "tune") for row in range(50))
    data = TuningData(
        clips,
        ("a", "b"),
        train_input=lambda digest, _: inputs[int(digest)],
        whole_input=lambda digest: inputs[int(digest)],
        score=network,
        parameters=list(network.parameters()),
        output_bias=network.bias,
    )
    assert RECIPE.tuning is not None
    tune(network, data, replace(RECIPE, tuning=replace(RECIPE.tuning, class_weight=class_weight)))
    return network(inputs).softmax(dim=1).mean(dim=0).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("role", ["tune", "stop"])
def test_each_epoch_is_reported_with_its_loss(role: str) -> None:
    """Of the clips for early stopping if there are any, else of the last batch; it falls."""
    inputs, network = torch.tensor([[-1.0], [1.0]] * 4), nn.Linear(1, 2)
    data = TuningData(
        tuple((str(row), "ab"[row % 2], role if row > 3 else "tune") for row in range(8)),
        ("a", "b"),
        train_input=lambda digest, _: inputs[int(digest)],
        whole_input=lambda digest: inputs[int(digest)],
        score=network,
        parameters=list(network.parameters()),
        output_bias=network.bias,
    )
    epochs: list[tuple[int, float]] = []
    tune(network, data, RECIPE, on_epoch=lambda *epoch: epochs.append(epoch))
    assert [epoch for epoch, _ in epochs] == list(range(1, 61))
    assert epochs[-1][1] < epochs[0][1]


def test_class_weights_do_not_shift_probabilities() -> None:
    """Mean probabilities are the frequencies; networks of older caches gave both classes the same weight."""
    assert mean_probabilities("none") == pytest.approx([0.8, 0.2], abs=0.02)
    assert mean_probabilities("balanced") == pytest.approx([0.8, 0.2], abs=0.03)
    assert mean_probabilities(UNCORRECTED)[1] > 0.3
