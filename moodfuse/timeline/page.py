"""The page of a time line: the video, curves of the emotions, a table, and a poster image of the video.

One HTML file that loads nothing but the video, by its relative address. It works without the video and
without JavaScript, which adds the playhead, seeking, and the values at a time.
"""

import base64
import io
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from moodfuse.cache.console import printable
from moodfuse.cache.errors import InputError
from moodfuse.cache.files import write_text
from moodfuse.evaluate.markup import base_style, counted, number, page_assets, page_environment
from moodfuse.extract.decoding import Limits, MediaError, ProbeRequest, open_media, read_clip, run_in_workers
from moodfuse.model.predictions import Timeline
from moodfuse.timeline import sentences
from moodfuse.timeline.geometry import (
    NOT_READ,
    choose_look,
    choose_ticks,
    compute_axis_end_s,
    find_prominent,
    find_readable,
    find_segments,
    find_stretches,
    find_top_labels,
    is_uncertain,
    palette_style,
    spread,
)

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = files("moodfuse.timeline") / "templates"
WIDTH, HEIGHT = 10_000, 1_000
"""Units of the SVG, which is stretched to the width of the page."""
NAME_GAP = 0.056
"""Least distance of two names at the ends of curves, relative to the height."""
SHORT_SIDE_PX = 270
LONG_SIDE_LIMIT = 640
QUALITY = 72
POSITIONS = (1 / 3, 1 / 2, 1 / 6)
"""Positions in the file, relative to its duration; flat frames, such as those of a fade, are skipped."""
POSTER_WINDOW_S = 1.0
FLAT = 12.0
"""Standard deviation of the grey values below which a frame is flat."""


def write_timeline_page(
    timeline: Timeline, path: Path, *, video: Path, threshold: float, model: str, poster: bytes | None
) -> Path:
    """Write the page of a time line atomically, and return its path.

    The page refers to the video by its relative address. `threshold` is the least probability of a certain
    label, `poster` the JPEG of `poster_of`. Raises `InputError` if the page would overwrite the video, or the
    poster is not a JPEG.
    """
    if path.exists() and video.exists() and path.samefile(video):
        raise InputError(
            f"{path}: this is the video itself; give the page another name, such as {video.stem}.html"
        )
    page = page_contents(
        timeline,
        name=video.name,
        url=relative_url(video, path),
        threshold=threshold,
        model=model,
        poster=None if poster is None else _embedded_poster(poster),
    )
    write_text(path, render_page(page))
    return path


def relative_url(video: Path, page: Path) -> str:
    """Return the relative, percent-encoded address of a file for a page."""
    # Browsers resolve `..` textually, so symbolic links are resolved only where the path itself holds one.
    target, home = (
        path.parent.resolve() / path.name if ".." in path.parts else path.absolute() for path in (video, page)
    )
    return quote(os.fsencode(os.path.relpath(target, home.parent)), safe="/")


def render_page(page: dict[str, Any]) -> str:
    """Render the page; only its own script may run, and only the video may be loaded."""
    style = base_style() + palette_style() + (_TEMPLATES / "timeline.css").read_text("utf-8")
    script = (_TEMPLATES / "timeline.js").read_text("utf-8")
    template = _environment().get_template("timeline.html.j2")
    return template.render(page=page, **page_assets(style, script))


@cache
def _environment() -> "Environment":
    return page_environment(_TEMPLATES)


def page_contents(
    timeline: Timeline,
    *,
    name: str,
    url: str,
    threshold: float,
    model: str,
    poster: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compute the values of the page's template; `name` and `url` are those of the video."""
    end_s = compute_axis_end_s(timeline)
    step_s = sentences.hop_s(timeline) or 1.0
    leap_s = max(sentences.window_s(timeline), step_s)
    known = find_readable(timeline)
    means = (
        timeline.probabilities[known].mean(axis=0) if known.any() else np.full(len(timeline.classes), np.nan)
    )
    highest = int(means.argmax())
    return {
        "name": name,
        "file": timeline.file,
        "model": model,
        "video_url": url,
        "poster": poster,
        "facts": f"{sentences.clock(end_s)} long, {sentences.windows_fact(timeline)}; model {model}",
        "summary": sentences.summary(timeline),
        "uncertainty": sentences.uncertainty(timeline, threshold),
        "missing": sentences.missing_note(timeline),
        "alternative": sentences.alternative_text(timeline, threshold),
        "threshold": f"{threshold:g}",
        "threshold_y": _y(threshold),
        "ticks": [
            {"left": _percent(tick.at_s / end_s), "text": sentences.clock(tick.at_s), "major": tick.major}
            | {"x": _x(tick.at_s, end_s)}
            for tick in choose_ticks(end_s)
        ],
        "lines": _lines(timeline, end_s),
        "ends": _ends(timeline),
        "band": _band(timeline, threshold, end_s),
        "refusals": sentences.refusal_notes(timeline),
        "readable": counted(int(known.sum()), "window" if known.all() else "readable window"),
        "top": f"{printable(timeline.classes[highest])} {means[highest]:.2f}" if known.any() else "",
        "labels": [
            {"name": label, "look": choose_look(index), "text": number(mean)}
            | {"percent": round(100 * float(np.nan_to_num(mean)), 1)}
            for index, (label, mean) in enumerate(zip(timeline.classes, means, strict=True))
        ],
        "windows": sentences.windows_note(timeline),
        "step": sentences.seconds(step_s),
        "leap": sentences.seconds(leap_s),
        "rows": _rows(timeline, threshold),
        "data": _script_values(timeline, threshold)
        | {"end": round(end_s, 3), "step": round(step_s, 3), "leap": round(leap_s, 3)},
        "width": WIDTH,
        "height": HEIGHT,
    }


def _x(at_s: float, end_s: float) -> int:
    return round(WIDTH * at_s / end_s)


def _y(probability: float) -> int:
    return round(HEIGHT * (1 - probability))


def _percent(fraction: float) -> float:
    return round(100 * fraction, 3)


def _lines(timeline: Timeline, end_s: float) -> list[dict[str, Any]]:
    """Return the curves, emphasised ones last: SVG points of the lines between gaps, and isolated points."""
    strong = find_prominent(timeline)
    xs = [_x(at, end_s) for at in timeline.middles_s]
    lines = []
    for label in sorted(range(len(timeline.classes)), key=lambda label: label in strong):
        joined, dots = [], []
        for rows in find_segments(timeline):
            ys = [_y(value) for value in timeline.probabilities[rows, label]]
            if len(rows) > 1:
                joined.append(" ".join(f"{xs[row]},{y}" for row, y in zip(rows, ys, strict=True)))
            else:
                dots.append(f"{xs[rows[0]]} {ys[0]}")
            if len(xs) == 1:  # a single window is drawn as a horizontal line
                borders = (timeline.starts_s[0], timeline.ends_s[0])
                joined.append(" ".join(f"{_x(border_s, end_s)},{ys[0]}" for border_s in borders))
        lines.append(
            {
                "label": label,
                "look": choose_look(label),
                "faint": label not in strong,
                "segments": joined,
                "dots": dots,
            }
        )
    return lines


def _ends(timeline: Timeline) -> list[dict[str, Any]]:
    """Return the names at the ends of the curves."""
    rows = np.flatnonzero(find_readable(timeline))
    if not len(rows):
        return []
    strong = sorted(find_prominent(timeline))
    positions = 1 - timeline.probabilities[rows[-1], strong]
    return [
        {"name": timeline.classes[label], "look": choose_look(label), "top": _percent(moved)}
        | {"from_y": round(HEIGHT * position), "to_y": round(HEIGHT * moved)}
        for label, position, moved in zip(strong, positions, spread(positions, NAME_GAP), strict=True)
    ]


def _band(timeline: Timeline, threshold: float, end_s: float) -> list[dict[str, Any]]:
    """Return the parts of the band; `name` is empty where the windows could not be read."""
    band = []
    for run in find_stretches(timeline, threshold):
        name = "" if run.label == NOT_READ else timeline.classes[run.label]
        state = f"{name}{', uncertain' if run.uncertain else ''}" if name else "could not be read"
        band.append(
            {
                "name": name,
                "look": choose_look(run.label),
                "uncertain": run.uncertain,
                "left": _percent(run.start_s / end_s),
                "width": _percent((run.end_s - run.start_s) / end_s),
                "title": f"{sentences.clock(run.start_s)} to {sentences.clock(run.end_s)}: {state}",
            }
        )
    return band


def _rows(timeline: Timeline, threshold: float) -> list[dict[str, Any]]:
    """Return the rows of the table; of a window that could not be read, `text` is the reason."""
    labels, uncertain = find_top_labels(timeline).tolist(), is_uncertain(timeline, threshold).tolist()
    refusals = dict(timeline.refusals)
    rows = []
    for row, label in enumerate(labels):
        unread = label == NOT_READ
        rows.append(
            {
                "start": sentences.clock(timeline.starts_s[row], tenths=True),
                "end": sentences.clock(timeline.ends_s[row], tenths=True),
                "text": sentences.reason(refusals.get(row)) if unread else timeline.classes[label],
                "label": label,
                "uncertain": uncertain[row],
                "numbers": [] if unread else [f"{value:.3f}" for value in timeline.probabilities[row]],
            }
        )
    return rows


def _script_values(timeline: Timeline, threshold: float) -> dict[str, object]:
    """Return what the script of the page reads."""
    return {
        "classes": [printable(name) for name in timeline.classes],
        "starts": timeline.starts_s.round(3).tolist(),
        "ends": timeline.ends_s.round(3).tolist(),
        "rows": [
            np.rint(1000 * values).astype(int).tolist() if known else None
            for known, values in zip(find_readable(timeline), timeline.probabilities, strict=True)
        ],
        "top": find_top_labels(timeline).tolist(),
        "uncertain": is_uncertain(timeline, threshold).astype(int).tolist(),
    }


def _embedded_poster(data: bytes) -> dict[str, Any]:
    """Embed a JPEG as a data URI; raises `InputError` for other data."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
    except (OSError, ValueError) as error:
        raise InputError(f"the poster is not a JPEG ({error})") from error
    uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return {"uri": uri, "width": width, "height": height}


def poster_of(path: Path) -> bytes | None:
    """Return a frame from the first half of a video as JPEG, decoded in a worker process.

    Its short side has at most 270 pixels; `None` if no frame can be read.
    """
    ((_, frame),) = run_in_workers(_best_frame, [ProbeRequest(path)], jobs=1, limits=Limits())
    if not isinstance(frame, np.ndarray):
        return None
    image = Image.fromarray(np.ascontiguousarray(frame))
    image.thumbnail((LONG_SIDE_LIMIT, LONG_SIDE_LIMIT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()


def _best_frame(request: ProbeRequest) -> np.ndarray | None:
    """Return the first frame that is not flat, or the one with the most contrast."""
    best, best_contrast = None, -1.0
    for position in POSITIONS:
        frame = _frame_at(request.path, position)
        contrast = -1.0 if frame is None else float(frame.mean(axis=2).std())
        if contrast > best_contrast:
            best, best_contrast = frame, contrast
        if best_contrast >= FLAT:
            break
    return best


def _frame_at(path: Path, position: float) -> np.ndarray | None:
    try:
        with open_media(path, allow_missing=True) as media:
            start_s = position * media.duration_s
            end_s = min(start_s + POSTER_WINDOW_S, media.duration_s)
        clip = read_clip(path, start_s=start_s, end_s=end_s, short_side_px=SHORT_SIDE_PX, allow_missing=True)
    except MediaError:
        return None
    return clip.frames[0] if len(clip.frames) else None
