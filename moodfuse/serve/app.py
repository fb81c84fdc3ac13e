"""The service as a Starlette application: what it answers at which address.

POST /predict       a file: its label, probabilities, what each source says, and its time line where asked for
GET  /              the page
GET  /schema.json   JSON Schema of every answer
GET  /health        that it runs, and with which model
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
from moodfuse.extract.media.container import MediaError
from moodfuse.model.predictions import Prediction, Timeline
from moodfuse.serve.answers import Question, prediction_json, read_question, timeline_json
from moodfuse.serve.guard import LOOPBACK_NAMES, SECURITY_HEADERS, Guard
from moodfuse.serve.jobs import Desk
from moodfuse.serve.limits import Limits
from moodfuse.serve.page import render_page
from moodfuse.serve.problems import Problem
from moodfuse.serve.uploads import read_head, take_upload


class Labeller(Protocol):
    """What the service needs of a model.

    `label_file` and `timeline` are called from several threads at once. They raise `MediaError` for a file that cannot
    be labelled, and come to an end for every file: a thread cannot be stopped from outside.
    """

    @property
    def name(self) -> str:
        """What it is called."""

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
    """Make the service of a model.

    Parameters
    ----------
    labeller : Labeller
        Thread-safe.
    limits : Limits
        What is refused.
    hosts : collection of str or None
        Names that the service answers to, against DNS rebinding; `None` for any.
    temporary : Path or None
        Where the private folder of uploads is made; by default where the system keeps temporary files.

    Returns
    -------
    Starlette
        Its `state.desk` is the `Desk`.
    """
    service = _Service(labeller, limits, Desk(limits, parent=temporary))
    app = Starlette(
        routes=[
            Route("/", service.page, methods=["GET"]),
            Route("/predict", service.predict, methods=["POST"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/schema.json", service.schema, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={
            Problem: _refuse,
            HTTPException: _refuse_address,
            ClientDisconnect: _say_nothing,
            Exception: _fail,
        },
        lifespan=service.run,
    )
    # A redirection would repeat an address that the client made up.
    app.router.redirect_slashes = False
    app.state.desk = service.desk
    return app


class _Service:
    """The endpoints, and what they share."""

    def __init__(self, labeller: Labeller, limits: Limits, desk: Desk) -> None:
        self.labeller, self.limits, self.desk = labeller, limits, desk
        self._page = render_page(labeller.name, labeller.classes, limits=limits)
        self._schema = json.loads((files("moodfuse.serve") / "schema.json").read_text("utf-8"))

    @asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[None]:
        async with self.desk.open():
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
        question = read_question(request.query_params.multi_items())
        head = read_head(request.headers, limits=self.limits)
        with self.desk.visit() as visit:
            name = await take_upload(request.stream(), visit.path, head=head, limits=self.limits)
            work = partial(self._label, visit.path, name, question)
            answer = await self.desk.label(visit, work, receive=request.receive)
        return JSONResponse(answer)

    def _label(self, path: Path, name: str, question: Question) -> dict[str, Any]:
        """Label an upload; runs in a thread, and stops between two steps where nobody waits for it any more."""
        try:
            found = self.labeller.label_file(path)
            answer = prediction_json(found, threshold=question.threshold)
            if question.timeline:
                from_thread.check_cancelled()
                _check_length(found.duration_s, question.hop_s, limits=self.limits)
                timeline = self.labeller.timeline(path, hop_s=question.hop_s)
                answer["timeline"] = timeline_json(timeline, hop_s=question.hop_s)
        except MediaError as error:
            raise Problem(error.code, error.sentence.replace(str(path), name)) from error
        for refusal in answer.get("timeline", {}).get("refusals", ()):
            refusal["detail"] = refusal["detail"].replace(str(path), name)
        return {"file": name, "model": self.labeller.name, **answer}


def _check_length(duration_s: float, hop_s: float, *, limits: Limits) -> None:
    """Refuse a time line of too long a video, or of too many windows."""
    if duration_s > limits.timeline_s:
        raise Problem(
            "timeline_too_long",
            f"the video lasts {duration_s:.0f} s, a time line at most {limits.timeline_s:g} s; "
            "leave timeline=true out, or cut the video",
        )
    windows = 1 + int(max(0.0, duration_s - WINDOW_S) / hop_s)
    if windows > limits.timeline_windows:
        raise Problem(
            "timeline_too_long",
            f"a hop of {hop_s:g} s makes {windows} windows of this video, at most {limits.timeline_windows} are taken; "
            "ask for a longer hop",
        )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # Starlette picks the handler by the class.
    return error.answer


async def _refuse_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    addresses = "POST /predict, GET /, /health and /schema.json"
    if error.status_code == 405:
        detail = (
            f"{request.method[:20]} is not answered at this address; there are {addresses}: use one of them"
        )
        return Problem("wrong_method", detail, headers=error.headers).answer
    return Problem(
        "not_found", f"there is nothing at this address; there are {addresses}: use one of them"
    ).answer


async def _say_nothing(request: Request, error: Exception) -> Response:
    """The client has left; nobody reads this."""
    return Response(status_code=400)


async def _fail(request: Request, error: Exception) -> Response:
    """An error of ours: its cause goes to the log, never to the client. The guard stands inside of this handler."""
    detail = "the service failed on this request; try another file, or ask who runs it to look into its log"
    return Problem("failed", detail, headers={**SECURITY_HEADERS, "connection": "close"}).answer
