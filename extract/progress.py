"""The outcome of a batch of clips: refused clips with their reasons, warnings about others, and counts."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from moodfuse.cache.console import first_few
from moodfuse.cache.errors import MoodfuseError
from moodfuse.cache.records import ClipStatus
from moodfuse.extract.media.limits import ReadingRules


def count_reasons(reasons: Sequence[str]) -> str:
    """Counts by reason, the most frequent first: ``3 refused: 2 truncated, 1 not_media``."""
    counts = Counter(reasons).most_common()
    return f"{len(reasons)} refused: " + ", ".join(f"{count} {reason}" for reason, count in counts)


def describe_statuses(statuses: Sequence[ClipStatus]) -> list[str]:
    """The refused clips, counts by reason, what to do about missing streams; warnings about other clips."""
    refused = [status for status in statuses if not status.ok]
    lines = [f"refused {status.clip.id}: {status.reason}: {status.detail}" for status in refused]
    if refused:
        lines.append(count_reasons([status.reason for status in refused]))
    if incomplete := sum(status.reason in ("no_audio", "no_video") for status in refused):
        hint = "add --missing impute to keep them"
        lines.append(f"{incomplete} of them have no audio or no video stream: {hint}")
    clips_of: dict[str, list[str]] = defaultdict(list)
    for status in statuses:
        if status.ok and status.detail:
            clips_of[status.detail].append(status.clip.id)
    for detail, names in clips_of.items():
        which = names[0] if len(names) == 1 else f"{len(names)} clips ({first_few(names)})"
        lines.append(f"WARNING {which}: {detail}")
    return lines


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
                f"stopped: {count_reasons([reason for _, reason in self.refused])}; --max-failures is "
                f"{self.max_failures}. They are {names}. Correct them, or allow more failures, and run "
                f"the same "
                "command again; finished results are kept"
            )
