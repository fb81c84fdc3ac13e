"""What the commands of a model share: where its networks work, and that an option which a command would ignore is
refused, so that nobody takes a result for what it is not.
"""

from collections.abc import Collection

import click

device_option = click.option("--device", help="auto, cpu or cuda.  [default: where each network was made]")
"""Where the networks of a model work."""


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
