"""The summary and the tables that all forms of the report share, and those of the terminal."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import click

from moodfuse.cache.runs import LEAKY_MARK, Run
from moodfuse.cache.terminal import Column, print_lines, print_table, terminal_width
from moodfuse.evaluate.difference import Difference, MetricDifference
from moodfuse.evaluate.evaluation import TEST, Evaluation, ResultScore, run_labels
from moodfuse.evaluate.intervals import UNKNOWN, Interval
from moodfuse.evaluate.markup import gain_text, number, percent, render
from moodfuse.evaluate.paired import Inflation, SourceImportance
from moodfuse.evaluate.planned import format_p
from moodfuse.evaluate.published import FUSION, NETWORKS, OPTIMIZERS, ComparedRow, Comparison, recipe_of
from moodfuse.evaluate.selection import class_frequency_loss

TEMPLATES = files("moodfuse.evaluate.report") / "templates"
_DROPPED = {"notes": 4, "ECE": 3, "macro F1": 2, "recipe": 2, "AUC": 1}
"""Columns that are left out in a narrow terminal, those of the highest number first."""
_RARE_PICK = 0.005
"""A result that is selected in a smaller fraction of the draws is not named."""
MAX_CHANGED = 20
"""Clips that a comparison lists unless the output is wide."""
_CLEAR_PICK = 0.5
"""Below this fraction of the draws no result is selected by a majority."""


@dataclass(frozen=True)
class Summary:
    """The main finding of an evaluation in one sentence, how to read it, and its limits."""

    claim: str
    context: tuple[str, ...]
    limits: tuple[str, ...]


class TextTable(NamedTuple):
    """A table of `text_columns` columns of text, then numbers; a column of notes may follow."""

    title: str
    description: str
    columns: tuple[str, ...]
    text_columns: int
    sections: Sequence[Sequence[tuple[str, ...]]]


def interval_text(interval: Interval) -> str:
    """An interval of a proportion as ``"95 % CI 41-67 %"``."""
    if not interval.known:
        return "no confidence interval"
    return f"95 % CI {100 * interval.low:.0f}-{100 * interval.high:.0f} %"


def design_of(run: Run) -> str:
    """How the clips of a run were predicted: by folds, or as a test set."""
    if run.protocol == TEST:
        return "a held-out test set"
    return f"{run.fold_count} folds, protocol {run.protocol}"


def summarize(evaluation: Evaluation) -> Summary:
    """The main finding of an evaluation, corrected for the selection where that is possible."""
    best, headline = evaluation.best, evaluation.headline
    value, ends = best.mean_accuracy
    claim = f"Accuracy of {best.result.name}: {percent(value)} ({interval_text(ends)})."
    if headline is not None and not math.isnan(headline.corrected):
        value, ends = headline.corrected, headline.corrected_ci95
        claim = (
            f"Estimated accuracy of the selected model: {percent(value)} ({interval_text(ends)}), corrected "
            f"for selecting the best of {headline.candidates} results."
        )
    if evaluation.marker:
        claim = f"{evaluation.marker}: {claim}"
    return Summary(claim, tuple(_context(evaluation, ends)), tuple(_limits(evaluation)))


def _context(evaluation: Evaluation, ends: Interval) -> Iterator[str]:
    label, majority = evaluation.majority
    chance = 1 / len(evaluation.run.classes)
    baseline = max(majority, chance)
    if not ends.known:
        verdict = "Without an interval, the accuracy cannot be compared with these baselines."
    elif ends.low > baseline:
        verdict = "The interval of the estimate lies above both baselines."
    elif ends.high < baseline:
        verdict = "The interval of the estimate lies below the better baseline."
    else:
        verdict = "The interval of the estimate contains the better baseline: no significant difference."
    yield (
        f"Baselines: always predicting “{label}” is {percent(majority)} accurate, guessing "
        f"{percent(chance)}. {verdict}"
    )
    if evaluation.marker:
        yield (
            "The models were trained on the test clips, on purpose: these numbers measure the inflation of "
            "a data leak and do not predict the accuracy on new clips."
        )
    headline, repeated = evaluation.headline, evaluation.best.repeated
    if headline is not None:
        correction = (
            "there are too few groups to correct for that"
            if math.isnan(headline.corrected)
            else "the corrected estimate selects on each bootstrap draw and scores on the other clips"
        )
        baseline = class_frequency_loss(run_labels(evaluation.run), evaluation.run)
        scored = f"an accuracy of {percent(headline.accuracy)} ({interval_text(headline.accuracy_ci95)})"
        if repeated is not None and repeated.repeats > 1:
            scored = f"a mean accuracy of {percent(repeated.accuracy)} ({interval_text(repeated.ci95)})"
        yield (
            f"The best result on these clips is {headline.result}: it has the lowest log loss"
            f"{over_plans(evaluation)}, {number(evaluation.best.rank.log_loss, 3)} (predicting the class "
            f"frequencies gives {number(baseline, 3)}), and {scored}. It was selected on the same clips, so "
            f"this is optimistic; {correction}."
        )


def over_plans(evaluation: Evaluation) -> str:
    """``" over 5 fold plans"``, the basis of the log loss by which results are ranked; empty for one plan."""
    plans = 1 + len(evaluation.run.repeat_folds)
    return f" over {plans} fold plans" if plans > 1 else ""


def first_plan(evaluation: Evaluation) -> str:
    """``" under the first fold plan"``, for numbers that are not means over several plans."""
    return " under the first fold plan" if evaluation.run.repeat_folds else ""


def plans_note(evaluation: Evaluation) -> str:
    """Of which fold plans the metrics in a table of results are; empty for one plan."""
    over = over_plans(evaluation)
    return (
        f"; accuracy and log loss are means{over}, macro F1, AUC and ECE those of the first" if over else ""
    )


def _limits(evaluation: Evaluation) -> Iterator[str]:
    headline = evaluation.headline
    if headline is not None and headline.picks:
        shown = [(name, share) for name, share in headline.picks[:3] if share >= _RARE_PICK]
        picks = ", ".join(f"{name} in {percent(share)}" for name, share in shown)
        clear = headline.picks[0][1] >= _CLEAR_PICK
        yield f"Best result across bootstrap draws: {picks}{'' if clear else '; no clear winner'}."
    if not evaluation.marker:
        yield (
            "The intervals reflect the sampling of clips, not other kinds of music or the variation between "
            "trainings."
        )


def render_report(template: str, evaluation: Evaluation, **values: object) -> str:
    """Fill a template of the report with what all of them use, and `values`."""
    run = evaluation.run
    command = (
        f"moodfuse evaluate --cache DIR --run {run.name} --draws {evaluation.draws} --seed {evaluation.seed}"
    )
    return render(
        TEMPLATES,
        template,
        evaluation=evaluation,
        run=run,
        marker=evaluation.marker,
        design=design_of(run),
        over_plans=over_plans(evaluation),
        plans_note=plans_note(evaluation),
        first_plan=first_plan(evaluation),
        summary=summarize(evaluation),
        modality_sentences=_modality_sentences(evaluation),
        notes=_remaining_notes(evaluation),
        commands=(*run.commands, command + " --inflation" * (evaluation.inflation is not None)),
        **values,
    )


def _modality_sentences(evaluation: Evaluation) -> list[str]:
    """Whether each modality adds accuracy to the other, by the planned tests of the results shown."""
    results = {row.result for row in evaluation.modalities}
    return [
        f"{test.finding}."
        for test in evaluation.planned
        if test.outcome == "accuracy" and {test.result, test.against} <= results
    ]


def _remaining_notes(evaluation: Evaluation) -> list[str]:
    """Notes without that on the selection, which the summary has already."""
    return [note for note in evaluation.notes if note != evaluation.selection_note]


def results_table(evaluation: Evaluation, sections: Iterable[Iterable[ResultScore]]) -> TextTable:
    """Accuracy and macro F1 in %, AUC, log loss and ECE of results."""
    columns = ("sources", "head", "level", "accuracy [95 %]", "macro F1", "AUC", "log loss", "ECE", "notes")
    rows = [
        [_result_cells(scored, evaluation.marked_notes(scored)) for scored in section] for section in sections
    ]
    shown, total = sum(map(len, rows)), len(evaluation.scored)
    subset = "" if shown == total else f" {shown} of {total} results; metrics.csv has all."
    description = (
        f"Accuracy with its 95 % interval and macro F1 in %{plans_note(evaluation)}; sorted by log loss, in "
        f"nats.{subset}"
    )
    return TextTable(f"{evaluation.marker} Results".strip(), description, columns, 3, rows)


def _result_cells(scored: ResultScore, notes: Sequence[str] = ()) -> tuple[str, ...]:
    total, result = scored.score, scored.result
    accuracy, interval = scored.mean_accuracy
    return (
        "+".join(result.sources),
        result.head,
        result.level,
        f"{number(100 * accuracy, 1)} {interval.shown('.0f', scale=100)}",
        number(100 * total.macro_f1, 1),
        *(number(value, 3) for value in (total.auc, scored.rank.log_loss, total.ece)),
        "; ".join(notes),
    )


def modality_table(evaluation: Evaluation) -> TextTable:
    """Accuracy of audio, of video and of both, and the contribution of each."""
    description = (
        f"Accuracy{over_plans(evaluation)} of one head and level on all audio sources, all video sources, "
        "and both. Shapley value: mean of the accuracy that the modality adds to no source and to the other "
        "modality."
    )
    columns = ("modality", "result", "accuracy [95 %]", "Shapley value, points")
    cells = [
        (
            row.modality,
            row.result,
            f"{number(100 * row.accuracy, 1)} {row.accuracy_ci95.shown('.0f', scale=100)}",
            ""
            if row.shapley is None or row.shapley_ci95 is None
            else gain_text(row.shapley, row.shapley_ci95),
        )
        for row in evaluation.modalities
    ]
    return TextTable(f"{evaluation.marker} Does video help?".strip(), description, columns, 2, [cells])


def importance_table(evaluation: Evaluation, rows: list[SourceImportance]) -> TextTable:
    """Contribution of each source under one head and level."""
    description = (
        f"Accuracy{first_plan(evaluation)}. Shapley value: its mean gain over all orders of adding the "
        "sources; loss: accuracy of all sources minus that of all others."
    )
    columns = ("source", "alone, %", "Shapley value, points", "loss without it, points")
    gains = [(gain_text(row.shapley, row.shapley_ci95), gain_text(row.drop, row.drop_ci95)) for row in rows]
    cells = [(row.source, number(100 * row.alone, 1), *gain) for row, gain in zip(rows, gains, strict=True)]
    title = f"{evaluation.marker} Contribution of each source: {rows[0].head}, {rows[0].level}"
    return TextTable(title.strip(), description, columns, 1, [cells])


def inflation_table(evaluation: Evaluation, inflation: Inflation) -> TextTable:
    """Accuracy of each result without and with a leak."""
    mean = gain_text(inflation.mean_points, inflation.mean_points_ci95)
    description = (
        f"Accuracy{first_plan(evaluation)} in run {inflation.honest_run}, and in {inflation.leaky_run}, "
        f"which is {LEAKY_MARK}: its networks were trained on all clips. Mean inflation of the fusions: "
        f"{mean} points."
    )
    columns = ("result", "no leak, %", f"{LEAKY_MARK}, %", "inflation, points")
    accuracies = [(number(100 * row.honest, 1), number(100 * row.leaky, 1)) for row in inflation.rows]
    cells = [
        (row.result, *pair, gain_text(row.points, row.points_ci95))
        for row, pair in zip(inflation.rows, accuracies, strict=True)
    ]
    return TextTable("Inflation by a data leak", description, columns, 1, [cells])


def print_evaluation(evaluation: Evaluation, *, wide: bool = False) -> None:
    """Print the main finding, every result, comparisons and notes."""
    run, summary = evaluation.run, summarize(evaluation)
    size = f"run {run.name}: {len(run.ids)} clips, {evaluation.group_count} groups, {design_of(run)}"
    print_lines([summary.claim, f"{evaluation.marker} {size}".strip()], wrap=True)
    _print_table(results_table(evaluation, [evaluation.table_rows]), wide=wide)
    print_lines(summary.context, wrap=True)
    if evaluation.modalities:
        _print_table(modality_table(evaluation), wide=wide)
    tests = (f"{evaluation.marker} {test.sentence}".strip() for test in evaluation.planned)
    print_lines(tests, wrap=True)
    print_lines(summary.limits, wrap=True)
    for rows in evaluation.importance_by_head[:1]:
        _print_table(importance_table(evaluation, rows), wide=wide)
    if evaluation.inflation is not None:
        _print_table(inflation_table(evaluation, evaluation.inflation), wide=wide)
    print_lines((f"note: {note}" for note in _remaining_notes(evaluation)), wrap=True)


def _print_table(content: TextTable, *, wide: bool) -> None:
    """Print a table and its description; what is left out first in a narrow terminal is in `_DROPPED`."""
    columns = [
        Column(name, index >= content.text_columns and name != "notes", _DROPPED.get(name, 0))
        for index, name in enumerate(content.columns)
    ]
    print_table(columns, content.sections, title=content.title, wide=wide)
    print_lines([content.description], wrap=True)


def print_comparison(comparison: Comparison, *, wide: bool = False) -> None:
    """Print published scores with ours, notes, and commands for missing rows."""
    name, run = comparison.published.name, comparison.evaluation.run
    description = (
        f"{comparison.published.citation}. {name} on {comparison.published.clips} clips, ours on "
        f"{len(run.ids)}. Accuracy and macro F1 in %{plans_note(comparison.evaluation)}."
    )
    columns: tuple[str, ...] = ("networks", "method", "recipe", f"{name} acc.", "macro F1", "AUC")
    columns += ("our acc. [95 %]", "macro F1", "AUC")
    sections = [
        [_comparison_cells(row) for row in comparison.rows if row.table == table]
        for table in (NETWORKS, FUSION)
    ]
    title = f"{comparison.evaluation.marker} Comparison with {name}".strip()
    _print_table(TextTable(title, description, columns, 3, sections), wide=wide)
    print_lines((f"note: {note}" for note in comparison.notes), wrap=True)
    if comparison.commands:
        click.echo("commands that make the missing rows of ours, before running evaluate again:")
        print_lines(f"  {command}" for command in comparison.commands)


def _comparison_cells(row: ComparedRow) -> tuple[str, ...]:
    method, recipe, published = "", "", (UNKNOWN,) * 3
    ours: tuple[str, ...] = (UNKNOWN,) * 3
    if row.published is not None:
        accuracy, macro_f1, auc = row.published.values()
        published = (number(100 * accuracy, 0), number(100 * macro_f1, 0), number(auc))
    if row.ours is not None:
        result, ours = row.ours.result, _result_cells(row.ours)[3:6]
        method, recipe = f"{result.head}/{result.level}", recipe_of(result.sources) or ""
    if row.table == NETWORKS:
        method = OPTIMIZERS.get(row.optimizer, row.optimizer)
    return (row.networks, method, recipe, *published, *ours)


def print_difference(difference: Difference, *, wide: bool = False) -> None:
    """Print the difference of two results in a sentence, as a table, and by clip."""
    names = [f"A: {difference.first}", f"B: {difference.second}"]
    print_lines([difference.sentence, "", *names], wrap=True)
    columns = [Column(""), *(Column(name, number=True) for name in ("A", "B", "B minus A [95 % CI]", "p"))]
    print_table(columns, [_difference_rows(difference)], wide=wide)
    print_lines([f"Test: {difference.test}, not corrected for other comparisons."], wrap=True)
    in_full = wide or terminal_width(sys.stdout) is None
    changed, shown = difference.changed, difference.changed[: None if in_full else MAX_CHANGED]
    right = sum(clip.became == "right" for clip in changed)
    plan = ", under the first fold plan" if difference.repeats > 1 else ""
    counts = f"{right} became right, {len(changed) - right} became wrong"
    print_lines(["", f"Clips that changed from A to B: {counts}{plan}."], wrap=True)
    cells = [(clip.id, clip.label, clip.first, clip.second, clip.became) for clip in shown]
    labels = (Column(name, narrow=12) for name in ("label", "A", "B", "became"))
    print_table([Column("clip"), *labels], [cells], wide=wide)
    if len(shown) < len(changed):
        print_lines([f"{len(changed) - len(shown)} more; --wide prints them"])
    print_lines((f"note: {note}" for note in difference.notes), wrap=True)


def _difference_rows(difference: Difference) -> list[tuple[str, ...]]:
    rows: tuple[tuple[str, MetricDifference | None, int, int], ...] = (
        ("accuracy, %", difference.accuracy, 100, 1),
        ("macro F1, %", difference.macro_f1, 100, 1),
        ("AUC", difference.auc, 1, 3),
        ("log loss, nats", difference.log_loss, 1, 3),
    )
    return [
        (
            name,
            *(number(scale * value, digits) for value in (gain.first, gain.second)),
            UNKNOWN
            if math.isnan(gain.difference)
            else f"{scale * gain.difference:+.{digits}f} {gain.ci95.shown(f'+.{digits}f', scale=scale)}",
            UNKNOWN if gain.p_value is None else format_p(gain.p_value).removeprefix("p ").removeprefix("= "),
        )
        for name, gain, scale, digits in rows
        if gain is not None
    ]
