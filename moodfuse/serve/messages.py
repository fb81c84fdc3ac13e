"""Limits and query parameters of requests, and errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse

from moodfuse.cache.errors import MoodfuseError
from moodfuse.model.predictions import DEFAULT_THRESHOLD, SCHEMA

MIB = 2**20
DEFAULT_HOP_S = 5.0
MIN_HOP_S, MAX_HOP_S = 0.5, 600.0
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
STATUSES: dict[str, int] = {
    "malformed": 400,
    "bad_query": 400,
    "empty": 400,
    "cross_origin": 403,
    "not_found": 404,
    "wrong_method": 405,
    "slow_upload": 408,
    "no_length": 411,
    "upload_too_large": 413,
    "media_type": 415,
    "wrong_host": 421,
    "busy": 429,
    "failed": 500,
    "stopping": 503,
    "out_of_time": 504,
}
"""HTTP status of each error code. A file that cannot be labelled has 422 and the code of its refusal."""


class RequestError(MoodfuseError):
    """A request is refused.

    `code` is a key of `STATUSES`, `detail` a sentence without a server path.
    """

    def __init__(self, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, dict(headers or {})

    @property
    def response(self) -> JSONResponse:
        """The answer to the client."""
        content = {"schema": SCHEMA, "error": {"code": self.code, "detail": self.detail}}
        return JSONResponse(content, STATUSES[self.code], headers=self.headers)


@dataclass(frozen=True)
class Limits:
    """Limits of the service; at most `at_once + waiting` uploads are on disk."""

    upload_bytes: int = 512 * MIB
    upload_s: float = 120.0  # for an upload to arrive
    request_s: float = 120.0  # from the end of the upload to the answer, times the files of a batch
    at_once: int = 2  # files that are labelled at once
    waiting: int = 8  # further requests that may upload or wait
    batch_files: int = 32  # of one request
    timeline_s: float = 600.0  # longest video of a timeline
    timeline_windows: int = 120


@dataclass(frozen=True)
class Query:
    """Query parameters of POST /predict and POST /predict/batch."""

    timeline: bool = False
    hop_s: float = DEFAULT_HOP_S
    threshold: float = DEFAULT_THRESHOLD  # a prediction with a lower confidence is uncertain


def read_query(pairs: Sequence[tuple[str, str]]) -> Query:
    """Read query parameters; `RequestError` for one that is unknown, repeated or invalid."""
    given = dict(pairs)
    for name in given:
        if name not in ("timeline", "hop", "threshold"):
            raise RequestError(
                "bad_query",
                f"unknown query parameter {name[:40]!r}, expected timeline, hop or threshold; send the file "
                "itself as the body (the service opens no path or address)",
            )
    if len(given) < len(pairs):
        raise RequestError("bad_query", "a query parameter is repeated; give each once")
    timeline = given.get("timeline", "false")
    if timeline not in BOOLEANS:
        raise RequestError("bad_query", f"timeline is {timeline[:40]!r}, expected true or false")
    if "hop" in given and not BOOLEANS[timeline]:
        raise RequestError("bad_query", "hop needs a timeline; add timeline=true, or remove hop")
    return Query(
        timeline=BOOLEANS[timeline],
        hop_s=_read_number("hop", given.get("hop", DEFAULT_HOP_S), MIN_HOP_S, MAX_HOP_S),
        threshold=_read_number("threshold", given.get("threshold", DEFAULT_THRESHOLD), 0.0, 1.0),
    )


def _read_number(name: str, given: str | float, minimum: float, maximum: float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not minimum <= value <= maximum:
        raise RequestError(
            "bad_query", f"{name} is {str(given)[:40]!r}, expected a number from {minimum:g} to {maximum:g}"
        )
    return value
