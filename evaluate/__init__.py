"""Stage three: metrics, confidence intervals, significance tests and reports. No model is fitted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moodfuse.evaluate.scoring import Difference, Score, compare, score

__all__ = ["Difference", "Score", "compare", "score"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("moodfuse.evaluate.scoring"), name)
