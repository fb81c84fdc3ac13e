"""`MODEL.md`, the summary of a model for people."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from moodfuse.cache.console import printable
from moodfuse.evaluate.markup import markdown_text
from moodfuse.model.folder import ModelCard


def summarize(card: ModelCard) -> str:
    """Return `MODEL.md`, the summary of a model, in which Markdown shows names and commands as they are."""
    environment = Environment(loader=PackageLoader("moodfuse.model", ""), undefined=StrictUndefined)
    environment.filters |= {
        "markdown": markdown_text,
        "with_code": _markdown_with_code,
        "number": _format_number,
        "interval": lambda ends: "–" if set(ends) == {None} else f"[{', '.join(map(_format_number, ends))}]",
    }
    return environment.get_template("MODEL.md.j2").render(card=card, expected=card.expected)


def _markdown_with_code(text: str) -> str:
    """Escape text for Markdown; what stands between two backticks is code."""
    parts = printable(text).split("`")
    return "".join(f"`{part}`" if index % 2 else markdown_text(part) for index, part in enumerate(parts))


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
