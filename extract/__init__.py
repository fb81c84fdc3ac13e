"""Stage one: clips in, decision-level embeddings out. Names resolve lazily: importing the room loads no torch."""

from importlib import import_module
from typing import Any

from extract.runtime import settle

_HOMES = {
    "scan": "extract.dataset",
    "read_clip": "extract.media.decode",
    "create_network": "extract.networks",
    "extract_features": "extract.stage",
}
settle()
__all__ = ["create_network", "extract_features", "read_clip", "scan"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'extract' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
