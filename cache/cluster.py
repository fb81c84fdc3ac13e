"""Other machines: what `joblib.Parallel` runs is sent to a Dask cluster, whose workers see the same cache folder.

Dask runs whatever its peers send: a cluster stands in a private network, or behind TLS.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moodfuse.cache.errors import InputError, WorkersError

Call = tuple[Callable[..., Any], tuple[Any, ...]]
_ADDRESS = re.compile(r"dask(\+tls)?://([^/\s:]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})/?")
WAIT_S = 30.0
"""For the scheduler to answer, and for a first worker to come."""


def cluster_address(scheduler: str) -> str:
    """The address of a scheduler as Dask writes it.

    Parameters
    ----------
    scheduler : str
        ``dask://HOST:PORT``, or ``dask+tls://HOST:PORT`` with the certificates that Dask's own configuration names.

    Raises
    ------
    InputError
        If it is no such address.
    """
    found = _ADDRESS.fullmatch(scheduler)
    if found is None or not 0 < int(found[3]) < 1 << 16:
        raise InputError(f"--scheduler {scheduler!r}: expected dask://HOST:PORT, or dask+tls://HOST:PORT")
    return f"{'tls' if found[1] else 'tcp'}://{found[2]}:{found[3]}"


@contextmanager
def on_cluster(scheduler: str) -> Iterator[None]:
    """Send what `joblib.Parallel` runs inside to a Dask cluster.

    Parameters
    ----------
    scheduler : str
        As for `cluster_address`.

    Raises
    ------
    InputError
        If the address is none, or Dask is not installed.
    WorkersError
        If no scheduler answers there, or no worker comes.
    """
    address = cluster_address(scheduler)
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--scheduler needs Dask, here and on every worker: pip install 'moodfuse[distributed]'"
        ) from error
    from joblib import parallel_config

    try:
        client = Client(address, timeout=WAIT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise WorkersError(
            f"{scheduler}: no Dask scheduler answers ({error}); start one with `dask scheduler`, and workers with "
            f"`dask worker {address}`"
        ) from error
    try:
        with parallel_config("dask", client=client, wait_for_workers_timeout=WAIT_S):
            yield
    finally:
        client.close()


def run_on_cluster(calls: Iterable[Call], *, scheduler: str) -> Iterator[Any]:
    """What each call returned, as they come back, in any order; a worker that dies costs the task that it had.

    Parameters
    ----------
    calls : iterable of (function, arguments)
        Functions of modules.
    scheduler : str

    Raises
    ------
    InputError, WorkersError
        As for `on_cluster`.
    """
    from joblib import Parallel, delayed

    tasks = [delayed(function)(*arguments) for function, arguments in calls]
    if not tasks:
        return
    with on_cluster(scheduler):
        try:
            yield from Parallel(return_as="generator_unordered")(tasks)
        except TimeoutError as error:
            raise WorkersError(
                f"{scheduler}: no worker came in {WAIT_S:.0f} s; start some with `dask worker "
                f"{cluster_address(scheduler)}`"
            ) from error
