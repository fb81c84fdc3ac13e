"""Figures of a report as PNG (150 dpi) and SVG files, drawn with Matplotlib, and their common style.

Figures are drawn on figure objects with Agg: no window, no global state. Colours are those of Okabe and Ito
(2008, Color Universal Design), with line styles as a second cue. The same evaluation and fonts give the same
bytes: SVG ids are salted with a constant, and no file holds a date. The page has small charts of its own
instead of these figures, which take a quarter of a second and 40 kB each.
"""

import io
import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.cache.digests import digest16
from moodfuse.cache.files import write_atomic
from moodfuse.evaluate.evaluation import Calibration, Evaluation, ResultScore, run_labels
from moodfuse.evaluate.metrics import class_aucs, macro_roc_curve, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
COLOURS = (BLUE, "#E69F00", GREEN, "#CC79A7", "#56B4E9", ORANGE, "#7F6000", "#000000")
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
DOTTED = (0, (1, 3))
FONT = "DejaVu Sans"
"""Part of Matplotlib."""
MORE_FONTS: tuple[str, ...] = (
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
)
MORE_FONTS += ("Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo")
MORE_FONTS += ("Noto Sans Devanagari", "Noto Sans Arabic", "Noto Sans Thai", "Arial Unicode MS")
"""Used for characters that `FONT` does not have, where they are installed."""
CONFUSION_LIMIT = 12
ACCURACY_LIMIT = 60
ANNOTATED_CLASSES = 16
_NO_DATE: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
log = logging.getLogger(__name__)


@contextmanager
def drawing_settings(names: Iterable[str] = ()) -> Iterator[None]:
    """Set Matplotlib's defaults and ours, independent of the user's settings file; undone on exit.

    Fonts are chosen that have the characters of `names`, the texts in the figures.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # `font_families` warns of characters without a font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": font_families(names),
                "font.size": 9.0,
                "axes.titlesize": 10.0,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.constrained_layout.use": True,
                "figure.titlesize": 10.0,
                "legend.frameon": False,
                "svg.hashsalt": "moodfuse",
                "text.parse_math": False,
            }
        )
        yield


def font_families(names: Iterable[str]) -> list[str]:
    """`FONT` and, if it does not have all characters of `names`, the installed `MORE_FONTS`."""
    from matplotlib import font_manager

    missing = {char for name in names for char in printable(name)}
    families = []
    for family in (FONT, *MORE_FONTS):
        if missing and family in font_manager.get_font_names():
            families.append(family)
            missing -= set(map(chr, font_manager.get_font(font_manager.findfont(family)).get_charmap()))
    if missing:
        log.warning(
            "no font for %s, so figures show boxes instead; install a font such as Noto Sans CJK (Debian: "
            "apt-get install fonts-noto-core fonts-noto-cjk), and run this again",
            "".join(sorted(missing)),
        )
    return families or [FONT]


def write_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure in the format of its path's suffix: png, svg or pdf."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    suffix = path.suffix.lower()
    figure.savefig(content, format=suffix[1:], dpi=DPI, metadata=_NO_DATE.get(suffix))
    write_atomic(path, content.getvalue())
    return path


def short(name: str, limit: int = 28) -> str:
    """A name cut to `limit` characters, with unprintable characters escaped."""
    name = printable(name)
    return name if len(name) <= limit else name[: limit - 1] + "…"


def slug(name: str) -> str:
    """A result's name as part of a file name; a digest keeps it unique where characters had to be dropped.

    Examples
    --------
    >>> slug("c3d+i3d softmax logits")
    'c3d+i3d-softmax-logits'
    """
    text = name.replace(" ", "-").replace(":", "_")
    safe = re.sub(r"[^A-Za-z0-9._+@-]+", "-", text)[:80]
    return safe if safe == text else f"{safe}-{digest16(name)[:8]}"


def plan_figures(evaluation: Evaluation) -> dict[str, Callable[[], "Figure"]]:
    """Name of each figure of a report, marked for a leaky run -> the function that draws it.

    Of more than `CONFUSION_LIMIT` results, confusion matrices are drawn of the best and of each network only.
    """
    best, results = evaluation.best, evaluation.scored
    plan: dict[str, Callable[[], Figure]] = {
        "accuracy": partial(accuracy_figure, evaluation),
        f"roc-{slug(best.result.name)}": partial(roc_figure, evaluation, best),
    }
    if best.calibration is not None:
        plan[f"reliability-{slug(best.result.name)}"] = partial(
            reliability_figure, evaluation, best.calibration
        )
    for scored in results:
        if len(results) <= CONFUSION_LIMIT or scored.is_network or scored is best:
            plan[f"confusion-{slug(scored.result.name)}"] = partial(confusion_figure, evaluation, scored)
    mark = f"-{evaluation.marker}" if evaluation.marker else ""
    return {f"{name}{mark}": draw for name, draw in plan.items()}


def draw_figures(evaluation: Evaluation, folder: Path) -> list[str]:
    """Draw a report's figures, write each as PNG and SVG, and return their names."""
    run, plan = evaluation.run, plan_figures(evaluation)
    sources = (source for result in run.results for source in result.sources)
    with drawing_settings(dict.fromkeys((run.name, *run.classes, *sources))):
        for name, draw in plan.items():
            figure = draw()
            for suffix in (".png", ".svg"):
                write_figure(figure, folder / f"{name}{suffix}")
    return list(plan)


def _new_axes(width: float, height: float) -> tuple["Figure", "Axes"]:
    """A figure with one axes; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _title(evaluation: Evaluation, text: str, scored: ResultScore | None = None, *, width: int = 80) -> str:
    """A heading in wrapped lines: the subject, the result, and a mark for a leaky run."""
    parts = [f"{evaluation.marker}: {text}" if evaluation.marker else text]
    if scored is not None:
        result = scored.result
        parts.append(f"{' + '.join(result.sources)}, {result.head}, {result.level} level")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width))


def _row_name(scored: ResultScore) -> str:
    result = scored.result
    name = f"{' + '.join(result.sources)}, {result.head}" + ("" if scored.is_network else f", {result.level}")
    return "\n".join(textwrap.wrap(name, 46, break_on_hyphens=False))


def confusion_figure(evaluation: Evaluation, scored: ResultScore) -> "Figure":
    """Confusion matrix of a result: clips, coloured and with the percentage of each true class."""
    counts = scored.score.confusion_matrix
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [short(name, 20) for name in scored.score.classes]
    side = 1.6 + 0.5 * min(len(names), 40) + 0.07 * max(map(len, names))
    figure, axes = _new_axes(side + 0.6, side + 0.6)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="Predicted emotion", ylabel="True emotion")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(names) <= ANNOTATED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            text, colour = f"{count}\n{100 * share:.0f} %", "white" if share > 0.55 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    title = f"Confusion matrix of {scored.score.clips} clips, with percentages of each true emotion"
    figure.suptitle(_title(evaluation, title, scored, width=int(13 * side)))
    return figure


def roc_figure(evaluation: Evaluation, scored: ResultScore) -> "Figure":
    """ROC curve of each class against the rest, and their mean."""
    values, labels = scored.result.probabilities, run_labels(evaluation.run)
    figure, axes = _new_axes(7.2, 4.9)
    areas = class_aucs(labels, values)
    for index, (name, area) in enumerate(zip(evaluation.run.classes, areas, strict=True)):
        if not np.isnan(area):
            axes.plot(
                *roc_curve(labels, values, index),
                linewidth=1.3,
                label=f"{short(name)}  {area:.2f}",
                color=COLOURS[index % len(COLOURS)],
                linestyle=STYLES[index // 2 % len(STYLES)],
            )
    label = f"macro average  {scored.score.auc:.2f}"
    axes.plot(*macro_roc_curve(labels, values), color="black", linewidth=2.6, label=label)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=DOTTED, linewidth=1.0, label="chance  0.50")
    axes.set(xlabel="False positive rate", ylabel="True positive rate", aspect="equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(
        _title(evaluation, "ROC curve of each emotion against the rest", scored, width=70), loc="left"
    )
    axes.legend(title="Area under the curve", loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left")
    return figure


def accuracy_figure(evaluation: Evaluation) -> "Figure":
    """Accuracy of every result with its 95 % interval: networks, heads on one source, fusions.

    Of more than `ACCURACY_LIMIT` results, the networks and the best others are shown, as the title says.
    """
    shown = sorted(evaluation.ranked, key=lambda scored: not scored.is_network)[:ACCURACY_LIMIT]
    rows = sorted(shown, key=lambda scored: (not scored.is_network, scored.is_fusion))
    names = [_row_name(scored) for scored in rows]
    heights = np.array([0.35 + 0.65 * (name.count("\n") + 1) for name in names])
    positions = np.cumsum(heights) - heights / 2  # the middle of each row
    figure, axes = _new_axes(8.0, 1.5 + 0.26 * float(positions[-1]))
    for position, scored in zip(positions, rows, strict=True):
        colour, mark = (
            (ORANGE, "s") if scored.is_network else (BLUE, "o") if scored.is_fusion else (GREEN, "D")
        )
        axes.plot(scored.score.accuracy_ci95.ends, [position] * 2, color=colour, linewidth=1.6, alpha=0.7)
        axes.plot(scored.score.accuracy, position, mark, color=colour, markersize=5)
    label, baseline = evaluation.majority
    axes.axvline(baseline, color=GREY, linestyle="--", linewidth=1.0)
    text, transform = f" always “{short(label)}”: {baseline:.2f}", axes.get_xaxis_transform()
    axes.text(baseline, 1.0, text, transform=transform, va="bottom", color=GREY, fontsize=8)
    axes.set_yticks(positions.tolist(), names, fontsize=8)
    axes.set_ylim(float(positions[-1]) + 0.8, float(positions[0]) - 0.8)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set(xlim=(0, 1), xlabel="Accuracy, with 95 % interval over groups")
    total = len(evaluation.scored)
    subject = f"best {len(rows)} of {total} results" if len(rows) < total else "all results"
    marks = "squares: one network; diamonds: a head on one source; dots: fusion"
    figure.suptitle(_title(evaluation, f"Accuracy of {subject} ({marks})"))
    return figure


def reliability_figure(evaluation: Evaluation, calibration: Calibration) -> "Figure":
    """Accuracy of the best result by its confidence, before and after temperature scaling."""
    figure, axes = _new_axes(6.4, 4.7)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=DOTTED, linewidth=1.0, label="perfect calibration")
    curves = (
        (f"before scaling, ECE {calibration.ece_before:.3f}", calibration.bins_before, ORANGE, "--", "s"),
        (f"after scaling, ECE {calibration.ece_after:.3f}", calibration.bins_after, BLUE, "-", "o"),
    )
    for label, bins, colour, style, mark in curves:
        confidence, accuracy = [one.confidence for one in bins], [one.accuracy for one in bins]
        sizes = [14 + 5 * one.clips for one in bins]
        axes.plot(confidence, accuracy, linestyle=style, color=colour, linewidth=1.2, label=label)
        axes.scatter(confidence, accuracy, s=sizes, marker=mark, color=colour)
    perfect, high = calibration.ece_if_perfect, calibration.ece_if_perfect_high
    axes.plot([], [], linestyle="none", label=f"if perfectly calibrated, ECE {perfect:.3f}, up to {high:.3f}")
    axes.set(xlabel="Confidence: probability of the predicted emotion", ylabel="Accuracy", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    title = _title(evaluation, "Reliability (size: clips in the bin)", evaluation.best, width=64)
    axes.set_title(title, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)
    return figure
