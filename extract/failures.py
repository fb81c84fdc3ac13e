"""Refused clips of a batch: counted by reason, and when there are too many of them."""

from collections import Counter
from collections.abc import Sequence

from moodfuse.cache.errors import MoodfuseError
from moodfuse.extract.media.limits import ReadingRules

NAMED = 10
"""So many refused clips are named where a batch ends."""


class TooManyRefusedError(MoodfuseError):
    """So many clips of a batch were refused that it ended."""


def counted(reasons: Sequence[str]) -> str:
    """Refusals in words, the most frequent reason first: ``3 refused: 2 truncated, 1 not_media``."""
    found = Counter(reasons).most_common()
    return f"{len(reasons)} refused: " + ", ".join(f"{count} {reason}" for reason, count in found)


def refusal_lines(reasons: Sequence[str]) -> list[str]:
    """Refusals counted, and what to do where files without an audio or video stream are among them."""
    lacking = sum(reason in ("no_audio", "no_video") for reason in reasons)
    hint = f"{lacking} of them have no audio or no video stream: add --missing impute to keep them"
    return [counted(reasons), *([hint] if lacking else [])]


class Tally:
    """Counts the clips of a batch, and ends it where too many of them are refused.

    Parameters
    ----------
    rules : ReadingRules

    Attributes
    ----------
    looked_at : int
        Clips so far.
    refused : list of (str, str)
        Name of each clip that was refused, and the reason.
    """

    def __init__(self, rules: ReadingRules) -> None:
        self.most = rules.max_failures
        self.looked_at = 0
        self.refused: list[tuple[str, str]] = []

    def count(self, name: str, reason: str = "") -> None:
        """Count a clip, with the reason where it is refused.

        Raises
        ------
        TooManyRefusedError
            If with it so many are refused as end the batch.
        """
        self.looked_at += 1
        if not reason:
            return
        self.refused.append((name, reason))
        if self.most is not None and len(self.refused) >= self.most:
            raise TooManyRefusedError(self._said())

    def _said(self) -> str:
        named = ", ".join(f"{name} ({reason})" for name, reason in self.refused[:NAMED])
        more = f" and {len(self.refused) - NAMED} more" if len(self.refused) > NAMED else ""
        return (
            f"stopped after {self.looked_at} clips, {counted([reason for _, reason in self.refused])}; --max-failures "
            f"is {self.most}. They are {named}{more}. Correct them, or allow more failures, and run the same command "
            "again; a cache or an output keeps what was computed"
        )
