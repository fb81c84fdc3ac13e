"""What stands on the page of a time line. Pure: `page_of` decides, `moodfuse.timeline.page` fills the template."""

from dataclasses import dataclass

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.evaluate.intervals import UNKNOWN
from moodfuse.evaluate.markup import counted
from moodfuse.model.predictions import Timeline
from moodfuse.timeline import sentences as words
from moodfuse.timeline.geometry import (
    NOT_READ,
    Stretch,
    axis_end_s,
    prominent,
    readable,
    said,
    segments,
    spread,
    stretches,
    ticks,
    uncertain,
)
from moodfuse.timeline.palette import Look, look_of

WIDTH, HEIGHT = 10_000, 1_000
"""Units of the drawing, which is stretched to the page's width: a ten-thousandth of the time, a thousandth of 1."""
NAME_GAP = 0.056
"""Distance of two names beside the curves, as a share of the drawing's height."""


@dataclass(frozen=True)
class Poster:
    """A picture to show in place of the video: a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class TickView:
    """A mark of the time axis; `x` is in the drawing, `left` in percent of its width."""

    x: int
    left: float
    text: str
    major: bool


@dataclass(frozen=True)
class LineView:
    """A curve: the corners between gaps as SVG has them, and the points that stand alone."""

    label: int
    look: Look
    quiet: bool
    segments: tuple[str, ...]
    dots: tuple[str, ...]


@dataclass(frozen=True)
class EndView:
    """A name beside the end of its curve; `top` in percent of the height."""

    name: str
    look: Look
    from_y: int
    to_y: int
    top: float


@dataclass(frozen=True)
class RunView:
    """A stretch of the band; `name` is empty and `look` `None` where it could not be read. In percent of the width."""

    name: str
    look: Look | None
    unsure: bool
    left: float
    share: float
    title: str


@dataclass(frozen=True)
class LabelView:
    """A row of the legend with the label's mean over the windows that could be read."""

    name: str
    look: Look
    text: str
    percent: float


@dataclass(frozen=True)
class RowView:
    """A window in the table; without `values` where it could not be read, and `said` is the reason then."""

    start: str
    end: str
    said: str
    label: int
    unsure: bool
    values: tuple[str, ...]


@dataclass(frozen=True)
class TimelinePage:
    """All that stands on the page."""

    name: str
    file: str
    model: str
    video_url: str
    poster: Poster | None
    facts: str
    headline: str
    doubt: str
    missing: str
    alternative: str
    threshold: str
    threshold_y: int
    ticks: tuple[TickView, ...]
    lines: tuple[LineView, ...]
    ends: tuple[EndView, ...]
    band: tuple[RunView, ...]
    refusals: tuple[str, ...]
    readout: str
    readout_note: str
    readout_said: str
    labels: tuple[LabelView, ...]
    point: str
    hop: str
    uncertain: str
    step: str
    leap: str
    rows: tuple[RowView, ...]
    data: dict[str, object]
    width: int = WIDTH
    height: int = HEIGHT


def page_of(
    timeline: Timeline, *, name: str, url: str, threshold: float, model: str, poster: Poster | None = None
) -> TimelinePage:
    """Decide what stands on the page of a time line.

    Parameters
    ----------
    timeline : Timeline
    name, url : str
        What the page calls the video, and where it is.
    threshold : float
        A moment is uncertain where no label has this probability.
    model : str
    poster : Poster, optional
    """
    band = stretches(timeline, threshold)
    drawn_s = axis_end_s(timeline)
    step = words.hop_s(timeline) or 1.0
    leap = max(words.window_s(timeline), step)
    count, labels = int(readable(timeline).sum()), _labels(timeline)
    return TimelinePage(
        name=name,
        file=timeline.file,
        model=model,
        video_url=url,
        poster=poster,
        facts=_facts(timeline, model),
        headline=words.headline(timeline),
        doubt=words.doubt_words(timeline, threshold),
        missing=words.missing_words(timeline),
        alternative=words.chart_words(timeline, threshold),
        threshold=f"{threshold:g}",
        threshold_y=_y(threshold),
        ticks=tuple(
            TickView(
                _x(tick.at_s, drawn_s), _percent(tick.at_s / drawn_s), words.clock(tick.at_s), tick.major
            )
            for tick in ticks(drawn_s)
        ),
        lines=_lines(timeline, drawn_s),
        ends=_ends(timeline),
        band=tuple(_run(timeline, run, drawn_s) for run in band),
        refusals=words.refusal_words(timeline),
        readout="Mean over the video",
        readout_note=f"of {counted(count, 'window')}",
        readout_said=_highest(labels),
        labels=labels,
        point=words.point_words(timeline),
        hop=words.hop_words(timeline),
        uncertain=words.uncertain_words(threshold),
        step=words.seconds(step),
        leap=words.seconds(leap),
        rows=_rows(timeline, threshold),
        data=_data(timeline, threshold)
        | {"end": round(drawn_s, 3), "step": round(step, 3), "leap": round(leap, 3)},
    )


def _facts(timeline: Timeline, model: str) -> str:
    hop = words.hop_s(timeline)
    windows = f"{counted(len(timeline.starts_s), 'window')} of {words.seconds(words.window_s(timeline))}"
    every = f", one every {words.seconds(hop)}" if hop else ""
    return f"{words.clock(axis_end_s(timeline))} long, {windows}{every}; model {model}"


def _x(at_s: float, end_s: float) -> int:
    return round(WIDTH * at_s / end_s)


def _y(probability: float) -> int:
    return round(HEIGHT * (1 - probability))


def _percent(share: float) -> float:
    return round(100 * share, 3)


def _lines(timeline: Timeline, end_s: float) -> tuple[LineView, ...]:
    """Every curve; those of less probable labels first, so that the others lie over them."""
    strong = prominent(timeline)
    order = sorted(range(len(timeline.classes)), key=lambda label: label in strong)
    return tuple(_line(timeline, label, end_s, quiet=label not in strong) for label in order)


def _line(timeline: Timeline, label: int, end_s: float, *, quiet: bool) -> LineView:
    xs = [_x(at, end_s) for at in timeline.middles_s]
    ys = [NOT_READ if np.isnan(value) else _y(value) for value in timeline.probabilities[:, label]]
    joined, alone = [], []
    for rows in segments(timeline):
        if len(rows) > 1:
            joined.append(" ".join(f"{xs[row]},{ys[row]}" for row in rows))
        else:
            alone.append(f"{xs[rows[0]]} {ys[rows[0]]}")
    if len(xs) == 1 and alone:  # one answer for all of the file
        ends = (_x(timeline.starts_s[0], end_s), _x(timeline.ends_s[0], end_s))
        joined.append(" ".join(f"{x},{ys[0]}" for x in ends))
    return LineView(label, look_of(label), quiet, tuple(joined), tuple(alone))


def _ends(timeline: Timeline) -> tuple[EndView, ...]:
    """Names beside the curves, of the labels drawn strongly, where the last window that was read has them."""
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
        unsure=run.uncertain,
        left=_percent(run.start_s / end_s),
        share=_percent((run.end_s - run.start_s) / end_s),
        title=f"{words.clock(run.start_s)} to {words.clock(run.end_s)}: {state}",
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
    labels, unsure = said(timeline), uncertain(timeline, threshold)
    reasons = dict(timeline.refusals)
    found = []
    for row, (label, values) in enumerate(zip(labels.tolist(), timeline.probabilities, strict=True)):
        lost = label == NOT_READ
        why = words.reason(reasons.get(row))
        found.append(
            RowView(
                start=words.clock(timeline.starts_s[row], tenths=True),
                end=words.clock(timeline.ends_s[row], tenths=True),
                said=why if lost else timeline.classes[label],
                label=label,
                unsure=bool(unsure[row]),
                values=() if lost else tuple(f"{value:.3f}" for value in values),
            )
        )
    return tuple(found)


def _data(timeline: Timeline, threshold: float) -> dict[str, object]:
    """What the page's script needs; probabilities in thousandths."""
    known = readable(timeline)
    return {
        "classes": [printable(name) for name in timeline.classes],
        "starts": timeline.starts_s.round(3).tolist(),
        "ends": timeline.ends_s.round(3).tolist(),
        "rows": [
            np.rint(1000 * values).astype(int).tolist() if there else None
            for there, values in zip(known.tolist(), timeline.probabilities, strict=True)
        ],
        "said": said(timeline).tolist(),
        "unsure": uncertain(timeline, threshold).astype(int).tolist(),
    }
