"""Fine-tuning: learning rates, mixup, class weights, resumed runs, and batches prepared in advance."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moodfuse.cache.media import Media
from moodfuse.cache.recipe import UNCORRECTED, Recipe, Tuning
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.fine_tune import TuningData, make_optimizer, prefetch, rate_factor, tune
from moodfuse.extract.training.tune_networks import full_data

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
        parameters=[(parameter, 0) for parameter in network.parameters()],
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
        parameters=[(parameter, 0) for parameter in network.parameters()],
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


def test_learning_rates_rise_linearly_and_fall_by_half_a_cosine() -> None:
    """Warm-up over two of ten epochs, then constant, or 0 at the end."""
    constant = Tuning("sgd", 0.1, 10, warmup_epochs=2)
    cosine = replace(constant, schedule="cosine")
    assert [rate_factor(constant, epochs) for epochs in (0.5, 1, 2, 9.9)] == [0.25, 0.5, 1, 1]
    factors = [rate_factor(cosine, epochs) for epochs in (0.5, 2, 6, 10)]
    assert factors == pytest.approx([0.25, 1, 0.5, 0])
    assert rate_factor(Tuning("sgd", 0.1, 10), 0.01) == 1


def test_layer_decay_lowers_the_rate_block_by_block() -> None:
    """Without it all parameters are one group, in their order."""
    parameters = [(nn.Parameter(torch.zeros(1)), number) for number in (0, 2, 2, 1)]
    groups = make_optimizer(Tuning("adamw", 0.1, 1, layer_decay=0.5), parameters).param_groups
    assert {group["lr"]: len(group["params"]) for group in groups} == {0.1: 1, 0.025: 2, 0.05: 1}
    (group,) = make_optimizer(Tuning("adamw", 0.1, 1), parameters).param_groups
    assert all(one is other for one, (other, _) in zip(group["params"], parameters, strict=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixup_mixes_inputs_and_targets_alike(smoothing: float) -> None:
    """Inputs are their own one-hot targets, so a mixed input is the soft target of its cross-entropy."""
    network, batches = nn.Linear(3, 3, bias=False), []
    initial = network.weight.detach().clone()

    def score(batch: Tensor) -> Tensor:
        batches.append(batch)
        return network(batch)  # type: ignore[no-any-return]

    data = TuningData(
        tuple((str(row), "abc"[row % 3], "tune") for row in range(9)),
        ("a", "b", "c"),
        train_input=lambda digest, _: torch.eye(3)[int(digest) % 3],
        whole_input=lambda digest: torch.eye(3)[int(digest) % 3],
        score=score,
        parameters=[(network.weight, 0)],
        output_bias=nn.Parameter(torch.zeros(3)),
    )
    tuning = Tuning("sgd", 0.5, 1, batch=9, mixup=1.0, label_smoothing=smoothing)
    tune(network, data, replace(RECIPE, tuning=tuning))
    (mixed,) = batches
    assert ((mixed > 0.01).sum(dim=1) == 2).any()
    targets = (1 - smoothing) * mixed + smoothing / 3
    expected = initial - 0.5 * ((mixed @ initial.t()).softmax(dim=1) - targets).t() @ mixed / 9
    torch.testing.assert_close(network.weight.detach(), expected)


class Noise:
    """Media of noise for each digest."""

    def read(self, digest: str) -> Media:
        """One frame and 30 s of audio."""
        rng = np.random.default_rng(int(digest))
        waveform = rng.normal(0, 0.1, 480_000).astype(np.float32)
        return Media(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1), waveform, len(waveform))


class Killed(Exception):
    """The end of a run."""


ALL = Tuning(
    *("adamw", 1e-2, 4),
    **{"batch": 3, "crop_s": 2.0, "gain_db": 6.0, "layer_decay": 0.7, "warmup_epochs": 1, "mixup": 0.4},  # type: ignore[arg-type]
    **{"schedule": "cosine", "label_smoothing": 0.1, "spec_augment": 0.3, "gradient_checkpointing": True},  # type: ignore[arg-type]
)
"""Every setting of the gradient steps."""


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_takes_the_steps_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """With every setting, killed in each epoch; the layers before the last two blocks keep their weights."""
    recipe = build_recipe("onedmcnn", RecipeChoice(device="cpu", depth="last:2"))
    recipe = replace(recipe, tuning=ALL, threads=1)
    clips = tuple((str(row), "ab"[row % 2], "stop" if row < 2 else "tune") for row in range(10))

    def run(checkpoint: Path | None = None, inputs: int = 1000) -> dict[str, Tensor]:
        """The tuned arrays; a run is killed after making so many inputs."""
        worker = SourceWorker(recipe, make_network(recipe, None, 2), Noise())  # type: ignore[arg-type]
        data, made = full_data(worker, clips, ("a", "b")), []

        def train_input(digest: str, generator: torch.Generator) -> Tensor:
            made.append(digest)
            if len(made) > inputs:
                raise Killed
            return worker.train_input(digest, generator)

        tune(worker.network, replace(data, train_input=train_input), recipe, checkpoint=checkpoint)
        return worker.network.state_dict()

    whole, path = run(), tmp_path / "network.checkpoint"
    for _ in range(3):  # 8 inputs an epoch
        with pytest.raises(Killed):
            run(path, inputs=12)
    resumed, initial = run(path), make_network(recipe, None, 2).state_dict()
    assert {name: value.numpy().tobytes() for name, value in resumed.items()} == {
        name: value.numpy().tobytes() for name, value in whole.items()
    }
    changed = {name for name, value in whole.items() if not torch.equal(value, initial[name])}
    assert changed == {
        name for name in whole if name.startswith(("classifier", "convolutions.2", "convolutions.3"))
    }
