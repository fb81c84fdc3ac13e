"""Refused clips of a batch: counts by reason, and the error when there are too many."""

from collections import Counter
from collections.abc import Sequence

from moodfuse.cache.errors import MoodfuseError
from moodfuse.extract.media.limits import ReadingRules

NAMED = 10  # refused clips that the error names


class TooManyRefusedError(MoodfuseError):
    """The batch was stopped because too many clips were refused."""


def counted(reasons: Sequence[str]) -> str:
    """Counts by reason, the most frequent first: ``3 refused: 2 truncated, 1 not_media``."""
    counts = Counter(reasons).most_common()
    return f"{len(reasons)} refused: " + ", ".join(f"{count} {reason}" for reason, count in counts)


def refusal_lines(reasons: Sequence[str]) -> list[str]:
    """Counts by reason, and what to do about files without an audio or video stream."""
    incomplete = sum(reason in ("no_audio", "no_video") for reason in reasons)
    hint = f"{incomplete} of them have no audio or no video stream: add --missing impute to keep them"
    return [counted(reasons), *([hint] if incomplete else [])]


class Tally:
    """Counts the clips of a batch, and stops it at `rules.max_failures` refused clips: names and reasons."""

    def __init__(self, rules: ReadingRules) -> None:
        self.most = rules.max_failures
        self.looked_at = 0
        self.refused: list[tuple[str, str]] = []

    def count(self, name: str, reason: str = "") -> None:
        """Count a clip; `reason` is why it was refused. Raises `TooManyRefusedError` if the batch ends with it."""
        self.looked_at += 1
        if reason:
            self.refused.append((name, reason))
            if self.most is not None and len(self.refused) >= self.most:
                raise TooManyRefusedError(self._message())

    def _message(self) -> str:
        named = ", ".join(f"{name} ({reason})" for name, reason in self.refused[:NAMED])
        more = f" and {len(self.refused) - NAMED} more" if len(self.refused) > NAMED else ""
        return (
            f"stopped after {self.looked_at} clips, {counted([reason for _, reason in self.refused])}; --max-failures "
            f"is {self.most}. They are {named}{more}. Correct them, or allow more failures, and run the same command "
            "again; finished results are kept"
        )
