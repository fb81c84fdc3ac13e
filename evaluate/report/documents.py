"""The report for documents: `report.md`, and tables for LaTeX."""

import re

from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.markup import number
from moodfuse.evaluate.report.text import (
    TextTable,
    importance_table,
    inflation_table,
    modality_table,
    render_report,
    results_table,
)
from moodfuse.evaluate.rows import split_sections


def markdown_report(evaluation: Evaluation) -> str:
    """Content of `report.md`."""
    modalities = modality_table(evaluation) if evaluation.modalities else None
    results = results_table(evaluation, [evaluation.table_rows])
    tables = [class_table(evaluation)]
    tables += [importance_table(evaluation, rows) for rows in evaluation.importance_by_head]
    if evaluation.inflation is not None:
        tables.append(inflation_table(evaluation.inflation))
    values = {"results": results, "tables": tables, "modalities": modalities}
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
        f"{evaluation.best.result.name}, each emotion against the others; precision, recall and F1 in %."
    )
    return TextTable(f"{evaluation.marker} Scores by emotion".strip(), description, columns, 1, [cells])
