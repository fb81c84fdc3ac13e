"""The page of a service: one HTML file that loads nothing else and runs only its own script."""

from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from moodfuse.evaluate.markup import report_style, script_data, script_digest
from moodfuse.serve.messages import DEFAULT_HOP_S, MIB, MIN_HOP_S, Limits

_TEMPLATES = files("moodfuse.serve") / "templates"


@dataclass(frozen=True)
class ServedPage:
    """The page and its content security policy."""

    html: str
    policy: str


def render_page(name: str, classes: tuple[str, ...], *, limits: Limits) -> ServedPage:
    """Render the page for a model with the style sheet of the report."""
    from jinja2 import Environment, StrictUndefined

    style = report_style() + (_TEMPLATES / "serve.css").read_text("utf-8")
    script = (_TEMPLATES / "timeline.js").read_text("utf-8") + (_TEMPLATES / "serve.js").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    data = {
        "classes": list(classes),
        "uploadBytes": limits.upload_bytes,
        "timelineSeconds": limits.timeline_s,
        "timelineWindows": limits.timeline_windows,
    }
    html = environment.from_string((_TEMPLATES / "serve.html.j2").read_text("utf-8")).render(
        model=name,
        classes=classes,
        hop_s=DEFAULT_HOP_S,
        least_hop_s=MIN_HOP_S,
        upload_mb=limits.upload_bytes / MIB,
        timeline_minutes=limits.timeline_s / 60,
        style=Markup(style),
        script=Markup(script),
        data=script_data(data),
    )
    return ServedPage(html, _policy(style, script))


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; connect-src 'self'; "
        "img-src data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{script_digest(text)}'"
