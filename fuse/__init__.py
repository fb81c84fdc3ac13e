"""Stage two: fusion heads, design matrices behind the leak guard, ablations. Names resolve lazily."""

from importlib import import_module
from typing import Any

_HOMES = {"make_head": "fuse.heads"}
__all__ = ["make_head"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fuse' has no attribute {name!r}")
