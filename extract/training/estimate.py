"""What is left to compute, in lines for the user, with time and disk space measured on one step of each network."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moodfuse.cache.recipe import Recipe
from moodfuse.extract.pending import Work
from moodfuse.extract.recipe_files import source_weights
from moodfuse.extract.runtime import release_freed_memory
from moodfuse.extract.settings import ExtractSettings

if TYPE_CHECKING:  # importing torch takes seconds
    from torch import Tensor, nn

    from moodfuse.extract.networks.base import Network

_BYTES_PER_FLOAT = 4
LEAST_CLIPS = 8  # measuring takes about as long as fewer clips take to pass a network


@dataclass(frozen=True)
class Estimate:
    """Seconds of work and megabytes (10**6 bytes) of disk."""

    seconds: float = 0.0
    megabytes: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.seconds + other.seconds, self.megabytes + other.megabytes)


def work_lines(todo: Sequence[Work], settings: ExtractSettings, classes: tuple[str, ...]) -> Iterator[str]:
    """What is left to do for each source and in all, and about how long it takes and how much disk it fills."""
    busy = [work for work in todo if not work.is_empty]
    if not busy:
        yield "nothing to decode, tune or embed: the cache holds every block"
        return
    total = Estimate()
    for work in busy:
        source = work.recipe.source
        if settings.keep_media:
            yield weights_line(source, settings)
        blocks = f"{len(work.networks)} blocks" if work.recipe.tuning else "one frozen block"
        cost = ""
        if is_long(work) or settings.dry_run:
            estimate = measure(work, settings.recipes.weights_of(source), classes=classes)
            release_freed_memory()
            total += estimate
            cost = f": about {estimate.seconds:.0f} s, {estimate.megabytes:.0f} MB"
        yield (
            f"{source} ({work.recipe.depth}): {len(work.trunk)} clips to embed, {work.to_tune} networks to tune for "
            f"{blocks}{cost}"
        )
    if total != Estimate():
        repeats = settings.networks.repeats
        under = f" under {repeats} fold plans" if repeats > 1 else ""
        tuned = sum(work.to_tune for work in busy)
        cost = f"about {total.seconds / 60:.1f} minutes, {total.megabytes:.0f} MB of disk"
        yield f"in all {tuned} networks to tune{under}: {cost}"


def weights_line(source: str, settings: ExtractSettings) -> str:
    """Which weights a source starts from."""
    if facts := source_weights(source, settings.recipes):
        return f"{source}: weights {facts}"
    return (
        f"WARNING {source}: no pretrained weights, so it starts from RANDOM values (--weights {source}=FILE)"
    )


def is_long(work: Work) -> bool:
    """Whether the work takes so long that measuring it first pays."""
    return bool(work.networks) or work.body or len(work.trunk) >= LEAST_CLIPS


def measure(work: Work, weights: str | None, *, classes: tuple[str, ...]) -> Estimate:
    """Estimate the work of one source from one timed pass and one timed training step on a silent, grey clip."""
    import torch

    from moodfuse.extract.embed import make_network

    recipe, tuning = work.recipe, work.recipe.tuning
    torch.set_num_threads(recipe.threads)
    network = make_network(recipe, weights, len(classes))
    seconds, floats = 0.0, 0.0
    if work.trunk:
        seconds += len(work.trunk) * _step_seconds(recipe, network, network.trunk)
        floats += len(work.trunk) * (network.spec.activation_width + network.spec.frozen_width)
    if work.body:
        floats += _size(network.parameters())
    if work.networks and tuning is not None:
        rows, clips = len(work.networks) * work.clips, max(map(len, work.networks))
        if recipe.depth == "full":

            def train(batch: "Tensor") -> None:
                network.train()(batch)[1].sum().backward()

            pass_s = _step_seconds(recipe, network, network)
            train_s = _step_seconds(recipe, network, train, crop_s=tuning.crop_s, inference=False)
            seconds += work.to_tune * tuning.epochs * clips * (0.8 * train_s + 0.2 * pass_s) + rows * pass_s
            floats += work.to_tune * _size(network.parameters())
        else:
            steps = work.to_tune * tuning.epochs * -(-clips // tuning.batch)
            seconds += steps * _head_seconds(network, tuning.batch, recipe.device)
            floats += work.to_tune * _size(network.head_parameters())
        floats += rows * (network.spec.embedding_width + len(classes))
    return Estimate(seconds, floats * _BYTES_PER_FLOAT / 1e6)


def _step_seconds(
    recipe: Recipe,
    network: "Network",
    step: Callable[["Tensor"], object],
    *,
    crop_s: float = 0.0,
    inference: bool = True,
) -> float:
    """Seconds of a step on one clip, or on `crop_s` seconds of its audio."""
    import torch

    from moodfuse.extract.embed import autocast, place_batch

    batch = place_batch(recipe, torch.zeros(1, *_input_shape(network, crop_s)))
    with torch.inference_mode(inference), autocast(recipe):
        return _timed(lambda: step(batch))


def _head_seconds(network: "Network", batch: int, device: str) -> float:
    """Seconds of a training step of the head."""
    import torch

    activation = torch.zeros(batch, network.spec.activation_width, device=device)
    optimizer = torch.optim.Adam(network.head_parameters())

    def step() -> None:
        network.classifier(network.embed(activation)).sum().backward()
        optimizer.step()

    return _timed(step)


def _input_shape(network: "Network", crop_s: float) -> tuple[int, ...]:
    from moodfuse.extract.networks.registry import AudioPreprocessing

    preprocessing = network.preprocessing
    if isinstance(preprocessing, AudioPreprocessing):
        return (round(crop_s * preprocessing.sample_rate_hz) or preprocessing.samples,)
    return 3, preprocessing.frames, preprocessing.crop_px, preprocessing.crop_px


def _size(parameters: Iterable["nn.Parameter"]) -> int:
    return sum(value.numel() for value in parameters)


def _timed(step: Callable[[], object]) -> float:
    """Seconds of a step, after one that sets up memory and kernels."""
    step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
