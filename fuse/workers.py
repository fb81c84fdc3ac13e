"""Worker processes for fits: loky, one thread each, stopped at once by an interrupt."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

log = logging.getLogger(__name__)
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def run_parallel(calls: Iterable[Call], *, total: int, jobs: int, what: str) -> Iterator[Any]:
    """Results of calls in their order, under a bar; the number of workers changes none.

    Parameters
    ----------
    calls : iterable of (function, arguments, keyword arguments)
        Taken as workers come free, so that few are held at once.
    total, jobs : int
        Number of calls, and of worker processes of one thread each; one job runs in this process.
    what : str
        Title of the bar.

    Yields
    ------
    object
        What each call returned.
    """
    if not total:
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    def ready() -> Iterator[Any]:
        for function, arguments, options in calls:
            yield delayed(function)(*arguments, **options)

    jobs = min(jobs, total)
    try:
        with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
            yield from _track(Parallel(return_as="generator", pre_dispatch="4*n_jobs")(ready()), total=total, what=what)
    except KeyboardInterrupt:
        if jobs > 1:
            get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise


def _track(items: Iterable[Any], *, total: int, what: str) -> Iterator[Any]:
    """Yield `items` under a bar on stderr; without a terminal, one log line at the end."""
    if not sys.stderr.isatty():
        yield from items
        log.info("%s: %d done", what, total)
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, total=total, description=what, console=Console(stderr=True))
