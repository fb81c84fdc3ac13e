"""Refused clips of a batch: counted by reason, and when there are too many of them."""

from collections import Counter
from collections.abc import Sequence

from cache.errors import MoodfuseError
from extract.media.limits import ReadingRules


class TooManyRefusedError(MoodfuseError):
    """So many clips of a batch were refused that it ended."""


def counted(reasons: Sequence[str]) -> str:
    """Refusals in words, the most frequent reason first: ``3 refused: 2 truncated, 1 not_media``."""
    found = Counter(reasons).most_common()
    return f"{len(reasons)} refused: " + ", ".join(f"{count} {reason}" for reason, count in found)


def check_failures(reasons: Sequence[str], looked_at: int, rules: ReadingRules) -> None:
    """End a batch of which too many clips were refused.

    Parameters
    ----------
    reasons : sequence of str
        Of each refusal so far.
    looked_at : int
        Clips so far.
    rules : ReadingRules

    Raises
    ------
    TooManyRefusedError
    """
    if rules.max_failures is not None and len(reasons) >= rules.max_failures:
        raise TooManyRefusedError(
            f"stopped after {looked_at} clips, {counted(reasons)}; --max-failures is {rules.max_failures}. What was "
            "computed is kept; correct the files, or allow more failures, and run the same command again"
        )
