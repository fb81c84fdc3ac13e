"""Small networks tuned several at a time: helping processes take what fits into the cores that one does not fill.

A helper works on the same cache, as a second `extract` command would. What one that died has left is done by the
process that started it. The bits are those of one process.
"""

import logging
import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from moodfuse.cache.media import MediaStore
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.store import FeatureCache, Roles
from moodfuse.extract.embed import SourceWorker, make_network
from moodfuse.extract.media.pool import end_with_parent
from moodfuse.extract.pending import Work
from moodfuse.extract.training.tune_networks import tune_networks

Counts = tuple[int, int]
log = logging.getLogger(__name__)
FEWEST_NETWORKS = 3
"""For each process; with fewer, starting it would take about as long as the tuning."""


@dataclass(frozen=True)
class Source:
    """What a helper has to know of a source: its cache, recipe and weights, and where its clips are read."""

    cache: Path
    recipe: Recipe
    weights: str | None
    store: MediaStore


def processes_for(item: Work, cores: int) -> int:
    """In how many processes networks of a source are tuned at a time, this one included.

    Only networks for sound are small, and on a GPU one process is quickest.
    """
    if item.recipe.view != "sound" or item.recipe.device != "cpu" or multiprocessing.current_process().daemon:
        return 1
    return max(1, min(cores // item.recipe.threads, item.to_tune // FEWEST_NETWORKS))


def tune_abreast(
    cache: FeatureCache, worker: SourceWorker, source: Source, shares: Sequence[Sequence[Roles]]
) -> Counts:
    """Tune networks, the first share here and each other one in a process of its own.

    Returns
    -------
    int, int
        Networks tuned; clips embedded, counted once a network.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in shares[1:]]
    helpers = [
        context.Process(target=_help, args=(source, share, sender), daemon=True)
        for share, (_, sender) in zip(shares[1:], pipes, strict=True)
    ]
    for helper in helpers:
        helper.start()
    try:
        counts = [tune_networks(cache, worker, shares[0])]
        for helper in helpers:
            helper.join()
    finally:
        for helper in helpers:
            helper.terminate()
    for helper, share, (receiver, _) in zip(helpers, shares[1:], pipes, strict=True):
        if not helper.exitcode:
            counts.append(receiver.recv())
        else:
            log.warning(
                "%s: a helping process ended with exit code %s", source.recipe.source, helper.exitcode
            )
            counts.append(tune_networks(cache, worker, share))
    return sum(tuned for tuned, _ in counts), sum(embedded for _, embedded in counts)


def _help(source: Source, share: Sequence[Roles], sender: "Connection[Counts, Any]") -> None:
    """Tune a share in a helper, which ends with the process that started it and leaves interrupts to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    cache = FeatureCache(source.cache)
    network = make_network(source.recipe, source.weights, len(cache.classes))
    worker = SourceWorker(source.recipe, network, source.store)
    sender.send(tune_networks(cache, worker, share, told=False))
