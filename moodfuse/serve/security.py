"""Middleware before every request: host, origin and length checks, security headers.

Requests with both Content-Length and Transfer-Encoding are refused (request smuggling). A service on a loopback
address answers only to loopback names (DNS rebinding), and a POST that a browser sends for another origin is refused;
no CORS header is ever sent. Starlette's TrustedHostMiddleware knows no IPv6 addresses and answers in plain text.
"""

import re
from collections.abc import Collection

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodfuse.serve.messages import MIB, RequestError

DRAIN_S, DRAIN_BYTES = 1.0, 4 * MIB
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]*))(?::(?P<port>[0-9]{0,5}))?")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class SecurityMiddleware:
    """ASGI middleware that checks each request and adds headers to each answer.

    Parameters
    ----------
    app : ASGI application
    hosts : collection of str or None
        Allowed names in the `Host` header, without port; `None` allows any valid name.
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
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                unread = False
            return message

        async def drain() -> None:
            # Many clients send all before they read the answer; closed at once, the connection would be reset.
            left = DRAIN_BYTES
            with anyio.move_on_after(DRAIN_S):
                while unread and left > 0:
                    left -= len((await receive_body()).get("body", b""))

        async def send_answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if unread:
                    headers["connection"] = "close"
                    if "expect" not in request_headers:
                        await drain()
            await send(message)

        error = check_request(scope["method"], request_headers, hosts=self.hosts)
        app = self.app if error is None else error.response
        await app(scope, receive_body, send_answer)


def check_request(method: str, headers: Headers, *, hosts: Collection[str] | None) -> RequestError | None:
    """Return the error of a request that is refused whatever it asks, or `None`."""
    if "transfer-encoding" in headers and "content-length" in headers:
        return RequestError(
            "malformed",
            "the request has both Content-Length and Transfer-Encoding, so its length is ambiguous; "
            "send only one of them",
        )
    host = headers.get("host", "")
    name = host_name(host)
    if name is None or (hosts is not None and name not in hosts):
        expected = "a valid host name" if hosts is None else " or ".join(sorted(hosts))
        return RequestError("wrong_host", f"the Host header is {host[:80]!r}, expected {expected}")
    if method in SAFE_METHODS:
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site not in (None, "same-origin", "none") or origin not in (None, f"http://{host}", f"https://{host}"):
        return RequestError(
            "cross_origin",
            f"a page of {(origin or site or '')[:80]!r} sent this request, expected the page of this service; "
            "use the page at /, or a program",
        )
    return None


def host_name(host: str) -> str | None:
    """Return the lower-case name in a `Host` header without port and brackets, or `None` if it is malformed.

    Examples
    --------
    >>> host_name("LOCALHOST:8000"), host_name("[::1]:80"), host_name("evil@127.0.0.1"), host_name("a:99999")
    ('localhost', '::1', None, None)
    """
    match = HOST.fullmatch(host)
    if match is None or int(match["port"] or 0) > 65535:
        return None
    return (match["address"] or match["name"] or "").lower()
