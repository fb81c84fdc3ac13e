"""Command lines as reports repeat them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click import Context


def command_line(context: "Context") -> str:
    """The command of a click context as one would type it: arguments, then every option that was given.

    Options that change no number (`--jobs`) and those left at their default are not repeated.
    """
    words, above = [context.info_name or ""], context.parent
    while above is not None and above.parent is not None:  # the group of a command such as `cache import`
        words.insert(0, above.info_name or "")
        above = above.parent
    words.insert(0, "moodfuse")
    options: list[str] = []
    for parameter in context.command.get_params(context):
        value = context.params.get(parameter.name or "")
        given = context.get_parameter_source(parameter.name or "")
        if value is None or given is None or given.name == "DEFAULT" or parameter.name == "jobs":
            continue
        if parameter.param_type_name == "argument":
            words.append(_text(value))
        else:
            options += _option(parameter, value)
    return shlex.join([*words, *options])


def _option(parameter: Any, value: Any) -> list[str]:
    name = max(parameter.opts, key=len)
    if isinstance(value, bool):
        return [name if value else next(iter(parameter.secondary_opts), name)]
    values = value if isinstance(value, tuple) else (value,)
    return [word for item in values for word in (name, _text(item))]


def _text(value: Any) -> str:
    return str(value) if isinstance(value, Path) else f"{value}"
