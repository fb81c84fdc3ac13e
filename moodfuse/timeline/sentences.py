"""Sentences about a time line: summary, windows, uncertainty and windows that could not be read."""

from collections import Counter

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.evaluate.markup import counted
from moodfuse.extract.decoding import REASONS
from moodfuse.model.predictions import Refusal, Timeline
from moodfuse.timeline.geometry import compute_axis_end_s, find_readable, is_uncertain

_TOLERANCE_S = 1e-3
_MAX_LISTED = 12


def clock(seconds: float, *, tenths: bool = False) -> str:
    """Format a time as m:ss, or h:mm:ss from an hour on.

    Examples
    --------
    >>> clock(75), clock(3675), clock(12.5, tenths=True), clock(59.99)
    ('1:15', '1:01:15', '0:12.5', '0:59')
    """
    parts = int(10 * seconds + 1e-6)
    minutes, rest = divmod(parts // 10, 60)
    hours, left = divmod(minutes, 60)
    text = f"{hours}:{left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{text}.{parts % 10}" if tenths and parts % 10 else text


def span(start_s: float, end_s: float) -> str:
    """Format a time range as ``"1:05 to 1:35"``."""
    return f"{clock(start_s, tenths=True)} to {clock(end_s, tenths=True)}"


def quoted(label: str) -> str:
    """Return a label in quotation marks, printable."""
    return f"“{printable(label)}”"


def seconds(value: float) -> str:
    """Format a duration as ``"30 s"``, with one decimal if it is not whole."""
    return f"{round(value, 1):g} s"


def window_s(timeline: Timeline) -> float:
    """Return the length of the longest window in seconds."""
    return float((timeline.ends_s - timeline.starts_s).max(initial=0.0))


def hop_s(timeline: Timeline) -> float:
    """Return the median distance of window starts in seconds; 0 for a single window."""
    return float(np.median(np.diff(timeline.starts_s))) if len(timeline.starts_s) > 1 else 0.0


def windows_fact(timeline: Timeline) -> str:
    """Return number, length and distance of the windows, as in ``"43 windows of 30 s, one every 5 s"``."""
    hop = hop_s(timeline)
    every = f", one every {seconds(hop)}" if hop else ""
    return f"{counted(len(timeline.starts_s), 'window')} of {seconds(window_s(timeline))}{every}"


def summary(timeline: Timeline) -> str:
    """Summarise a time line in one sentence."""
    total, known = len(timeline.starts_s), int(find_readable(timeline).sum())
    if not known:
        return f"None of the {counted(total, 'window')} could be read."
    counts = Counter(filter(None, timeline.labels)).most_common()
    label, most = counts[0]
    name = quoted(label)
    if total == 1:
        probability = timeline.probabilities[0].max()
        return f"{name} is the most probable emotion, with probability {probability:.2f}."
    windows = f"{most} of {counted(known, 'readable window' if known < total else 'window')}"
    others = [f"{quoted(other)} ({count})" for other, count in counts[1:4]]
    followed = f", followed by {', '.join(others)}" if others else ""
    return f"{name} is the most probable emotion in {windows}{followed}."


def uncertainty(timeline: Timeline, threshold: float) -> str:
    """Return in how many windows the model is uncertain."""
    known, count = int(find_readable(timeline).sum()), int(is_uncertain(timeline, threshold).sum())
    if not known:
        return ""
    return f"Uncertain windows (no emotion reaches probability {threshold:g}): {count} of {known}."


def windows_note(timeline: Timeline) -> str:
    """Explain what a point of a curve is, and how far apart windows are."""
    length, steps = window_s(timeline), np.diff(timeline.starts_s)
    if not len(steps):
        return f"One window, {span(timeline.starts_s[0], timeline.ends_s[0])}, drawn as horizontal lines."
    note = (
        f"Each point is the prediction for a window of {seconds(length)}, drawn at the middle of the window."
    )
    if np.ptp(steps) <= _TOLERANCE_S:
        note += f" A window starts every {seconds(hop_s(timeline))}"
    else:
        note += f" Windows start {seconds(float(steps.min()))} to {seconds(float(steps.max()))} apart"
    return f"{note}, so neighbouring windows overlap." if hop_s(timeline) < length else f"{note}."


def missing_note(timeline: Timeline) -> str:
    """Warn of an imputed modality; empty if there is none."""
    if not timeline.missing:
        return ""
    return (
        f"The file has no {timeline.missing}: its features were imputed, so these curves are less reliable."
    )


def refusal_notes(timeline: Timeline) -> tuple[str, ...]:
    """Name the windows that could not be read, one sentence for each reason."""
    refusals = dict(timeline.refusals)
    numbers: dict[str, list[int]] = {}
    for row in np.flatnonzero(~find_readable(timeline)).tolist():
        numbers.setdefault(reason(refusals.get(row)), []).append(row)
    return tuple(_refusal_note(timeline, text, rows) for text, rows in numbers.items())


def _refusal_note(timeline: Timeline, text: str, rows: list[int]) -> str:
    ranges = []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        times = span(timeline.starts_s[run[0]], timeline.ends_s[run[-1]])
        numbers = f"window {run[0] + 1}" if len(run) == 1 else f"windows {run[0] + 1} to {run[-1] + 1}"
        ranges.append(f"{numbers} ({times})")
    more = f" and {len(ranges) - _MAX_LISTED} more (see the table)" if len(ranges) > _MAX_LISTED else ""
    listed = ", ".join(ranges[:_MAX_LISTED]) + more
    total = counted(len(timeline.starts_s), "window")
    return f"{len(rows)} of {total} could not be read: {listed}. {text[:1].upper()}{text[1:]}."


def reason(refusal: Refusal | None) -> str:
    """Return why a window could not be read, without a full stop."""
    if refusal is None:
        return "unknown reason"
    return printable(refusal.detail or REASONS.get(refusal.code, refusal.code)).rstrip(".")


def alternative_text(timeline: Timeline, threshold: float) -> str:
    """Describe the chart for screen readers."""
    emotions, end = counted(len(timeline.classes), "emotion"), clock(compute_axis_end_s(timeline))
    return (
        f"Probability of {emotions} from 0:00 to {end}. {summary(timeline)} "
        f"{uncertainty(timeline, threshold)} The numbers are in the table below."
    )
