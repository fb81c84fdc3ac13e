"""Text for people: numbers in words, escaping for Markdown and LaTeX, and HTML pages from Jinja templates.

All text of a page is escaped, unprintable characters are shown as escape sequences, and only the page's own
script may run. The report, the time line and the HTTP service share this module and the style sheet
`base.css`.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from moodfuse.cache.console import printable
from moodfuse.evaluate.intervals import UNKNOWN, Interval

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = files("moodfuse.evaluate") / "report" / "templates"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
_MARKDOWN = re.compile(
    r"([\\`*_|<>~&$]|(?<=\])\(|:(?=//)|(?<=www)\.|^[#+=-](?=[\s#+=-]|$)|(?<=^\d)[.)](?=\s|$))"
)


def counted(count: int, noun: str) -> str:
    """``"1 clip"``, ``"2 clips"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def percent(value: float, digits: int = 0) -> str:
    """A proportion as ``"54 %"``."""
    return UNKNOWN if math.isnan(value) else f"{100 * value:.{digits}f} %"


def number(value: float, digits: int = 2) -> str:
    """A number with fixed decimals; a dash for NaN."""
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def points(value: float) -> str:
    """A difference of proportions as signed percentage points."""
    return UNKNOWN if math.isnan(value) else f"{100 * value:+.1f}"


def gain_text(value: float, interval: Interval) -> str:
    """A difference of proportions in points, with its interval."""
    return UNKNOWN if math.isnan(value) else f"{points(value)} {interval.shown('+.1f', scale=100)}"


def markdown_text(text: str) -> str:
    """Escape text for Markdown: no markup, no HTML, no link, no mention."""
    return _MARKDOWN.sub(r"\\\1", _printable(text)).replace("@", "&#64;")


def latex_text(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(char, char) for char in _printable(text))


def script_data(values: object) -> Markup:
    """Values as JSON that may stand inside a script element."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def script_digest(script: str) -> str:
    """Digest of a page's own script for its content security policy, after ``sha256-``."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def base_style() -> str:
    """The style sheet that all pages share."""
    return (_TEMPLATES / "base.css").read_text("utf-8")


def report_style() -> str:
    """The style sheet of the report: `base_style` and its own rules."""
    return base_style() + (_TEMPLATES / "report.css").read_text("utf-8")


def page_assets(style: str, script: str) -> dict[str, str]:
    """Values of a page's template: its style sheet, its script, and the script's digest for the policy."""
    return {"style": Markup(style), "script": Markup(script), "script_digest": script_digest(script)}


def _printable(text: str) -> str:
    return text if text.isprintable() else printable(text)


def _unbroken(text: str) -> Markup:
    """HTML with no line break between a number and its unit, within a range, a p-value or an option."""
    html = re.sub(r"(?<=\d) (?=%|s\b)", "\u00a0", str(escape(_printable(text))))
    html = re.sub(r"\bp (=|&lt;) (?=\d)", "p\u00a0\\1\u00a0", html)
    return Markup(re.sub(r"\d+-\d+\u00a0%|--[a-z][a-z-]+", r'<span class="value">\g<0></span>', html))


def page_environment(
    templates: Traversable, escape_text: Callable[[str], str] | None = None
) -> "Environment":
    """The Jinja environment of a folder of templates; undefined names are errors.

    Every text that an expression gives is escaped by `escape_text`, without it for HTML.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    def finalize(value: object) -> object:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return (escape_text or _printable)(value)

    sources = {
        file.name: file.read_text("utf-8") for file in templates.iterdir() if file.name.endswith(".j2")
    }
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=escape_text is None,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "number": number,
        "points": points,
        "gain": gain_text,
        "counted": counted,
        "script_data": script_data,
        "verbatim": lambda text: Markup(_printable(text)),
        "unbroken": _unbroken,
        "isnan": math.isnan,
    }
    return environment


def render(templates: Traversable, name: str, **values: object) -> str:
    """Fill a template; text is escaped by its suffix: ``*.md.j2``, ``*.tex.j2``, else for HTML."""
    escapes = {".md": markdown_text, ".tex": latex_text}
    environment = page_environment(templates, escapes.get(Path(name).with_suffix("").suffix))
    return environment.get_template(name).render(**values)
