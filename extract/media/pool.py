"""Decoding many clips in worker processes that can be killed, so that one bad file costs one clip.

The pool is started by a main process (or another non-daemonic one): daemonic processes may have no children. Workers
are spawned, so a script that calls `decode_many` does so under `if __name__ == "__main__":`. Where either is not so, a
`WorkersError` says what to do.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from cache.errors import WorkersError
from cache.records import WINDOW_S
from extract.media.container import MediaError
from extract.media.decode import DecodedClip, read_clip

DEADLINE_S = 60.0
DEADLINE_PER_WINDOW_S = 2.0
AHEAD_PER_JOB = 2
KILLED_FOR_MEMORY = (-signal.SIGKILL, 128 + signal.SIGKILL)
NOT_STARTED = (
    "the processes that decode files ended with none in hand; what they said stands above. They start by reading the "
    'script again, so a script must be a file that does its work under `if __name__ == "__main__":`'
)


@dataclass(frozen=True)
class DecodeRequest:
    """One clip to decode; the fields are those of `extract.media.decode.read_clip`."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    short_side_px: int | None = None
    partial: bool = False


def decode_many(
    requests: Iterable[DecodeRequest], *, jobs: int, deadline_s: float | None = None
) -> Iterator[tuple[DecodeRequest, DecodedClip | MediaError]]:
    """Decode clips in worker processes and yield each with its result, in the order of the requests.

    At most `2 * jobs` requests are taken ahead of the one that is yielded, so memory stays bounded. Closing the
    iterator, an error or an interrupt stops every worker at once.

    Parameters
    ----------
    requests : iterable of DecodeRequest
        Taken lazily.
    jobs : int
        Worker processes.
    deadline_s : float, optional
        Seconds that a worker may spend on one clip; by default 60 s and twice the window.

    Yields
    ------
    (DecodeRequest, DecodedClip or MediaError)
        A refused clip gives its error: nothing is raised for it.

    Raises
    ------
    WorkersError
        If no worker can be started.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected 1 or more")
    check_can_start()
    pool = ProcessPool(max_workers=jobs, context=multiprocessing.get_context("spawn"), initializer=prepare_worker)
    waiting: deque[tuple[DecodeRequest, ProcessFuture[DecodedClip]]] = deque()
    try:
        for request in requests:
            timeout_s = deadline_s if deadline_s is not None else default_deadline_s(request)
            waiting.append((request, _schedule(pool, request, timeout_s)))
            if len(waiting) >= AHEAD_PER_JOB * jobs:
                yield _collect(*waiting.popleft())
        while waiting:
            yield _collect(*waiting.popleft())
    finally:
        pool.stop()
        pool.join()


def check_can_start() -> None:
    """Refuse to start worker processes where none can be.

    Raises
    ------
    WorkersError
        If this process is daemonic, or is itself a worker that is only reading the script it comes from.
    """
    process = multiprocessing.current_process()
    if process.daemon:
        raise WorkersError(
            f"files are decoded in worker processes, and {process.name} is daemonic, so it may start none; read files "
            "in the main process, or in one started with daemon=False, as concurrent.futures.ProcessPoolExecutor does"
        )
    if getattr(process, "_inheriting", False):  # as multiprocessing.spawn itself asks
        raise WorkersError(NOT_STARTED)


def default_deadline_s(request: DecodeRequest) -> float:
    """Return the seconds that a worker may spend on a request: 60 s and twice its window."""
    window_s = WINDOW_S if request.end_s is None else max(0.0, request.end_s - request.start_s)
    return DEADLINE_S + DEADLINE_PER_WINDOW_S * window_s


def _schedule(pool: ProcessPool, request: DecodeRequest, timeout_s: float) -> "ProcessFuture[DecodedClip]":
    try:
        return pool.schedule(_decode, args=(request,), timeout=timeout_s)
    except RuntimeError as error:  # the pool has lost its workers
        raise WorkersError(NOT_STARTED) from error


def _collect(
    request: DecodeRequest, future: "ProcessFuture[DecodedClip]"
) -> tuple[DecodeRequest, DecodedClip | MediaError]:
    """Wait for one result; whatever ended its worker becomes the refusal of this clip."""
    try:
        return request, future.result()
    except MediaError as error:
        return request, error
    except BrokenProcessPool as error:
        raise WorkersError(NOT_STARTED) from error
    except FutureTimeoutError as error:
        return request, _refusal("timeout", request, error, "")
    except MemoryError as error:
        return request, _refusal("memory", request, error, "")
    except ProcessExpired as error:
        refusal = refusal_for_exit(request.path, error.exitcode)
        refusal.__cause__ = error
        return request, refusal
    except Exception as error:  # noqa: BLE001 - a batch records each refused clip and goes on
        return request, _refusal("decode_failed", request, error, f"{type(error).__name__}: {error}")


def refusal_for_exit(path: Path, exit_code: int | None) -> MediaError:
    """Return the refusal of what a worker had in hand when it ended; one that was killed had too little memory."""
    code = "memory" if exit_code in KILLED_FOR_MEMORY else "decode_failed"
    return MediaError(code, path, f"its worker ended with exit code {exit_code}")


def _refusal(code: str, request: DecodeRequest, cause: BaseException, detail: str) -> MediaError:
    error = MediaError(code, request.path, detail)
    error.__cause__ = cause
    return error


def _decode(request: DecodeRequest) -> DecodedClip:
    return read_clip(
        request.path,
        start_s=request.start_s,
        end_s=request.end_s,
        short_side_px=request.short_side_px,
        partial=request.partial,
    )


def prepare_worker() -> None:
    """Leave interrupts to the main process, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
