"""The desk of a service: who is let in, who is labelled now, and that nobody leaves anything behind.

A visit is one request, from its first byte to the end of its work. It owns one path in a private folder. Work runs in a
thread, which nothing can stop: when a client leaves or its time runs out, the answer goes out at once, while the thread
goes on to its end (the labeller's own deadlines bound it) and keeps its slot and its file until then.
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

from moodfuse.serve.limits import Limits
from moodfuse.serve.problems import RETRY_AFTER_S, Problem

PREFIX = "moodfuse-serve-"


class Visit:
    """One request: a path for its upload, the scope in which it is served, and what came of its work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scope = anyio.CancelScope()
        self.work_scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self.at_work = False


class Desk:
    """Lets few requests in, and works on fewer at once.

    Parameters
    ----------
    limits : Limits
    parent : Path or None
        Where the private folder is made; by default where the system keeps temporary files.
    """

    def __init__(self, limits: Limits, *, parent: Path | None = None) -> None:
        self.limits = limits
        self.folder: Path | None = None
        self._parent = parent
        self._visits: set[Visit] = set()
        self._workers: TaskGroup | None = None
        self._stopping = False

    @property
    def visits(self) -> int:
        """Requests that are let in and not done with, those whose client has left included."""
        return len(self._visits)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Open the desk; at the end, wait for the threads at work and remove the folder."""
        with TemporaryDirectory(prefix=PREFIX, dir=self._parent, ignore_cleanup_errors=True) as folder:
            self.folder, self._slots = Path(folder), anyio.CapacityLimiter(self.limits.at_once)
            async with anyio.create_task_group() as self._workers:
                yield
                self.stop()
                self._workers.cancel_scope.cancel()

    def stop(self) -> None:
        """Refuse whoever comes or waits from now on."""
        self._stopping = True
        for visit in self._visits:
            visit.scope.cancel()

    @contextmanager
    def visit(self) -> Iterator[Visit]:
        """Let a request in, for the time of the block.

        Raises
        ------
        Problem
            Too many are in, or the service stops, now or while the block runs.
        """
        if self._stopping or self.folder is None:
            raise _stopping()
        if len(self._visits) >= self.limits.at_once + self.limits.waiting:
            raise Problem(
                "busy",
                f"{len(self._visits)} requests are at work or waiting, as many as this service takes; "
                f"try again in {RETRY_AFTER_S} s",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
        visit = Visit(self.folder / secrets.token_hex(16))
        self._visits.add(visit)
        try:
            with visit.scope:
                yield visit
        finally:
            if not visit.at_work:
                self._close(visit)
        if visit.scope.cancelled_caught:
            raise _stopping()

    async def label(self, visit: Visit, work: Callable[[], Any], *, receive: Receive) -> Any:
        """Do a visit's work in a thread as soon as a slot is free, and return its result, or raise its error.

        Raises
        ------
        Problem
            The time ran out.
        ClientDisconnect
            The client left.
        """
        if self._workers is None:
            raise _stopping()
        self._workers.start_soon(self._work, visit, work)
        visit.at_work = True
        try:
            with anyio.move_on_after(self.limits.request_s):
                await _wait_or_leave(visit.done, receive)
        finally:
            visit.work_scope.cancel()
        if not visit.done.is_set():
            raise Problem(
                "out_of_time",
                f"there was no answer within {self.limits.request_s:g} s; try again when less is going on, "
                "without a time line, or with a shorter video",
            )
        if visit.error is not None:
            raise visit.error
        return visit.result

    async def _work(self, visit: Visit, work: Callable[[], Any]) -> None:
        """Wait for a slot, work, clean up. Only the wait can be cancelled: a slot is free when its thread has ended."""
        try:
            with visit.work_scope:
                visit.result = await to_thread.run_sync(work, limiter=self._slots)
        except Exception as error:  # noqa: BLE001 - the request that waits for it raises it
            visit.error = error
        finally:
            self._close(visit)
            visit.done.set()

    def _close(self, visit: Visit) -> None:
        self._visits.discard(visit)
        with suppress(OSError):
            visit.path.unlink(missing_ok=True)


async def _wait_or_leave(done: anyio.Event, receive: Receive) -> None:
    """Wait for work, or for the client to leave, whichever is first."""
    left = False
    async with anyio.create_task_group() as both:

        async def watch() -> None:
            nonlocal left
            while (await receive())["type"] != "http.disconnect":
                pass
            left = True
            both.cancel_scope.cancel()

        both.start_soon(watch)
        await done.wait()
        both.cancel_scope.cancel()
    if left and not done.is_set():
        raise ClientDisconnect


def _stopping() -> Problem:
    return Problem("stopping", "the service is being stopped; send the request again when it is back")
