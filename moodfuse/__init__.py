"""moodfuse: the emotion of music videos by late fusion. `Model` resolves lazily."""

from typing import TYPE_CHECKING, Any

from moodfuse._version import __version__

if TYPE_CHECKING:
    from moodfuse.model.model import Model

__all__ = ["Model", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Model":
        from moodfuse.model.model import Model

        return Model
    raise AttributeError(f"module 'moodfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
