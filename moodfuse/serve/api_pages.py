"""The OpenAPI document of a service, and its page for people."""

import json
from importlib.resources import files
from typing import Any

from markupsafe import Markup
from starlette.responses import HTMLResponse

from moodfuse._version import __version__
from moodfuse.evaluate.markup import render, report_style, script_digest
from moodfuse.model.answers import read_answer_schema
from moodfuse.serve.messages import STATUSES

_JSON = "application/json"
_REFERENCE = "#/components/schemas/"


def make_openapi(*, show_metrics: bool) -> dict[str, Any]:
    """Return the OpenAPI document: `openapi.json` with the schema of answers and the errors of requests."""
    document: dict[str, Any] = json.loads((files("moodfuse.serve") / "openapi.json").read_text("utf-8"))
    document["info"]["version"] = __version__
    answers = json.dumps(read_answer_schema()["$defs"]).replace("#/$defs/", _REFERENCE)
    document["components"]["schemas"] |= json.loads(answers)
    if not show_metrics:
        del document["paths"]["/metrics"]
    error = {_JSON: {"schema": {"$ref": f"{_REFERENCE}request_error"}}}
    for path in ("/predict", "/predict/batch"):
        responses = document["paths"][path]["post"]["responses"]
        for status in sorted(set(STATUSES.values()) - {404, 405}):  # of other addresses and methods
            codes = ", ".join(code for code, value in STATUSES.items() if value == status)
            responses[str(status)] = {"description": codes, "content": error}
    return document


def render_api_page(document: dict[str, Any]) -> HTMLResponse:
    """Render the OpenAPI document as a page without a script."""
    templates = files("moodfuse.serve") / "templates"
    style = report_style() + (templates / "serve.css").read_text("utf-8")
    schemas = document["components"]["schemas"]
    html = render(
        templates,
        "api.html.j2",
        document=document,
        objects=[name for name, schema in schemas.items() if "properties" in schema],
        style=Markup(style),
        resolve=lambda node: _resolve(document, node),
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{script_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"content-security-policy": policy})


def _resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what a node refers to, with the members of the node itself."""
    target: Any = document if "$ref" in node else {}
    for name in node.get("$ref", "#").split("/")[1:]:
        target = target[name]
    return {**target, **node}
