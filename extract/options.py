"""The options of how files are read, which `check`, `extract` and `predict` share; `serve` has those of the limits."""

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
        help="What decoding a file may take, beside 2 s for each second that is read of it.",
    ),
    click.option(
        "--memory",
        "memory_mb",
        type=int,
        default=2048,
        show_default=True,
        metavar="MB",
        help="What decoding a file may take of memory.",
    ),
)
_RULES = (
    click.option(
        "--allow-partial",
        is_flag=True,
        help="Take files of which less than 95 % can be decoded, and mark them.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=1),
        metavar="N",
        help="Stop once so many files were refused.  [default: never]",
    ),
)


def limit_options(command: Command) -> Command:
    """Add what decoding may cost to a command; `decoding_limits` makes the record."""
    return _with(command, _LIMITS)


def reading_options(command: Command) -> Command:
    """Add what decoding may cost, and what is taken, to a command; `reading_rules` makes the record."""
    return _with(command, (*_LIMITS, *_RULES))


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def decoding_limits(options: Mapping[str, Any]) -> "Limits":
    """The record of what a command line allows."""
    from moodfuse.extract.media.limits import Limits

    return Limits(deadline_s=options["deadline_s"], memory_mb=options["memory_mb"])


def reading_rules(options: Mapping[str, Any]) -> "ReadingRules":
    """The record of what a command line asks for."""
    from moodfuse.extract.media.limits import ReadingRules

    return ReadingRules(decoding_limits(options), options["allow_partial"], options["max_failures"])
