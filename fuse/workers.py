"""Who fits: worker processes here (loky, one thread each, stopped at once by an interrupt), or a Dask cluster."""

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from moodfuse.cache.cluster import run_on_cluster

log = logging.getLogger(__name__)
LOCKS = 64
"""At least as many as the worker processes make between them."""
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Workers:
    """Who fits; it changes no result.

    Attributes
    ----------
    jobs : int
        Worker processes of one thread each; one job runs in this process.
    scheduler : str or None
        Address of a Dask cluster, as for `moodfuse.cache.cluster.cluster_address`, that takes their place.
    """

    jobs: int = 1
    scheduler: str | None = None


def run_parallel(
    calls: Iterable[Call], *, total: int, workers: Workers, what: str
) -> Iterator[tuple[int, Any]]:
    """Results of calls as they are done, under a bar; who works changes none.

    Parameters
    ----------
    calls : iterable of (function, arguments, keyword arguments)
        Taken as workers come free, so that few are held at once.
    total : int
        Number of calls.
    workers : Workers
    what : str
        Title of the bar.

    Yields
    ------
    int
        Place of the call.
    object
        What it returned.
    """
    if not total:
        return
    numbered = enumerate(calls)
    if workers.scheduler is not None:
        asked = ((_numbered, one) for one in numbered)
        yield from _track(run_on_cluster(asked, scheduler=workers.scheduler), total=total, what=what)
        return
    jobs = min(workers.jobs, total)
    if jobs == 1 or not _can_start_processes():
        yield from _track((_numbered(place, call) for place, call in numbered), total=total, what=what)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    def ready() -> Iterator[Any]:
        for place, call in numbered:
            yield delayed(_numbered)(place, call)

    try:
        with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            parallel = Parallel(return_as="generator_unordered", pre_dispatch="4*n_jobs")
            yield from _track(parallel(ready()), total=total, what=what)
    except KeyboardInterrupt:
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


@lru_cache(maxsize=1)
def _can_start_processes() -> bool:
    """Whether processes can share locks, which joblib's need; warns once if not."""
    from joblib.parallel import BACKENDS

    context = multiprocessing.get_context("spawn")
    try:
        locks = [context.Lock() for _ in range(LOCKS)]
    except OSError as error:
        cause = error.strerror or str(error)
    else:
        del locks
        if "loky" in BACKENDS:  # joblib leaves it out where it could make no lock when it was imported
            return True
        cause = "joblib found none"
    log.warning(
        "heads are fitted in one process, because worker processes need locks (%s); on Linux these are in /dev/shm: "
        "mount it writable (docker run --tmpfs /dev/shm), or enlarge it (docker run --shm-size=64m)",
        cause,
    )
    return False


def _numbered(place: int, call: Call) -> tuple[int, Any]:
    function, arguments, options = call
    return place, function(*arguments, **options)


def _track(items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
    """Yield `items` under a bar on stderr; without a terminal, one log line at the end."""
    if not sys.stderr.isatty():
        yield from items
        log.info("%s: %d done", what, total)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, total=total, description=what, console=Console(stderr=True))


def one_thread() -> Any:
    """A context in which BLAS has one thread: matrices this small lose more to waking threads than they gain."""
    return _thread_pools().limit(limits=1)


@lru_cache(maxsize=1)
def _thread_pools() -> Any:
    """The pools of NumPy's and SciPy's BLAS; to look for them takes longer than most fits along a path."""
    import scipy.linalg.blas  # what loads SciPy's own BLAS
    from threadpoolctl import ThreadpoolController

    scipy.linalg.blas.ddot([0.0], [0.0])

    return ThreadpoolController()
