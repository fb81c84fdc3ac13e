"""The page as one HTML file that asks for nothing from outside: the templates, and how text gets into them.

All text is escaped; what cannot be printed is shown as an escape sequence. Only the page's own script may run.
Other pages take `page_environment`, `base_style` and `script_digest` from here, and so look and escape as this one.
"""

import base64
import hashlib
import json
import math
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from moodfuse.cache.console import printable
from moodfuse.cache.files import write_text
from moodfuse.evaluate.records import UNKNOWN
from moodfuse.evaluate.report.page import Page
from moodfuse.evaluate.report.sentences import counted, design_of, percent

if TYPE_CHECKING:
    from jinja2 import Environment

FILE_NAME = "report.html"
_TEMPLATES = files("moodfuse.evaluate.report") / "templates"


def script_data(values: object) -> Markup:
    """Values as JSON that may stand inside a script element."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _number(value: float, digits: int = 2) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def _points_gained(share: float) -> str:
    return UNKNOWN if math.isnan(share) else f"{100 * share:+.1f}"


def _unbroken(text: str) -> Markup:
    """A sentence whose numbers stay beside their percent signs and seconds."""
    return Markup(re.sub(r"(?<=\d) (?=%|s\b)", "\u00a0", str(escape(printable(text)))))


def _finalize(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page_environment(templates: Traversable) -> "Environment":
    """The templates of a folder, with the filters of every page; text is escaped, and undefined names are errors."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    sources = {
        item.name: item.read_text("utf-8") for item in templates.iterdir() if item.name.endswith(".j2")
    }
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": _number,
        "gain": _points_gained,
        "counted": counted,
        "design": design_of,
        "script_data": script_data,
        "unbroken": _unbroken,
        "isnan": math.isnan,
    }
    return environment


@cache
def _environment() -> "Environment":
    return page_environment(_TEMPLATES)


def base_style() -> str:
    """The style sheet of every page, before its own."""
    return (_TEMPLATES / "base.css").read_text("utf-8")


def script_digest(script: str) -> str:
    """What a content security policy calls a page's own script, after ``sha256-``."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def render_page(page: Page) -> str:
    """The page as HTML; only its own script may run, and nothing may be loaded."""
    style = base_style() + (_TEMPLATES / "report.css").read_text("utf-8")
    script = (_TEMPLATES / "report.js").read_text("utf-8")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            evaluation=page.evaluation,
            run=page.evaluation.run,
            marker=page.evaluation.marker,
            style=Markup(style),
            script=Markup(script),
            script_digest=script_digest(script),
        )
    )


def write_page(page: Page, folder: Path) -> Path:
    """Write the page as `report.html`, whole or not at all; returns its path."""
    path = folder / FILE_NAME
    write_text(path, render_page(page))
    return path
