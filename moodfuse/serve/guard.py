"""What stands before every request: who may ask, the headers of every answer, and the end of uploads nobody reads.

A request whose length is ambiguous (request smuggling) is refused, and its connection closed: the bytes behind it
could be taken for another request.

A page of another site must not use the service through its visitor's browser. So a loopback service answers only to
loopback names (a name that an attacker points at 127.0.0.1 is refused), and a POST that a browser sends for another
origin is refused; no CORS header is ever sent.
"""

import re
from collections.abc import Collection

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodfuse.serve.problems import Problem

LINGER_S, LINGER_IDLE_S = 1.0, 0.2
LINGER_BYTES = 4 * 2**20
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]*))(?::(?P<port>[0-9]{0,5}))?")
"""A `Host` header: a name or an address, and perhaps a port; no user name, path, query or fragment."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""Sent with every answer that does not set them itself."""


class Guard:
    """ASGI middleware; the module says what for.

    Parameters
    ----------
    app : ASGI application
    hosts : collection of str or None
        Names that the `Host` header may give, without port; `None` takes any.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        problem = refusal(scope["method"], Headers(scope=scope), hosts=self.hosts)
        app = self.app if problem is None else problem.answer
        await app(scope, exchange.receive, exchange.send)


def refusal(method: str, headers: Headers, *, hosts: Collection[str] | None) -> Problem | None:
    """Decide whether a request is refused before anything is done for it; `None` where it is not."""
    if "transfer-encoding" in headers and "content-length" in headers:
        return Problem(
            "malformed",
            "the request has both Content-Length and Transfer-Encoding, so its length is ambiguous; "
            "send only one of them",
        )
    host = headers.get("host", "")
    name = host_name(host)
    if name is None or (hosts is not None and name not in hosts):
        known = "any valid host name" if hosts is None else ", ".join(sorted(hosts))
        return Problem(
            "wrong_host",
            f"the request is for the host {host[:80]!r}; this service answers to {known}: use one of these",
        )
    if method in SAFE_METHODS:
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    elsewhere = site is not None and site not in OWN_SITES
    if elsewhere or (origin is not None and origin not in (f"http://{host}", f"https://{host}")):
        return Problem(
            "cross_origin",
            f"a page of {(origin or site or '')[:80]!r} sent this request; "
            "only this service's own page, or a program, may: use the page at /",
        )
    return None


def host_name(host: str) -> str | None:
    """Read the name in a `Host` header, in lower case, without port and brackets; `None` where it is malformed.

    Examples
    --------
    >>> host_name("LOCALHOST:8000"), host_name("[::1]:80"), host_name("evil@127.0.0.1"), host_name("a:99999")
    ('localhost', '::1', None, None)
    """
    match = HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > 65535:
        return None
    return (match["address"] or match["name"] or "").lower()


class _Exchange:
    """One request and its answer: adds headers, and closes the connection where the body was not read to its end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._receive, self._send = receive, send
        self._unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._lingers = self._unread and "expect" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self._unread:
                headers["connection"] = "close"
        elif self._unread and self._lingers and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        """Take a little more of an upload that is refused: many clients read the answer only when they have sent some.

        Closed at once, the connection is reset, and the answer may be lost with it.
        """
        left = LINGER_BYTES
        with anyio.move_on_after(LINGER_S):
            while self._unread and left > 0:
                taken = 0
                with anyio.move_on_after(LINGER_IDLE_S):
                    taken = len((await self.receive()).get("body", b""))
                left = left - taken if taken else 0
