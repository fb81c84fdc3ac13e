"""The queue of a service: who may upload, who is labelled, and removal of every upload.

Work runs in a thread, which cannot be stopped: when a client leaves or its time runs out, the answer goes out at once,
but the thread runs to its end (bounded by the decoder's deadline) and keeps its slot and its file until then.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from moodfuse.serve.messages import Limits, RequestError

PREFIX = "moodfuse-serve-"
RETRY_AFTER_S = 5


class Job:
    """One request: the path of its upload, the scopes of its upload and its work, and its result."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scope, self.work_scope = anyio.CancelScope(), anyio.CancelScope()
        self.done = anyio.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self.started = False


class JobQueue:
    """Admits a limited number of requests, and works on fewer at once.

    Parameters
    ----------
    limits : Limits
    parent : Path or None
        Folder of the private folder for uploads; by default that of temporary files.
    """

    def __init__(self, limits: Limits, *, parent: Path | None = None) -> None:
        self.limits = limits
        self.folder: Path | None = None
        self._parent = parent
        self._jobs: set[Job] = set()
        self._workers: TaskGroup | None = None
        self._stopping = False

    def __len__(self) -> int:
        """Admitted requests whose upload or work has not ended, those whose client has left included."""
        return len(self._jobs)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Make the folder; at the end, wait for the running threads and remove it."""
        with TemporaryDirectory(prefix=PREFIX, dir=self._parent, ignore_cleanup_errors=True) as folder:
            self.folder, self._slots = Path(folder), anyio.CapacityLimiter(self.limits.at_once)
            async with anyio.create_task_group() as self._workers:
                yield
                self.stop()
                self._workers.cancel_scope.cancel()

    def stop(self) -> None:
        """Refuse new and waiting requests from now on."""
        self._stopping = True
        for job in self._jobs:
            job.scope.cancel()

    @contextmanager
    def admit(self) -> Iterator[Job]:
        """Admit a request for the time of the block.

        Raises
        ------
        RequestError
            If the queue is full, or the service stops, now or while the block runs.
        """
        if self._stopping or self.folder is None:
            raise _stopping()
        if len(self) >= self.limits.at_once + self.limits.waiting:
            raise RequestError(
                "busy",
                f"the queue is full ({len(self)} requests); try again in {RETRY_AFTER_S} s",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
        job = Job(self.folder / secrets.token_hex(16))
        self._jobs.add(job)
        try:
            with job.scope:
                yield job
        finally:
            if not job.started:
                self._remove(job)
        if job.scope.cancelled_caught:
            raise _stopping()

    async def work(self, job: Job, call: Callable[[], Any], *, receive: Receive) -> Any:
        """Run a call in a thread as soon as a slot is free, and return its result or raise its error.

        Raises
        ------
        RequestError
            If the time runs out.
        ClientDisconnect
            If the client leaves.
        """
        if self._workers is None:
            raise _stopping()
        self._workers.start_soon(self._run, job, call)
        job.started = True
        try:
            with anyio.move_on_after(self.limits.request_s):
                await _wait_or_disconnect(job.done, receive)
        finally:
            job.work_scope.cancel()
        if not job.done.is_set():
            raise RequestError(
                "out_of_time",
                f"no answer within {self.limits.request_s:g} s; try again later, without a time line, or with a "
                "shorter video",
            )
        if job.error is not None:
            raise job.error
        return job.result

    async def _run(self, job: Job, call: Callable[[], Any]) -> None:
        # Only the wait for a slot can be cancelled: a slot is free when its thread has ended.
        try:
            with job.work_scope:
                job.result = await to_thread.run_sync(call, limiter=self._slots)
        except Exception as error:  # noqa: BLE001 - raised again by `work`
            job.error = error
        finally:
            self._remove(job)
            job.done.set()

    def _remove(self, job: Job) -> None:
        self._jobs.discard(job)
        with suppress(OSError):
            job.path.unlink(missing_ok=True)


async def _wait_or_disconnect(done: anyio.Event, receive: Receive) -> None:
    disconnected = False
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal disconnected
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected = True
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await done.wait()
        tasks.cancel_scope.cancel()
    if disconnected and not done.is_set():
        raise ClientDisconnect


def _stopping() -> RequestError:
    return RequestError("stopping", "the service is stopping; send the request again when it is back")
