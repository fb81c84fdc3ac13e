"""What a time line says in words: its headline, what a point means, and what could not be read. Pure."""

from collections import Counter

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.evaluate.report.sentences import counted
from moodfuse.extract.media.limits import REASONS
from moodfuse.model.predictions import Refusal, Timeline
from moodfuse.timeline.geometry import NOT_READ, axis_end_s, readable, said, stretches, uncertain

_SAME_S = 1e-3
_NAMED_GAPS = 12
"""A sentence names so many stretches that could not be read; the table marks all."""


def clock(seconds: float, *, tenths: bool = False) -> str:
    """A time as m:ss, from an hour on as h:mm:ss.

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
    """A stretch of time as ``"1:05 to 1:35"``."""
    return f"{clock(start_s, tenths=True)} to {clock(end_s, tenths=True)}"


def quoted(label: str) -> str:
    """A label in quotation marks, whatever it holds."""
    return f"“{printable(label)}”"


def seconds(value: float) -> str:
    """A length as ``"30 s"``, to a tenth where it is not whole."""
    return f"{round(value, 1):g} s"


def window_s(timeline: Timeline) -> float:
    """Length of the longest window in seconds."""
    return float((timeline.ends_s - timeline.starts_s).max(initial=0.0))


def hop_s(timeline: Timeline) -> float:
    """The usual distance of neighbouring windows in seconds; 0 where there is one window."""
    return float(np.median(np.diff(timeline.starts_s))) if len(timeline.starts_s) > 1 else 0.0


def headline(timeline: Timeline) -> str:
    """What the whole time line says, in a sentence."""
    total, known = len(timeline.starts_s), int(readable(timeline).sum())
    if not known:
        return f"None of the {counted(total, 'window')} could be read, so there is no curve."
    counts = Counter(label for label in said(timeline).tolist() if label != NOT_READ).most_common()
    label, most = counts[0]
    name = quoted(timeline.classes[label])
    if total == 1:
        return (
            f"{name} is the most probable emotion, with probability {timeline.probabilities[0, label]:.2f}."
        )
    often = "Most of the time" if most > known / 2 else "Most often"
    windows = (
        counted(known, "window") if known == total else f"the {counted(known, 'window')} that could be read"
    )
    others = [f"{quoted(timeline.classes[place])} ({count})" for place, count in counts[1:4]]
    before = f", before {_listed(others)}" if others else ""
    return f"{often} {name}: it is the most probable emotion in {most} of {windows}{before}."


def doubt_words(timeline: Timeline, threshold: float) -> str:
    """In how many windows the model is uncertain; empty where none could be read."""
    known, unsure = int(readable(timeline).sum()), int(uncertain(timeline, threshold).sum())
    if not known:
        return ""
    if len(timeline.starts_s) == 1:
        return f"That is under {threshold:g}, so the model is uncertain." if unsure else ""
    if not unsure:
        return f"The model is never uncertain: in every window some emotion reaches {threshold:g}."
    where = "In every window" if unsure == known else f"In {counted(unsure, 'window')}"
    return f"{where} no emotion reaches {threshold:g}: there the model is uncertain."


def point_words(timeline: Timeline) -> str:
    """What a point of a curve means."""
    length = window_s(timeline)
    if len(timeline.starts_s) == 1:
        return (
            f"The file has one window, {span(timeline.starts_s[0], timeline.ends_s[0])}, so the model gives one answer "
            "for all of it, drawn as level lines with a point at the middle of the window."
        )
    middles = timeline.middles_s
    return (
        f"A point is what the model says of a window of {seconds(length)} around that time. It is drawn at the middle "
        f"of its window, so the curves begin at {clock(middles[0])} and end at {clock(middles[-1])}; the lines between "
        "points only guide the eye."
    )


def hop_words(timeline: Timeline) -> str:
    """How far apart windows are; empty where there is one."""
    steps = np.diff(timeline.starts_s)
    if not len(steps):
        return ""
    usual, last = hop_s(timeline), float(steps[-1])
    if np.ptp(steps) <= _SAME_S:
        text = f"A window begins every {seconds(usual)}"
    elif len(steps) == 2 or np.ptp(steps[:-1]) <= _SAME_S:
        text = f"A window begins every {seconds(float(steps[0]))}, the last one {seconds(last)} after the one before"
    else:
        text = f"A window begins every {seconds(float(steps.min()))} to {seconds(float(steps.max()))}"
    if usual < window_s(timeline):
        return f"{text}. Windows overlap, so neighbouring points hear and see much of the same."
    return f"{text}."


def uncertain_words(threshold: float) -> str:
    """When a stretch is uncertain."""
    return (
        f"Where the most probable emotion has a probability under {threshold:g}, the model is uncertain: the band is "
        "hatched there and its label has a question mark."
    )


def missing_words(timeline: Timeline) -> str:
    """What was filled in; empty where the file has both views."""
    if not timeline.missing:
        return ""
    return f"The file has no {timeline.missing}: the model filled it in, so take these curves with care."


def refusal_words(timeline: Timeline) -> tuple[str, ...]:
    """Sentences that name the windows that could not be read, one for each reason; none where all could."""
    reasons = dict(timeline.refusals)
    gaps: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for gap in stretches(timeline, 0.0):
        if gap.label != NOT_READ:
            continue
        rows = range(gap.first, gap.last + 1)
        why = [reason(reasons.get(row)) for row in rows]
        for text in dict.fromkeys(why):
            chosen = [row for row, other in zip(rows, why, strict=True) if other == text]
            counts[text] += len(chosen)
            gaps.setdefault(text, []).append(_rows(timeline, chosen[0], chosen[-1]))
    total = len(timeline.starts_s)
    there = ", and the curves have a gap there" if readable(timeline).any() else ""
    return tuple(
        f"{counts[why]} of {counted(total, 'window')} could not be read{there}: "
        f"{_named(places)}. {why[:1].upper()}{why[1:]}."
        for why, places in gaps.items()
    )


def _rows(timeline: Timeline, first: int, last: int) -> str:
    when = span(timeline.starts_s[first], timeline.ends_s[last])
    return f"window {first + 1} ({when})" if first == last else f"windows {first + 1} to {last + 1} ({when})"


def reason(refusal: Refusal | None) -> str:
    """Why a window could not be read, without a full stop."""
    if refusal is None:
        return "no reason was kept"
    return printable(refusal.detail or REASONS.get(refusal.code, refusal.code)).rstrip(".")


def _named(places: list[str]) -> str:
    if len(places) <= _NAMED_GAPS:
        return _listed(places)
    return f"{', '.join(places[:_NAMED_GAPS])} and {len(places) - _NAMED_GAPS} more (the table marks all)"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def chart_words(timeline: Timeline, threshold: float) -> str:
    """The chart for those who do not see it."""
    return (
        f"Probability of {counted(len(timeline.classes), 'emotion')} from 0:00 to {clock(axis_end_s(timeline))}. "
        f"{headline(timeline)} {doubt_words(timeline, threshold)} The numbers are in a table below."
    )
