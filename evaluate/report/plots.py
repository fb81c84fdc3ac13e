"""Figures of a report, as PNG and SVG for papers; `moodfuse.evaluate.report.figure_style` says how they look."""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.metrics import class_aucs, macro_roc_curve, roc_curve
from moodfuse.evaluate.report.figure_style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    STYLES,
    drawing_settings,
    file_name,
    row_name,
    rows_axes,
    short,
    slug,
    title,
    write_figure,
)
from moodfuse.evaluate.report.sentences import WorthGroup, worth_groups
from moodfuse.evaluate.results import ResultScore
from moodfuse.evaluate.validation import check_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFUSION_LIMIT = 12
ACCURACY_LIMIT = 60
ANNOTATED_CLASSES = 16
MARKS = "squares: one network; diamonds: a head on one source; dots: fusion"
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
    if evaluation.best.calibration is not None:
        drawings.append(
            (f"reliability-{slug(evaluation.best.result.name)}", lambda: reliability_figure(evaluation))
        )
    for group in worth_groups(evaluation)[:1]:
        name = f"shapley-{slug(f'{group.head} {group.level}')}"
        drawings.append((name, lambda group=group: worth_figure(evaluation, group)))  # type: ignore[misc]
    if evaluation.run.fold_count > 1:
        drawings.append(("folds", lambda: folds_figure(evaluation, chosen)))
    for item in chosen:
        drawings.append(
            (f"confusion-{slug(item.result.name)}", lambda item=item: confusion_figure(evaluation, item))
        )  # type: ignore[misc]
    return [(file_name(evaluation, name), draw) for name, draw in drawings]


def draw_figures(evaluation: Evaluation, folder: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Draw and write a report's figures one by one, yielding each name and its files."""
    run = evaluation.run
    sources = (source for result in run.results for source in result.sources)
    names = tuple(dict.fromkeys((run.name, *run.classes, *sources)))
    for name, draw in figure_plan(evaluation):
        with drawing_settings(names):
            figure = draw()
            yield name, tuple(write_figure(figure, folder / f"{name}{ending}") for ending in (".png", ".svg"))


def confusion_figure(evaluation: Evaluation, item: ResultScore) -> "Figure":
    """Confusion matrix of a result: clips on the left, shares of each true class on the right."""
    from matplotlib.figure import Figure

    counts = item.score.confusion_matrix
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    names = [short(name, 20) for name in item.score.classes]
    side = 1.6 + 0.47 * min(len(names), 40) + 0.07 * max(map(len, names))
    figure = Figure(figsize=(2 * side + 0.6, side + 0.2))
    left, right = figure.subplots(1, 2)
    _matrix(left, counts.astype(np.float64), names, top=max(1, int(counts.max())), form="{:.0f}")
    _matrix(right, shares, names, top=1.0, form="{:.2f}")
    left.set_title(f"Clips ({item.score.clips})")
    right.set_title("Share of each true class")
    heading = title(evaluation, "Confusion matrix", item, width=int(22 * side))
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
            (line,) = axes.plot(
                *roc_curve(labels, values, index), linewidth=1.3, label=f"{short(name)}  {area:.2f}"
            )
            line.set_color(COLOURS[index % len(COLOURS)])
            line.set_linestyle(STYLES[index // 2 % len(STYLES)])
    axes.plot(
        *macro_roc_curve(labels, values),
        color="black",
        linewidth=2.6,
        label=f"macro average  {item.score.auc:.2f}",
    )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 3)), linewidth=1.0, label="chance  0.50")
    axes.set(
        xlabel="False positive rate",
        ylabel="True positive rate",
        aspect="equal",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axes.set_title(title(evaluation, "ROC of each emotion against the rest", item, width=70), loc="left")
    axes.legend(
        title="Area under the curve",
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        alignment="left",
    )
    return figure


def accuracy_figure(evaluation: Evaluation) -> "Figure":
    """Accuracy of every result with its 95 % interval: networks, heads on one source, fusions, better ones first.

    Of more than `ACCURACY_LIMIT` rows the networks are shown and the best others, and the title says so.
    """
    from matplotlib.figure import Figure

    networks = evaluation.networks[:ACCURACY_LIMIT]
    others = sorted((item for item in evaluation.scored if not item.is_network), key=lambda item: item.rank)
    others = sorted(others[: ACCURACY_LIMIT - len(networks)], key=lambda item: item.is_fusion)
    rows = [*networks, *others]
    names = ["\n".join(textwrap.wrap(row_name(item), 46, break_on_hyphens=False)) for item in rows]
    heights = np.array([0.35 + 0.65 * (name.count("\n") + 1) for name in names])
    places = np.cumsum(heights) - heights / 2  # the middle of each row
    figure = Figure(figsize=(8.0, 1.5 + 0.26 * float(places[-1])))
    axes = figure.subplots()
    for place, item in zip(places, rows, strict=True):
        total = item.score
        colour, mark = (ORANGE, "s") if item.is_network else (BLUE, "o") if item.is_fusion else (GREEN, "D")
        axes.plot(
            [total.accuracy_ci95.low, total.accuracy_ci95.high],
            [place, place],
            color=colour,
            linewidth=1.6,
            alpha=0.7,
        )
        axes.plot(total.accuracy, place, mark, color=colour, markersize=5)
    label, chance = evaluation.majority
    axes.axvline(chance, color=GREY, linestyle="--", linewidth=1.0)
    axes.text(
        chance,
        1.0,
        f" always “{short(label)}”: {chance:.2f}",
        transform=axes.get_xaxis_transform(),
        va="bottom",
        color=GREY,
        fontsize=8,
    )
    rows_axes(axes, places.tolist(), names)
    axes.set(xlim=(0, 1), xlabel="Accuracy, with 95 % interval over groups")
    shown = (
        f"best {len(rows)} of {len(evaluation.scored)} results"
        if len(rows) < len(evaluation.scored)
        else "all results"
    )
    figure.suptitle(title(evaluation, f"Accuracy of {shown} ({MARKS})"), fontsize=10)
    return figure


def reliability_figure(evaluation: Evaluation) -> "Figure":
    """How often the best result is right, by its confidence, before and after temperature scaling."""
    from matplotlib.figure import Figure

    item = evaluation.best
    found = item.calibration
    figure = Figure(figsize=(6.4, 4.7))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 3)), linewidth=1.0, label="as it says")
    if found is not None:
        drawn = (
            (f"before scaling, ECE {found.ece_before:.3f}", found.bins_before, ORANGE, "--", "s"),
            (f"after, ECE {found.ece_after:.3f}", found.bins_after, BLUE, "-", "o"),
        )
        for label, bins, colour, style, mark in drawn:
            confidence, right = [item.confidence for item in bins], [item.accuracy for item in bins]
            axes.plot(confidence, right, linestyle=style, color=colour, linewidth=1.2, label=label)
            axes.scatter(
                confidence, right, s=[14 + 5 * item.clips for item in bins], marker=mark, color=colour
            )
        said = (
            f"if perfectly calibrated, ECE {found.ece_if_perfect:.3f}, up to {found.ece_if_perfect_high:.3f}"
        )
        axes.plot([], [], linestyle="none", label=said)
    axes.set(xlabel="Probability of the most probable emotion", ylabel="Share right", aspect="equal")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_title(title(evaluation, "Reliability (size: clips in the bin)", item, width=64), loc="left")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)
    return figure


def worth_figure(evaluation: Evaluation, group: WorthGroup) -> "Figure":
    """Shapley value of each source, and what leaving it out costs, in points with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 1.7 + 0.42 * len(group.rows)))
    axes = figure.subplots()
    places = np.arange(len(group.rows), dtype=np.float64)
    drawn = (
        ("Shapley value", -0.18, BLUE, [(row.shapley, row.shapley_ci95) for row in group.rows]),
        ("lost without it", 0.18, ORANGE, [(row.drop, row.drop_ci95) for row in group.rows]),
    )
    for label, offset, colour, values in drawn:
        axes.barh(places + offset, [100 * value for value, _ in values], 0.32, color=colour, label=label)
        for place, (_, ends) in zip(places + offset, values, strict=True):
            axes.plot([100 * ends.low, 100 * ends.high], [place, place], color="black", linewidth=1.0)
    axes.axvline(0, color=GREY, linewidth=0.8)
    rows_axes(axes, places.tolist(), [short(row.source, 40) for row in group.rows])
    axes.set_xlabel("Points of accuracy, with 95 % interval")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title(evaluation, f"What each view adds: {group.head}, {group.level} level"), fontsize=10)
    return figure


def folds_figure(evaluation: Evaluation, items: tuple[ResultScore, ...]) -> "Figure":
    """Accuracy of each fold, a dot a fold, with a line at the accuracy over all clips."""
    from matplotlib.figure import Figure

    names = ["\n".join(textwrap.wrap(row_name(item), 46, break_on_hyphens=False)) for item in items]
    places = 1.3 * np.arange(len(items), dtype=np.float64)
    figure = Figure(figsize=(7.6, 1.5 + 0.4 * len(items)))
    axes = figure.subplots()
    for place, item in zip(places, items, strict=True):
        folds = item.per_fold
        shift = np.linspace(-0.25, 0.25, len(folds)) if len(folds) > 1 else np.zeros(1)
        axes.scatter([fold.accuracy for fold in folds], place + shift, s=22, color=BLUE, alpha=0.8)
        axes.plot([item.score.accuracy] * 2, [place - 0.45, place + 0.45], color=ORANGE, linewidth=1.6)
    rows_axes(axes, places.tolist(), names)
    axes.set(xlim=(-0.03, 1.03), xlabel="Accuracy of each fold (dot) and of all clips (line)")
    figure.suptitle(title(evaluation, "Accuracy fold by fold"), fontsize=10)
    return figure
