"""The access log and the metrics of a service."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodfuse.cache.console import printable
from moodfuse.model.predictions import Answer

ACCESS_LOG = "access.moodfuse"
"""Not below the logger `moodfuse`, whose progress is shown with --verbose only."""
access_log = logging.getLogger(ACCESS_LOG)
METRICS_TYPE = "text/plain; version=0.0.4"
OTHER = "other"
"""Stands for all addresses that the service does not have, so that clients cannot add time series."""


class Metrics:
    """Counts and times of requests and files since the start, in the text format of Prometheus."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._labelled = 0
        self._refused: Counter[str] = Counter()

    def count_request(self, address: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests[address, status] += 1
        self._seconds[address] += seconds

    def count_files(self, answers: Sequence[Answer]) -> None:
        """Count the files that were labelled, and those that were refused by code."""
        refused = [answer["error"]["code"] for answer in answers if "error" in answer]
        self._refused.update(refused)
        self._labelled += len(answers) - len(refused)

    def format(self, *, queue_length: int) -> str:
        """Return all metrics as text."""
        lines: list[str] = []

        def add(name: str, kind: str, text: str, values: Mapping[str, float]) -> None:
            lines.extend([f"# HELP moodfuse_{name} {text}", f"# TYPE moodfuse_{name} {kind}"])
            lines.extend(f"moodfuse_{name}{labels} {value}" for labels, value in values.items())

        requests = {
            f'{{address="{address}",status="{status}"}}': count
            for (address, status), count in sorted(self._requests.items())
        }
        seconds = {f'{{address="{address}"}}': value for address, value in sorted(self._seconds.items())}
        refused = {f'{{code="{code}"}}': count for code, count in sorted(self._refused.items())}
        add("requests_total", "counter", "Requests that were answered.", requests)
        add("request_seconds_total", "counter", "Time from the first byte to the end of the answer.", seconds)
        add("files_labelled_total", "counter", "Files that were labelled.", {"": self._labelled})
        add("files_refused_total", "counter", "Files that could not be labelled, by code.", refused)
        add("queue_length", "gauge", "Requests that upload, wait or are being labelled.", {"": queue_length})
        return "\n".join(lines) + "\n"


class MonitoringMiddleware:
    """ASGI middleware that counts each request and writes a line to the access log.

    A line has the time (UTC), the client's address, method, path without query, status, seconds, and bytes
    of the body of the answer.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, addresses: Collection[str], is_logged: bool
    ) -> None:
        self.app, self.metrics, self.addresses, self.is_logged = app, metrics, addresses, is_logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, size = time.monotonic(), 500, 0  # an error that passes is answered 500

        async def send_answer(message: Message) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_answer)
        finally:
            path, seconds = scope["path"], time.monotonic() - start
            self.metrics.count_request(path if path in self.addresses else OTHER, status, seconds)
            if self.is_logged:
                moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                client = scope["client"][0] if scope.get("client") else "-"
                request = f"{scope['method']} {printable(path[:100])}"
                access_log.info("%s %s %s %d %.3f s %d bytes", moment, client, request, status, seconds, size)
