"""The time and disk space that work takes, estimated from one timed pass and one timed training step."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moodfuse.cache.recipe import Recipe
from moodfuse.cache.terminal import ProgressBar
from moodfuse.extract.networks import VideoPreprocessing
from moodfuse.extract.pending import Work
from moodfuse.extract.recipe_files import read_preprocessing
from moodfuse.extract.runtime import release_freed_memory
from moodfuse.extract.settings import ExtractSettings

if TYPE_CHECKING:  # importing torch takes seconds
    from torch import Tensor, nn

    from moodfuse.extract.networks.base import Network


@dataclass(frozen=True)
class Estimate:
    """Seconds of work and megabytes (10**6 bytes) of disk."""

    seconds: float = 0.0
    megabytes: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.seconds + other.seconds, self.megabytes + other.megabytes)

    def __str__(self) -> str:
        time = "less than a minute" if self.seconds < 60 else f"about {self.seconds / 60:.1f} minutes"
        disk = "less than 1 MB" if self.megabytes < 1 else f"{self.megabytes:.0f} MB"
        return f"{time}, {disk} of disk"


def describe_work(todo: Sequence[Work], settings: ExtractSettings, classes: tuple[str, ...]) -> Iterator[str]:
    """What is left to do for each source and in all, with estimates of time and disk space."""
    busy = [work for work in todo if not work.is_empty]
    if not busy:
        yield "nothing to decode, tune or embed: the cache holds every block"
    total = Estimate()
    for work in busy:
        cost = ""
        if work.is_long or settings.dry_run:
            with ProgressBar(f"{work.recipe.source}: estimating the time", transient=True):
                estimate = measure(work, settings.recipes.weights_of(work.recipe.source), classes=classes)
            release_freed_memory()
            total += estimate
            cost = f": {estimate}"
        blocks = f"{len(work.networks)} blocks" if work.recipe.tuning else "one frozen block"
        tasks = f"{len(work.trunk)} clips to embed, {work.to_tune} networks to tune for {blocks}"
        yield f"{work.recipe.source} ({_describe_recipe(work.recipe)}): {tasks}{cost}"
    if total != Estimate():
        repeats = settings.networks.repeats
        under = f" under {repeats} fold plans" if repeats > 1 else ""
        yield f"in all {sum(work.to_tune for work in busy)} networks to tune{under}: {total}"


def _describe_recipe(recipe: Recipe) -> str:
    """The depth, and what a video source reads unless that is one crop of even frames."""
    facts, preprocessing = [str(recipe.depth)], read_preprocessing(recipe)
    if isinstance(preprocessing, VideoPreprocessing):
        if preprocessing.frame_windows:
            facts.append(str(preprocessing.frame_windows))
        if preprocessing.crops > 1:
            facts.append(f"{preprocessing.crops} crops")
    return ", ".join(facts)


def describe_export(without: Sequence[Recipe], *, crossfit: bool) -> str:
    """Which results can be exported as models, and what --for-export adds.

    `without` are the tuned sources that have no network tuned on all clips. Their models have the networks
    of the folds, but only where heads were fitted on out-of-sample logits (`crossfit`) or on an embedding
    that tuning does not change.
    """
    needs = {
        "logits": [] if crossfit else [recipe.source for recipe in without],
        "embedding": [recipe.source for recipe in without if recipe.embedding_tuned],
    }
    limits = [f"at the level of {level} of {', '.join(names)}" for level, names in needs.items() if names]
    if not limits:
        return "export: every result of these sources can be exported as a model"
    return (
        "export: every result of these sources can be exported as a model, except those "
        f"{' and '.join(limits)}; add --for-export to export these as well (1 more network per source)"
    )


def measure(work: Work, weights: str | None, *, classes: tuple[str, ...]) -> Estimate:
    """Estimate the work of a source from one timed pass and one timed training step on a blank clip."""
    import torch

    from moodfuse.extract.inference import autocast, make_network, place_batch

    recipe, tuning = work.recipe, work.recipe.tuning
    torch.set_num_threads(recipe.threads)
    network = make_network(recipe, weights, len(classes))
    optimizer = torch.optim.Adam(network.head_parameters())
    clip = place_batch(recipe, torch.zeros(1, *_input_shape(network, 0.0)))

    def seconds_of(step: Callable[["Tensor"], object], batch: "Tensor") -> float:
        step(batch)  # sets up memory and kernels
        start = time.perf_counter()
        step(batch)
        return time.perf_counter() - start

    def train(batch: "Tensor") -> None:
        with autocast(recipe):
            network.train()(batch)[1].sum().backward()

    def train_head(activations: "Tensor") -> None:
        network.classifier(network.embed(activations)).sum().backward()
        optimizer.step()

    def pass_seconds(step: Callable[["Tensor"], object]) -> float:
        with torch.inference_mode(), autocast(recipe):
            return seconds_of(step, clip)

    seconds = len(work.trunk) * pass_seconds(network.activations) if work.trunk else 0.0
    floats = len(work.trunk) * (network.spec.activation_width + network.spec.frozen_width)
    if work.body:
        floats += _count_values(network.parameters())
    if work.networks and tuning is not None:
        rows, clips = len(work.networks) * work.clips, max(map(len, work.networks))
        floats += rows * (network.spec.embedding_width + len(classes))
        if recipe.tunes_trunk:
            crop = place_batch(recipe, torch.zeros(1, *_input_shape(network, tuning.crop_s, crops=1)))
            pass_s, train_s = pass_seconds(network), seconds_of(train, crop)
            seconds += work.to_tune * tuning.epochs * clips * (0.8 * train_s + 0.2 * pass_s) + rows * pass_s
            floats += work.to_tune * _count_values(network.parameters())
        else:
            activations = torch.zeros(tuning.batch, network.spec.activation_width, device=recipe.device)
            steps = work.to_tune * tuning.epochs * -(-clips // tuning.batch)
            seconds += steps * seconds_of(train_head, activations)
            floats += work.to_tune * _count_values(network.head_parameters())
    return Estimate(seconds, 4 * floats / 1e6)


def _input_shape(network: "Network", crop_s: float, crops: int | None = None) -> tuple[int, ...]:
    """Shape of an input of a whole clip, or of `crop_s` seconds of its audio, without the batch axis.

    `crops` of the frames are those of the network unless given; there is one in tuning.
    """
    from moodfuse.extract.networks.inputs import AudioPreprocessing

    preprocessing = network.preprocessing
    if isinstance(preprocessing, AudioPreprocessing):
        return (round(crop_s * preprocessing.sample_rate_hz) or preprocessing.samples,)
    frames = preprocessing.view_frames * max(preprocessing.windows, 1) * (crops or preprocessing.crops)
    return 3, frames, preprocessing.crop_px, preprocessing.crop_px


def _count_values(parameters: Iterable["nn.Parameter"]) -> int:
    return sum(value.numel() for value in parameters)
