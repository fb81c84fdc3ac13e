"""Middleware before every request: checks of host, origin and length, and security headers.

A service on a loopback address answers only to loopback names (DNS rebinding), and a POST that a browser
sends for another origin is refused; no CORS header is ever sent. Starlette's TrustedHostMiddleware does not
support IPv6 addresses and answers in plain text.
"""

import re
from collections.abc import Collection

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodfuse.serve.messages import MIB, RequestError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
DRAIN_S, DRAIN_BYTES = 1.0, 4 * MIB


class SecurityMiddleware:
    """ASGI middleware that checks each request and adds headers to each answer.

    `hosts` are the names allowed in the `Host` header, without port; `None` allows any.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_headers = Headers(scope=scope)
        unread = "transfer-encoding" in request_headers or request_headers.get("content-length", "0") != "0"

        async def receive_body() -> Message:
            nonlocal unread
            message = await receive()
            if not message.get("more_body", False):
                unread = False
            return message

        async def send_answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if unread:
                    headers["connection"] = "close"
                if "expect" not in request_headers:
                    # Many clients send all before they read; closed at once, the connection would be reset.
                    left = DRAIN_BYTES
                    with anyio.move_on_after(DRAIN_S):
                        while unread and left > 0:
                            left -= len((await receive_body()).get("body", b""))
            await send(message)

        error = check_request(scope["method"], request_headers, hosts=self.hosts)
        app = self.app if error is None else error.response
        await app(scope, receive_body, send_answer)


def check_request(method: str, headers: Headers, *, hosts: Collection[str] | None) -> RequestError | None:
    """Return the error of a request that is refused at every address, or `None`."""
    if "transfer-encoding" in headers and "content-length" in headers:
        return RequestError(
            "malformed",
            "the request has both Content-Length and Transfer-Encoding, so its length is ambiguous; "
            "send only one of them",
        )
    host = headers.get("host", "")
    if hosts is not None and re.sub(r":\d+$", "", host.lower()) not in hosts:
        return RequestError(
            "wrong_host", f"the Host header is {host[:80]!r}, expected {' or '.join(sorted(hosts))}"
        )
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    own_origins = (None, f"http://{host}", f"https://{host}")
    foreign = site not in (None, "same-origin", "none") or origin not in own_origins
    if foreign and method not in ("GET", "HEAD", "OPTIONS"):
        return RequestError(
            "cross_origin",
            f"a page of {(origin or site or '')[:80]!r} sent this request, expected the page of this "
            "service; use the page at /, or a program",
        )
    return None
