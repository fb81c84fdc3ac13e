"""Stage three: metrics, confidence intervals, significance tests and reports. No model is fitted."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moodfuse.evaluate.difference import Difference, compare
    from moodfuse.evaluate.scoring import Score, score

__all__ = ["Difference", "Score", "compare", "score"]
_MODULES = {"Difference": "difference", "Score": "scoring", "compare": "difference", "score": "scoring"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"moodfuse.evaluate.{_MODULES[name]}"), name)
