"""Taking an upload: from the body of a request to a file with a name of our own, without holding it in memory."""

import errno
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers

from moodfuse.cache.console import printable
from moodfuse.serve.limits import MIB, Limits
from moodfuse.serve.problems import Problem

WRITE_BYTES = MIB
FORM_BYTES = 64 * 1024
"""What a form may add to the file in it."""

FIELD = "file"
UNNAMED = "upload"
NAME_LENGTH = 120
FORM = "multipart/form-data"
MEDIA_TYPES = tuple(
    f"application/{name}" for name in ("mp4", "mxf", "octet-stream", "ogg", "vnd.rn-realmedia", "x-matroska")
)
"""Types that are taken beside `video/*` and `audio/*`."""

PLAYLISTS = re.compile(r"mpegurl|scpls|m3u|xspf|dash|smil|asx")
"""Of the video and audio types, those that only name other files."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Head:
    """What a request says of its upload.

    Attributes
    ----------
    boundary : bytes or None
        Of a form; `None` where the body is the file itself.
    most_bytes : int
        How long the body may be.
    """

    boundary: bytes | None
    most_bytes: int


def read_head(headers: Headers, *, limits: Limits) -> Head:
    """Say what upload a request announces, before any of it is read.

    Raises
    ------
    Problem
        A type that is not taken, a form without boundary, no length, or more than the limit.
    """
    kind, options = parse_options_header(headers.get("content-type", ""))
    media_type, boundary = kind.decode("latin-1"), options.get(b"boundary")
    if media_type != FORM and not is_media(media_type):
        raise _not_media(media_type)
    if media_type == FORM and not boundary:
        raise Problem(
            "malformed", "the Content-Type of the form names no boundary; send the form again with one"
        )
    most = limits.upload_bytes + (FORM_BYTES if media_type == FORM else 0)
    if "transfer-encoding" not in headers:
        length = headers.get("content-length")
        if length is None:
            raise Problem(
                "no_length", "the request has no Content-Length, expected the length of the file; send it"
            )
        if int(length) > most:
            raise too_large(limits)
    return Head(boundary if media_type == FORM else None, most)


def is_media(media_type: str) -> bool:
    """Whether a content type is one of a video or sound, or says nothing."""
    family = media_type.partition("/")[0]
    return (family in ("video", "audio") and not PLAYLISTS.search(media_type)) or media_type in MEDIA_TYPES


def _not_media(media_type: str) -> Problem:
    found = f"Content-Type is {media_type[:80]!r}" if media_type else "there is no Content-Type"
    return Problem(
        "media_type",
        f"{found}, expected video/*, audio/*, application/octet-stream or a form with the field 'file'; "
        "send the bytes of a video with its own type",
    )


def too_large(limits: Limits) -> Problem:
    """The refusal of an upload that is larger than the limit."""
    return Problem(
        "upload_too_large",
        f"the upload is larger than the {limits.upload_bytes} bytes that this service takes; cut or compress the video",
    )


async def take_upload(body: AsyncIterator[bytes], path: Path, *, head: Head, limits: Limits) -> str:
    """Write the file in a body to `path`, which must not be there yet, and return the client's name of it, cleaned.

    Bytes are counted as they come, whatever the head said. The caller removes the file, whatever happens.

    Raises
    ------
    Problem
        Too large, too slow, empty, no proper form, or no space.
    """
    reader = _RawBody() if head.boundary is None else _FormBody(head.boundary)
    try:
        with anyio.fail_after(min(limits.grace_s, limits.upload_s)) as scope:
            timed = _with_deadline(body, scope, limits=limits)
            await _write(timed, path, reader=reader, head=head, limits=limits)
    except TimeoutError as error:
        raise Problem(
            "slow_upload",
            f"the upload took longer than {limits.upload_s:g} s, or after its first {limits.grace_s:g} s was slower "
            f"than {limits.upload_rate / 1024:g} KiB per second; send a smaller file, or over a faster connection",
        ) from error
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise Problem("no_space", "the server has no space left for the upload; try again later") from error
    return reader.name


async def _with_deadline(
    body: AsyncIterator[bytes], scope: anyio.CancelScope, *, limits: Limits
) -> AsyncIterator[bytes]:
    """Pass on a body; each of its bytes moves the deadline of `scope`, up to `upload_s` from the start."""
    start, arrived = anyio.current_time(), 0
    async for chunk in body:
        arrived += len(chunk)
        scope.deadline = start + min(limits.upload_s, limits.grace_s + arrived / limits.upload_rate)
        yield chunk


async def _write(
    body: AsyncIterator[bytes], path: Path, *, reader: "_Reader", head: Head, limits: Limits
) -> None:
    arrived = written = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    pending = bytearray()
    with open(os.open(path, flags, 0o600), "wb") as file:
        async for chunk in body:
            arrived += len(chunk)
            pending += reader.feed(chunk)
            if arrived > head.most_bytes or written + len(pending) > limits.upload_bytes:
                raise too_large(limits)
            if len(pending) >= WRITE_BYTES:
                written += await to_thread.run_sync(file.write, bytes(pending))
                pending.clear()
        reader.finish()
        written += await to_thread.run_sync(file.write, bytes(pending))
    if not written:
        raise Problem("empty_upload", "the upload holds no bytes; send a video")


def clean_name(name: str) -> str:
    """A client's file name as it may be echoed: without folders, printable, not long.

    Examples
    --------
    >>> clean_name("../../etc/a\\nb.mp4"), clean_name("")
    ('a\\\\nb.mp4', 'upload')
    """
    return printable(re.split(r"[/\\]", name)[-1].strip()[:NAME_LENGTH])[:NAME_LENGTH] or UNNAMED


class _Reader(Protocol):
    """Finds the bytes of the file in those of a body."""

    name: str

    def feed(self, chunk: bytes) -> bytes: ...

    def finish(self) -> None: ...


class _RawBody:
    """The body is the file."""

    name = UNNAMED

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> None:
        return


class _FormBody:
    """The body is a form with one field, `file`, which holds a file. Anything else in it is refused as it comes."""

    name = UNNAMED

    def __init__(self, boundary: bytes) -> None:
        self._found: list[bytes] = []
        self._headers: dict[str, bytes] = {}
        self._header, self._value = b"", b""
        self._parts, self._ended = 0, False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._take_header,
                    "on_header_value": self._take_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._check,
                    "on_part_data": self._take,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise self._malformed(str(error)) from error

    def feed(self, chunk: bytes) -> bytes:
        self._found.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise self._malformed(str(error)) from error
        return b"".join(self._found)

    def finish(self) -> None:
        if not self._ended:
            raise self._malformed("it ends before its last boundary")
        if not self._parts:
            raise self._malformed("it has no field")

    @staticmethod
    def _malformed(found: str) -> Problem:
        return Problem(
            "malformed",
            f"the form cannot be read ({found}); expected one field 'file' with a file in it: send that",
        )

    def _begin(self) -> None:
        self._parts += 1
        self._headers.clear()
        if self._parts > 1:
            raise self._malformed("it has more than one field")

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header, self._value = b"", b""

    def _check(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        field = options.get(b"name", b"").decode("utf-8", "replace")
        if field != FIELD:
            raise self._malformed(f"it has a field {clean_name(field)!r}")
        if b"filename" not in options:
            raise self._malformed(
                "its field 'file' holds text, which is never taken for a path or an address"
            )
        kind = parse_options_header(self._headers.get("content-type", b""))[0].decode("latin-1")
        if kind and not is_media(kind):
            raise _not_media(kind)
        self.name = clean_name(options[b"filename"].decode("utf-8", "replace"))

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _end(self) -> None:
        self._ended = True
