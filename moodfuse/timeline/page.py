"""The page of a time line: the video beside it, the emotion curves under it, the numbers in a table.

One HTML file that asks for nothing but the video, by its address relative to the page. It reads without the video and
without JavaScript, which add the playhead, seeking, and the numbers of a moment.
"""

import base64
import io
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from moodfuse.cache.errors import InputError
from moodfuse.cache.files import write_text
from moodfuse.evaluate.report.rendering import base_style, page_environment, script_digest
from moodfuse.model.predictions import Timeline
from moodfuse.timeline.palette import palette_style
from moodfuse.timeline.views import Poster, TimelinePage, page_of

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = files("moodfuse.timeline") / "templates"


def write_timeline_page(
    timeline: Timeline, path: Path, *, video: Path, threshold: float, model: str, poster: bytes | None
) -> Path:
    """Write the page of a time line, whole or not at all; returns its path.

    Parameters
    ----------
    timeline : Timeline
    path : Path
        The page; its folder is made where it is missing.
    video : Path
        Stays where it is; the page refers to it by its address relative to the page.
    threshold : float
        A moment is uncertain where no label has this probability.
    model : str
        The model's name, as the page says it.
    poster : bytes or None
        A JPEG to show where the video does not play, as `moodfuse.timeline.poster.poster_of` gives it.

    Raises
    ------
    InputError
        If the page would be written over the video, or the poster is no JPEG.
    CacheError
        If the disk refuses.
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
        poster=None if poster is None else picture_of(poster),
    )
    write_text(path, render_page(page))
    return path


def relative_url(video: Path, page: Path) -> str:
    """The address of a file as a page refers to it: relative, percent-encoded byte by byte.

    A browser takes `..` away from the text of an address, so links are followed only where a path itself holds one.
    """
    target, home = (
        item.parent.resolve() / item.name if ".." in item.parts else item.absolute() for item in (video, page)
    )
    return quote(os.fsencode(os.path.relpath(target, home.parent)), safe="/")


def render_page(page: TimelinePage) -> str:
    """The page as HTML; only its own script may run, and only the video may be loaded."""
    style = base_style() + palette_style() + (_TEMPLATES / "timeline.css").read_text("utf-8")
    script = (_TEMPLATES / "timeline.js").read_text("utf-8")
    template = _environment().get_template("timeline.html.j2")
    return template.render(
        page=page, style=Markup(style), script=Markup(script), script_digest=script_digest(script)
    )


@cache
def _environment() -> "Environment":
    return page_environment(_TEMPLATES)


def picture_of(data: bytes) -> Poster:
    """A JPEG as the page holds it.

    Raises
    ------
    InputError
        If it is none.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            width, height = picture.size
    except (OSError, ValueError) as error:
        raise InputError(f"the poster is no JPEG ({error})") from error
    return Poster(f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}", width, height)
