"""Where the parts of a time line are drawn: stretches, curves, ticks and labels. Pure, for the page and the figure."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodfuse.model.predictions import Floats, Timeline
from moodfuse.timeline.palette import PROMINENT_LIMIT

STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
MAJOR_TICKS, MINOR_TICKS = 5, 12
NOT_READ = -1
"""Stands for the label of a window that could not be read."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring windows of which the same is said.

    Attributes
    ----------
    first, last : int
        The windows, both within.
    start_s, end_s : float
        Where it is drawn.
    label : int
        Place among the labels; `NOT_READ` where the windows could not be read.
    uncertain : bool
        Whether every window's most probable label stays under the threshold.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    label: int
    uncertain: bool


@dataclass(frozen=True)
class Tick:
    """A mark of the time axis; `major` ones fit on a phone."""

    at_s: float
    major: bool


def axis_end_s(timeline: Timeline) -> float:
    """Where the time axis ends, in seconds: the file's end, or its last window's where that is later."""
    return max(timeline.duration_s, float(timeline.ends_s.max(initial=0.0)), 1e-3)


def readable(timeline: Timeline) -> NDArray[np.bool_]:
    """Which windows could be read, [N]."""
    return np.asarray(~np.isnan(timeline.probabilities).any(axis=1))


def said(timeline: Timeline) -> NDArray[np.int64]:
    """Place of the most probable label of each window, [N]; `NOT_READ` where it could not be read."""
    known = readable(timeline)
    found = np.full(len(known), NOT_READ, dtype=np.int64)
    found[known] = timeline.probabilities[known].argmax(axis=1)
    return found


def uncertain(timeline: Timeline, threshold: float) -> NDArray[np.bool_]:
    """Which windows were read and have no label of at least the threshold, [N]."""
    return readable(timeline) & ~(timeline.probabilities.max(axis=1) >= threshold)


def cells_s(timeline: Timeline) -> Floats:
    """The moments that each window answers for, [N, 2]: those nearer to its middle than to another's, and within it."""
    middles = timeline.middles_s
    borders = (middles[1:] + middles[:-1]) / 2
    starts = np.maximum(np.concatenate([[-math.inf], borders]), timeline.starts_s)
    ends = np.minimum(np.concatenate([borders, [math.inf]]), timeline.ends_s)
    return np.stack([starts, ends], axis=1)


def stretches(timeline: Timeline, threshold: float) -> tuple[Stretch, ...]:
    """Neighbouring windows of one label and one certainty, in the order of time.

    Windows that do not touch, as under a hop longer than a window, are parted.
    """
    labels, unsure, cells = said(timeline), uncertain(timeline, threshold), cells_s(timeline)
    found: list[Stretch] = []
    for row, (label, doubt, (start, end)) in enumerate(zip(labels, unsure, cells, strict=True)):
        before = found[-1] if found else None
        if before and (before.label, before.uncertain) == (label, doubt) and start <= before.end_s + 1e-6:
            found[-1] = Stretch(before.first, row, before.start_s, float(end), before.label, before.uncertain)
        else:
            found.append(Stretch(row, row, float(start), float(end), int(label), bool(doubt)))
    return tuple(found)


def segments(timeline: Timeline) -> tuple[NDArray[np.int64], ...]:
    """Windows that a curve joins: those between two gaps, each a run of row numbers."""
    rows = np.flatnonzero(readable(timeline))
    return tuple(np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)) if len(rows) else ()


def prominent(timeline: Timeline, limit: int = PROMINENT_LIMIT) -> frozenset[int]:
    """The labels drawn strongly: all where there are few, else those that are the most probable somewhere."""
    count = len(timeline.classes)
    if count <= limit or not readable(timeline).any():
        return frozenset(range(count))
    peaks = np.nanmax(timeline.probabilities, axis=0)
    return frozenset(np.argsort(-peaks, kind="stable")[:limit].tolist())


def ticks(end_s: float) -> tuple[Tick, ...]:
    """Marks of a time axis from 0 to `end_s`, at whole steps."""
    major = next((step for step in STEPS_S if end_s / step <= MAJOR_TICKS), STEPS_S[-1])
    minor = next(
        step for step in STEPS_S if major % step == 0 and (end_s / step <= MINOR_TICKS or step == major)
    )
    return tuple(Tick(at, at % major == 0) for at in range(0, math.floor(end_s + 1e-6) + 1, minor))


def spread(places: Floats, gap: float) -> Floats:
    """Places in [0, 1] moved as little as keeps them `gap` apart, in their order, [n].

    Where they do not fit, they are spread evenly.
    """
    count = len(places)
    if not count:
        return np.zeros(0)
    gap = min(gap, 1 / max(1, count - 1))
    order = np.argsort(places, kind="stable")
    blocks: list[
        tuple[float, int]
    ] = []  # mean and size, after each place is moved back by the gaps before it
    for row, place in enumerate(places[order]):
        mean, size = float(place) - row * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count_before = blocks.pop()
            mean, size = (mean * size + other * count_before) / (size + count_before), size + count_before
        blocks.append((mean, size))
    moved = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    found = np.empty(count)
    found[order] = np.clip(moved, 0.0, 1 - (count - 1) * gap) + np.arange(count) * gap
    return found
