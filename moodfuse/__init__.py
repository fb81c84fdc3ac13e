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
    from moodfuse.model.answers import to_dataframe
    from moodfuse.model.model import Model
    from moodfuse.model.predictions import LabelRequest, Prediction, Refusal, Timeline

__all__ = [
    "FeatureCache",
    "LabelRequest",
    "Model",
    "Prediction",
    "Refusal",
    "Run",
    "Timeline",
    "__version__",
    "compare",
    "read_run",
    "score",
    "to_dataframe",
]
_MODULES = {
    "FeatureCache": "moodfuse.cache.store",
    "LabelRequest": "moodfuse.model.predictions",
    "Model": "moodfuse.model.model",
    "Prediction": "moodfuse.model.predictions",
    "Refusal": "moodfuse.model.predictions",
    "Run": "moodfuse.cache.runs",
    "Timeline": "moodfuse.model.predictions",
    "compare": "moodfuse.evaluate.difference",
    "read_run": "moodfuse.cache.runs",
    "score": "moodfuse.evaluate.scoring",
    "to_dataframe": "moodfuse.model.answers",
}

if not TYPE_CHECKING:  # type checkers report unknown names

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
