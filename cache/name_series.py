"""Series of numbered file names that carry one label, such as ``LLT_TENS(1).mp4`` to ``LLT_TENS(14).mp4``.

Clips of one series often come from one film, one album or one recording session. If they are spread over the
folds, a model can recognise the series instead of the emotion, and its accuracy is too high.
"""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

# By chance three unrelated clips have the same one of six labels in 3 % of cases, two clips in 17 %.
MIN_FILES = 3
_WINDOW = re.compile(r"@[\d.]+-[\d.]*$")
_NUMBERED = re.compile(r"(?P<stem>.*[^\W\d_].*?)[ _.(-]*\d+\)?")


@dataclass(frozen=True)
class NameSeries:
    """Clips of one label in several groups, whose file names are `stem` and a number."""

    stem: str
    label: str
    ids: tuple[str, ...]


def strip_window(clip_id: str) -> str:
    """The path in a clip's id, without the window."""
    return _WINDOW.sub("", clip_id)


def find_name_series(
    ids: Sequence[str], labels: Sequence[str], groups: Sequence[str]
) -> tuple[NameSeries, ...]:
    """The series of at least `MIN_FILES` files that all have one label and are not one group.

    A series that holds all clips of its label is left out: its files are named after the label, and as one
    group the label could not be predicted.
    """
    members = defaultdict[str, list[int]](list)
    for row, clip_id in enumerate(ids):
        if match := _NUMBERED.fullmatch(PurePath(strip_window(clip_id)).stem):
            members[match["stem"]].append(row)
    counts, series = Counter(labels), []
    for stem, rows in sorted(members.items()):
        label = labels[rows[0]]
        files = {strip_window(ids[row]) for row in rows}
        one_label = {labels[row] for row in rows} == {label} and len(rows) < counts[label]
        if one_label and len(files) >= MIN_FILES and len({groups[row] for row in rows}) > 1:
            series.append(NameSeries(stem, label, tuple(ids[row] for row in rows)))
    return tuple(series)


def describe_name_series(series: Sequence[NameSeries], group_pattern: str | None) -> Iterator[str]:
    """The series as lines for the user, and a pattern that groups them and keeps the present groups."""
    if not series:
        return
    yield (
        f"WARNING {len(series)} series of numbered file names with one label each; a model may recognise the "
        "series instead of the emotion:"
    )
    yield from (f"  {entry.stem}: {len(entry.ids)} clips, all {entry.label}" for entry in series)
    if pattern := make_group_pattern(series, group_pattern):
        yield f"  to keep each series in one fold: --group-pattern {shlex.quote(pattern)}"


def describe_series_for_report(
    series: Sequence[NameSeries], accuracies: tuple[float, float] | None = None, folds: int = 0
) -> str | None:
    """A note about the series for a report; `None` without any.

    `accuracies` are those of the best result, over all fold plans and with each series in one of `folds`
    folds, if known.
    """
    if not series:
        return None
    remedy = "moodfuse check prints the --group-pattern that keeps each series in one fold"
    if accuracies is not None:
        accuracy, held_out = (f"{100 * value:.1f} %" for value in accuracies)
        remedy = (
            f"with each series in one of {folds} folds, the accuracy of the best result is {held_out} "
            f"instead of {accuracy}; {remedy}"
        )
    largest = max(series, key=lambda entry: len(entry.ids))
    return (
        f"{sum(len(entry.ids) for entry in series)} clips are in {len(series)} series of numbered file names "
        f"with one label each, such as {largest.stem} ({len(largest.ids)} clips, all {largest.label}): a "
        f"model may recognise the series instead of the emotion, and the accuracy may be too high; {remedy}"
    )


def make_group_pattern(series: Sequence[NameSeries], group_pattern: str | None) -> str | None:
    """A pattern for `scan` that makes each series a group, besides the groups of `group_pattern`.

    `None` if the two cannot be combined.
    """
    stems = "|".join(re.escape(entry.stem) for entry in series)
    pattern = rf"(?:^|/)({stems})[ _.(-]*\d+\)?[.@]"
    if group_pattern is None:
        return pattern
    if re.compile(group_pattern).groups == 0:
        group_pattern = f"({group_pattern})"
    try:
        re.compile(combined := f"{group_pattern}|{pattern}")
    except re.error:  # such as flags, which may only stand at the start
        return None
    return combined
