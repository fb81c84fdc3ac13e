"""The page of a time line: the video, curves of the emotions, a table, and a poster image of the video.

One HTML file that loads nothing but the video, by its relative address. It works without the video and without
JavaScript, which adds the playhead, seeking, and the values at a time.
"""

import base64
import io
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from moodfuse.cache.errors import InputError
from moodfuse.cache.files import write_text
from moodfuse.evaluate.markup import base_style, page_environment, script_digest
from moodfuse.extract.decoding import Limits, MediaError, ProbeRequest, open_media, read_clip, run_in_workers
from moodfuse.model.predictions import Timeline
from moodfuse.timeline.geometry import palette_style
from moodfuse.timeline.views import Poster, TimelinePage, page_of

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = files("moodfuse.timeline") / "templates"
SHORT_SIDE_PX = 270
LONG_SIDE_LIMIT = 640
QUALITY = 72
POSITIONS = (1 / 3, 1 / 2, 1 / 6)
"""Positions in the file, relative to its duration; flat frames, such as those of a fade, are skipped."""
WINDOW_S = 1.0
FLAT = 12.0
"""Standard deviation of the grey values below which a frame is flat."""


def write_timeline_page(
    timeline: Timeline, path: Path, *, video: Path, threshold: float, model: str, poster: bytes | None
) -> Path:
    """Write the page of a time line atomically, and return its path.

    Parameters
    ----------
    timeline : Timeline
    path : Path
        The page; its folder is created if needed.
    video : Path
        The page refers to it by its relative address.
    threshold : float
        Least probability of a certain label.
    model : str
        Name of the model.
    poster : bytes or None
        JPEG shown before the video plays, as `poster_of` makes it.

    Raises
    ------
    InputError
        If the page would overwrite the video, or the poster is not a JPEG.
    CacheError
        If the page cannot be written.
    """
    if path.exists() and video.exists() and path.samefile(video):
        raise InputError(
            f"{path}: this is the video itself; give the page another name, such as {video.stem}.html"
        )
    page = page_of(
        timeline,
        name=video.name,
        url=relative_url(video, path),
        threshold=threshold,
        model=model,
        poster=None if poster is None else embedded_poster(poster),
    )
    write_text(path, render_page(page))
    return path


def relative_url(video: Path, page: Path) -> str:
    """Return the relative, percent-encoded address of a file for a page."""
    # Browsers resolve `..` textually, so symbolic links are resolved only where the path itself holds one.
    target, home = (
        item.parent.resolve() / item.name if ".." in item.parts else item.absolute() for item in (video, page)
    )
    return quote(os.fsencode(os.path.relpath(target, home.parent)), safe="/")


def render_page(page: TimelinePage) -> str:
    """Render the page; only its own script may run, and only the video may be loaded."""
    style = base_style() + palette_style() + (_TEMPLATES / "timeline.css").read_text("utf-8")
    script = (_TEMPLATES / "timeline.js").read_text("utf-8")
    template = _environment().get_template("timeline.html.j2")
    return template.render(
        page=page, style=Markup(style), script=Markup(script), script_digest=script_digest(script)
    )


@cache
def _environment() -> "Environment":
    return page_environment(_TEMPLATES)


def embedded_poster(data: bytes) -> Poster:
    """Embed a JPEG as a data URI; raises `InputError` for other data."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
    except (OSError, ValueError) as error:
        raise InputError(f"the poster is not a JPEG ({error})") from error
    return Poster(f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}", width, height)


def poster_of(path: Path) -> bytes | None:
    """Return a frame from the first half of a video as JPEG, decoded in a worker process.

    Parameters
    ----------
    path : Path
        A media file.

    Returns
    -------
    bytes or None
        With a short side of at most 270 pixels; `None` if no frame can be read.
    """
    for _, found in run_in_workers(_best_frame, [ProbeRequest(path)], jobs=1, limits=Limits()):
        if isinstance(found, np.ndarray):
            return _jpeg(found)
    return None


def _best_frame(request: ProbeRequest) -> np.ndarray | None:
    path = request.path
    best: tuple[float, np.ndarray] | None = None
    for position in POSITIONS:
        frame = _frame_at(path, position)
        if frame is None:
            continue
        found = (float(frame.mean(axis=2).std()), frame)
        if best is None or found[0] > best[0]:
            best = found
        if best[0] >= FLAT:
            break
    return None if best is None else best[1]


def _frame_at(path: Path, position: float) -> np.ndarray | None:
    try:
        opened = open_media(path, allow_missing=True)
        opened.close()
        start_s = position * opened.duration_s
        end_s = min(start_s + WINDOW_S, opened.duration_s)
        decoded = read_clip(
            path, start_s=start_s, end_s=end_s, short_side_px=SHORT_SIDE_PX, allow_missing=True
        )
    except MediaError:
        return None
    return decoded.frames[0] if len(decoded.frames) else None


def _jpeg(frame: np.ndarray) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(frame))
    image.thumbnail((LONG_SIDE_LIMIT, LONG_SIDE_LIMIT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()
