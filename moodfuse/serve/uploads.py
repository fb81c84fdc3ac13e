"""Uploads: checks of their headers, and saving them to files without holding them in memory."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
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
from moodfuse.serve.messages import MIB, Limits, RequestError

FORM = "multipart/form-data"
FORM_BYTES = 64 * 1024
"""What a form may add to its file."""
UNNAMED = "upload"
NAME_LENGTH = 120
MEDIA_TYPES = tuple(
    f"application/{name}" for name in ("mp4", "mxf", "octet-stream", "ogg", "vnd.rn-realmedia", "x-matroska")
)
"""Allowed types besides video/* and audio/*."""


@dataclass(frozen=True)
class Upload:
    """A file of a client: its name, cleaned, and where its bytes are."""

    name: str
    path: Path


def check_upload(headers: Headers, *, limits: Limits, is_batch: bool) -> None:
    """Check the headers of an upload, before it is admitted: its type, and its length."""
    media_type = _media_type(headers.get("content-type", ""))
    if is_batch and media_type != FORM:
        raise RequestError(
            "media_type",
            f"Content-Type is {media_type[:80]!r}, expected {FORM} with a field 'file' for each video; use "
            "/predict for the bytes of one video",
        )
    if media_type != FORM:
        _check_media_type(media_type)
    if "transfer-encoding" in headers:
        return
    length = headers.get("content-length")
    if length is None:
        raise RequestError("no_length", "the request has no Content-Length; send the length of the file")
    if int(length) > limits.upload_bytes + FORM_BYTES:
        raise _too_large(limits)


async def save_uploads(
    request: Request, new_path: Callable[[], Path], *, limits: Limits, most: int = 1
) -> list[Upload]:
    """Write the file in the body of a request, or up to `most` files of a form, to new files.

    Raises `RequestError` if they are too large, too slow or malformed, or if the only one that is allowed is
    empty. The caller removes the files.
    """
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limits.upload_bytes + FORM_BYTES:
            raise _too_large(limits)
        return message

    is_form = _media_type(request.headers.get("content-type", "")) == FORM
    try:
        with anyio.fail_after(limits.upload_s):
            limited = Request(request.scope, receive)
            uploads = (
                await _save_form(limited, new_path, most)
                if is_form
                else [await _save_body(limited, new_path())]
            )
    except TimeoutError as error:
        raise RequestError(
            "slow_upload",
            f"the upload took longer than {limits.upload_s:g} s; send a smaller file, or use a faster "
            "connection",
            headers={"connection": "close"},
        ) from error
    sizes = [upload.path.stat().st_size for upload in uploads]
    if sum(sizes) > limits.upload_bytes:
        raise _too_large(limits)
    if most == 1 and not sizes[0]:
        raise RequestError("empty", "the file is empty; send a video")
    return uploads


async def _save_body(request: Request, path: Path) -> Upload:
    async with await anyio.open_file(path, "xb") as file:
        async for chunk in request.stream():
            await file.write(chunk)
    return Upload(UNNAMED, path)


async def _save_form(request: Request, new_path: Callable[[], Path], most: int) -> list[Upload]:
    try:
        async with request.form(max_files=most, max_fields=0) as form:
            sent = [(field, file) for field, file in form.multi_items() if isinstance(file, UploadFile)]
            if not sent or any(field != "file" for field, _ in sent):
                raise _malformed_form("it has no file in a field 'file', or other fields", most)
            for _, file in sent:
                if file.content_type:
                    _check_media_type(_media_type(file.content_type))
            uploads = [(file, Upload(clean_name(file.filename or ""), new_path())) for _, file in sent]
            for file, upload in uploads:
                await to_thread.run_sync(_copy, file, upload.path)
            return [upload for _, upload in uploads]
    except (HTTPException, FormParserError) as error:  # Starlette 1.0 passes the parser's own error on
        raise _malformed_form(getattr(error, "detail", str(error)), most) from error


def _copy(upload: UploadFile, path: Path) -> None:
    with open(path, "xb") as file:
        shutil.copyfileobj(upload.file, file)


def _media_type(header: str) -> str:
    return parse_options_header(header)[0].decode("latin-1")


def _check_media_type(media_type: str) -> None:
    if not media_type.startswith(("video/", "audio/")) and media_type not in MEDIA_TYPES:
        raise RequestError(
            "media_type",
            f"Content-Type is {media_type[:80]!r}, expected video/*, audio/*, application/octet-stream or a "
            "form with the field 'file'; send the bytes of a video with its own type",
        )


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        "upload_too_large",
        f"the upload is larger than the limit of {limits.upload_bytes / MIB:g} MB; cut or compress the video",
    )


def _malformed_form(cause: str, most: int) -> RequestError:
    fields = "one field" if most == 1 else f"1 to {most} fields"
    detail = f"the form cannot be read ({cause}); expected {fields} 'file' with a file"
    return RequestError("malformed", detail)


def clean_name(name: str) -> str:
    """Return a client's file name without folders, printable, and at most 120 characters long.

    Examples
    --------
    >>> clean_name("../../etc/a\\nb.mp4"), clean_name("")
    ('a\\\\nb.mp4', 'upload')
    """
    return printable(re.split(r"[/\\]", name)[-1].strip()[:NAME_LENGTH])[:NAME_LENGTH] or UNNAMED
