"""The queue of a service: how many requests may upload, how many files are labelled, removal of uploads.

A file is labelled in a thread, which cannot be stopped. When a client leaves or its time runs out, the answer
is sent at once, but the thread runs to its end (bounded by the decoder's deadline) and keeps its slot and
its file until then.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from moodfuse.evaluate.markup import counted
from moodfuse.serve.messages import Limits, RequestError

PREFIX = "moodfuse-serve-"
RETRY_AFTER_S = 5


class Job:
    """One request: the paths of its uploads, and whether its client still waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self.scope = anyio.CancelScope()
        self.submitted = False
        self.abandoned = False

    def new_path(self) -> Path:
        """Return a path for an upload, which is removed with the job."""
        self._paths.append(self._folder / secrets.token_hex(16))
        return self._paths[-1]

    def remove_uploads(self) -> None:
        """Remove the uploads that there are."""
        for path in self._paths:
            path.unlink(missing_ok=True)


class JobQueue:
    """Admits a limited number of requests, and labels fewer files at once.

    Uploads lie in a private folder in `parent`, by default in the system's folder of temporary files.
    """

    def __init__(self, limits: Limits, *, parent: Path | None = None) -> None:
        self.limits = limits
        self.folder: Path | None = None
        self._parent = parent
        self._jobs: set[Job] = set()
        self._stopping = False

    def __len__(self) -> int:
        """Admitted requests whose upload or work has not ended, those whose client has left included."""
        return len(self._jobs)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Make the folder; at the end, wait for the running threads and remove it."""
        with TemporaryDirectory(prefix=PREFIX, dir=self._parent, ignore_cleanup_errors=True) as folder:
            self.folder, self._threads = Path(folder), ThreadPoolExecutor(self.limits.at_once)
            yield
            self.stop()
            await asyncio.to_thread(self._threads.shutdown)

    def stop(self) -> None:
        """Answer new and waiting requests with an error from now on."""
        self._stopping = True
        for job in tuple(self._jobs):
            job.scope.cancel()

    @contextmanager
    def admit(self) -> Iterator[Job]:
        """Admit a request for the time of the block.

        Raises `RequestError` if the queue is full, or if the service stops, now or while the block runs.
        """
        stopping = RequestError("stopping", "the service is stopping; send the request again when it is back")
        if self._stopping or self.folder is None:
            raise stopping
        if len(self) >= self.limits.at_once + self.limits.waiting:
            raise RequestError(
                "busy",
                f"the queue is full ({counted(len(self), 'request')}); try again in {RETRY_AFTER_S} s",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
        job = Job(self.folder)
        self._jobs.add(job)
        try:
            with job.scope:
                yield job
        finally:
            job.abandoned = True
            if not job.submitted:
                self._remove(job)
        if job.scope.cancelled_caught:
            raise stopping

    async def work(
        self,
        job: Job,
        call: Callable[[], Any],
        *,
        receive: Receive,
        files: int = 1,
        cheaper: Sequence[str] = (),
    ) -> Any:
        """Run a call in a thread as soon as a slot is free, and return its result or raise its error.

        It has `Limits.request_s` times its number of files. Raises `RequestError` if the time runs out, with
        `cheaper`, what would take less time; `ClientDisconnect` if the client leaves.
        """
        job.submitted = True
        timeout_s = files * self.limits.request_s
        thread = self._threads.submit(call)
        thread.add_done_callback(lambda _: self._remove(job))
        result = asyncio.wrap_future(thread)
        disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({result, disconnected}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if disconnected.done():
                raise ClientDisconnect
        finally:
            thread.cancel()  # if it has not begun
            result.cancel()
            disconnected.cancel()
        raise RequestError(
            "out_of_time",
            f"no answer within {timeout_s:g} s; try again {', or '.join(('later', *cheaper))}",
        )

    def _remove(self, job: Job) -> None:
        job.remove_uploads()
        self._jobs.discard(job)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
