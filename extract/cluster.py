"""Stage one on several machines: its parts are tasks of a Dask cluster, whose workers share the cache folder.

A task writes its results into the cache and returns counts. The task of a worker that died is run by another one; a
task that ran twice writes the same rows twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from moodfuse.cache.cluster import Call, run_on_cluster
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import Clip
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.ingest import Decoding
from moodfuse.extract.media_supply import KeptMedia, source_media
from moodfuse.extract.pending import Work
from moodfuse.extract.progress import track
from moodfuse.extract.settings import ExtractSettings

T = TypeVar("T")
CLIPS_PER_TASK = 32
NETWORKS_PER_TASK = 4


@dataclass(frozen=True)
class ClusterTask:
    """What is sent to a worker with each part: settings, whose paths are valid on every machine, and all recipes."""

    settings: ExtractSettings
    recipes: tuple[Recipe, ...]


def portable_settings(settings: ExtractSettings) -> ExtractSettings:
    """Settings with absolute paths, for workers on other machines, which read media from the cache."""
    if not settings.keep_media:
        raise InputError(
            "--scheduler needs decoded media in the cache, where all workers find it; drop --no-keep-media"
        )
    files = {
        name: str(Path(value).absolute()) if Path(value).is_file() else value
        for name, value in settings.recipes.weights.items()
    }
    recipes = replace(settings.recipes, weights=files)
    return replace(settings, data=settings.data.absolute(), cache=settings.cache.absolute(), recipes=recipes)


def decode_on_cluster(task: ClusterTask, clips: Sequence[Clip]) -> None:
    """Decode clips; afterwards the cache holds the outcome of each."""
    calls: list[Call] = [(decode_part, (task, part)) for part in _parts(clips, CLIPS_PER_TASK)]
    list(_run(task, calls, what="Decoding on the cluster"))


def compute_on_cluster(task: ClusterTask, todo: Sequence[Work]) -> tuple[int, int]:
    """Compute the missing parts of all sources, and count as `compute_source`.

    All trunks come first, since heads are tuned on their activations.
    """
    trunks = [
        replace(work, trunk=part, networks=(), body=work.body and not number)
        for work in todo
        for number, part in enumerate(_parts(work.trunk, CLIPS_PER_TASK) or ([()] if work.body else []))
    ]
    networks = [
        replace(work, trunk=(), networks=part, body=False)
        for work in todo
        for part in _parts(work.networks, NETWORKS_PER_TASK)
    ]
    tuned = embedded = 0
    for works, what in ((trunks, "Embedding on the cluster"), (networks, "Tuning on the cluster")):
        calls: list[Call] = [(compute_part, (task, work)) for work in works]
        for counts in _run(task, calls, what=what):
            tuned, embedded = tuned + counts[0], embedded + counts[1]
    return tuned, embedded


def decode_part(task: ClusterTask, clips: Sequence[Clip]) -> None:
    """Decode some clips into the cache, on a worker; one file at a time, since a machine runs several workers."""
    decoding = Decoding(1, task.settings.impute, replace(task.settings.rules, max_failures=None))
    KeptMedia(FeatureCache(task.settings.cache), task.recipes, decoding).examine(clips)


def compute_part(task: ClusterTask, work: Work) -> tuple[int, int]:
    """Do some of the work on a source, on a worker."""
    from moodfuse.extract.training.tune_networks import compute_source  # importing torch takes seconds

    cache = FeatureCache(task.settings.cache)
    cache.write_recipe(work.recipe)
    return compute_source(cache, work, task.settings, source_media(cache, work.recipe))


def _run(task: ClusterTask, calls: Sequence[Call], *, what: str) -> Iterator[tuple[int, int]]:
    assert task.settings.scheduler is not None
    yield from track(run_on_cluster(calls, scheduler=task.settings.scheduler), total=len(calls), what=what)


def _parts(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
