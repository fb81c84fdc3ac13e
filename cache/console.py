"""Names and command lines as messages and reports print them."""

import shlex
import unicodedata
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click import Context

_VARIATION_SELECTORS = "".join(map(chr, range(0xFE00, 0xFE10)))


def printable(text: str) -> str:
    """Text with what cannot be printed (line ends, control and direction marks, lone surrogates) as escapes.

    Examples
    --------
    >>> printable("a\\nb"), printable("é")
    ('a\\\\nb', 'é')
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def printable_lines(text: str) -> str:
    """`printable` for text of several lines: its line ends stay.

    Examples
    --------
    >>> printable_lines("a\\x1b[2J\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return "\n".join(map(printable, text.split("\n")))


def comparison_key(text: str) -> str:
    """Text without case, Unicode form, invisible characters and extra spaces: the same for similar names.

    Examples
    --------
    >>> comparison_key("Happy\\u200b ") == comparison_key("happy")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(char for char in folded if char.isspace() or _is_visible(char)).split())


def _is_visible(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf") and char not in _VARIATION_SELECTORS


def command_line(context: "Context") -> str:
    """The command of a click context as one would type it: arguments, then every option that was given.

    Options that change no number (`--jobs`) and those left at their default are not repeated.
    """
    words, parent = [context.info_name or ""], context.parent
    while parent is not None and parent.parent is not None:  # the group of a command such as `cache import`
        words.insert(0, parent.info_name or "")
        parent = parent.parent
    options: list[str] = []
    for parameter in context.command.get_params(context):
        value = context.params.get(parameter.name or "")
        given = context.get_parameter_source(parameter.name or "")
        if value is None or given is None or given.name == "DEFAULT" or parameter.name == "jobs":
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        else:
            options += _option(parameter, value)
    return shlex.join(["moodfuse", *words, *options])


def _option(parameter: Any, value: Any) -> list[str]:
    name = max(parameter.opts, key=len)
    if isinstance(value, bool):
        return [name if value else next(iter(parameter.secondary_opts), name)]
    values = value if isinstance(value, tuple) else (value,)
    return [word for value in values for word in (name, str(value))]


def short_repr(text: str, *, limit: int = 60) -> str:
    """An id or name as messages show it: quoted, on one line, cut after 60 characters."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def first_few(names: Iterable[str], *, count: int = 3) -> str:
    """The first names, and dots where there are more.

    Examples
    --------
    >>> first_few(["a", "b", "c", "d"])
    "'a', 'b', 'c', ..."
    """
    few = [short_repr(name) for name in islice(names, count + 1)]
    return ", ".join(few[:count]) + (", ..." if len(few) > count else "")
