"""Stage one: from clips to embeddings. Names are imported when they are used, and torch with them."""

from importlib import import_module
from typing import Any

from moodfuse.extract.runtime import limit_spinning

_MODULES = {
    "scan": "moodfuse.extract.dataset.scan",
    "read_clip": "moodfuse.extract.media.decode",
    "create_network": "moodfuse.extract.networks",
    "extract_features": "moodfuse.extract.pipeline",
}
limit_spinning()
__all__ = ["create_network", "extract_features", "read_clip", "scan"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
