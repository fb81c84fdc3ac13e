"""The Starlette application of a service.

POST /predict       a file: its label and probabilities, those by source, and its time line if asked for
GET  /              the page
GET  /schema.json   JSON Schema of every answer
GET  /health        whether it runs, and its model
"""

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from anyio import from_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.decoding import MediaError
from moodfuse.model.predictions import Prediction, Timeline
from moodfuse.serve.jobs import JobQueue
from moodfuse.serve.messages import Limits, Query, RequestError, prediction_json, read_query, timeline_json
from moodfuse.serve.page import render_page
from moodfuse.serve.security import LOOPBACK_NAMES, SECURITY_HEADERS, SecurityMiddleware
from moodfuse.serve.uploads import check_headers, save_upload

ROUTES = "POST /predict, GET /, GET /health and GET /schema.json"


class Labeller(Protocol):
    """The part of `moodfuse.Model` that a service uses.

    `label_file` and `timeline` are called from several threads at once; they raise `MediaError` for a file that cannot
    be labelled, and end for every file.
    """

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels."""

    def label_file(self, path: Path, *, start_s: float = 0.0, end_s: float | None = None) -> Prediction:
        """Label one window of a file."""

    def timeline(self, path: Path, *, hop_s: float) -> Timeline:
        """Label a file over time."""


def make_app(
    labeller: Labeller,
    *,
    limits: Limits,
    hosts: Collection[str] | None = LOOPBACK_NAMES,
    temporary: Path | None = None,
) -> Starlette:
    """Make the application.

    Parameters
    ----------
    labeller : Labeller
        Thread-safe.
    limits : Limits
    hosts : collection of str or None
        Allowed names in the `Host` header; `None` allows any.
    temporary : Path or None
        Folder of the private folder for uploads; by default that of temporary files.

    Returns
    -------
    Starlette
        Its `state.jobs` is the `JobQueue`.
    """
    service = _Service(labeller, limits, JobQueue(limits, parent=temporary))
    app = Starlette(
        routes=[
            Route("/", service.page, methods=["GET"]),
            Route("/predict", service.predict, methods=["POST"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/schema.json", service.schema, methods=["GET"]),
        ],
        middleware=[Middleware(SecurityMiddleware, hosts=hosts)],
        exception_handlers={
            RequestError: _request_error,
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            Exception: _internal_error,
        },
        lifespan=service.run,
    )
    app.router.redirect_slashes = False  # a redirect would repeat the client's Host
    app.state.jobs = service.jobs
    return app


class _Service:
    def __init__(self, labeller: Labeller, limits: Limits, jobs: JobQueue) -> None:
        self.labeller, self.limits, self.jobs = labeller, limits, jobs
        self._page = render_page(labeller.name, labeller.classes, limits=limits)
        self._schema = json.loads((files("moodfuse.serve") / "schema.json").read_text("utf-8"))

    @asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[None]:
        async with self.jobs.run():
            yield

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self._page.html, headers={"content-security-policy": self._page.policy})

    async def schema(self, request: Request) -> Response:
        return JSONResponse(self._schema)

    async def health(self, request: Request) -> Response:
        return JSONResponse(
            {"status": "ok", "model": self.labeller.name, "classes": list(self.labeller.classes)}
        )

    async def predict(self, request: Request) -> Response:
        query = read_query(request.query_params.multi_items())
        check_headers(request.headers, limits=self.limits)
        with self.jobs.admit() as job:
            name = await save_upload(request, job.path, limits=self.limits)
            call = partial(self._label, job.path, name, query)
            answer = await self.jobs.work(job, call, receive=request.receive)
        return JSONResponse(answer)

    def _label(self, path: Path, name: str, query: Query) -> dict[str, Any]:
        # Runs in a thread. Stops before the time line if the client has left.
        try:
            prediction = self.labeller.label_file(path)
            answer = prediction_json(prediction, threshold=query.threshold)
            if query.timeline:
                from_thread.check_cancelled()
                _check_timeline(prediction.duration_s, query.hop_s, limits=self.limits)
                timeline = self.labeller.timeline(path, hop_s=query.hop_s)
                answer["timeline"] = timeline_json(timeline, hop_s=query.hop_s)
        except MediaError as error:
            raise RequestError(error.code, error.sentence.replace(str(path), name)) from error
        for refusal in answer.get("timeline", {}).get("refusals", ()):
            refusal["detail"] = refusal["detail"].replace(str(path), name)
        return {"file": name, "model": self.labeller.name, **answer}


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


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        detail = f"method {request.method[:20]} is not allowed at this address; use {ROUTES}"
        return RequestError("wrong_method", detail, headers=error.headers).response
    return RequestError("not_found", f"there is nothing at this address; use {ROUTES}").response


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _internal_error(request: Request, error: Exception) -> Response:
    # The traceback is in the log. This handler stands outside of the middleware.
    detail = "the service failed on this request; the log of the service has the cause"
    return RequestError("failed", detail, headers={**SECURITY_HEADERS, "connection": "close"}).response
