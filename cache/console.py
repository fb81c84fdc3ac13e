"""Names as people are shown them. A file may be called anything, line ends and stray bytes included."""

import unicodedata
from collections.abc import Iterable
from itertools import islice

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


def comparison_key(text: str) -> str:
    """The same text for names that look alike: without case, Unicode form, invisible characters and extra spaces.

    Examples
    --------
    >>> comparison_key("Happy\\u200b ") == comparison_key("happy")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = (
        char
        for char in folded
        if char.isspace()
        or (unicodedata.category(char) not in ("Cc", "Cf") and char not in _VARIATION_SELECTORS)
    )
    return " ".join("".join(visible).split())


def printable_lines(text: str) -> str:
    """`printable` for text of several lines: its line ends stay.

    Examples
    --------
    >>> printable_lines("a\\x1b[2J\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return "\n".join(map(printable, text.split("\n")))


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
