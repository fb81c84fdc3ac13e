"""The Starlette application of a service.

POST /predict       a file: its label and probabilities, those by source, and a time line with timeline=true
GET  /              the page
GET  /schema.json   JSON Schema of every answer
GET  /health        that the service runs, and its model
"""

import json
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodfuse.cache.records import WINDOW_S
from moodfuse.evaluate.markup import report_style, script_data, script_digest
from moodfuse.extract.decoding import MediaError
from moodfuse.serve.jobs import Job, JobQueue
from moodfuse.serve.messages import (
    DEFAULT_HOP_S,
    MIB,
    MIN_HOP_S,
    Limits,
    Query,
    RequestError,
    prediction_json,
    read_query,
    timeline_json,
)
from moodfuse.serve.uploads import check_upload, save_upload

if TYPE_CHECKING:
    from moodfuse.model.model import Model

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
ROUTES = "POST /predict, GET /, GET /health and GET /schema.json"


def make_app(
    model: "Model",
    *,
    limits: Limits,
    hosts: Collection[str] | None = LOOPBACK_NAMES,
    temporary: Path | None = None,
) -> Starlette:
    """Make the application.

    Several threads use the model at once. `hosts` are the names allowed in the `Host` header, without port;
    `None` allows any. The private folder for uploads is made in `temporary`. Its `state.jobs` is the
    `JobQueue`.
    """
    jobs = JobQueue(limits, parent=temporary)
    page = render_page(model.name, model.classes, limits=limits)
    schema = json.loads((files("moodfuse.serve") / "schema.json").read_text("utf-8"))

    @asynccontextmanager
    async def run_jobs(app: Starlette) -> AsyncIterator[None]:
        async with jobs.run():
            yield

    async def get_page(request: Request) -> Response:
        return page

    async def get_schema(request: Request) -> Response:
        return JSONResponse(schema)

    async def get_health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": model.name, "classes": list(model.classes)})

    async def predict(request: Request) -> Response:
        query = read_query(request.query_params.multi_items())
        check_upload(request.headers, limits=limits)
        with jobs.admit() as job:
            name = await save_upload(request, job.path, limits=limits)
            call = partial(_label, model, job, name, query, limits)
            answer = await jobs.work(job, call, receive=request.receive)
        return JSONResponse(answer)

    app = Starlette(
        routes=[
            Route("/", get_page, methods=["GET"]),
            Route("/predict", predict, methods=["POST"]),
            Route("/health", get_health, methods=["GET"]),
            Route("/schema.json", get_schema, methods=["GET"]),
        ],
        middleware=[Middleware(SecurityMiddleware, hosts=hosts)],
        exception_handlers={
            RequestError: _answer_request_error,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_disconnected,
            Exception: _answer_internal_error,
        },
        lifespan=run_jobs,
    )
    app.router.redirect_slashes = False  # a redirect would repeat the client's Host
    app.state.jobs = jobs
    return app


def _label(model: "Model", job: Job, name: str, query: Query, limits: Limits) -> dict[str, Any]:
    """The answer for an upload; runs in a thread, and makes no time line if the client has left."""
    try:
        prediction = model.label_file(job.path)
        answer = prediction_json(prediction, threshold=query.threshold)
        if query.timeline and not job.abandoned:
            _check_timeline(prediction.duration_s, query.hop_s, limits=limits)
            timeline = model.timeline(job.path, hop_s=query.hop_s)
            answer["timeline"] = timeline_json(timeline, hop_s=query.hop_s)
    except MediaError as error:
        raise RequestError(error.code, error.sentence.replace(str(job.path), name)) from error
    for refusal in answer.get("timeline", {}).get("refusals", ()):
        refusal["detail"] = refusal["detail"].replace(str(job.path), name)
    return {"file": name, "model": model.name, **answer}


def _check_timeline(duration_s: float, hop_s: float, *, limits: Limits) -> None:
    if duration_s > limits.timeline_s:
        raise RequestError(
            "timeline_too_long",
            f"the video lasts {duration_s:.0f} s, a time line is limited to {limits.timeline_s:g} s; "
            "remove timeline=true, or cut the video",
        )
    windows = 1 + int(max(0.0, duration_s - WINDOW_S) / hop_s)
    if windows > limits.timeline_windows:
        raise RequestError(
            "timeline_too_long",
            f"a hop of {hop_s:g} s makes {windows} windows of this video, a time line is limited to "
            f"{limits.timeline_windows}; use a longer hop",
        )


async def _answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        detail = f"method {request.method[:20]} is not allowed at this address; use {ROUTES}"
        return RequestError("wrong_method", detail, headers=error.headers).response
    return RequestError("not_found", f"there is nothing at this address; use {ROUTES}").response


async def _answer_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _answer_internal_error(request: Request, error: Exception) -> Response:
    # The traceback is in the log. This handler is outside the middleware.
    detail = "the service failed on this request; the log of the service has the cause"
    return RequestError("failed", detail, headers=SECURITY_HEADERS).response


class SecurityMiddleware:
    """ASGI middleware that checks each request and adds headers to each answer.

    A service on a loopback address answers only to loopback names (DNS rebinding), and a POST that a browser
    sends for another origin is refused; no CORS header is ever sent. Starlette's TrustedHostMiddleware does
    not support IPv6 addresses and answers in plain text.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        error = None
        if scope["type"] == "http":
            error = check_request(scope["method"], Headers(scope=scope), hosts=self.hosts)
        await (self.app if error is None else error.response)(scope, receive, send_answer)


def check_request(method: str, headers: Headers, *, hosts: Collection[str] | None) -> RequestError | None:
    """Return the error of a request that is refused at every address, or `None`."""
    if "transfer-encoding" in headers and "content-length" in headers:
        return RequestError(
            "malformed",
            "the request has both Content-Length and Transfer-Encoding, so its length is ambiguous; "
            "send only one of them",
            headers={"connection": "close"},
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


def render_page(name: str, classes: tuple[str, ...], *, limits: Limits) -> HTMLResponse:
    """Render the page for a model: one file that loads nothing else and runs only its own script."""
    from jinja2 import Environment, StrictUndefined

    templates = files("moodfuse.serve") / "templates"
    style = report_style() + (templates / "serve.css").read_text("utf-8")
    script = (templates / "timeline.js").read_text("utf-8") + (templates / "serve.js").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    data = {
        "classes": list(classes),
        "uploadBytes": limits.upload_bytes,
        "timelineSeconds": limits.timeline_s,
        "timelineWindows": limits.timeline_windows,
    }
    html = environment.from_string((templates / "serve.html.j2").read_text("utf-8")).render(
        model=name,
        classes=classes,
        hop_s=DEFAULT_HOP_S,
        least_hop_s=MIN_HOP_S,
        upload_mb=limits.upload_bytes / MIB,
        timeline_minutes=limits.timeline_s / 60,
        style=Markup(style),
        script=Markup(script),
        data=script_data(data),
    )
    policy = (
        f"default-src 'none'; script-src 'sha256-{script_digest(script)}'; "
        f"style-src 'sha256-{script_digest(style)}'; connect-src 'self'; img-src data:; media-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"content-security-policy": policy})
