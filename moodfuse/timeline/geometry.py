"""Geometry, colours and line styles of a time line, shared by the page and the figure.

The colours of a label follow from its index among the sorted labels, so they are the same for every video of
a model. The eight colours of each background have a contrast of at least 3 to it (WCAG 2.2, 1.4.11), and any
two are at least 0.095 apart in OKLab, also under each kind of colour blindness (Machado, Oliveira and
Fernandes 2009, severity 1).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moodfuse.model.predictions import Floats, Timeline

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


def find_prominent(timeline: Timeline, limit: int = PROMINENT_LIMIT) -> frozenset[int]:
    """Return the labels to emphasise: all if there are few, else those with the highest peaks."""
    count = len(timeline.classes)
    if count <= limit or not find_readable(timeline).any():
        return frozenset(range(count))
    peaks = np.nanmax(timeline.probabilities, axis=0)
    return frozenset(np.argsort(-peaks, kind="stable")[:limit].tolist())


def choose_ticks(end_s: float) -> tuple[Tick, ...]:
    """Return the ticks of a time axis from 0 to `end_s`."""
    major = next((step for step in STEPS_S if end_s / step <= MAJOR_TICKS), STEPS_S[-1])
    minor = next(
        step for step in STEPS_S if major % step == 0 and (end_s / step <= MINOR_TICKS or step == major)
    )
    return tuple(Tick(at, at % major == 0) for at in range(0, math.floor(end_s + 1e-6) + 1, minor))


def spread(positions: Floats, gap: float) -> Floats:
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


def palette_style() -> str:
    """Return the palette as CSS: variables `--e0`, ..., classes `e0`, ... (colours), `k0`, ... (dashes)."""
    light, dark = (
        "".join(f"--e{index}:{colour};" for index, colour in enumerate(colours)) for colours in (LIGHT, DARK)
    )
    colours = "".join(f".e{index}{{--series:var(--e{index})}}" for index in range(len(LIGHT)))
    dashes = "".join(
        f".k{index}{{stroke-dasharray:{' '.join(f'{length:g}' for length in dash)}}}"
        for index, dash in enumerate(DASHES)
        if dash
    )
    dark_scheme = f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}{dark_scheme}@media print{{:root{{{light}}}}}{colours}{dashes}"
