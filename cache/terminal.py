"""What commands show on a terminal: tables that fit it, progress bars, and lines for the user.

Without a terminal tables are printed in full, and a line about every 30 s replaces a bar. Under ``--quiet``
bars and lines for the user are left out.
"""

import logging
import re
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeVar

import click

from moodfuse.cache.console import printable, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)
lines_log = logging.getLogger("moodfuse.lines")
"""Receives the lines of `report`, for the log file of a run; they are on standard error already."""
T = TypeVar("T")
_GAP = 2
_RATE_PERIOD_S = 600.0
LINE_PERIOD_S = 30.0
"""Time between two lines of progress where there is no terminal."""
_QUOTED = re.compile(r"(?<!\S)'[^']*'(?!\S)")
_quiet = False

wide_option = click.option(
    "--wide", is_flag=True, help="Print every column in full, also where the terminal is too narrow."
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print.",
)


class LogFormatter(logging.Formatter):
    """Escape control characters of file names and labels, which a terminal would interpret."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        return printable_lines(super().format(record))


def set_quiet(quiet: bool) -> None:
    """Show, or leave out, progress bars and the lines of `report`."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress bars and the lines of `report` are left out."""
    return _quiet


def report(line: str) -> None:
    """Print a line for the user on standard error, except under ``--quiet``, and add it to the log file."""
    if not _quiet:
        click.echo(wrap_text(printable(line), terminal_width(sys.stderr)), err=True)
    lines_log.info("%s", line)


def terminal_width(stream: TextIO | None) -> int | None:
    """Columns of the terminal that a stream is; `None` if it is a file or a pipe, or closed."""
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None


def print_lines(lines: Iterable[str], *, wrap: bool = False) -> None:
    """Print lines; with `wrap` each is broken at spaces to fit the terminal, which commands should not be."""
    width = terminal_width(sys.stdout) if wrap else None
    for line in map(printable, lines):
        click.echo(wrap_text(line, width))


def wrap_text(line: str, width: int | None) -> str:
    """A line broken into lines of `width` characters, all but the first with a deeper indent.

    Longer words, such as paths, stay whole.
    """
    if width is None or len(line) <= width:
        return line
    text = line.lstrip()
    indent = " " * (len(line) - len(text))
    first, *others = fold(text, width - len(indent) - 2, cut=False)
    return "\n".join([indent + first, *(f"{indent}  {other}" for other in others)])


# Tables


class Column(NamedTuple):
    """A column of a table: text, which may be folded, or numbers.

    In a narrow terminal text is folded to `narrow` characters at least. If that is not enough, the columns of
    the highest `drop` are left out first; those of 0 stay.
    """

    name: str
    number: bool = False
    drop: int = 0
    narrow: int = 24


def print_table(
    columns: Sequence[Column],
    sections: Iterable[Iterable[Sequence[object]]],
    *,
    title: str = "",
    wide: bool = False,
) -> None:
    """Print the rows of all sections as one table, if there are any.

    Parameters
    ----------
    columns : sequence of Column
    sections : iterable of iterables of rows
        Rows have a cell for each column; a blank line stands between two sections.
    title : str
    wide : bool
        Print every column in full, as is done without a terminal.
    """
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    cells = [[[printable(str(cell)) for cell in row] for row in section] for section in sections]
    rows = [row for section in cells for row in section]
    if not rows:
        return
    available = None if wide else terminal_width(sys.stdout)
    widths = fit_columns(columns, rows, available)
    table = Table(title=title or None, title_justify="left", box=SIMPLE, show_edge=False, pad_edge=False)
    table.padding = (0, _GAP - 1, 0, 0)  # and a space as the line between two columns
    for index, width in widths.items():
        column = columns[index]
        justify: Any = "right" if column.number else "left"
        table.add_column(column.name, justify=justify, width=width)
    for section in cells:
        for row in section:
            table.add_row(*("\n".join(fold(row[index], width)) for index, width in widths.items()))
        table.add_section()
    total = max(sum(widths.values()) + _GAP * len(widths), len(title))
    click.echo()
    Console(width=available or total, highlight=False, markup=False, emoji=False).print(table)
    click.echo()
    left_out = [columns[index].name for index in fit_columns(columns, rows, None) if index not in widths]
    if left_out:
        print_lines([f"columns left out: {', '.join(left_out)}; --wide prints them"], wrap=True)


def fold(text: str, width: int, *, cut: bool = True) -> list[str]:
    """Lines of at most `width` characters, broken at spaces and within ``c3d+i3d``; longer words are `cut`.

    A word in quotes, such as a pattern to copy, is not broken at its spaces.
    """
    from rich.cells import cell_len, chop_cells

    text = _QUOTED.sub(lambda match: match[0].translate({ord(" "): "\0", ord("+"): "\1"}), text)
    lines = [""]
    for word in re.split(r"(?<= )|(?<=\w\+)(?=\w)", text):
        for piece in chop_cells(word, width) if cut and cell_len(word.rstrip()) > width else [word]:
            if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return [line.rstrip().translate({0: " ", 1: "+"}) for line in lines]


def fit_columns(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], available: int | None
) -> dict[int, int]:
    """Index to width, in characters, of the columns that are not empty and fit into `available` characters.

    Headers and columns of text become narrower before a column is left out; numbers are never broken.
    """
    from rich.cells import cell_len

    natural, minimum = [], []
    for index, column in enumerate(columns):
        longest = max(cell_len(row[index]) for row in rows)
        words = max(map(cell_len, column.name.split()), default=0)
        natural.append(max(longest, cell_len(column.name)))
        minimum.append(max(longest if column.number else min(longest, column.narrow), words))
    kept = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    if available is None:
        return {index: natural[index] for index in kept}

    def excess(widths: list[int]) -> int:
        return sum(widths[index] + _GAP for index in kept) - _GAP - available

    while excess(minimum) > 0 and (droppable := [index for index in kept if columns[index].drop]):
        kept.remove(max(droppable, key=lambda index: columns[index].drop))
    for narrowest in (minimum, [8] * len(columns)):  # below the minimum only where nothing else helps
        while excess(natural) > 0 and (wider := [i for i in kept if natural[i] > narrowest[i]]):
            natural[max(wider, key=natural.__getitem__)] -= 1
    return {index: natural[index] for index in kept}


# Progress


class ProgressBar:
    """A progress bar on standard error with count, rate and remaining time, within a ``with`` statement.

    Without a terminal a line reports these about every 30 s. Under ``--quiet`` and without a title
    nothing is shown. Without a `total` it shows that work goes on. If `transient`, it is removed at the end.
    """

    def __init__(self, what: str, *, total: float | None = None, transient: bool = False) -> None:
        is_hidden = _quiet or not what or terminal_width(sys.stderr) is None
        self._bar = _make_bar(transient, is_hidden=is_hidden)
        self._bar.add_task(printable(what), total=total, note="")
        self._next_line_s = time.monotonic() + LINE_PERIOD_S

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._bar.disable:  # rich before version 14 prints an empty line for a hidden bar
            self._bar.stop()

    def advance(self, count: float = 1) -> None:
        """Add to what is done."""
        self._bar.advance(self._bar.task_ids[0], count)
        self._report_progress()

    def describe(self, what: str | None = None, *, note: str | None = None) -> None:
        """Change the title, or the note next to it."""
        changes = {"description": what, "note": note}
        given = {name: printable(text) for name, text in changes.items() if text is not None}
        self._bar.update(self._bar.task_ids[0], **given)  # type: ignore[arg-type]
        self._report_progress()

    def _report_progress(self) -> None:
        """Report a line if there is no terminal and the last one was 30 s ago."""
        (task,) = self._bar.tasks
        if not self._bar.disable or not task.description or not task.total or task.finished:
            return
        if time.monotonic() < self._next_line_s:
            return
        self._next_line_s = time.monotonic() + LINE_PERIOD_S
        facts = [f"{task.completed:.0f} of {task.total:.0f}", task.fields["note"], format_rate(task.speed)]
        if task.time_remaining is not None:
            facts.append(f"{timedelta(seconds=task.time_remaining)} remaining")
        report(f"{task.description}: {', '.join(filter(None, facts))}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the bar meanwhile, to write to the terminal; the bar must be transient."""
        self.__exit__()
        yield
        self.__enter__()


def format_rate(speed: float | None) -> str:
    """A rate in steps per second, or the seconds of a step; empty if it is not known."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def track(items: Iterable[T], *, total: int, what: str, transient: bool = False) -> Generator[T, None, None]:
    """Yield `items` under a progress bar titled `what`, and log a line at the end.

    Without a title nothing is shown.
    """
    if not what or not total:
        yield from items
        return
    with ProgressBar(what, total=total, transient=transient) as bar:
        for item in items:
            yield item
            bar.advance()
    log.info("%s: %d done", what, total)


def _make_bar(transient: bool, *, is_hidden: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column as RichColumn
    from rich.text import Text

    class CountColumn(MofNCompleteColumn):
        def render(self, task: Task) -> Text:
            return Text("") if task.total is None else super().render(task)

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.total is None else format_rate(task.finished_speed or task.speed))

    return Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=RichColumn(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        TextColumn("{task.fields[note]}", markup=False, table_column=RichColumn(no_wrap=True)),
        BarColumn(bar_width=16),
        CountColumn(table_column=RichColumn(no_wrap=True)),
        RateColumn(table_column=RichColumn(no_wrap=True)),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=RichColumn(no_wrap=True)),
        console=Console(stderr=True),
        expand=True,
        redirect_stdout=False,  # or results would be written to standard error
        speed_estimate_period=_RATE_PERIOD_S,
        transient=transient,
        disable=is_hidden,
    )
