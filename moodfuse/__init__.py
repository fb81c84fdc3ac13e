"""moodfuse: the emotion of music videos by late fusion."""

from moodfuse._version import __version__

__all__ = ["__version__"]
