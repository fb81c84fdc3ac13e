"""The errors that a user may meet, under one root.

Every message names what was found, what was expected, which file or clip, and the next command or option. The
command line prints it without a traceback and ends with its exit code.
"""

from collections.abc import Iterable


class MoodfuseError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(MoodfuseError, ValueError):
    """The user's input or options cannot be used: a folder, a CSV, a label, a plan, a name."""

    exit_code = 2


class UnknownNameError(InputError, LookupError):
    """A name is not in a registry; the message lists the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known)) or 'none'}")


class CacheError(MoodfuseError, OSError):
    """The cache cannot be read or written as its format demands."""


class SchemaError(CacheError):
    """The cache was written by a newer version of the format."""

    exit_code = 2


class DamagedPartError(CacheError):
    """The content of a file in the cache does not match its name."""


class MissingBlockError(CacheError, KeyError):
    """The cache has no features for this source, holdout or clip."""

    exit_code = 2

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class WorkersError(MoodfuseError, RuntimeError):
    """Worker processes cannot be started here, or end before they could do anything."""


class LeakError(MoodfuseError, RuntimeError):
    """A block whose network saw a test clip was about to enter a design matrix."""
