"""What the commands of a model share: where its networks work, and that an option which a command would ignore is
refused, so that nobody takes a result for what it is not.
"""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def device_parameter() -> click.Option:
    """`--device` of a command that loads a model."""
    kinds = click.Choice(["auto", "cpu", "cuda"])
    return click.Option(["--device"], type=kinds, help="Where the networks work.  [default: where each was made]")


def device_option(command: F) -> F:
    """Add `device_parameter` to a command."""
    parameter = device_parameter()
    return click.option("--device", type=parameter.type, help=parameter.help)(command)


def refuse_given(ctx: click.Context, names: Collection[str], why: str) -> None:
    """Refuse options that were given, on the command line or in a file, where they would change nothing.

    Parameters
    ----------
    ctx : click.Context
    names : collection of str
        Parameters of the command.
    why : str
        Goes on after the option's name, and says what to do.

    Raises
    ------
    click.UsageError
        Naming the first of them that was given.
    """
    for parameter in ctx.command.params:
        if parameter.name in names and _is_given(ctx, parameter.name):
            raise click.UsageError(f"{max(parameter.opts, key=len)} {why}", ctx)


def _is_given(ctx: click.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
