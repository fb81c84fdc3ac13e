"""Fits in worker processes (loky, one thread each, stopped at once by Ctrl-C), or on a Dask cluster."""

import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from moodfuse.cache.cluster import run_on_cluster

log = logging.getLogger(__name__)
_LOCKS = 64
"""At least as many as the worker processes make between them."""
_K = TypeVar("_K")
Call = tuple[_K, Callable[..., Any], tuple[Any, ...]]
"""A key, a function, and its arguments."""


@dataclass(frozen=True)
class Workers:
    """Where fits run; it changes no result.

    `jobs` processes of one thread each, one of which is this process alone, or the Dask cluster at
    `scheduler`.
    """

    jobs: int = 1
    scheduler: str | None = None


IN_THIS_PROCESS = Workers()


def run_parallel(calls: Sequence[Call[_K]], *, workers: Workers, what: str) -> Iterator[tuple[_K, Any]]:
    """The key and the result of each call as it is done, under a progress bar with a title."""
    if calls:
        results = _results(calls, min(workers.jobs, len(calls)), workers.scheduler)
        yield from _track(results, len(calls), what)


def _results(calls: Sequence[Call[_K]], jobs: int, scheduler: str | None) -> Iterator[tuple[_K, Any]]:
    if scheduler is not None:
        yield from run_on_cluster(((_run, call) for call in calls), scheduler=scheduler)
        return
    if jobs == 1 or not _can_start_processes():
        for call in calls:
            yield _run(*call)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    try:
        with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            parallel = Parallel(return_as="generator_unordered", pre_dispatch="4*n_jobs")
            yield from parallel(delayed(_run)(*call) for call in calls)
    except KeyboardInterrupt:
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


def _run(key: _K, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[_K, Any]:
    return key, function(*arguments)


@lru_cache(maxsize=1)
def _can_start_processes() -> bool:
    """Whether processes can share locks, which joblib's need; warns once if not."""
    from joblib.parallel import BACKENDS

    context = multiprocessing.get_context("spawn")
    try:
        locks = [context.Lock() for _ in range(_LOCKS)]
    except OSError as error:
        cause = error.strerror or str(error)
    else:
        del locks
        if "loky" in BACKENDS:  # joblib leaves it out where it could make no lock when it was imported
            return True
        cause = "joblib found none"
    log.warning(
        "heads are fitted in one process, because worker processes need locks (%s); on Linux these are in "
        "/dev/shm: mount it writable (docker run --tmpfs /dev/shm), or enlarge it "
        "(docker run --shm-size=64m)",
        cause,
    )
    return False


def _track(results: Iterable[Any], total: int, what: str) -> Iterator[Any]:
    """Yield results under a bar on stderr; without a terminal, one log line at the end."""
    if not sys.stderr.isatty():
        yield from results
        log.info("%s: %d done", what, total)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, total=total, description=what, console=Console(stderr=True))


def one_thread() -> Any:
    """A context in which BLAS uses one thread: for small matrices waking threads costs more than it gains."""
    return _thread_pools().limit(limits=1)


@lru_cache(maxsize=1)
def _thread_pools() -> Any:
    """The thread pools of NumPy's and SciPy's BLAS; looking for them takes longer than most fits."""
    import scipy.linalg.blas
    from threadpoolctl import ThreadpoolController

    scipy.linalg.blas.ddot([0.0], [0.0])  # loads SciPy's own BLAS
    return ThreadpoolController()
