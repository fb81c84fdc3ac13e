"""moodfuse: classify the emotion of music videos by late fusion.

The names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moodfuse._version import __version__

if TYPE_CHECKING:
    from moodfuse.cache.runs import Run, read_run
    from moodfuse.cache.store import FeatureCache
    from moodfuse.evaluate.difference import compare
    from moodfuse.evaluate.scoring import score
    from moodfuse.model.model import Model
    from moodfuse.model.predictions import Prediction, Refusal

__all__ = [
    "FeatureCache",
    "Model",
    "Prediction",
    "Refusal",
    "Run",
    "__version__",
    "compare",
    "read_run",
    "score",
]
_MODULES = {
    "FeatureCache": "moodfuse.cache.store",
    "Model": "moodfuse.model.model",
    "Prediction": "moodfuse.model.predictions",
    "Refusal": "moodfuse.model.predictions",
    "Run": "moodfuse.cache.runs",
    "compare": "moodfuse.evaluate.difference",
    "read_run": "moodfuse.cache.runs",
    "score": "moodfuse.evaluate.scoring",
}

if not TYPE_CHECKING:  # type checkers report unknown names

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
