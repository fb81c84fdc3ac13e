"""Progress bars on stderr; without a terminal, a log line per finished step."""

import logging
import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Iterable[T], *, total: int, what: str) -> Generator[T, None, None]:
    """Yield `items` under a progress bar titled `what`."""
    if not total:
        return
    if sys.stderr is None or not sys.stderr.isatty():  # it is None if it was closed before the start
        yield from items
        log.info("%s: %d done", what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=what)
