"""Saving an upload to a file without holding it in memory. Forms are parsed by Starlette."""

import errno
import os
import re
import shutil
from pathlib import Path

import anyio
from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from moodfuse.cache.console import printable
from moodfuse.serve.messages import Limits, RequestError

FORM = "multipart/form-data"
FORM_BYTES = 64 * 1024
"""What a form may add to its file."""
UNNAMED = "upload"
NAME_LENGTH = 120
MEDIA_TYPES = tuple(
    f"application/{name}" for name in ("mp4", "mxf", "octet-stream", "ogg", "vnd.rn-realmedia", "x-matroska")
)
"""Allowed types besides video/* and audio/*."""
PLAYLISTS = re.compile(r"mpegurl|scpls|m3u|xspf|dash|smil|asx")
"""Video and audio types that only refer to other files."""


def check_headers(headers: Headers, *, limits: Limits) -> None:
    """Refuse an upload by its headers, before it is admitted.

    Raises
    ------
    RequestError
        If the type is not allowed, or the length is missing or above the limit.
    """
    media_type = _media_type(headers.get("content-type", ""))
    if media_type != FORM:
        _check_media_type(media_type)
    if "transfer-encoding" in headers:
        return
    length = headers.get("content-length")
    if length is None:
        raise RequestError("no_length", "the request has no Content-Length; send the length of the file")
    if int(length) > _max_bytes(media_type, limits):
        raise _too_large(limits)


async def save_upload(request: Request, path: Path, *, limits: Limits) -> str:
    """Write the file in the body of a request to a new file, and return the client's name of it, cleaned.

    The caller removes the file.

    Raises
    ------
    RequestError
        If the upload is too large, too slow, empty or malformed, or the disk is full.
    """
    media_type = _media_type(request.headers.get("content-type", ""))
    max_bytes = _max_bytes(media_type, limits)
    try:
        with anyio.fail_after(min(limits.grace_s, limits.upload_s)) as scope:
            start, received = anyio.current_time(), 0

            async def receive() -> Message:
                nonlocal received
                message = await request.receive()
                received += len(message.get("body", b""))
                if received > max_bytes:
                    raise _too_large(limits)
                scope.deadline = start + min(limits.upload_s, limits.grace_s + received / limits.upload_rate)
                return message

            limited = Request(request.scope, receive)
            name = await (_save_form if media_type == FORM else _save_body)(limited, path)
    except TimeoutError as error:
        raise RequestError(
            "slow_upload",
            f"the upload took longer than {limits.upload_s:g} s, or was slower than {limits.upload_rate / 1024:g} "
            f"KiB per second after its first {limits.grace_s:g} s; send a smaller file, or use a faster connection",
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RequestError(
            "no_space", "no space left for the upload on the server; try again later"
        ) from error
    size = path.stat().st_size
    if size > limits.upload_bytes:
        raise _too_large(limits)
    if not size:
        raise RequestError("empty_upload", "the upload is empty; send a video")
    return name


async def _save_body(request: Request, path: Path) -> str:
    async with await anyio.open_file(path, "xb", opener=_private) as file:
        async for chunk in request.stream():
            await file.write(chunk)
    return UNNAMED


async def _save_form(request: Request, path: Path) -> str:
    try:
        form = await request.form(max_files=1, max_fields=0)
    except (HTTPException, FormParserError) as error:  # Starlette 1.0 passes the parser's own error on
        raise _malformed_form(getattr(error, "detail", str(error))) from error
    upload = form.get("file")
    try:
        if not isinstance(upload, UploadFile):
            raise _malformed_form(
                f"its fields: {clean_name(', '.join(form))!r}" if form else "it has no field"
            )
        if media_type := _media_type(upload.content_type or ""):
            _check_media_type(media_type)
        await to_thread.run_sync(_copy, upload, path)
    finally:
        await form.close()
    return clean_name(upload.filename or "")


def _copy(upload: UploadFile, path: Path) -> None:
    with open(path, "xb", opener=_private) as file:
        shutil.copyfileobj(upload.file, file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _media_type(header: str) -> str:
    return parse_options_header(header)[0].decode("latin-1")


def is_media(media_type: str) -> bool:
    """Return whether a content type is one of a video or audio file, or unspecific."""
    family = media_type.partition("/")[0]
    return (family in ("video", "audio") and not PLAYLISTS.search(media_type)) or media_type in MEDIA_TYPES


def _check_media_type(media_type: str) -> None:
    if not is_media(media_type):
        raise RequestError(
            "media_type",
            f"Content-Type is {media_type[:80]!r}, expected video/*, audio/*, application/octet-stream or a form with "
            "the field 'file'; send the bytes of a video with its own type",
        )


def _max_bytes(media_type: str, limits: Limits) -> int:
    return limits.upload_bytes + (FORM_BYTES if media_type == FORM else 0)


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        "upload_too_large",
        f"the upload is larger than the limit of {limits.upload_bytes} bytes; cut or compress the video",
    )


def _malformed_form(cause: str) -> RequestError:
    return RequestError(
        "malformed", f"the form cannot be read ({cause}); expected one field 'file' that holds a file"
    )


def clean_name(name: str) -> str:
    """Return a client's file name without folders, printable, and at most 120 characters long.

    Examples
    --------
    >>> clean_name("../../etc/a\\nb.mp4"), clean_name("")
    ('a\\\\nb.mp4', 'upload')
    """
    return printable(re.split(r"[/\\]", name)[-1].strip()[:NAME_LENGTH])[:NAME_LENGTH] or UNNAMED
