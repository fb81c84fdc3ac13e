"""The options of how files are read, which `check`, `extract` and `predict` share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from extract.media.limits import ReadingRules

Command = TypeVar("Command", bound=Callable[..., Any])
NAMES = ("deadline_s", "memory_mb", "allow_partial", "max_failures")


def reading_options(command: Command) -> Command:
    """Add them to a command; they reach it as the keywords `NAMES`."""
    options = (
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
        click.option(
            "--allow-partial", is_flag=True, help="Take files of which less than 95 % can be decoded, and mark them."
        ),
        click.option(
            "--max-failures",
            type=click.IntRange(min=1),
            metavar="N",
            help="Stop once so many files were refused.  [default: never]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def reading_rules(options: Mapping[str, Any]) -> "ReadingRules":
    """The record of what a command line asks for."""
    from extract.media.limits import Limits, ReadingRules

    limits = Limits(deadline_s=options["deadline_s"], memory_mb=options["memory_mb"])
    return ReadingRules(limits, options["allow_partial"], options["max_failures"])
