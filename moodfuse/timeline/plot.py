"""Figure of a timeline: curves, the band of the most probable label, gaps and the threshold."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moodfuse.cache.errors import InputError
from moodfuse.evaluate.figures import drawing_settings, short, write_figure
from moodfuse.model.predictions import Timeline
from moodfuse.timeline import contents
from moodfuse.timeline.contents import (
    DASHES,
    LIGHT,
    NOT_READ,
    PROMINENT_LIMIT,
    Stretch,
    choose_look,
    choose_ticks,
    compute_axis_end_s,
    find_prominent,
    find_readable,
    find_segments,
    find_stretches,
    spread_positions,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
INK, SOFT, LINE, TINT = "#1b1f24", "#51585f", "#c9ced4", "#eef0f2"
SIZE_IN = (10.0, 4.4)
NAME_IN = 0.17
"""Height of a name at the end of a curve, in inches."""
CURVES_IN = 2.9
CHARACTER_SHARE = 0.0095
"""Width of a character in the band, relative to the time axis."""
UNREAD: dict[str, Any] = {"facecolor": TINT, "edgecolor": LINE, "hatch": "////", "linewidth": 0}


def write_timeline_plot(timeline: Timeline, path: Path, *, threshold: float) -> Path:
    """Write the figure of a timeline atomically, and return its path.

    The path ends in ``.png``, ``.svg`` or ``.pdf``; `threshold` is the least probability of a certain label.
    The same timeline and fonts give the same bytes. Raises `InputError` for another suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: suffix {path.suffix!r}, expected {', '.join(SUFFIXES)}")
    with drawing_settings((Path(timeline.file).name, *timeline.classes)):
        return write_figure(timeline_figure(timeline, threshold=threshold), path)


def timeline_figure(timeline: Timeline, *, threshold: float) -> "Figure":
    """Draw the figure of a timeline; call it under `moodfuse.evaluate.figures.drawing_settings`."""
    from matplotlib.figure import Figure

    curves_in = max(CURVES_IN, NAME_IN * len(timeline.classes))
    figure = Figure(figsize=(SIZE_IN[0], SIZE_IN[1] - CURVES_IN + curves_in))
    axes, band = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [curves_in, 0.32], "hspace": 0.0}
    )
    runs = find_stretches(timeline, threshold)
    _draw_curves(axes, timeline)
    for run in runs:
        if run.label == NOT_READ:
            axes.axvspan(run.start_s, run.end_s, **UNREAD, zorder=1)
    axes.axhline(threshold, color=SOFT, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1.5)
    _draw_names(axes, timeline, gap=NAME_IN / curves_in)
    _draw_band(band, timeline, runs)
    end_s = compute_axis_end_s(timeline)
    marks = [tick.at_s for tick in choose_ticks(end_s)]
    band.set_xticks(marks, [contents.format_time(mark) for mark in marks])
    band.set_xlim(0, end_s)
    figure.suptitle(_title(timeline, threshold), fontsize=10, x=0.01, ha="left")
    return figure


def _title(timeline: Timeline, threshold: float) -> str:
    name = short(Path(timeline.file).name, 90)
    unread = int((~find_readable(timeline)).sum())
    gaps = f"; {unread} of {len(timeline.starts_s)} windows could not be read" if unread else ""
    note = f"{contents.describe_windows(timeline)}, each drawn at its middle; hatched and “?”: uncertain"
    return f"{name}\n{note} (below {threshold:g}){gaps}"


def _style(label: int, *, strong: bool) -> dict[str, Any]:
    look = choose_look(label)
    dash = DASHES[look.dash]
    return {
        "color": LIGHT[look.colour],
        "linewidth": 1.8 if strong else 0.8,
        "linestyle": (0, tuple(length / 2 for length in dash)) if dash else "-",
        "zorder": 3 if strong else 2,
    }


def _draw_curves(axes: "Axes", timeline: Timeline) -> None:
    strong = find_prominent(timeline)
    for label in range(len(timeline.classes)):
        style = _style(label, strong=label in strong)
        values = timeline.probabilities[:, label]
        for rows in find_segments(timeline):
            middles_s = timeline.middles_s[rows]
            if len(rows) > 1:
                axes.plot(middles_s, values[rows], **style)
            else:
                axes.plot(middles_s, values[rows], "o", color=style["color"], markersize=4, zorder=3)
            if len(values) == 1:  # a single window
                axes.plot([timeline.starts_s[0], timeline.ends_s[0]], [values[0]] * 2, **style)
    axes.set(ylim=(-0.02, 1.02), ylabel="Probability", yticks=np.linspace(0, 1, 5))
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0, labelbottom=False)


def _draw_names(axes: "Axes", timeline: Timeline, *, gap: float) -> None:
    """Write the names next to the ends of their curves, with a leader from each end if they are few."""
    rows = np.flatnonzero(find_readable(timeline))
    count = len(timeline.classes)
    ends = timeline.probabilities[rows[-1]] if len(rows) else np.linspace(1, 0, count)
    strong = find_prominent(timeline)
    settings: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    for label, (end, moved) in enumerate(zip(ends, 1 - spread_positions(1 - ends, gap), strict=True)):
        if len(rows) and count <= PROMINENT_LIMIT:
            axes.plot([1.002, 1.025], [end, moved], color=LINE, linewidth=0.8, **settings)
        axes.plot([1.028, 1.062], [moved] * 2, **_style(label, strong=label in strong), **settings)
        axes.text(
            1.069, moved, short(timeline.classes[label]), va="center", fontsize=8, color=INK, **settings
        )


def _draw_band(axes: "Axes", timeline: Timeline, runs: Sequence[Stretch]) -> None:
    """Draw the most probable labels; certain ones have a strong edge, others are hatched."""
    end_s = compute_axis_end_s(timeline)
    for run in runs:
        borders = (run.start_s, run.end_s)
        if run.label == NOT_READ:
            name = "not read"
            axes.axvspan(*borders, **UNREAD)
        else:
            name = short(timeline.classes[run.label]) + (" ?" if run.uncertain else "")
            colour = LIGHT[choose_look(run.label).colour]
            axes.axvspan(*borders, color=colour, alpha=0.3, linewidth=0)
            if run.uncertain:
                axes.axvspan(*borders, facecolor="none", edgecolor="white", hatch="////", linewidth=0)
            else:
                axes.axvspan(*borders, 0.86, 1, color=colour, linewidth=0)
        if (run.end_s - run.start_s) / end_s > CHARACTER_SHARE * (len(name) + 1):
            axes.text(
                sum(borders) / 2, -0.05, name, ha="center", va="center", fontsize=8, color=INK, clip_on=True
            )
    axes.set(ylim=(-0.5, 0.5), yticks=[], xlabel="Time in the video, m:ss", ylabel="")
    axes.text(
        -0.008,
        0,
        "top",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        fontsize=8,
        color=SOFT,
    )
    axes.spines[:].set_visible(False)
