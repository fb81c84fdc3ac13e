"""Every way in which a request is refused: a code, its HTTP status, and a sentence.

The sentence says what was found, what was expected and what to do. No path of the server stands in any.
"""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from moodfuse.cache.errors import MoodfuseError

RETRY_AFTER_S = 5
STATUSES: dict[str, int] = {
    "malformed": 400,
    "bad_query": 400,
    "empty_upload": 400,
    "cross_origin": 403,
    "not_found": 404,
    "wrong_method": 405,
    "slow_upload": 408,
    "no_length": 411,
    "upload_too_large": 413,
    "media_type": 415,
    "wrong_host": 421,
    "timeline_too_long": 422,
    "busy": 429,
    "failed": 500,
    "stopping": 503,
    "out_of_time": 504,
    "no_space": 507,
}
"""Code -> status. A file that cannot be labelled is 422 with a code of `moodfuse.extract.media.container.REASONS`."""

UNLABELLED = 422


class Problem(MoodfuseError):
    """A request is refused.

    Parameters
    ----------
    code : str
        A key of `STATUSES`, or of `moodfuse.extract.media.container.REASONS`.
    detail : str
        A sentence for the client.
    headers : mapping, optional
        Sent with the answer.
    """

    def __init__(self, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers = code, detail, dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUSES.get(self.code, UNLABELLED)

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """The body of the answer."""
        return {"error": {"code": self.code, "detail": self.detail}}

    @property
    def answer(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.content, self.status, headers=self.headers)
