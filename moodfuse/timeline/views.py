"""Contents of the page of a time line, as `moodfuse.timeline.page` renders them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.evaluate.intervals import UNKNOWN
from moodfuse.evaluate.markup import counted
from moodfuse.model.predictions import Timeline
from moodfuse.timeline import sentences
from moodfuse.timeline.geometry import (
    NOT_READ,
    Look,
    Stretch,
    axis_end_s,
    is_uncertain,
    look_of,
    prominent,
    readable,
    segments,
    spread,
    stretches,
    ticks,
    top_labels,
)

WIDTH, HEIGHT = 10_000, 1_000
"""Units of the SVG, which is stretched to the width of the page."""
NAME_GAP = 0.056
"""Least distance of two names at the ends of curves, relative to the height."""


class Poster(NamedTuple):
    """Image shown in place of the video: a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


class TickView(NamedTuple):
    """Tick at `x` in drawing units and `left` percent."""

    x: int
    left: float
    text: str
    major: bool


class LineView(NamedTuple):
    """Curve of a label: corners between gaps as SVG points, and isolated points."""

    label: int
    look: Look
    faint: bool
    segments: tuple[str, ...]
    dots: tuple[str, ...]


class EndView(NamedTuple):
    """Name at the end of a curve; `top` in percent of the height."""

    name: str
    look: Look
    from_y: int
    to_y: int
    top: float


class RunView(NamedTuple):
    """Part of the band in percent of the width; `name` is empty and `look` `None` where it could not be read."""

    name: str
    look: Look | None
    uncertain: bool
    left: float
    width: float
    title: str


class LabelView(NamedTuple):
    """Row of the legend: mean probability over the readable windows."""

    name: str
    look: Look
    text: str
    percent: float


class RowView(NamedTuple):
    """Row of the table; without `values` where the window could not be read, and `text` is the reason then."""

    start: str
    end: str
    text: str
    label: int
    uncertain: bool
    values: tuple[str, ...]


@dataclass(frozen=True)
class TimelinePage:
    """Contents of the page."""

    name: str
    file: str
    model: str
    video_url: str
    poster: Poster | None
    facts: str
    summary: str
    uncertainty: str
    missing: str
    alternative: str
    threshold: str
    threshold_y: int
    ticks: tuple[TickView, ...]
    lines: tuple[LineView, ...]
    ends: tuple[EndView, ...]
    band: tuple[RunView, ...]
    refusals: tuple[str, ...]
    readable: str
    top: str
    labels: tuple[LabelView, ...]
    windows: str
    step: str
    leap: str
    rows: tuple[RowView, ...]
    data: dict[str, object]
    width: int = WIDTH
    height: int = HEIGHT


def page_of(
    timeline: Timeline, *, name: str, url: str, threshold: float, model: str, poster: Poster | None = None
) -> TimelinePage:
    """Compute the contents of the page.

    Parameters
    ----------
    timeline : Timeline
    name, url : str
        Name and address of the video.
    threshold : float
        Least probability of a certain label.
    model : str
    poster : Poster, optional
    """
    band = stretches(timeline, threshold)
    drawn_s = axis_end_s(timeline)
    step = sentences.hop_s(timeline) or 1.0
    leap = max(sentences.window_s(timeline), step)
    count, labels = int(readable(timeline).sum()), _labels(timeline)
    return TimelinePage(
        name=name,
        file=timeline.file,
        model=model,
        video_url=url,
        poster=poster,
        facts=_facts(timeline, model),
        summary=sentences.summary(timeline),
        uncertainty=sentences.uncertainty(timeline, threshold),
        missing=sentences.missing_note(timeline),
        alternative=sentences.alternative_text(timeline, threshold),
        threshold=f"{threshold:g}",
        threshold_y=_y(threshold),
        ticks=tuple(
            TickView(
                _x(tick.at_s, drawn_s), _percent(tick.at_s / drawn_s), sentences.clock(tick.at_s), tick.major
            )
            for tick in ticks(drawn_s)
        ),
        lines=_lines(timeline, drawn_s),
        ends=_ends(timeline),
        band=tuple(_run(timeline, run, drawn_s) for run in band),
        refusals=sentences.refusal_notes(timeline),
        readable=counted(count, "readable window" if count < len(timeline.starts_s) else "window"),
        top=_highest(labels),
        labels=labels,
        windows=sentences.windows_note(timeline),
        step=sentences.seconds(step),
        leap=sentences.seconds(leap),
        rows=_rows(timeline, threshold),
        data=_data(timeline, threshold)
        | {"end": round(drawn_s, 3), "step": round(step, 3), "leap": round(leap, 3)},
    )


def _facts(timeline: Timeline, model: str) -> str:
    hop = sentences.hop_s(timeline)
    windows = (
        f"{counted(len(timeline.starts_s), 'window')} of {sentences.seconds(sentences.window_s(timeline))}"
    )
    every = f", one every {sentences.seconds(hop)}" if hop else ""
    return f"{sentences.clock(axis_end_s(timeline))} long, {windows}{every}; model {model}"


def _x(at_s: float, end_s: float) -> int:
    return round(WIDTH * at_s / end_s)


def _y(probability: float) -> int:
    return round(HEIGHT * (1 - probability))


def _percent(fraction: float) -> float:
    return round(100 * fraction, 3)


def _lines(timeline: Timeline, end_s: float) -> tuple[LineView, ...]:
    strong = prominent(timeline)
    # Emphasised curves are drawn last, over the others.
    order = sorted(range(len(timeline.classes)), key=lambda label: label in strong)
    return tuple(_line(timeline, label, end_s, faint=label not in strong) for label in order)


def _line(timeline: Timeline, label: int, end_s: float, *, faint: bool) -> LineView:
    xs = [_x(at, end_s) for at in timeline.middles_s]
    ys = [NOT_READ if np.isnan(value) else _y(value) for value in timeline.probabilities[:, label]]
    joined, alone = [], []
    for rows in segments(timeline):
        if len(rows) > 1:
            joined.append(" ".join(f"{xs[row]},{ys[row]}" for row in rows))
        else:
            alone.append(f"{xs[rows[0]]} {ys[rows[0]]}")
    if len(xs) == 1 and alone:  # a single window
        ends = (_x(timeline.starts_s[0], end_s), _x(timeline.ends_s[0], end_s))
        joined.append(" ".join(f"{x},{ys[0]}" for x in ends))
    return LineView(label, look_of(label), faint, tuple(joined), tuple(alone))


def _ends(timeline: Timeline) -> tuple[EndView, ...]:
    rows = np.flatnonzero(readable(timeline))
    if not len(rows):
        return ()
    strong = sorted(prominent(timeline))
    places = 1 - timeline.probabilities[rows[-1], strong]
    return tuple(
        EndView(
            timeline.classes[label],
            look_of(label),
            round(HEIGHT * place),
            round(HEIGHT * moved),
            _percent(moved),
        )
        for label, place, moved in zip(strong, places, spread(places, NAME_GAP), strict=True)
    )


def _run(timeline: Timeline, run: Stretch, end_s: float) -> RunView:
    name = "" if run.label == NOT_READ else timeline.classes[run.label]
    state = (
        "could not be read" if run.label == NOT_READ else f"{name}{', uncertain' if run.uncertain else ''}"
    )
    return RunView(
        name=name,
        look=None if run.label == NOT_READ else look_of(run.label),
        uncertain=run.uncertain,
        left=_percent(run.start_s / end_s),
        width=_percent((run.end_s - run.start_s) / end_s),
        title=f"{sentences.clock(run.start_s)} to {sentences.clock(run.end_s)}: {state}",
    )


def _labels(timeline: Timeline) -> tuple[LabelView, ...]:
    known = readable(timeline)
    means = (
        timeline.probabilities[known].mean(axis=0) if known.any() else np.full(len(timeline.classes), np.nan)
    )
    return tuple(
        LabelView(
            name=name,
            look=look_of(label),
            text=UNKNOWN if np.isnan(mean) else f"{mean:.2f}",
            percent=0.0 if np.isnan(mean) else round(100 * float(mean), 1),
        )
        for label, (name, mean) in enumerate(zip(timeline.classes, means, strict=True))
    )


def _highest(labels: tuple[LabelView, ...]) -> str:
    first = max(labels, key=lambda label: label.percent)
    return f"{printable(first.name)} {first.text}" if first.percent else ""


def _rows(timeline: Timeline, threshold: float) -> tuple[RowView, ...]:
    labels, uncertain = top_labels(timeline), is_uncertain(timeline, threshold)
    reasons = dict(timeline.refusals)
    found = []
    for row, (label, values) in enumerate(zip(labels.tolist(), timeline.probabilities, strict=True)):
        lost = label == NOT_READ
        why = sentences.reason(reasons.get(row))
        found.append(
            RowView(
                start=sentences.clock(timeline.starts_s[row], tenths=True),
                end=sentences.clock(timeline.ends_s[row], tenths=True),
                text=why if lost else timeline.classes[label],
                label=label,
                uncertain=bool(uncertain[row]),
                values=() if lost else tuple(f"{value:.3f}" for value in values),
            )
        )
    return tuple(found)


def _data(timeline: Timeline, threshold: float) -> dict[str, object]:
    known = readable(timeline)
    return {
        "classes": [printable(name) for name in timeline.classes],
        "starts": timeline.starts_s.round(3).tolist(),
        "ends": timeline.ends_s.round(3).tolist(),
        "rows": [
            np.rint(1000 * values).astype(int).tolist() if there else None
            for there, values in zip(known.tolist(), timeline.probabilities, strict=True)
        ],
        "top": top_labels(timeline).tolist(),
        "uncertain": is_uncertain(timeline, threshold).astype(int).tolist(),
    }
