"""Stage two: design matrices behind a leak guard, fusion heads, ablations. Names resolve lazily."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moodfuse.fuse.heads import make_head

__all__ = ["make_head"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("moodfuse.fuse.heads"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
