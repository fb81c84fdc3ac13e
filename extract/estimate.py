"""How long and how much disk: measured on one step of each network that has something to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extract.work import Work

_BYTES_PER_FLOAT = 4


@dataclass(frozen=True)
class Estimate:
    """Seconds of work and megabytes (10**6 bytes) of disk."""

    seconds: float = 0.0
    megabytes: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.seconds + other.seconds, self.megabytes + other.megabytes)


def measure(item: "Work", weights: str | None, *, classes: tuple[str, ...]) -> Estimate:
    """Estimate the work of one source from one timed pass and one timed training step on a silent, grey clip."""
    import torch

    from extract.embed import make_network
    from extract.networks.registry import AudioPreprocessing

    recipe = item.recipe
    torch.set_num_threads(recipe.threads)
    network = make_network(recipe, weights, len(classes))
    preprocessing = network.preprocessing
    if isinstance(preprocessing, AudioPreprocessing):
        batch = torch.zeros(1, preprocessing.samples)
        crop = (
            round((recipe.tuning.crop_s if recipe.tuning else 0) * preprocessing.sample_rate_hz)
            or preprocessing.samples
        )
        step = torch.zeros(1, crop)
    else:
        batch = step = torch.zeros(1, 3, preprocessing.frames, preprocessing.crop_px, preprocessing.crop_px)
    batch, step = batch.to(recipe.device), step.to(recipe.device)
    seconds, floats = 0.0, 0.0
    if item.trunk:
        with torch.inference_mode():
            seconds += len(item.trunk) * _timed(lambda: network.trunk(batch))
        floats += len(item.trunk) * (network.spec.activation_width + network.spec.frozen_width)
    if item.body:
        floats += sum(value.numel() for value in network.parameters())
    if item.networks and recipe.tuning is not None:
        tuned_on = max(map(len, item.networks))
        if recipe.depth == "full":
            with torch.inference_mode():
                pass_s = _timed(lambda: network(batch))
            step_s = _timed(lambda: network.train()(step)[1].sum().backward())
            seconds += item.to_tune * recipe.tuning.epochs * tuned_on * (0.8 * step_s + 0.2 * pass_s)
            seconds += len(item.networks) * item.clips * pass_s
            floats += item.to_tune * sum(value.numel() for value in network.parameters())
        else:
            activation = torch.zeros(recipe.tuning.batch, network.spec.activation_width, device=recipe.device)
            head = list(network.head_parameters())
            optimizer = torch.optim.Adam(head)

            def head_step() -> None:
                network.classifier(network.embed(activation)).sum().backward()
                optimizer.step()

            steps = recipe.tuning.epochs * -(-tuned_on // recipe.tuning.batch)
            seconds += item.to_tune * steps * _timed(head_step)
            floats += item.to_tune * sum(value.numel() for value in head)
        floats += len(item.networks) * item.clips * (network.spec.embedding_width + len(classes))
    return Estimate(seconds, floats * _BYTES_PER_FLOAT / 1e6)


def _timed(step: Callable[[], object]) -> float:
    """Seconds of the faster of two passes, after one that sets up memory and kernels."""
    step()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)
