"""How long and how much disk: measured on one step of each network that has something to do."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from moodfuse.extract.networks.base import Network
    from moodfuse.extract.pending import Work

_BYTES_PER_FLOAT = 4
WORTH_MEASURING = 8
"""Clips that pass a network; with fewer, and nothing else to do, measuring would take about as long as the work."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of work and megabytes (10**6 bytes) of disk."""

    seconds: float = 0.0
    megabytes: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.seconds + other.seconds, self.megabytes + other.megabytes)


def is_long(item: "Work") -> bool:
    """Whether the work is long enough for its length to be worth measuring."""
    return bool(item.networks) or item.body or len(item.trunk) >= WORTH_MEASURING


def measure(item: "Work", weights: str | None, *, classes: tuple[str, ...]) -> Estimate:
    """Estimate the work of one source from one timed pass and one timed training step on a silent, grey clip."""
    import torch

    from moodfuse.extract.embed import make_network

    torch.set_num_threads(item.recipe.threads)
    network = make_network(item.recipe, weights, len(classes))
    found = Estimate()
    if item.trunk:
        found += _of_trunk(item, network)
    if item.body:
        found += Estimate(0.0, _megabytes(_size(network.parameters())))
    if item.networks:
        found += (
            _of_whole_networks(item, network) if item.recipe.depth == "full" else _of_heads(item, network)
        )
        rows = len(item.networks) * item.clips
        found += Estimate(0.0, _megabytes(rows * (network.spec.embedding_width + len(classes))))
    return found


def _of_trunk(item: "Work", network: "Network") -> Estimate:
    """Clips that pass a trunk."""
    import torch

    from moodfuse.extract.embed import autocast, laid_out

    batch = laid_out(item.recipe, torch.zeros(1, *_shape(network)))
    with torch.inference_mode(), autocast(item.recipe):
        pass_s = _timed(lambda: network.trunk(batch))
    floats = network.spec.activation_width + network.spec.frozen_width
    return Estimate(len(item.trunk) * pass_s, _megabytes(len(item.trunk) * floats))


def _of_whole_networks(item: "Work", network: "Network") -> Estimate:
    """Networks tuned whole, and the clips that pass them afterwards."""
    import torch

    from moodfuse.extract.embed import autocast, laid_out

    recipe, tuning = item.recipe, item.recipe.tuning
    if tuning is None:
        raise ValueError(f"{recipe.source}: a frozen recipe is not tuned")
    batch = laid_out(recipe, torch.zeros(1, *_shape(network)))
    step = laid_out(recipe, torch.zeros(1, *_shape(network, crop_s=tuning.crop_s)))
    with autocast(recipe):
        with torch.inference_mode():
            pass_s = _timed(lambda: network(batch))
        step_s = _timed(lambda: network.train()(step)[1].sum().backward())
    epochs = item.to_tune * tuning.epochs * max(map(len, item.networks))
    seconds = epochs * (0.8 * step_s + 0.2 * pass_s) + len(item.networks) * item.clips * pass_s
    return Estimate(seconds, _megabytes(item.to_tune * _size(network.parameters())))


def _of_heads(item: "Work", network: "Network") -> Estimate:
    """Heads tuned on activations."""
    import torch

    tuning = item.recipe.tuning
    if tuning is None:
        raise ValueError(f"{item.recipe.source}: a frozen recipe is not tuned")
    activation = torch.zeros(tuning.batch, network.spec.activation_width, device=item.recipe.device)
    head = list(network.head_parameters())
    optimizer = torch.optim.Adam(head)

    def step() -> None:
        network.classifier(network.embed(activation)).sum().backward()
        optimizer.step()

    steps = tuning.epochs * -(-max(map(len, item.networks)) // tuning.batch)
    return Estimate(item.to_tune * steps * _timed(step), _megabytes(item.to_tune * _size(head)))


def _shape(network: "Network", *, crop_s: float = 0.0) -> tuple[int, ...]:
    """Shape of a network's input without the batch axis; of so many seconds of sound, all where that is 0."""
    from moodfuse.extract.networks import AudioPreprocessing

    found = network.preprocessing
    if isinstance(found, AudioPreprocessing):
        return (round(crop_s * found.sample_rate_hz) or found.samples,)
    return 3, found.frames, found.crop_px, found.crop_px


def _size(parameters: Iterable["nn.Parameter"]) -> int:
    return sum(value.numel() for value in parameters)


def _megabytes(floats: float) -> float:
    return floats * _BYTES_PER_FLOAT / 1e6


def _timed(step: Callable[[], object]) -> float:
    """Seconds of a pass, after one that sets up memory and kernels."""
    step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
