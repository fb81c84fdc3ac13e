"""Names as people are shown them. A file may be called anything, line ends and stray bytes included."""


def printable(text: str) -> str:
    """Text with what cannot be printed (line ends, control and direction marks, lone surrogates) as escapes.

    Examples
    --------
    >>> printable("a\\nb"), printable("é")
    ('a\\\\nb', 'é')
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def printable_lines(text: str) -> str:
    """`printable` for text of several lines: its line ends stay.

    Examples
    --------
    >>> printable_lines("a\\x1b[2J\\nb")
    'a\\\\x1b[2J\\nb'
    """
    return "\n".join(map(printable, text.split("\n")))
