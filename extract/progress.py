"""The progress of a batch of clips: bars on stderr, and counts of refused clips with their reasons."""

import logging
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.records import ClipStatus
from moodfuse.extract.media.limits import ReadingRules

log = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Iterable[T], *, total: int, what: str) -> Generator[T, None, None]:
    """Yield `items` under a progress bar titled `what`; without a terminal, log a line at the end.

    Without a title nothing is shown.
    """
    if not what or not total or sys.stderr is None or not sys.stderr.isatty():
        yield from items
        if what and total:
            log.info("%s: %d done", what, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=what)


def counted(reasons: Sequence[str]) -> str:
    """Counts by reason, the most frequent first: ``3 refused: 2 truncated, 1 not_media``."""
    counts = Counter(reasons).most_common()
    return f"{len(reasons)} refused: " + ", ".join(f"{count} {reason}" for reason, count in counts)


def describe_statuses(statuses: Sequence[ClipStatus]) -> list[str]:
    """The refused clips, counts by reason, what to do about missing streams; warnings about other clips."""
    refused = [status for status in statuses if not status.ok]
    lines = [f"refused {status.clip.id}: {status.reason}: {status.detail}" for status in refused]
    if refused:
        lines.append(counted([status.reason for status in refused]))
    if incomplete := sum(status.reason in ("no_audio", "no_video") for status in refused):
        hint = "add --missing impute to keep them"
        lines.append(f"{incomplete} of them have no audio or no video stream: {hint}")
    usable = [status for status in statuses if status.ok and status.detail]
    return lines + [f"WARNING {status.clip.id}: {status.detail}" for status in usable]


class TooManyRefusedError(MoodfuseError):
    """The batch was stopped because too many clips were refused."""


class FailureCounter:
    """Counts the refused clips of a batch, and stops it at `rules.max_failures` of them."""

    def __init__(self, rules: ReadingRules) -> None:
        self.max_failures = rules.max_failures
        self.refused: list[tuple[str, str]] = []

    def count(self, name: str, reason: str = "") -> None:
        """Count a clip; `reason` is why it was refused. Raises `TooManyRefusedError` at the limit."""
        if not reason:
            return
        self.refused.append((name, reason))
        if len(self.refused) == self.max_failures:
            names = ", ".join(f"{name} ({reason})" for name, reason in self.refused)
            raise TooManyRefusedError(
                f"stopped: {counted([reason for _, reason in self.refused])}; --max-failures is "
                f"{self.max_failures}. They are {names}. Correct them, or allow more failures, and run "
                f"the same "
                "command again; finished results are kept"
            )
