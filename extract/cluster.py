"""Stage one on several machines: pieces of it are tasks of a Dask cluster, which all work at one cache.

A task writes what it made into the cache, so nothing but counts comes back. What a lost worker leaves undone another
does; a piece that was done twice has the same rows twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from moodfuse.cache.cluster import Call, run_on_cluster
from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import Clip
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.dataset.ingest import Decoding
from moodfuse.extract.media_supply import KeptMedia
from moodfuse.extract.pending import Work
from moodfuse.extract.progress import track

if TYPE_CHECKING:
    from moodfuse.extract.pipeline import ExtractSettings

T = TypeVar("T")
CLIPS_PER_TASK = 32
NETWORKS_PER_TASK = 4


@dataclass(frozen=True)
class Task:
    """What a worker is told beside its piece.

    Attributes
    ----------
    settings : ExtractSettings
        Its paths are absolute, and the same on every machine.
    recipes : tuple of Recipe
        Of all sources; they decide what is kept of a clip.
    """

    settings: "ExtractSettings"
    recipes: tuple[Recipe, ...]

    def cache(self) -> FeatureCache:
        """The cache, as a worker sees it."""
        return FeatureCache(self.settings.cache)

    def media(self, cache: FeatureCache) -> KeptMedia:
        """What decodes on a worker: one file at a time, since a worker of Dask is one of many."""
        rules = replace(self.settings.rules, max_failures=None)
        return KeptMedia(cache, self.recipes, Decoding(1, self.settings.impute, rules))


def spread_settings(settings: "ExtractSettings") -> "ExtractSettings":
    """Settings as they are sent to other machines.

    Raises
    ------
    InputError
        If something decided here cannot be done there.
    """
    if not settings.keep_media:
        raise InputError(
            "--scheduler needs what was decoded in the cache, where all workers find it; drop --no-keep-media"
        )
    files = {
        name: str(Path(value).absolute())
        for name, value in settings.recipes.weights.items()
        if _is_file(value)
    }
    recipes = replace(settings.recipes, weights={**settings.recipes.weights, **files})
    return replace(settings, data=settings.data.absolute(), cache=settings.cache.absolute(), recipes=recipes)


def _is_file(weights: str) -> bool:
    return Path(weights).is_file()


def spread_decoding(task: Task, clips: Sequence[Clip]) -> None:
    """Decode clips on the cluster; afterwards the cache knows what came of each.

    Parameters
    ----------
    task : Task
    clips : sequence of Clip

    Raises
    ------
    InputError, WorkersError
        If the cluster cannot be used.
    """
    pieces = _pieces(clips, CLIPS_PER_TASK)
    calls: list[Call] = [(decode_piece, (task, piece)) for piece in pieces]
    for _ in _run(task, calls, what="Decoding on the cluster"):
        pass


def spread_work(task: Task, todo: Sequence[Work]) -> tuple[int, int]:
    """Compute on the cluster what the cache lacks.

    First every trunk, whose activations heads are tuned on, then every network.

    Parameters
    ----------
    task : Task
    todo : sequence of Work

    Returns
    -------
    int, int
        Networks tuned; clips embedded, counted once a network.
    """
    first = [
        replace(item, trunk=piece, networks=(), body=item.body and not number)
        for item in todo
        for number, piece in enumerate(_pieces(item.trunk, CLIPS_PER_TASK) or ([()] if item.body else []))
    ]
    then = [
        replace(item, trunk=(), networks=piece, body=False)
        for item in todo
        for piece in _pieces(item.networks, NETWORKS_PER_TASK)
    ]
    tuned = embedded = 0
    for works, what in ((first, "Embedding on the cluster"), (then, "Tuning on the cluster")):
        calls: list[Call] = [(compute_piece, (task, work)) for work in works]
        for counts in _run(task, calls, what=what):
            tuned, embedded = tuned + counts[0], embedded + counts[1]
    return tuned, embedded


def decode_piece(task: Task, clips: Sequence[Clip]) -> None:
    """Decode some clips into the cache; on a worker."""
    cache = task.cache()
    task.media(cache).examine(clips)


def compute_piece(task: Task, work: Work) -> tuple[int, int]:
    """Do some of the work on a source; on a worker."""
    from moodfuse.extract.pipeline import compute

    cache = task.cache()
    return compute(cache, work, task.settings, task.media(cache))


def _run(task: Task, calls: Sequence[Call], *, what: str) -> Iterator[tuple[int, int]]:
    scheduler = task.settings.scheduler
    assert scheduler is not None
    yield from track(run_on_cluster(calls, scheduler=scheduler), total=len(calls), what=what)


def _pieces(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
