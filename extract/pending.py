"""What remains to be computed for a source, decided from what the cache holds, with its estimated cost.

Several `extract` processes may share a cache without a coordinator: each takes chunks of work in an order of
its own, and leaves out what is already done.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from moodfuse.cache.folds import holdouts
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.records import ClipStatus
from moodfuse.cache.store import CLIPS_PER_PART, FeatureCache, Roles
from moodfuse.extract.progress import track
from moodfuse.extract.recipe_files import source_weights
from moodfuse.extract.runtime import release_freed_memory
from moodfuse.extract.settings import ExtractSettings, NetworkChoice

if TYPE_CHECKING:  # importing torch takes seconds
    from torch import Tensor, nn

    from moodfuse.extract.networks.base import Network

T = TypeVar("T")
LEAST_CLIPS = 8  # measuring takes about as long as fewer clips take to pass a network


@dataclass(frozen=True)
class Work:
    """What the cache does not hold of one source."""

    recipe: Recipe
    trunk: tuple[str, ...]  # digests of the clips that have to pass the frozen trunk
    networks: tuple[Roles, ...]  # the training clips of each network whose block is incomplete
    to_tune: int  # number of `networks` without weights
    clips: int  # clips that each network embeds
    body: bool = False  # whether the part of the network that tuning leaves unchanged has to be stored

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.trunk or self.networks or self.body)

    @property
    def is_long(self) -> bool:
        """Whether the work takes so long that measuring it first pays."""
        return bool(self.networks) or self.body or len(self.trunk) >= LEAST_CLIPS


def find_work(cache: FeatureCache, recipe: Recipe, choice: NetworkChoice) -> Work:
    """What the cache does not hold of a source under the current plans."""
    digests = {status.digest for status in cache.clips_with(recipe)}
    networks = tuple(
        roles
        for roles in dict.fromkeys(_wanted_networks(cache, recipe, choice))
        if digests - cache.held(recipe, roles) or not cache.has_record(recipe, roles)
    )
    trunk: set[str] = set()
    if recipe.depth == "frozen" or (recipe.depth == "head" and networks):
        trunk = digests - cache.held(frozen_counterpart(recipe), None)
    to_tune = sum(not cache.network_path(recipe, roles).is_file() for roles in networks)
    body = recipe.depth != "full" and not cache.network_path(recipe, None).is_file()
    return Work(recipe, tuple(sorted(trunk)), networks, to_tune, len(digests), body)


def _wanted_networks(cache: FeatureCache, recipe: Recipe, choice: NetworkChoice) -> Iterator[Roles]:
    """The training clips of the networks of a tuned recipe: one for every holdout of every plan."""
    if recipe.tuning is None:
        return
    options = {"crossfit": choice.crossfit, "leaky": choice.leaky}
    for plan in (cache.plan, *cache.repeat_plans)[: choice.repeats]:
        for holdout in holdouts(plan, cache.clips, modalities=choice.modalities, **options):
            roles = cache.roles(recipe, holdout, plan=plan)
            assert roles is not None  # the recipe is tuned
            yield roles


def needing_media(cache: FeatureCache, works: Sequence[Work]) -> tuple[ClipStatus, ...]:
    """Clips to decode: those that have to pass a trunk, and all clips of a network that is tuned whole."""
    wanted = {digest for work in works for digest in work.trunk}
    for work in works:
        if work.networks and work.recipe.depth == "full":
            wanted |= {status.digest for status in cache.clips_with(work.recipe)}
    return tuple(status for status in cache.clips if status.digest in wanted)


# Sharing the work


def shared_order(items: Sequence[T]) -> list[T]:
    """The items in an order that differs between processes; results do not depend on the order."""
    return random.SystemRandom().sample(items, len(items))


def shared_chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in chunks of `size`, the chunks in an order that differs between processes."""
    return shared_order([items[start : start + size] for start in range(0, len(items), size)])


@dataclass(frozen=True)
class BlockWriter:
    """Writes the features of one network; `roles` are its training clips, `None` for a frozen one."""

    cache: FeatureCache
    recipe: Recipe
    roles: Roles | None

    def held(self) -> set[str]:
        """Digests of the clips whose features are in the cache."""
        return self.cache.held(self.recipe, self.roles)

    def write(self, rows: dict[str, dict[str, np.ndarray]]) -> None:
        """Write the arrays of clips, by digest, as one part."""
        arrays = {name: np.stack([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
        self.cache.write_block_part(self.recipe, self.roles, list(rows), arrays)

    def compute(
        self, digests: Sequence[str], embed: Callable[[str], dict[str, np.ndarray]], *, title: str = ""
    ) -> int:
        """Compute and write the rows of clips that the cache does not hold; returns the number of rows."""
        order = [digest for chunk in shared_chunks(digests, CLIPS_PER_PART) for digest in chunk]
        computed, held, rows = 0, set[str](), dict[str, dict[str, np.ndarray]]()
        for number, digest in enumerate(track(order, total=len(order), what=title)):
            if number % CLIPS_PER_PART == 0:
                held = self.held()
            if digest not in held:
                rows[digest] = embed(digest)
                computed += 1
            if rows and (len(rows) == CLIPS_PER_PART or number + 1 == len(order)):
                self.write(rows)
                rows = {}
        return computed


# Its cost


@dataclass(frozen=True)
class Estimate:
    """Seconds of work and megabytes (10**6 bytes) of disk."""

    seconds: float = 0.0
    megabytes: float = 0.0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.seconds + other.seconds, self.megabytes + other.megabytes)


def describe_work(todo: Sequence[Work], settings: ExtractSettings, classes: tuple[str, ...]) -> Iterator[str]:
    """What is left to do for each source and in all, with estimates of time and disk space."""
    busy = [work for work in todo if not work.is_empty]
    if not busy:
        yield "nothing to decode, tune or embed: the cache holds every block"
    total = Estimate()
    for work in busy:
        source, cost = work.recipe.source, ""
        if settings.keep_media:
            yield describe_weights(source, settings)
        if work.is_long or settings.dry_run:
            estimate = measure(work, settings.recipes.weights_of(source), classes=classes)
            release_freed_memory()
            total += estimate
            cost = f": about {estimate.seconds:.0f} s, {estimate.megabytes:.0f} MB"
        blocks = f"{len(work.networks)} blocks" if work.recipe.tuning else "one frozen block"
        tasks = f"{len(work.trunk)} clips to embed, {work.to_tune} networks to tune for {blocks}"
        yield f"{source} ({work.recipe.depth}): {tasks}{cost}"
    if total != Estimate():
        repeats = settings.networks.repeats
        under = f" under {repeats} fold plans" if repeats > 1 else ""
        cost = f"about {total.seconds / 60:.1f} minutes, {total.megabytes:.0f} MB of disk"
        yield f"in all {sum(work.to_tune for work in busy)} networks to tune{under}: {cost}"


def describe_weights(source: str, settings: ExtractSettings) -> str:
    """Which weights a source starts from."""
    if facts := source_weights(source, settings.recipes):
        return f"{source}: weights {facts}"
    return (
        f"WARNING {source}: no pretrained weights, so it starts from RANDOM values (--weights {source}=FILE)"
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

    seconds = len(work.trunk) * pass_seconds(network.trunk) if work.trunk else 0.0
    floats = len(work.trunk) * (network.spec.activation_width + network.spec.frozen_width)
    if work.body:
        floats += _count_values(network.parameters())
    if work.networks and tuning is not None:
        rows, clips = len(work.networks) * work.clips, max(map(len, work.networks))
        floats += rows * (network.spec.embedding_width + len(classes))
        if recipe.depth == "full":
            crop = place_batch(recipe, torch.zeros(1, *_input_shape(network, tuning.crop_s)))
            pass_s, train_s = pass_seconds(network), seconds_of(train, crop)
            seconds += work.to_tune * tuning.epochs * clips * (0.8 * train_s + 0.2 * pass_s) + rows * pass_s
            floats += work.to_tune * _count_values(network.parameters())
        else:
            activations = torch.zeros(tuning.batch, network.spec.activation_width, device=recipe.device)
            steps = work.to_tune * tuning.epochs * -(-clips // tuning.batch)
            seconds += steps * seconds_of(train_head, activations)
            floats += work.to_tune * _count_values(network.head_parameters())
    return Estimate(seconds, 4 * floats / 1e6)


def _input_shape(network: "Network", crop_s: float) -> tuple[int, ...]:
    """Shape of an input of a whole clip, or of `crop_s` seconds of its audio, without the batch axis."""
    from moodfuse.extract.networks.registry import AudioPreprocessing

    preprocessing = network.preprocessing
    if isinstance(preprocessing, AudioPreprocessing):
        return (round(crop_s * preprocessing.sample_rate_hz) or preprocessing.samples,)
    return 3, preprocessing.frames, preprocessing.crop_px, preprocessing.crop_px


def _count_values(parameters: Iterable["nn.Parameter"]) -> int:
    return sum(value.numel() for value in parameters)
