"""Compute what is missing of one source: features of the frozen trunk, tuned networks and their features."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import nn

from moodfuse.cache.errors import DamagedPartError, MissingBlockError
from moodfuse.cache.files import discard, quarantine
from moodfuse.cache.media import MediaStore
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.store import FeatureCache, TrainingClips
from moodfuse.cache.terminal import ProgressBar
from moodfuse.extract.inference import Rows, SourceWorker, autocast, make_network
from moodfuse.extract.media.pool import end_with_parent
from moodfuse.extract.networks import find_hub, load_weights_file, save_weights, trunk_names
from moodfuse.extract.networks.base import Network
from moodfuse.extract.pending import BlockWriter, Work, shared_order
from moodfuse.extract.runtime import release_freed_memory
from moodfuse.extract.settings import ExtractSettings
from moodfuse.extract.training.fine_tune import OnEpoch, TuningData, tune

log = logging.getLogger(__name__)
NETWORKS_PER_TASK = 3  # starting a process for fewer takes as long as tuning them
Counts = tuple[int, int]
Activations = dict[str, np.ndarray]


def compute_source(cache: FeatureCache, work: Work, settings: ExtractSettings, store: MediaStore) -> Counts:
    """Compute the missing parts of one source, whose clips are read from `store`.

    Returns the numbers of networks tuned and of clips embedded, counted once per network.
    """
    recipe, weights = work.recipe, settings.recipes.weights_of(work.recipe.source)
    worker = SourceWorker(recipe, make_network(recipe, weights, len(cache.classes)), store)
    if work.body:
        save_body(cache.network_path(recipe, None), recipe, worker.network)
    embedded = _embed_frozen(cache, work, worker, store) if work.trunk else 0
    title, networks = f"{recipe.source}: tuning ({recipe.depth})", shared_order(work.networks)
    _warn_about_fixed_epochs(recipe, networks)
    if (processes := count_processes(work, settings.jobs)) == 1:
        counts = [tune_networks(cache, worker, networks, title=title)]
    else:
        tasks = [networks[i : i + NETWORKS_PER_TASK] for i in range(0, len(networks), NETWORKS_PER_TASK)]
        results = Parallel(processes, return_as="generator")(
            delayed(_tune_in_process)(cache.path, recipe, weights, store, task) for task in tasks
        )
        counts = []
        with ProgressBar(title, total=len(networks)) as bar:
            for task, done in zip(tasks, results, strict=True):
                counts.append(done)
                bar.advance(len(task))
    release_freed_memory()
    return sum(tuned for tuned, _ in counts), embedded + sum(embedded for _, embedded in counts)


def _warn_about_fixed_epochs(recipe: Recipe, networks: Sequence[TrainingClips]) -> None:
    """Warn once about the networks of a source for which no training clips are kept for early stopping."""
    count = sum(not any(role == "stop" for _, _, role in training_clips) for training_clips in networks)
    if count and recipe.tuning is not None:
        text = "%s: %d of %d networks have fewer than 3 groups of a class and are tuned for all %d epochs"
        log.warning(text, recipe.source, count, len(networks), recipe.tuning.epochs)


def _embed_frozen(cache: FeatureCache, work: Work, worker: SourceWorker, store: MediaStore) -> int:
    frozen = frozen_counterpart(work.recipe)
    cache.write_recipe(frozen)
    title = f"{work.recipe.source} *: embedding"
    return BlockWriter(cache, frozen, None).compute(
        work.trunk, lambda digest: worker.frozen_rows(store.read(digest)), title=title
    )


def save_body(path: Path, recipe: Recipe, network: Network) -> None:
    """Store the part of an untuned network that tuning its head leaves unchanged."""
    arrays = network.state_dict()
    metadata = {"format": "moodfuse-body", "recipe": frozen_counterpart(recipe).digest16}
    save_weights(path, {name: arrays[name] for name in trunk_names(network)}, metadata)


def count_processes(work: Work, cores: int) -> int:
    """Number of processes that tune networks of a source at a time; results do not depend on it.

    Only our audio networks are small enough to run side by side; on a GPU one process is fastest.
    """
    recipe = work.recipe
    if recipe.modality != "sound" or recipe.device != "cpu" or find_hub(recipe.network):
        return 1
    return max(1, min(cores // work.recipe.threads, work.to_tune // NETWORKS_PER_TASK))


def _tune_in_process(
    path: Path, recipe: Recipe, weights: str | None, store: MediaStore, networks: Sequence[TrainingClips]
) -> Counts:
    end_with_parent()
    cache = FeatureCache(path)
    worker = SourceWorker(recipe, make_network(recipe, weights, len(cache.classes)), store)
    return tune_networks(cache, worker, networks)


def tune_networks(
    cache: FeatureCache, worker: SourceWorker, networks: Sequence[TrainingClips], *, title: str = ""
) -> Counts:
    """Tune networks of a source one after the other and embed all clips with each.

    A network that another process has finished meanwhile is left out.
    """
    if not networks:
        return 0, 0
    recipe = worker.recipe
    activations = read_activations(cache, recipe) if recipe.depth == "head" else {}
    digests = sorted({status.digest for status in cache.clips_with(recipe)})
    tuned, embedded = 0, 0

    def row(digest: str) -> Rows:
        if recipe.tunes_trunk:
            return worker.full_rows(worker.read(digest))
        return worker.head_rows(activations[digest])

    with ProgressBar(title, total=len(networks)) as bar:

        def show_epoch(epoch: int, loss: float) -> None:
            bar.describe(note=f"epoch {epoch}, loss {loss:.3f}")

        for training_clips in networks:
            cache.write_training_clips(recipe, training_clips)  # also restores a lost record
            writer = BlockWriter(cache, recipe, training_clips)
            if any(map(writer.needs, digests)):
                tuned += tune_one(cache, worker, training_clips, activations, on_epoch=show_epoch)
                embedded += writer.compute(digests, row)
            bar.advance()
    return tuned, embedded


def read_activations(cache: FeatureCache, recipe: Recipe) -> Activations:
    """The activations on which heads are tuned, [A] by clip digest."""
    clips = cache.clips_with(recipe)
    rows = cache.rows(frozen_counterpart(recipe), None, clips, ("embedding", "activation"))
    if not rows.present.all():
        raise MissingBlockError(f"{recipe.source}: a part of its activations is damaged; run extract again")
    values = rows.arrays.get("activation", rows.arrays["embedding"])
    return dict(zip((status.digest for status in clips), values, strict=True))


def tune_one(
    cache: FeatureCache,
    worker: SourceWorker,
    training_clips: TrainingClips,
    activations: Activations,
    *,
    on_epoch: OnEpoch | None = None,
) -> bool:
    """Load the network of these training clips, or tune and store it; returns whether it was tuned."""
    recipe, path = worker.recipe, cache.network_path(worker.recipe, training_clips)
    checkpoint = path.with_suffix(".checkpoint")
    worker.reset()
    if path.is_file():
        try:
            worker.tuned.load_state_dict(load_weights_file(path)[0])
            discard(checkpoint)  # left by a run that ended before it removed it
            return False
        except DamagedPartError as error:
            quarantine(path, str(error))
            worker.reset()
    if recipe.depth == "head":
        scaler = Standardisation.of(
            [activations[digest] for digest, _, role in training_clips if role == "tune"]
        )
        data = head_data(worker, training_clips, cache.classes, activations, scaler)
        epoch = tune(worker.tuned, data, recipe, on_epoch=on_epoch)
        scaler.fold_into(worker.head)
    else:
        data = full_data(worker, training_clips, cache.classes)
        epoch = tune(worker.tuned, data, recipe, checkpoint=checkpoint, on_epoch=on_epoch)
    early = any(role == "stop" for _, _, role in training_clips)
    metadata = {
        "classes": list(cache.classes),
        "epoch": epoch,
        "early_stopping": early,
        "recipe": recipe.digest16,
    }
    save_weights(path, worker.tuned.state_dict(), metadata)
    discard(checkpoint)
    return True


@dataclass(frozen=True)
class Standardisation:
    """Mean and scale of activations, float32 [A] each."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, activations: Sequence[np.ndarray]) -> "Standardisation":
        """Those of the clips that a head is tuned on."""
        rows = np.stack(activations)
        mean, scale = rows.mean(axis=0), rows.std(axis=0)
        scale = np.maximum(scale, np.median(scale))  # a nearly constant column must not explode elsewhere
        return cls(mean, np.where(scale > 1e-6, scale, np.inf).astype(np.float32))

    @torch.no_grad()
    def fold_into(self, head: nn.Module) -> None:
        """Change the head's first linear layer so that raw activations give the same output."""
        first = next(module for module in head.modules() if isinstance(module, nn.Linear))
        device = first.weight.device
        first.weight.div_(torch.from_numpy(self.scale).to(device))
        first.bias.sub_(first.weight @ torch.from_numpy(self.mean).to(device))


def head_data(
    worker: SourceWorker,
    training_clips: TrainingClips,
    classes: tuple[str, ...],
    activations: Activations,
    scaler: Standardisation,
) -> TuningData:
    """What tuning the head reads: standardised activations, without augmentation."""
    network = worker.network
    tensors = {
        digest: torch.from_numpy((row - scaler.mean) / scaler.scale) for digest, row in activations.items()
    }
    return TuningData(
        training_clips,
        classes,
        train_input=lambda digest, generator: tensors[digest],
        whole_input=tensors.__getitem__,
        score=lambda batch: network.classifier(network.embed(batch)),
        parameters=[(parameter, 0) for parameter in network.head_parameters()],
        output_bias=network.output_bias,
    )


def full_data(worker: SourceWorker, training_clips: TrainingClips, classes: tuple[str, ...]) -> TuningData:
    """What tuning the whole network, or its last blocks, reads."""
    network = worker.network

    def score(batch: torch.Tensor) -> torch.Tensor:
        with autocast(worker.recipe):
            logits: torch.Tensor = network(batch)[1]
            return logits.float()

    return TuningData(
        training_clips,
        classes,
        worker.train_input,
        worker.whole_input,
        score,
        [(value, number) for value, number in network.number_parameters() if value.requires_grad],
        network.output_bias,
    )
