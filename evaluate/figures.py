"""Figures of a report as PDF, PNG (150 dpi) and SVG files, drawn with Matplotlib, and their common style.

Figures are drawn on figure objects with Agg: no window, no global state. Colours are those of Okabe and Ito
(2008, Color Universal Design), with line styles as a second cue. The same evaluation and fonts give the same
bytes: SVG ids are salted with a constant, and no file holds a date. PDF files embed their fonts as type 42,
which publishers accept. The page has charts of its own, in its own colours.
"""

import io
import logging
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from moodfuse.cache.console import printable
from moodfuse.cache.files import write_atomic
from moodfuse.evaluate.evaluation import Calibration, Evaluation, ResultScore, run_labels
from moodfuse.evaluate.metrics import class_aucs, macro_roc_curve, roc_curve
from moodfuse.evaluate.rows import axis_limits, group_by_sources, head_name, list_heads

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
MORE_FONTS: tuple[str, ...] = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Microsoft YaHei")
MORE_FONTS += ("SimHei", "PingFang SC", "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo")
MORE_FONTS += ("Noto Sans Devanagari", "Lohit Devanagari", "Nirmala UI", "Kohinoor Devanagari")
MORE_FONTS += ("Noto Sans Arabic", "Noto Sans Thai", "Arial Unicode MS")
"""Used for characters that `FONT` does not have (it has Arabic), where they are installed."""
FORMATS = (".pdf", ".png", ".svg")
MARKERS = "sDo^vP*X"
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
                "pdf.fonttype": 42,
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
        scripts = sorted({unicodedata.name(char, "unknown").split()[0].capitalize() for char in missing})
        log.warning(
            "figures show boxes for %s characters (%s), because no installed font has them; install one "
            "(Debian: apt-get install fonts-noto-core fonts-noto-cjk) and run this again",
            ", ".join("CJK" if script == "Cjk" else script for script in scripts),
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


def plan_figures(evaluation: Evaluation) -> dict[str, Callable[[], "Figure"]]:
    """Name of each figure of a report, marked for a leaky run -> the function that draws it.

    They are the ablation, and confusion matrix, ROC curves and reliability of the best result.
    """
    best = evaluation.best
    plan: dict[str, Callable[[], Figure]] = {
        "ablation": partial(ablation_figure, evaluation),
        "confusion": partial(confusion_figure, evaluation, best),
        "roc": partial(roc_figure, evaluation, best),
    }
    if best.calibration is not None:
        plan["reliability"] = partial(reliability_figure, evaluation, best.calibration)
    mark = f"-{evaluation.marker}" if evaluation.marker else ""
    return {f"{name}{mark}": draw for name, draw in plan.items()}


def draw_figures(evaluation: Evaluation, folder: Path) -> list[str]:
    """Draw a report's figures, write each in all `FORMATS`, and return their names."""
    run, plan = evaluation.run, plan_figures(evaluation)
    sources = (source for result in run.results for source in result.sources)
    with drawing_settings(dict.fromkeys((run.name, *run.classes, *sources))):
        for name, draw in plan.items():
            figure = draw()
            for suffix in FORMATS:
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


def ablation_figure(evaluation: Evaluation) -> "Figure":
    """Accuracy over all fold plans with its 95 % interval, by combination of sources (rows) and head."""
    groups = group_by_sources(evaluation.figure_rows)
    heads = list_heads(evaluation.figure_rows)
    plans = 1 + len(evaluation.run.repeat_folds)
    over = f" over {plans} fold plans" if plans > 1 else ""
    names = ["\n".join(textwrap.wrap(" + ".join(rows[0].result.sources), 40)) for rows in groups]
    heights = [
        max(1.0 + 0.6 * len(rows), 1.4 * (1 + name.count("\n")))
        for rows, name in zip(groups, names, strict=True)
    ]
    ends = np.cumsum(heights)
    height = 0.13 * float(ends[-1])
    figure, axes = _new_axes(7.2, 1.3 + height)
    styles = {
        head: (COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
        for index, head in enumerate(heads)
    }
    for head, (colour, mark) in styles.items():
        axes.plot([], [], color=colour, marker=mark, linewidth=1.3, markersize=4, label=head_name(head))
    for rows, end, size in zip(groups, ends, heights, strict=True):
        for number, scored in enumerate(rows):
            position = end - size / 2 + 0.6 * (number - (len(rows) - 1) / 2)
            value, interval = scored.mean_accuracy
            colour, mark = styles[scored.result.head, scored.result.level]
            axes.plot(interval.ends, [position] * 2, color=colour, linewidth=1.3, alpha=0.75)
            axes.plot(value, position, mark, color=colour, markersize=4, clip_on=False)
        axes.axhline(end, color="#DDDDDD", linewidth=0.7)
    majority, baseline = evaluation.majority
    label = f"always “{short(majority)}”"
    axes.axvline(baseline, color=GREY, linestyle="--", linewidth=1.0, label=label, zorder=0)
    axes.set_yticks((ends - np.array(heights) / 2).tolist(), names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(float(ends[-1]), 0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set(xlim=axis_limits(evaluation), xlabel=f"Accuracy{over}, with 95 % interval")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(_title(evaluation, "Accuracy by combination of sources and head"))
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
