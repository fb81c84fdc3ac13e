"""Running the service under uvicorn: one process, and connections that cannot hold it up.

uvicorn waits for ever for the headers of a request, answers what is no HTTP in plain text, and lets any number of
connections in; here each of these ends with a JSON answer.
"""

import asyncio
import ipaddress
import json
import os
import shutil
import signal
import socket
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from moodfuse.cache.errors import InputError
from moodfuse.serve.guard import SECURITY_HEADERS
from moodfuse.serve.jobs import Desk
from moodfuse.serve.problems import Problem

HEADER_S = 10.0
"""Seconds for the headers of a request to arrive."""

HEADER_BYTES = 16 * 1024
MOST_CONNECTIONS = 128
STOP_S = 5
INTERRUPTED = 130


class Connection(H11Protocol):
    """One client's connection."""

    _header_timer: asyncio.TimerHandle | None = None
    _spoken = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for headers for so long only; refuse a connection too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._end(Problem("busy", f"more than {MOST_CONNECTIONS} connections are open; try again later"))
            return
        self._header_timer = self.loop.call_later(HEADER_S, self._header_is_late)

    def data_received(self, data: bytes) -> None:
        """Take bytes; between two requests they begin a new wait for headers."""
        self._spoken = True
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(HEADER_S, self._header_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP request."""
        self._end(Problem("malformed", "this is not an HTTP/1.1 request that can be read; send a proper one"))

    def _header_is_late(self) -> None:
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            return
        if not self._spoken:
            # Browsers open connections ahead and may never use them: nobody waits for an answer.
            self.transport.close()
        else:
            self._end(
                Problem(
                    "slow_upload", f"the headers did not arrive within {HEADER_S:g} s; send the request again"
                )
            )

    def _end(self, problem: Problem) -> None:
        body = json.dumps(problem.content).encode("utf-8")
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (headers | SECURITY_HEADERS).items()]
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


class Server(uvicorn.Server):
    """uvicorn's server that tells the desk when it stops, so that nobody waits for an answer that will not come."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=HEADER_BYTES,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        self.desk: Desk = app.state.desk

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse who waits, then stop; threads at work come to their end."""
        self.desk.stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal; at the second, do not wait for the threads at work."""
        if self.should_exit and sig == signal.SIGINT:
            if self.desk.folder is not None:
                shutil.rmtree(self.desk.folder, ignore_errors=True)
            os._exit(INTERRUPTED)
        super().handle_exit(sig, frame)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Bind an address; port 0 takes any that is free.

    Raises
    ------
    InputError
        It is taken, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {host}, port {port} ({cause}); give another --port or --host"
        ) from error


def address_of(listener: socket.socket) -> str:
    """The address to open in a browser."""
    host, port, *_ = _name(listener)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _name(listener: socket.socket) -> tuple[Any, ...]:
    name: tuple[Any, ...] = listener.getsockname()
    return name
