"""What the page and the figure of a timeline show: stretches, ticks, colours, line styles and sentences.

The colours of a label follow from its index among the sorted labels, so they are the same for every video of
a model. The eight colours of each background have a contrast of at least 3 to it (WCAG 2.2, 1.4.11), and any
two are at least 0.095 apart in OKLab, also under each kind of colour blindness (Machado, Oliveira and
Fernandes 2009, severity 1).
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moodfuse.cache.console import printable
from moodfuse.evaluate.markup import counted
from moodfuse.extract.decoding import REASONS
from moodfuse.model.predictions import Floats, Refusal, Timeline

LIGHT = ("#1567d9", "#e36808", "#08a472", "#a87cc5", "#32196e", "#9e3199", "#6f1e1a", "#53684c")
DARK = ("#5897be", "#ec8433", "#46c2a3", "#ffa1fc", "#7a5ad0", "#e1dd49", "#b73e6b", "#b7ebc4")
DARK_BACKGROUND = "#14171b"
DASHES: tuple[tuple[float, ...], ...] = ((), (9, 3.5), (9, 3, 2, 3), (2.2, 2.6))
"""Lengths of strokes and gaps in pixels: solid, dashed, dash-dotted, dotted."""
PROMINENT_LIMIT = 8
"""Number of labels to emphasise."""
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
MAJOR_TICKS, MINOR_TICKS = 5, 12
NOT_READ = -1
"""Label of a window that could not be read."""
MAX_LISTED = 12


@dataclass(frozen=True)
class Stretch:
    """Neighbouring windows with the same most probable label.

    `first` and `last` are the indices of its windows, `label` the index of its label or `NOT_READ`. It is
    uncertain if the label has less than the threshold in every window.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    label: int
    uncertain: bool


@dataclass(frozen=True)
class Tick:
    """Tick of the time axis; a phone shows `major` ones only."""

    at_s: float
    major: bool


def compute_axis_end_s(timeline: Timeline) -> float:
    """Return the end of the time axis in seconds: that of the file or of the last window."""
    return max(timeline.duration_s, float(timeline.ends_s.max(initial=0.0)), 1e-3)


def find_readable(timeline: Timeline) -> NDArray[np.bool_]:
    """Return which windows could be read, bool [N]."""
    return np.asarray(~np.isnan(timeline.probabilities).any(axis=1))


def find_top_labels(timeline: Timeline) -> NDArray[np.int64]:
    """Return the index of the most probable label of each window, [N]; `NOT_READ` where there is none."""
    known = find_readable(timeline)
    labels = np.full(len(known), NOT_READ, dtype=np.int64)
    labels[known] = timeline.probabilities[known].argmax(axis=1)
    return labels


def is_uncertain(timeline: Timeline, threshold: float) -> NDArray[np.bool_]:
    """Return which readable windows have no probability of at least the threshold, bool [N]."""
    return find_readable(timeline) & ~(timeline.probabilities.max(axis=1) >= threshold)


def compute_cells_s(timeline: Timeline) -> Floats:
    """Return the time range of each window, [N, 2]: the times within it that are nearest to its middle."""
    middles = timeline.middles_s
    borders = (middles[1:] + middles[:-1]) / 2
    starts = np.maximum(np.concatenate([[-math.inf], borders]), timeline.starts_s)
    ends = np.minimum(np.concatenate([borders, [math.inf]]), timeline.ends_s)
    return np.stack([starts, ends], axis=1)


def find_stretches(timeline: Timeline, threshold: float) -> tuple[Stretch, ...]:
    """Merge windows that touch and have the same label and certainty."""
    labels, uncertain, cells = (
        find_top_labels(timeline),
        is_uncertain(timeline, threshold),
        compute_cells_s(timeline),
    )
    merged: list[Stretch] = []
    for row, (label, is_below, (start, end)) in enumerate(zip(labels, uncertain, cells, strict=True)):
        before = merged[-1] if merged else None
        if before and (before.label, before.uncertain) == (label, is_below) and start <= before.end_s + 1e-6:
            merged[-1] = Stretch(
                before.first, row, before.start_s, float(end), before.label, before.uncertain
            )
        else:
            merged.append(Stretch(row, row, float(start), float(end), int(label), bool(is_below)))
    return tuple(merged)


def find_segments(timeline: Timeline) -> tuple[NDArray[np.int64], ...]:
    """Return the runs of readable windows, as arrays of indices."""
    rows = np.flatnonzero(find_readable(timeline))
    return tuple(np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)) if len(rows) else ()


def find_prominent(timeline: Timeline) -> frozenset[int]:
    """Return the labels to emphasise: all if there are few, else those with the highest peaks."""
    count = len(timeline.classes)
    if count <= PROMINENT_LIMIT or not find_readable(timeline).any():
        return frozenset(range(count))
    peaks = np.nanmax(timeline.probabilities, axis=0)
    return frozenset(np.argsort(-peaks, kind="stable")[:PROMINENT_LIMIT].tolist())


def choose_ticks(end_s: float) -> tuple[Tick, ...]:
    """Return the ticks of a time axis from 0 to `end_s`."""
    major = next((step for step in STEPS_S if end_s / step <= MAJOR_TICKS), STEPS_S[-1])
    minor = next(
        step for step in STEPS_S if major % step == 0 and (end_s / step <= MINOR_TICKS or step == major)
    )
    return tuple(Tick(at, at % major == 0) for at in range(0, math.floor(end_s + 1e-6) + 1, minor))


def spread_positions(positions: Floats, gap: float) -> Floats:
    """Move positions in [0, 1] as little as possible so that they are `gap` apart, in their order, [n]."""
    from scipy.optimize import isotonic_regression  # takes long to import

    count = len(positions)
    if not count:
        return np.zeros(0)
    gap = min(gap, 1 / max(1, count - 1))
    gaps_before = np.arange(count) * gap
    order = np.argsort(positions, kind="stable")
    moved = np.empty(count)
    nearest = isotonic_regression(positions[order] - gaps_before).x
    moved[order] = np.clip(nearest, 0.0, 1 - (count - 1) * gap) + gaps_before
    return moved


class Look(NamedTuple):
    """Indices in `LIGHT` or `DARK`, and in `DASHES`."""

    colour: int
    dash: int


def choose_look(label: int) -> Look:
    """Return colour and dash of the label with an index; the first 32 differ."""
    colours, dashes = len(LIGHT), len(DASHES)
    return Look(label % colours, (label % colours // 2 + label // colours) % dashes)


def format_time(seconds: float, *, tenths: bool = False) -> str:
    """Format a time as m:ss, or h:mm:ss from an hour on.

    Examples
    --------
    >>> format_time(75), format_time(3675), format_time(12.5, tenths=True), format_time(59.99)
    ('1:15', '1:01:15', '0:12.5', '0:59')
    """
    parts = int(10 * seconds + 1e-6)
    minutes, rest = divmod(parts // 10, 60)
    hours, left = divmod(minutes, 60)
    text = f"{hours}:{left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{text}.{parts % 10}" if tenths and parts % 10 else text


def format_span(start_s: float, end_s: float) -> str:
    """Format a time range as ``"1:05 to 1:35"``."""
    return f"{format_time(start_s, tenths=True)} to {format_time(end_s, tenths=True)}"


def quote(label: str) -> str:
    """Return a label in quotation marks, printable."""
    return f"“{printable(label)}”"


def format_seconds(value: float) -> str:
    """Format a duration as ``"30 s"``, with one decimal if it is not whole."""
    return f"{round(value, 1):g} s"


def compute_window_s(timeline: Timeline) -> float:
    """Return the length of the longest window in seconds."""
    return float((timeline.ends_s - timeline.starts_s).max(initial=0.0))


def compute_hop_s(timeline: Timeline) -> float:
    """Return the median distance of window starts in seconds; 0 for a single window."""
    return float(np.median(np.diff(timeline.starts_s))) if len(timeline.starts_s) > 1 else 0.0


def describe_windows(timeline: Timeline) -> str:
    """Return number, length and distance of the windows, as in ``"43 windows of 30 s, one every 5 s"``."""
    hop = compute_hop_s(timeline)
    every = f", one every {format_seconds(hop)}" if hop else ""
    return (
        f"{counted(len(timeline.starts_s), 'window')} of {format_seconds(compute_window_s(timeline))}{every}"
    )


def summarise(timeline: Timeline) -> str:
    """Summarise a timeline in one sentence."""
    total, known = len(timeline.starts_s), int(find_readable(timeline).sum())
    if not known:
        return f"None of the {counted(total, 'window')} could be read."
    counts = Counter(filter(None, timeline.labels)).most_common()
    label, most = counts[0]
    name = quote(label)
    if total == 1:
        probability = timeline.probabilities[0].max()
        return f"{name} is the most probable emotion, with probability {probability:.2f}."
    windows = f"{most} of {counted(known, 'readable window' if known < total else 'window')}"
    others = [f"{quote(other)} ({count})" for other, count in counts[1:4]]
    followed = f", followed by {', '.join(others)}" if others else ""
    return f"{name} is the most probable emotion in {windows}{followed}."


def describe_uncertainty(timeline: Timeline, threshold: float) -> str:
    """Return in how many windows the model is uncertain."""
    known, count = int(find_readable(timeline).sum()), int(is_uncertain(timeline, threshold).sum())
    if not known:
        return ""
    return f"Uncertain windows (no emotion reaches probability {threshold:g}): {count} of {known}."


def explain_windows(timeline: Timeline) -> str:
    """Explain what a point of a curve is, and how far apart windows are."""
    length_s, hop_s = compute_window_s(timeline), compute_hop_s(timeline)
    steps_s = np.diff(timeline.starts_s)
    if not len(steps_s):
        span = format_span(timeline.starts_s[0], timeline.ends_s[0])
        return f"One window, {span}, drawn as horizontal lines."
    shortest, longest = format_seconds(float(steps_s.min())), format_seconds(float(steps_s.max()))
    every = "A window starts every" if shortest == longest else f"Windows start {shortest} to"
    apart = "" if shortest == longest else " apart"
    overlap = ", so neighbouring windows overlap" if hop_s < length_s else ""
    point = f"Each point is the prediction for a window of {format_seconds(length_s)}"
    return f"{point}, drawn at the middle of the window. {every} {longest}{apart}{overlap}."


def describe_missing(timeline: Timeline) -> str:
    """Warn of an imputed modality; empty if there is none."""
    if not timeline.missing:
        return ""
    return (
        f"The file has no {timeline.missing}: its features were imputed, so these curves are less reliable."
    )


def describe_refusals(timeline: Timeline) -> tuple[str, ...]:
    """Name the windows that could not be read, one sentence for each reason."""
    refusals = dict(timeline.refusals)
    numbers: dict[str, list[int]] = {}
    for row in np.flatnonzero(~find_readable(timeline)).tolist():
        numbers.setdefault(describe_reason(refusals.get(row)), []).append(row)
    return tuple(_describe_refusal(timeline, text, rows) for text, rows in numbers.items())


def _describe_refusal(timeline: Timeline, text: str, rows: list[int]) -> str:
    ranges = []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        times = format_span(timeline.starts_s[run[0]], timeline.ends_s[run[-1]])
        numbers = f"window {run[0] + 1}" if len(run) == 1 else f"windows {run[0] + 1} to {run[-1] + 1}"
        ranges.append(f"{numbers} ({times})")
    more = f" and {len(ranges) - MAX_LISTED} more (see the table)" if len(ranges) > MAX_LISTED else ""
    listed = ", ".join(ranges[:MAX_LISTED]) + more
    total = counted(len(timeline.starts_s), "window")
    return f"{len(rows)} of {total} could not be read: {listed}. {text[:1].upper()}{text[1:]}."


def describe_reason(refusal: Refusal | None) -> str:
    """Return why a window could not be read, without a full stop."""
    if refusal is None:
        return "unknown reason"
    return printable(refusal.detail or REASONS.get(refusal.code, refusal.code)).rstrip(".")


def describe_chart(timeline: Timeline, threshold: float) -> str:
    """Describe the chart for screen readers."""
    emotions, end = counted(len(timeline.classes), "emotion"), format_time(compute_axis_end_s(timeline))
    return (
        f"Probability of {emotions} from 0:00 to {end}. {summarise(timeline)} "
        f"{describe_uncertainty(timeline, threshold)} The numbers are in the table below."
    )
