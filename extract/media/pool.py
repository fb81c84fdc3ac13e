"""Decode files in worker processes that can be killed, so that a bad file costs no more than its own clip.

Workers are spawned, so a script does its work under `if __name__ == "__main__":`. They do not import torch. A
daemonic process cannot start them.
"""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from moodfuse.cache.errors import WorkersError
from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.container import MediaFacts, open_media
from moodfuse.extract.media.decode import DecodedClip, DecodeRequest, decode_request, settle_window
from moodfuse.extract.media.limits import Limits, MediaError, confine
from moodfuse.extract.media.windows import Window, WindowRequest, plan_windows, read_windows

AHEAD_PER_JOB = 2
PROGRAM_ERRORS = (TypeError, AttributeError, NameError, ImportError, AssertionError, SyntaxError)
"""Bugs of this program or of its installation: they end the run instead of refusing a file."""
NOT_STARTED = (
    "a worker process that decodes files ended before it began; its own error is printed above. Workers "
    "start by importing the script again, so a script must be a file that does its work under "
    '`if __name__ == "__main__":`'
)


Result = TypeVar("Result")


def decode_many(
    requests: Iterable[DecodeRequest], *, jobs: int, limits: Limits | None = None
) -> Iterator[tuple[DecodeRequest, DecodedClip | MediaError]]:
    """Decode clips in worker processes and yield each with its result, in the order of the requests.

    The error of a refused clip is yielded, not raised. Requests are taken at most ``2 * jobs`` ahead. Closing
    the iterator, an error or an interrupt stops every worker at once.

    Raises
    ------
    WorkersError
        If no worker can be started.
    TypeError, AttributeError, ...
        A bug in a worker (see `PROGRAM_ERRORS`), with the worker's traceback.
    """
    yield from run_in_workers(decode_request, requests, jobs=jobs, limits=limits or Limits())


def probe_many(
    requests: Iterable[DecodeRequest], *, jobs: int, limits: Limits | None = None
) -> Iterator[tuple[DecodeRequest, MediaFacts | MediaError]]:
    """Read the headers of files, which must contain the windows, as `decode_many` decodes clips."""
    yield from run_in_workers(_probe, requests, jobs=jobs, limits=limits or Limits())


def _probe(request: DecodeRequest) -> MediaFacts:
    with open_media(request.path, allow_missing=request.allow_missing) as media:
        settle_window(media, request.start_s, request.end_s)
        return media.facts()


def run_in_workers(
    work: Callable[[DecodeRequest], Result], requests: Iterable[DecodeRequest], *, jobs: int, limits: Limits
) -> Iterator[tuple[DecodeRequest, Result | MediaError]]:
    """Call an importable function on requests in worker processes, as `decode_many` does."""
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected 1 or more")
    waiting: deque[tuple[DecodeRequest, Any]] = deque()
    with closing(_WorkerPool(jobs, limits)) as pool:
        for request in requests:
            waiting.append((request, pool.threads.submit(pool.call, work, request)))
            if len(waiting) >= AHEAD_PER_JOB * jobs:
                first, future = waiting.popleft()
                yield first, future.result()
        for request, future in waiting:
            yield request, future.result()


class _WorkerPool:
    """Threads with one worker process each; a thread replaces its worker where that is lost.

    Each worker has its own pipe, so one that is killed holds no lock that others need.
    """

    def __init__(self, jobs: int, limits: Limits) -> None:
        self.limits = limits
        self.threads = ThreadPoolExecutor(jobs)
        self.of_thread = threading.local()
        self.workers: list[_Worker] = []
        self.closed = False

    def call(self, work: Callable[[Any], Any], request: DecodeRequest) -> Any:
        """Return the result of `work` in this thread's worker, or the refusal of the file."""
        worker = getattr(self.of_thread, "worker", None)
        if worker is None or not worker.process.is_alive():
            worker = self.of_thread.worker = self._replace(worker)
        seconds = self.limits.seconds_for(request.window_s)
        worker.begin(request.path, partial(_once, work), request)
        try:
            return worker.receive(request.path, seconds)
        except MediaError as error:
            return error

    def _replace(self, lost: "_Worker | None") -> "_Worker":
        if lost is not None:
            self.workers.remove(lost)
            lost.stop()
        worker = _Worker(self.limits)
        self.workers.append(worker)
        if self.closed:  # after `close` has killed all others
            worker.kill()
        worker.wait_until_ready()
        return worker

    def close(self) -> None:
        """Stop every worker at once."""
        self.closed = True
        for worker in [*self.workers]:
            worker.kill()
        self.threads.shutdown(cancel_futures=True)
        for worker in self.workers:
            worker.stop()


class _Worker:
    """A process that runs generators, and sends what they yield; see `_serve`."""

    def __init__(self, limits: Limits) -> None:
        if multiprocessing.current_process().daemon:
            raise WorkersError(
                "files are decoded in worker processes, which a daemonic process cannot start; read files in "
                "the main process, or in one started with daemon=False, as ProcessPoolExecutor does"
            )
        context = multiprocessing.get_context("spawn")
        self.connection, connection = context.Pipe()
        self.process = context.Process(target=_serve, args=(connection, limits), daemon=True)
        self.process.start()
        connection.close()

    def wait_until_ready(self) -> None:
        """Wait until the process has imported what it needs."""
        try:
            self.connection.recv()
        except BaseException as error:
            self.kill()
            if isinstance(error, EOFError | OSError):
                raise WorkersError(NOT_STARTED) from None
            raise

    def begin(self, path: Path, work: Callable[[Any], Iterator[Any]], argument: object) -> None:
        """Have the process run a generator that reads a file."""
        with suppress(OSError):  # the process has just died: `receive` reports how
            self.connection.send((path, work, argument))

    def receive(self, path: Path, seconds: float) -> Any:
        """Return the next result within a deadline, or raise the error of the generator or of the process."""
        if not self.connection.poll(seconds):
            self.kill()
            raise MediaError("timeout", path)
        try:
            failed, content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            exit_code = self.process.exitcode
            # The system kills a process if memory is short.
            code = "memory" if exit_code == -signal.SIGKILL else "decode_failed"
            raise MediaError(code, path, f"its worker ended with exit code {exit_code}") from None
        if failed:
            raise content
        return content

    def kill(self) -> None:
        """Kill the process, and wait for its end."""
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        """Kill the process, and close the connection to it, which no other thread may be using."""
        self.kill()
        self.connection.close()


def read_windows_in_worker(
    request: WindowRequest, *, limits: Limits | None = None
) -> Iterator[tuple[Window, DecodedClip | MediaError]]:
    """Yield what `moodfuse.extract.media.windows.read_windows` does, from a worker process.

    The worker decodes one window ahead. Closing the iterator, an error or an interrupt kills it at once. A
    worker that is killed, crashes or exceeds the deadline costs its window and those that overlap it, and
    another worker continues after them.

    The deadline of `limits` applies to each window, and to opening the file. Raises what `decode_many` does,
    and a `MediaError` if the file cannot be opened.
    """
    limits = limits or Limits()
    deadline_s = limits.seconds_for(WINDOW_S)
    worker = _start_reading(request, None, limits)
    try:
        windows: list[Window] = worker.receive(request.path, deadline_s)
        number = 0
        while number < len(windows):
            try:
                clip = worker.receive(request.path, deadline_s)
            except MediaError as error:
                worker.stop()
                end_s = windows[number].end_s
                while number < len(windows) and windows[number].start_s < end_s:
                    yield windows[number], error
                    number += 1
                if number < len(windows):
                    worker = _start_reading(request, windows[number:], limits)
            else:
                yield windows[number], clip
                number += 1
    finally:
        worker.stop()


def _start_reading(request: WindowRequest, windows: Sequence[Window] | None, limits: Limits) -> "_Worker":
    """Start a worker that sends the clips of `windows`, or all windows of the file and their clips."""
    worker = _Worker(limits)
    worker.wait_until_ready()
    worker.begin(request.path, _read_planned, (request, windows))
    return worker


def _read_planned(task: tuple[WindowRequest, Sequence[Window] | None]) -> Iterator[object]:
    request, windows = task
    if windows is None:
        windows = plan_windows(request)
        yield windows
    for _, clip in read_windows(request, windows):
        yield clip


def _once(work: Callable[[Any], Any], request: object) -> Iterator[Any]:
    yield work(request)


def _serve(connection: "Connection[Any, Any]", limits: Limits) -> None:
    """Run generators in a worker; send (False, result) for what they yield, or (True, error)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupts are handled by the main process
    end_with_parent()
    confine(limits)
    connection.send(None)
    while True:
        try:
            path, work, argument = connection.recv()
        except EOFError:  # the parent has ended
            return
        gc.collect()  # what is left of a large file counts against the memory of the next one
        try:
            for result in work(argument):
                connection.send((False, result))
        except Exception as error:  # noqa: BLE001 - one file must not end the worker
            connection.send((True, _sendable(error, path)))


def _sendable(error: Exception, path: Path) -> Exception:
    """Return an error as the parent is to raise it: the refusal of the file, or a bug with its traceback."""
    if isinstance(error, MediaError):
        return error
    if isinstance(error, MemoryError):
        return MediaError("memory", path)
    if isinstance(error, PROGRAM_ERRORS):
        error.add_note(f"In the process that reads {path}:\n{traceback.format_exc()}")
        return error
    return MediaError("decode_failed", path, f"{type(error).__name__}: {error}")


def end_with_parent() -> None:
    """Have this process end with the one that started it, even if that is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
