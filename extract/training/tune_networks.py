"""The tuned networks of a source: each taken from the cache or tuned, and its clips embedded."""

import logging
from collections.abc import Sequence

import numpy as np

from moodfuse.cache.errors import DamagedPartError, MissingBlockError
from moodfuse.cache.files import discard, set_aside
from moodfuse.cache.recipe import Recipe, frozen_counterpart
from moodfuse.cache.store import FeatureCache, Roles
from moodfuse.extract.block_writer import Shelf, write_rows
from moodfuse.extract.embed import SourceWorker
from moodfuse.extract.networks.weights.own_files import load_weights_file, save_weights
from moodfuse.extract.progress import track
from moodfuse.extract.training.fine_tune import tune

log = logging.getLogger(__name__)


def tune_networks(
    cache: FeatureCache, worker: SourceWorker, networks: Sequence[Roles], *, told: bool = True
) -> tuple[int, int]:
    """Tune networks of a source one after the other, and embed all clips with each.

    Parameters
    ----------
    cache : FeatureCache
    worker : SourceWorker
    networks : sequence of Roles
        What each is tuned on. One that another process has finished meanwhile is left out.
    told : bool
        Whether a bar shows how far it is.

    Returns
    -------
    int, int
        Networks tuned; clips embedded, counted once a network.
    """
    recipe = worker.recipe
    activations = activations_of(cache, recipe) if recipe.depth == "head" else {}
    tuned, embedded = 0, 0
    title = f"{recipe.source}: tuning ({recipe.depth})"
    for roles in track(networks, total=len(networks), what=title) if told else networks:
        cache.write_roles(recipe, roles)  # also where this record alone was lost
        if not _lacking(cache, recipe, roles):
            continue
        tuned += tune_one(cache, worker, roles, activations)
        embedded += _embed_tuned(cache, worker, roles, activations)
    return tuned, embedded


def activations_of(cache: FeatureCache, recipe: Recipe) -> dict[str, np.ndarray]:
    """The activations of every clip, [A] each by digest, on which heads are tuned."""
    clips = cache.clips_with(recipe)
    rows = cache.rows(frozen_counterpart(recipe), None, clips, ("embedding", "activation"))
    if not rows.found.all():
        raise MissingBlockError(
            f"{recipe.source}: a part of its activations was damaged meanwhile; run extract again"
        )
    values = rows.arrays.get("activation", rows.arrays["embedding"])
    return dict(zip((status.digest for status in clips), values, strict=True))


def tune_one(
    cache: FeatureCache, worker: SourceWorker, roles: Roles, activations: dict[str, np.ndarray]
) -> bool:
    """Leave the worker with the network tuned on `roles`, from the cache or by tuning it; returns whether it tuned."""
    path = cache.network_path(worker.recipe, roles)
    worker.reset()
    if path.is_file():
        try:
            worker.tuned.load_state_dict(load_weights_file(path)[0])
            discard(path.with_suffix(".checkpoint"))  # of a run that ended before it came to that
            return False
        except DamagedPartError as error:
            set_aside(path, str(error))
            worker.reset()
    if worker.recipe.depth == "head":
        data, checkpoint = worker.head_data(roles, cache.classes, activations), None
    else:
        data, checkpoint = worker.full_data(roles, cache.classes), path.with_suffix(".checkpoint")
    epoch = tune(worker.tuned, data, worker.recipe, checkpoint=checkpoint)
    if worker.recipe.depth == "head":
        worker.fold_standardisation()
    early = any(role == "stop" for _, _, role in roles)
    if not early:
        log.warning(
            "%s: a class has fewer than 3 groups; tuned for the recipe's fixed %d epochs",
            worker.recipe.source,
            epoch,
        )
    metadata = {
        "classes": list(cache.classes),
        "epoch": epoch,
        "early_stopping": early,
        "recipe": worker.recipe.digest16,
    }
    save_weights(path, worker.tuned.state_dict(), metadata)
    if checkpoint is not None:
        discard(checkpoint)
    return True


def _embed_tuned(
    cache: FeatureCache, worker: SourceWorker, roles: Roles, activations: dict[str, np.ndarray]
) -> int:
    def row(digest: str) -> dict[str, np.ndarray]:
        return (
            worker.full_rows(digest)
            if worker.recipe.depth == "full"
            else worker.head_rows(activations[digest])
        )

    return write_rows(Shelf(cache, worker.recipe, roles), _lacking(cache, worker.recipe, roles), row)


def _lacking(cache: FeatureCache, recipe: Recipe, roles: Roles | None) -> list[str]:
    """Clips whose features of a network are not in the cache by now, sorted by digest."""
    return sorted({status.digest for status in cache.clips_with(recipe)} - cache.held(recipe, roles))
