"""Command line options for reading files, shared by `check`, `extract`, `predict` and `serve`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from moodfuse.extract.media.limits import Limits, ReadingRules

Command = TypeVar("Command", bound=Callable[..., Any])
_LIMITS = (
    click.option(
        "--deadline",
        "deadline_s",
        type=float,
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="Time limit for decoding a file, in addition to 2 s for each second that is read of it.",
    ),
    click.option(
        "--memory",
        "memory_mb",
        type=int,
        default=2048,
        show_default=True,
        metavar="MB",
        help="Memory limit for decoding a file.",
    ),
)
_RULES = (
    click.option(
        "--allow-partial",
        is_flag=True,
        help="Accept files of which less than 95 % can be decoded, and mark them.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=1),
        metavar="N",
        help="Stop when this many files were refused.  [default: never]",
    ),
)


def add_options(options: Sequence[Any]) -> Callable[[Command], Command]:
    """A decorator that adds options to a command, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


limit_options = add_options(_LIMITS)
reading_options = add_options((*_LIMITS, *_RULES))


def decoding_limits(options: Mapping[str, Any]) -> "Limits":
    """The record of `limit_options`."""
    from moodfuse.extract.media.limits import Limits

    return Limits(deadline_s=options["deadline_s"], memory_mb=options["memory_mb"])


def reading_rules(options: Mapping[str, Any]) -> "ReadingRules":
    """The record of `reading_options`."""
    from moodfuse.extract.media.limits import ReadingRules

    return ReadingRules(decoding_limits(options), options["allow_partial"], options["max_failures"])
