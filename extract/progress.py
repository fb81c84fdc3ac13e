"""Progress bars on stderr: off without a terminal, where a line per finished step is logged instead."""

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """Yield `items` under a bar titled `what`."""
    if not total:
        return
    if sys.stderr is None or not sys.stderr.isatty():  # the first where it was closed before the start
        yield from items
        log.info("%s: %d done", what, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=what)
