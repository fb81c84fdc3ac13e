"""Stage one: clips in, decision-level embeddings out. Names resolve lazily: importing the room loads no torch."""

from importlib import import_module
from typing import Any

from moodfuse.extract.runtime import settle

_HOMES = {
    "scan": "moodfuse.extract.dataset.scan",
    "read_clip": "moodfuse.extract.media.decode",
    "create_network": "moodfuse.extract.networks",
    "extract_features": "moodfuse.extract.pipeline",
}
settle()
__all__ = ["create_network", "extract_features", "read_clip", "scan"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
