"""Stage three: metrics, uncertainty, figures and the report of a run. Reads runs, never fits a model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moodfuse.evaluate.scoring import Score, score

__all__ = ["Score", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("moodfuse.evaluate.scoring"), name)
