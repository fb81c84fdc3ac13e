"""The records that cross between the stages, fold plans, and their published HDF5 format."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moodfuse.cache.records import Block, Clip, ClipStatus, Holdout, Plan
    from moodfuse.cache.store import FeatureCache

_HOMES = {
    "FeatureCache": "moodfuse.cache.store",
    **dict.fromkeys(("Block", "Clip", "ClipStatus", "Holdout", "Plan"), "moodfuse.cache.records"),
}
__all__ = ["Block", "Clip", "ClipStatus", "FeatureCache", "Holdout", "Plan"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
