"""The page of a timeline: the video, curves of the emotions, a table, and a poster image of the video.

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
from moodfuse.extract.decoding import DecodeRequest, MediaError, decode_many
from moodfuse.model.predictions import Timeline
from moodfuse.timeline import contents
from moodfuse.timeline.contents import (
    DARK,
    DASHES,
    LIGHT,
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
    spread_positions,
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


def write_timeline_page(
    timeline: Timeline, path: Path, *, video: Path, threshold: float, model: str, poster: bytes | None
) -> Path:
    """Write the page of a timeline atomically, and return its path.

    The page refers to the video by its relative address. `threshold` is the least probability of a certain
    label, `poster` the JPEG of `make_poster`. Raises `InputError` if the page would overwrite the video.
    """
    if path.exists() and video.exists() and path.samefile(video):
        raise InputError(
            f"{path}: this is the video itself; give the page another name, such as {video.stem}.html"
        )
    page = build_page(
        timeline,
        name=video.name,
        url=make_relative_url(video, path),
        threshold=threshold,
        model=model,
        poster=None if poster is None else _embed_poster(poster),
    )
    write_text(path, render_page(page))
    return path


def make_relative_url(video: Path, page: Path) -> str:
    """Return the relative, percent-encoded address of a file for a page."""
    target = video.parent.resolve() / video.name
    return quote(os.fsencode(os.path.relpath(target, page.parent.resolve())), safe="/")


def render_page(page: dict[str, Any]) -> str:
    """Render the page; only its own script may run, and only the video may be loaded."""
    style = base_style() + _make_palette_style() + (_TEMPLATES / "timeline.css").read_text("utf-8")
    script = (_TEMPLATES / "timeline.js").read_text("utf-8")
    template = _environment().get_template("timeline.html.j2")
    return template.render(page=page, **page_assets(style, script))


@cache
def _environment() -> "Environment":
    return page_environment(_TEMPLATES)


def build_page(
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
    step_s = contents.compute_hop_s(timeline) or 1.0
    leap_s = max(contents.compute_window_s(timeline), step_s)
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
        "facts": f"{contents.format_time(end_s)} long, {contents.describe_windows(timeline)}; model {model}",
        "summary": contents.summarise(timeline),
        "uncertainty": contents.describe_uncertainty(timeline, threshold),
        "missing": contents.describe_missing(timeline),
        "alternative": contents.describe_chart(timeline, threshold),
        "threshold": f"{threshold:g}",
        "threshold_y": _y(threshold),
        "ticks": [
            {
                "left": _percent(tick.at_s / end_s),
                "text": contents.format_time(tick.at_s),
                "major": tick.major,
            }
            | {"x": _x(tick.at_s, end_s)}
            for tick in choose_ticks(end_s)
        ],
        "lines": _lines(timeline, end_s),
        "ends": _ends(timeline),
        "band": _band(timeline, threshold, end_s),
        "refusals": contents.describe_refusals(timeline),
        "readable": counted(int(known.sum()), "window" if known.all() else "readable window"),
        "top": f"{printable(timeline.classes[highest])} {means[highest]:.2f}" if known.any() else "",
        "labels": [
            {"name": label, "look": choose_look(index), "text": number(mean)}
            | {"percent": round(100 * float(np.nan_to_num(mean)), 1)}
            for index, (label, mean) in enumerate(zip(timeline.classes, means, strict=True))
        ],
        "windows": contents.explain_windows(timeline),
        "step": contents.format_seconds(step_s),
        "leap": contents.format_seconds(leap_s),
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
        for label, position, moved in zip(
            strong, positions, spread_positions(positions, NAME_GAP), strict=True
        )
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
                "title": f"{contents.format_time(run.start_s)} to {contents.format_time(run.end_s)}: {state}",
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
                "start": contents.format_time(timeline.starts_s[row], tenths=True),
                "end": contents.format_time(timeline.ends_s[row], tenths=True),
                "text": contents.describe_reason(refusals.get(row)) if unread else timeline.classes[label],
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


def _embed_poster(data: bytes) -> dict[str, Any]:
    """Embed a JPEG as a data URI."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return {"uri": uri, "width": width, "height": height}


def make_poster(path: Path, duration_s: float) -> bytes | None:
    """Return the frame after a third of a video as JPEG, decoded in a worker process.

    Its short side has at most 270 pixels; `None` if no frame can be read.
    """
    start_s = duration_s / 3
    end_s = min(start_s + 1.0, duration_s)
    request = DecodeRequest(path, start_s, end_s, short_side_px=SHORT_SIDE_PX, allow_missing=True)
    ((_, clip),) = decode_many([request], jobs=1)
    if isinstance(clip, MediaError) or not len(clip.frames):
        return None
    image = Image.fromarray(np.ascontiguousarray(clip.frames[0]))
    image.thumbnail((LONG_SIDE_LIMIT, LONG_SIDE_LIMIT), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()


def _make_palette_style() -> str:
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
