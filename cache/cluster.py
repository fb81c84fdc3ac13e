"""Work on other machines: `joblib.Parallel` on a Dask cluster whose workers see the same cache folder.

Dask runs any code that its peers send, so a cluster belongs in a private network, or behind TLS.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moodfuse.cache.errors import InputError, WorkersError

Call = tuple[Callable[..., Any], tuple[Any, ...]]
_ADDRESS = re.compile(r"dask(\+tls)?://([^/\s:]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})/?")
WAIT_S = 30.0
"""Timeout for the scheduler's answer, and for the first worker."""


def cluster_address(scheduler: str) -> str:
    """The address of a scheduler as Dask writes it.

    `scheduler` is ``dask://HOST:PORT``, or ``dask+tls://HOST:PORT`` with the certificates that Dask's own
    configuration names; anything else is an `InputError`.
    """
    match = _ADDRESS.fullmatch(scheduler)
    if match is None or not 0 < int(match[3]) < 1 << 16:
        raise InputError(f"--scheduler {scheduler!r}: expected dask://HOST:PORT, or dask+tls://HOST:PORT")
    return f"{'tls' if match[1] else 'tcp'}://{match[2]}:{match[3]}"


def run_on_cluster(calls: Iterable[Call], *, scheduler: str) -> Iterator[Any]:
    """The results of calls of functions in modules, as they arrive; a worker that dies costs only its task.

    `scheduler` is an address as for `cluster_address`. Raises `InputError` if it is not valid or Dask is not
    installed; `WorkersError` if no scheduler answers, or no worker is there within `WAIT_S`.
    """
    from joblib import Parallel, delayed, parallel_config

    tasks = [delayed(function)(*arguments) for function, arguments in calls]
    if not tasks:
        return
    address = cluster_address(scheduler)
    client = _connect(scheduler, address)
    try:
        with parallel_config("dask", client=client, wait_for_workers_timeout=WAIT_S):
            yield from Parallel(return_as="generator_unordered")(tasks)
    except TimeoutError as error:
        raise WorkersError(
            f"{scheduler}: no worker within {WAIT_S:.0f} s; start some with `dask worker {address}`"
        ) from error
    finally:
        client.close()


def _connect(scheduler: str, address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--scheduler needs Dask, here and on every worker: pip install 'moodfuse[distributed]'"
        ) from error
    try:
        return Client(address, timeout=WAIT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise WorkersError(
            f"{scheduler}: no Dask scheduler answers ({error}); start one with `dask scheduler`, and workers "
            f"with `dask worker {address}`"
        ) from error
