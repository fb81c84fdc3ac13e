"""The Starlette application of a service; `openapi.json` describes its addresses."""

import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodfuse.cache.records import WINDOW_S
from moodfuse.evaluate.markup import report_style, script_data, script_digest
from moodfuse.extract.decoding import MediaError
from moodfuse.model.answers import read_answer_schema
from moodfuse.model.predictions import SCHEMA, Answer, LabelRequest, Prediction, Refusal, make_refusal
from moodfuse.serve.api_pages import make_openapi, render_api_page
from moodfuse.serve.jobs import Job, JobQueue
from moodfuse.serve.messages import (
    DEFAULT_HOP_S,
    MIB,
    MIN_HOP_S,
    Limits,
    Query,
    RequestError,
    read_query,
)
from moodfuse.serve.monitoring import METRICS_TYPE, Metrics, MonitoringMiddleware
from moodfuse.serve.uploads import Upload, check_upload, save_uploads

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
ROUTES = "POST /predict, GET / for the page, and GET /api for the other addresses"
TOO_LONG = "timeline_too_long"
"""Code of a refusal because a timeline exceeds the limits of the service."""


def make_app(
    model: "Model",
    *,
    limits: Limits,
    hosts: Collection[str] | None = LOOPBACK_NAMES,
    temporary: Path | None = None,
    access_log: bool = True,
    show_metrics: bool = False,
) -> Starlette:
    """Make the application.

    Several threads use the model at once. `hosts` are the names allowed in the `Host` header, without port;
    `None` allows any. The private folder for uploads is made in `temporary`. `access_log` logs each
    request, `show_metrics` serves /metrics. Its `state.jobs` is the `JobQueue`.
    """
    jobs, metrics = JobQueue(limits, parent=temporary), Metrics()
    page = render_page(model.name, model.classes, limits=limits)
    schema, openapi = read_answer_schema(), make_openapi(show_metrics=show_metrics)
    api_page = render_api_page(openapi)

    @asynccontextmanager
    async def run_jobs(app: Starlette) -> AsyncIterator[None]:
        async with jobs.run():
            yield

    async def get_page(request: Request) -> Response:
        return page

    async def get_api_page(request: Request) -> Response:
        return api_page

    async def get_schema(request: Request) -> Response:
        return JSONResponse(schema)

    async def get_openapi(request: Request) -> Response:
        return JSONResponse(openapi)

    async def get_health(request: Request) -> Response:
        named = {"name": model.id.name, "digest": model.id.digest}
        return JSONResponse({"status": "ok", "model": named, "classes": list(model.classes)})

    async def get_metrics(request: Request) -> Response:
        return PlainTextResponse(metrics.format(queue_length=len(jobs)), media_type=METRICS_TYPE)

    async def label_uploads(request: Request, *, is_batch: bool) -> list[Answer]:
        query = read_query(request.query_params.multi_items())
        check_upload(request.headers, limits=limits, is_batch=is_batch)
        most = limits.batch_files if is_batch else 1
        with jobs.admit() as job:
            uploads = await save_uploads(request, job.new_path, limits=limits, most=most)
            call = partial(_label_uploads, model, job, uploads, query, limits)
            cheaper = ["with fewer files"] * (len(uploads) > 1) + ["without a timeline"] * query.timeline
            answers: list[Answer] = await jobs.work(
                job, call, receive=request.receive, files=len(uploads), cheaper=cheaper
            )
        metrics.count_files(answers)
        return answers

    async def predict(request: Request) -> Response:
        (answer,) = await label_uploads(request, is_batch=False)
        return JSONResponse(answer, 422 if "error" in answer else 200)

    async def predict_batch(request: Request) -> Response:
        answers = await label_uploads(request, is_batch=True)
        return JSONResponse({"schema": SCHEMA, "answers": answers})

    routes = [
        Route("/", get_page, methods=["GET"]),
        Route("/predict", predict, methods=["POST"]),
        Route("/predict/batch", predict_batch, methods=["POST"]),
        Route("/health", get_health, methods=["GET"]),
        Route("/api", get_api_page, methods=["GET"]),
        Route("/openapi.json", get_openapi, methods=["GET"]),
        Route("/schema.json", get_schema, methods=["GET"]),
    ]
    if show_metrics:
        routes.append(Route("/metrics", get_metrics, methods=["GET"]))
    addresses = frozenset(route.path for route in routes)
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(MonitoringMiddleware, metrics=metrics, addresses=addresses, is_logged=access_log),
            Middleware(SecurityMiddleware, hosts=hosts),
        ],
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


def _label_uploads(
    model: "Model", job: Job, uploads: Sequence[Upload], query: Query, limits: Limits
) -> list[Answer]:
    """Return the answer for each upload; runs in a thread, and stops if the client has left."""
    return [_label(model, job, upload, query, limits) for upload in uploads if not job.abandoned]


def _label(model: "Model", job: Job, upload: Upload, query: Query, limits: Limits) -> Answer:
    request = LabelRequest(str(upload.path))
    (result,) = model.label([request])
    answer = result.to_dict(threshold=query.threshold)
    if isinstance(result, Prediction) and query.timeline and not job.abandoned:
        if too_long := _describe_excess(result.duration_s, query.hop_s, limits=limits):
            answer = Refusal(upload.name, TOO_LONG, too_long, model=model.id).to_dict()
        else:
            try:
                timeline = model.timeline(upload.path, hop_s=query.hop_s)
                answer |= timeline.to_dict(threshold=query.threshold)
            except MediaError as error:
                answer = make_refusal(request, error, model.id).to_dict()
    for row in (answer, *answer.get("timeline", {}).get("windows", ())):
        if "error" in row:
            row["error"]["detail"] = row["error"]["detail"].replace(request.file, upload.name)
    return answer | {"file": upload.name}


def _describe_excess(duration_s: float, hop_s: float, *, limits: Limits) -> str:
    """Return which limit a timeline exceeds, and what to do; empty if it exceeds none."""
    windows = 1 + int(max(0.0, duration_s - WINDOW_S) / hop_s)
    if duration_s > limits.timeline_s:
        return (
            f"the video lasts {duration_s:.0f} s, a timeline is limited to {limits.timeline_s:g} s; "
            "remove timeline=true, or cut the video"
        )
    if windows > limits.timeline_windows:
        return (
            f"a hop of {hop_s:g} s makes {windows} windows of this video, a timeline is limited to "
            f"{limits.timeline_windows}; use a longer hop"
        )
    return ""


async def _answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        detail = f"method {request.method[:20]} is not allowed at this address; use {ROUTES}"
        return RequestError("wrong_method", detail, headers=error.headers).response
    if request.url.path == "/metrics":
        return RequestError("not_found", "metrics are off; start the service with --metrics").response
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
            "wrong_host",
            f"the Host header is {host[:80]!r}, expected {' or '.join(sorted(hosts))}; start the service "
            "with --allow-host NAME for another",
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
