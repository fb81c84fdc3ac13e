"""Figures of a report, as PNG (150 dpi) and SVG. Drawn on figure objects with Agg: no window, no global state.

Colours are those of Okabe and Ito (2008, Color Universal Design), told apart by line style as well. The same
evaluation and the same fonts give the same bytes: SVG ids are salted with a constant, and no file holds a date.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cache.identity import digest16
from cache.parts import write_aside
from evaluate.evaluation import Evaluation, ResultScore
from evaluate.metrics import class_aucs, macro_roc_curve, roc_curve
from evaluate.scoring import check_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
CONFUSION_LIMIT = 12
ACCURACY_LIMIT = 60
ANNOTATED_CLASSES = 16
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", ORANGE, "#7F6000", "#000000")
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_FALLBACK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei")
Drawing = tuple[str, Callable[[], "Figure"]]


def figure_plan(evaluation: Evaluation) -> list[Drawing]:
    """Names of a report's figures, and how to draw each.

    Confusion matrices are drawn of every result of a run of up to `CONFUSION_LIMIT`; of a larger one, of the best
    result and of each network.
    """
    chosen: tuple[ResultScore, ...] = evaluation.scored
    if len(chosen) > CONFUSION_LIMIT:
        chosen = tuple(item for item in chosen if item.is_network or item is evaluation.best)
    drawings: list[Drawing] = [
        ("accuracy", lambda: accuracy_figure(evaluation)),
        (f"roc-{slug(evaluation.best.result.name)}", lambda: roc_figure(evaluation, evaluation.best)),
    ]
    for item in chosen:
        drawings.append((f"confusion-{slug(item.result.name)}", lambda item=item: confusion_figure(evaluation, item)))  # type: ignore[misc]
    return drawings


def draw_figures(evaluation: Evaluation, folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Draw and write a report's figures one by one, yielding each name and its files."""
    for name, draw in figure_plan(evaluation):
        with drawing_settings():
            figure = draw()
            yield name, tuple(write_figure(figure, folder / f"{name}{ending}") for ending in (".png", ".svg"))


def slug(name: str) -> str:
    """A result's name as part of a file name; where something had to be dropped, a digest keeps it unique.

    Examples
    --------
    >>> slug("c3d+i3d softmax logits")
    'c3d+i3d-softmax-logits'
    """
    text = name.replace(" ", "-").replace(":", "_")
    safe = re.sub(r"[^A-Za-z0-9._+@-]+", "-", text)[:80]
    return safe if safe == text else f"{safe}-{digest16(name)[:8]}"


@contextmanager
def drawing_settings() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's settings file says; undone on leaving."""
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    families = ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed)]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": families,
                "font.size": 9.0,
                "axes.titlesize": 10.0,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "figure.constrained_layout.use": True,
                "svg.hashsalt": "moodfuse",
                "text.parse_math": False,
            }
        )
        yield


def write_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure in the format of the path's ending, unless the file already holds it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(content, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    data = content.getvalue()
    if not (path.is_file() and path.read_bytes() == data):
        write_aside(path, lambda temporary: _fill(temporary, data))
    return path


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _title(evaluation: Evaluation, text: str, item: ResultScore | None = None, *, width: int = 80) -> str:
    """A heading of wrapped lines: what it is, of which result, and LEAKY where the run is."""
    parts = [f"{evaluation.marker}: {text}" if evaluation.marker else text]
    if item is not None:
        result = item.result
        parts.append(f"{' + '.join(result.sources)}, {result.head}, {result.level} level")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width))


def _short(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def confusion_figure(evaluation: Evaluation, item: ResultScore) -> "Figure":
    """Confusion matrix of a result: clips on the left, shares of each true class on the right."""
    from matplotlib.figure import Figure

    counts = item.score.confusion_matrix
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    names = [_short(name, 20) for name in item.score.classes]
    side = 1.6 + 0.47 * min(len(names), 40) + 0.07 * max(map(len, names))
    figure = Figure(figsize=(2 * side + 0.6, side + 0.2))
    left, right = figure.subplots(1, 2)
    _matrix(left, counts.astype(np.float64), names, top=max(1, int(counts.max())), form="{:.0f}")
    _matrix(right, shares, names, top=1.0, form="{:.2f}")
    left.set_title(f"Clips ({item.score.clips})")
    right.set_title("Share of each true class")
    heading = _title(evaluation, "Confusion matrix", item, width=int(22 * side))
    figure.suptitle(heading, fontsize=10)
    return figure


def _matrix(axes: "Axes", values: np.ndarray, names: list[str], *, top: float, form: str) -> None:
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set_xlabel("Predicted emotion")
    axes.set_ylabel("True emotion")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(names) > ANNOTATED_CLASSES:
        return
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if value > 0.55 * top else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=8)


def roc_figure(evaluation: Evaluation, item: ResultScore) -> "Figure":
    """ROC curve of each class against the rest, and their mean."""
    from matplotlib.figure import Figure

    values, run = item.result.probabilities, evaluation.run
    _, labels = check_labels(run.labels, run.classes, values.shape)
    figure = Figure(figsize=(7.2, 4.9))
    axes = figure.subplots()
    areas = class_aucs(labels, values)
    for index, (name, area) in enumerate(zip(run.classes, areas, strict=True)):
        if not np.isnan(area):
            (line,) = axes.plot(*roc_curve(labels, values, index), linewidth=1.3, label=f"{_short(name)}  {area:.2f}")
            line.set_color(COLOURS[index % len(COLOURS)])
            line.set_linestyle(STYLES[index // 2 % len(STYLES)])
    axes.plot(
        *macro_roc_curve(labels, values), color="black", linewidth=2.6, label=f"macro average  {item.score.auc:.2f}"
    )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 3)), linewidth=1.0, label="chance  0.50")
    axes.set(
        xlabel="False positive rate",
        ylabel="True positive rate",
        aspect="equal",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.set_title(_title(evaluation, "ROC of each emotion against the rest", item, width=70), loc="left")
    axes.legend(
        title="Area under the curve", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left"
    )
    return figure


def accuracy_figure(evaluation: Evaluation) -> "Figure":
    """Accuracy of every result with its 95 % interval; networks above, fusions below, better ones first.

    Beyond `ACCURACY_LIMIT` rows the best fusions are shown, and the title says so.
    """
    from matplotlib.figure import Figure

    networks = evaluation.networks[:ACCURACY_LIMIT]
    fusions = evaluation.fusions[: ACCURACY_LIMIT - len(networks)]
    rows = [*networks, *fusions]
    names = ["\n".join(textwrap.wrap(_row_name(item), 46, break_on_hyphens=False)) for item in rows]
    heights = np.array([0.35 + 0.65 * (name.count("\n") + 1) for name in names])
    places = np.cumsum(heights) - heights / 2  # the middle of each row
    figure = Figure(figsize=(8.0, 1.5 + 0.26 * float(places[-1])))
    axes = figure.subplots()
    for place, item in zip(places, rows, strict=True):
        total = item.score
        colour, mark = (ORANGE, "s") if item.is_network else (BLUE, "o")
        axes.plot(
            [total.accuracy_ci95.low, total.accuracy_ci95.high], [place, place], color=colour, linewidth=1.6, alpha=0.7
        )
        axes.plot(total.accuracy, place, mark, color=colour, markersize=5)
    label, chance = evaluation.majority
    axes.axvline(chance, color=GREY, linestyle="--", linewidth=1.0)
    axes.text(
        chance,
        1.0,
        f" always “{_short(label)}”: {chance:.2f}",
        transform=axes.get_xaxis_transform(),
        va="bottom",
        color=GREY,
        fontsize=8,
    )
    axes.set_yticks(places, names, fontsize=8)
    axes.set(
        xlim=(0, 1),
        ylim=(float(places[-1]) + 0.8, float(places[0]) - 0.8),
        xlabel="Accuracy, with 95 % interval over groups",
    )
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    shown = (
        f"best {len(rows)} of {len(evaluation.scored)} results" if len(rows) < len(evaluation.scored) else "all results"
    )
    figure.suptitle(_title(evaluation, f"Accuracy of {shown} (squares: one network; dots: fusion)"), fontsize=10)
    return figure


def _row_name(item: ResultScore) -> str:
    result = item.result
    return f"{' + '.join(result.sources)}, {result.head}" + ("" if item.is_network else f", {result.level}")
