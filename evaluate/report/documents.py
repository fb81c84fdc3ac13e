"""The report for documents: `report.md`, and tables for LaTeX."""

import re

from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.markup import number, percent
from moodfuse.evaluate.report.page import MISTAKE_LIMIT, wrong_rows
from moodfuse.evaluate.report.text import (
    TextTable,
    first_plan,
    importance_table,
    inflation_table,
    modality_table,
    render_report,
    results_table,
)
from moodfuse.evaluate.rows import split_sections


def markdown_report(evaluation: Evaluation) -> str:
    """Content of `report.md`."""
    contributions = [modality_table(evaluation)] if evaluation.modalities else []
    contributions += [importance_table(evaluation, rows) for rows in evaluation.importance_by_head[:1]]
    values = {
        "results": results_table(evaluation, [evaluation.table_rows]),
        "contributions": contributions,
        "scores": [confusion_table(evaluation), class_table(evaluation)],
        "errors": error_table(evaluation) if wrong_rows(evaluation) else None,
        "inflation": inflation_table(evaluation, evaluation.inflation) if evaluation.inflation else None,
        "calibration": evaluation.best.calibration,
    }
    return render_report("report.md.j2", evaluation, **values).rstrip("\n") + "\n"


def latex_table(evaluation: Evaluation) -> str:
    """Content of `table.tex`: results in sections, for a document that loads booktabs."""
    sections = results_table(evaluation, split_sections(evaluation.table_rows)).sections
    return _render_latex("table.tex.j2", evaluation, sections=sections)


def latex_class_table(evaluation: Evaluation) -> str:
    """Content of `table_classes.tex`: the best result by emotion, for a document that loads booktabs."""
    return _render_latex("table_classes.tex.j2", evaluation, rows=class_table(evaluation).sections[0])


def _render_latex(template: str, evaluation: Evaluation, **values: object) -> str:
    label = re.sub("[^A-Za-z0-9-]", "-", evaluation.run.name)
    return render_report(template, evaluation, label=label, **values).rstrip("\n") + "\n"


def class_table(evaluation: Evaluation) -> TextTable:
    """Precision, recall, F1 and AUC of the best result by emotion."""
    columns = ("emotion", "clips", "precision", "recall", "F1", "AUC")
    cells = [
        (
            row.label,
            str(row.clips),
            *(number(100 * value, 1) for value in (row.precision, row.recall, row.f1)),
            number(row.auc, 3),
        )
        for row in evaluation.best.per_class
    ]
    description = (
        f"{evaluation.best.result.name}, each emotion against the others{first_plan(evaluation)}; precision, "
        "recall and F1 in %."
    )
    return TextTable(f"{evaluation.marker} Scores by emotion".strip(), description, columns, 1, [cells])


def confusion_table(evaluation: Evaluation) -> TextTable:
    """Clips of the best result by true (rows) and predicted emotion."""
    best, classes = evaluation.best, evaluation.run.classes
    description = (
        f"{best.result.name}: clips by true emotion (rows) and predicted emotion (columns)"
        f"{first_plan(evaluation)}."
    )
    cells = [
        (label, *map(str, counts))
        for label, counts in zip(classes, best.score.confusion_matrix.tolist(), strict=True)
    ]
    title = f"{evaluation.marker} Confusion matrix".strip()
    return TextTable(title, description, ("true emotion", *classes), 1, [cells])


def error_table(evaluation: Evaluation) -> TextTable:
    """The most confident wrong predictions of the best result."""
    run, result = evaluation.run, evaluation.best.result
    wrong = wrong_rows(evaluation)
    cells = []
    for row in wrong[:MISTAKE_LIMIT]:
        values = result.probabilities[row]
        cells.append((run.ids[row], run.labels[row], run.classes[values.argmax()], percent(values.max())))
    description = (
        f"{result.name}: the most confident wrong predictions{first_plan(evaluation)}, {len(cells)} of "
        f"{len(wrong)}."
    )
    columns = ("clip", "label", "predicted", "probability")
    return TextTable(f"{evaluation.marker} Errors".strip(), description, columns, 3, [cells])
