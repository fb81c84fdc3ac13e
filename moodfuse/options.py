"""Options that several commands share."""

from collections.abc import Collection

import click

HEADS_TABLE = "moodfuse.heads"
"""Key of `click.Context.meta`: the table [heads] of the configuration file, settings by head."""
device_option = click.option(
    "--device", help="Device of the networks: auto, cpu or cuda.  [default: the one each was fine-tuned on]"
)

draws_option = click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Number of bootstrap resamples.",
)
bootstrap_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap."
)


def check_no_effect(ctx: click.Context, names: Collection[str], why: str) -> None:
    """Refuse options that were given, on the command line or in a file, although they would have no effect.

    `why` continues the sentence after the option's name, with the remedy.
    """
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name != "DEFAULT":
            raise click.UsageError(f"{max(parameter.opts, key=len)} {why}", ctx)
