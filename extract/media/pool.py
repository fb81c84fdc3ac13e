"""Reading many files in worker processes that can be killed, so that one bad file costs one clip.

The pool is started by a main process (or another non-daemonic one): daemonic processes may have no children. Workers
are spawned, so a script does this under `if __name__ == "__main__":`. A `WorkersError` says what to do otherwise.
"""

import errno
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from moodfuse.cache.errors import WorkersError
from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.collect import settle_window
from moodfuse.extract.media.container import MediaError, MediaFacts, open_media, read_facts
from moodfuse.extract.media.decode import DecodedClip, read_clip
from moodfuse.extract.media.limits import Limits, allow_cpu, confine

AHEAD_PER_JOB = 2
POOLS_PER_REQUEST = 3
"""So often a request is asked anew where the pool breaks; then it is refused."""
LOST_AFTER_S = 30.0
"""No result so long after its deadline, which the pool keeps, is lost with the pool."""
PROGRAM_ERRORS = (TypeError, AttributeError, NameError, ImportError, AssertionError, SyntaxError)
"""Errors of this program or of its installation, which no file causes: they end the run instead of refusing a file."""
KILLED_FOR_MEMORY = (-signal.SIGKILL, 128 + signal.SIGKILL)
KILLED_FOR_TIME = (-signal.SIGXCPU, 128 + signal.SIGXCPU)
NOT_STARTED = (
    "the processes that decode files ended with none in hand; what they said stands above. They start by reading the "
    'script again, so a script must be a file that does its work under `if __name__ == "__main__":`'
)

LOCKS_PER_POOL = 2
NO_SHARED_MEMORY = (
    errno.ENOENT,
    errno.ENOSYS,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
)


class Request(Protocol):
    """What a worker is asked: about a file, of which it reads so many seconds."""

    @property
    def path(self) -> Path:
        """The media file."""

    @property
    def window_s(self) -> float:
        """Seconds that are read of it."""


@dataclass(frozen=True)
class DecodeRequest:
    """One clip to decode; the fields are those of `moodfuse.extract.media.decode.read_clip`."""

    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    short_side_px: int | None = None
    one_view: bool = False
    allow_partial: bool = False

    @property
    def window_s(self) -> float:
        """Seconds of the window, as asked for."""
        return WINDOW_S if self.end_s is None else max(0.0, self.end_s - self.start_s)


@dataclass(frozen=True)
class ProbeRequest:
    """One file whose headers are wanted, and whether a window lies inside it."""

    path: Path
    one_view: bool = False
    start_s: float = 0.0
    end_s: float | None = None
    window_s: float = 0.0


Asked = TypeVar("Asked", bound=Request)
Found = TypeVar("Found")


def decode_many(
    requests: Iterable[DecodeRequest], *, jobs: int, limits: Limits | None = None
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
    limits : Limits, optional
        What a worker may spend on a clip.

    Yields
    ------
    (DecodeRequest, DecodedClip or MediaError)
        A refused clip gives its error: nothing is raised for it.

    Raises
    ------
    WorkersError
        If no worker can be started.
    TypeError, AttributeError, ...
        A bug in a worker (see `PROGRAM_ERRORS`) is raised here, with the worker's traceback.
    """
    yield from work_apart(_decode, requests, jobs=jobs, limits=limits or Limits())


def probe_many(
    requests: Iterable[ProbeRequest], *, jobs: int, limits: Limits | None = None
) -> Iterator[tuple[ProbeRequest, MediaFacts | MediaError]]:
    """Read the headers of files in worker processes, as `decode_many` decodes clips."""
    yield from work_apart(_probe, requests, jobs=jobs, limits=limits or Limits())


def work_apart(
    work: Callable[[Asked], Found], requests: Iterable[Asked], *, jobs: int, limits: Limits
) -> Iterator[tuple[Asked, Found | MediaError]]:
    """Do some work on files in worker processes, as `decode_many` decodes clips.

    Parameters
    ----------
    work : callable
        Of a module, so that a worker finds it.
    requests, jobs, limits
        As in `decode_many`.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected 1 or more")
    check_can_start()
    with closing(_Crew(work, jobs, limits)) as crew:
        for request in requests:
            crew.ask(request)
            if len(crew.waiting) >= AHEAD_PER_JOB * jobs:
                yield crew.answer()
        while crew.waiting:
            yield crew.answer()


class _Crew(Generic[Asked, Found]):
    """Worker processes and the requests that they have in hand, in order.

    A pool breaks where a worker ends that has nothing in hand, or just then; another takes its place and its requests.
    """

    def __init__(self, work: Callable[[Asked], Found], jobs: int, limits: Limits) -> None:
        self.work, self.jobs, self.limits = work, jobs, limits
        self.waiting: deque[tuple[Asked, ProcessFuture[Found]]] = deque()
        self.pool = self._start()

    def ask(self, request: Asked) -> None:
        """Put a request behind the others."""
        self.waiting.append((request, self._schedule(request)))

    def answer(self) -> tuple[Asked, Found | MediaError]:
        """Take the first request, and wait for its result."""
        pools = 1
        while not self._finished(*self.waiting[0]) and pools < POOLS_PER_REQUEST:
            self._renew()
            pools += 1
        request, future = self.waiting.popleft()
        return request, _result(request, future)

    def close(self) -> None:
        """Stop every worker at once."""
        self.pool.stop()
        self.pool.join()

    def _start(self) -> ProcessPool:
        check_locks()
        context = multiprocessing.get_context("spawn")
        return ProcessPool(
            max_workers=self.jobs, context=context, initializer=prepare_worker, initargs=(self.limits,)
        )

    def _schedule(self, request: Asked) -> "ProcessFuture[Found]":
        if not self.pool.active:
            self._renew()
        seconds = self.limits.seconds_for(request.window_s)
        return self.pool.schedule(_timed, args=(self.work, request, seconds), timeout=seconds)

    def _finished(self, request: Asked, future: "ProcessFuture[Found]") -> bool:
        """Wait for a result; False where the pool broke, or gives none long after the deadline."""
        deadline = time.monotonic() + self.limits.seconds_for(request.window_s) + LOST_AFTER_S
        while not future.done():
            if not self.pool.active or time.monotonic() > deadline:
                future.cancel()
                return False
            wait_for([future], timeout=1.0)
        return not future.cancelled() and not isinstance(future.exception(), BrokenProcessPool)

    def _renew(self) -> None:
        """Start another pool, and ask it for what the one before leaves."""
        self.close()
        self.pool = self._start()
        for place, (request, future) in enumerate(self.waiting):
            if not future.done() or future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
                self.waiting[place] = (request, self._schedule(request))


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


def check_locks() -> None:
    """Refuse to start worker processes where they can share no lock: on Linux, locks are files in /dev/shm.

    Raises
    ------
    WorkersError
        If /dev/shm is missing, not writable or full.
    """
    context = multiprocessing.get_context("spawn")
    try:
        _ = [context.RLock() for _ in range(LOCKS_PER_POOL)]
    except OSError as error:
        if error.errno not in NO_SHARED_MEMORY:
            raise
        raise WorkersError(
            f"/dev/shm: {error.strerror}; the worker processes that decode files keep their locks there; mount it "
            "writable (docker run --tmpfs /dev/shm), or enlarge it or free space in it (docker run --shm-size=64m)"
        ) from error


def _result(request: Asked, future: "ProcessFuture[Found]") -> Found | MediaError:
    """Wait for one result; whatever ended its worker, other than a bug, becomes the refusal of this clip."""
    try:
        return future.result()
    except MediaError as error:
        return error
    except BrokenProcessPool as error:
        raise WorkersError(NOT_STARTED) from error
    except (FutureTimeoutError, CancelledError) as error:
        return _refusal("timeout", request, error, "")
    except MemoryError as error:
        return _refusal("memory", request, error, "")
    except ProcessExpired as error:
        refusal = refusal_for_exit(request.path, error.exitcode)
        refusal.__cause__ = error
        return refusal
    except PROGRAM_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001 - a batch records each refused clip and goes on
        return _refusal("decode_failed", request, error, f"{type(error).__name__}: {error}")


def refusal_for_exit(path: Path, exit_code: int | None) -> MediaError:
    """Return the refusal of what a worker had in hand when it ended; one that was killed had too little memory."""
    codes = dict.fromkeys(KILLED_FOR_MEMORY, "memory") | dict.fromkeys(KILLED_FOR_TIME, "timeout")
    code = codes.get(exit_code or 0, "decode_failed")
    return MediaError(code, path, f"its worker ended with exit code {exit_code}")


def _refusal(code: str, request: Request, cause: BaseException, detail: str) -> MediaError:
    error = MediaError(code, request.path, detail)
    error.__cause__ = cause
    return error


def _timed(work: Callable[[Asked], Found], request: Asked, seconds: float) -> Found:
    allow_cpu(seconds)
    gc.collect()  # what is left of a large file counts against the memory of the next one
    try:
        return work(request)
    except (MediaError, MemoryError):
        raise
    except PROGRAM_ERRORS as error:
        error.add_note(f"In the process that reads {request.path}")
        raise
    except Exception as error:  # noqa: BLE001 - it costs this clip, and not every error survives the way to the parent
        raise MediaError("decode_failed", request.path, f"{type(error).__name__}: {error}") from None


def _decode(request: DecodeRequest) -> DecodedClip:
    return read_clip(
        request.path,
        start_s=request.start_s,
        end_s=request.end_s,
        short_side_px=request.short_side_px,
        one_view=request.one_view,
        allow_partial=request.allow_partial,
    )


def _probe(request: ProbeRequest) -> MediaFacts:
    opened = open_media(request.path, one_view=request.one_view)
    with opened.media:
        settle_window(opened, request.start_s, request.end_s)
        return read_facts(opened)


def prepare_worker(limits: Limits) -> None:
    """Hold a worker to its limits, leave interrupts to the main process, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends also a worker that does not come back from a decoder
    end_with_parent()
    confine(limits)


def end_with_parent() -> None:
    """Have this process end with the one that started it, even if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
