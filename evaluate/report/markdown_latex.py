"""The report for papers: `report.md`, as GitHub shows it, and `table.tex`, a booktabs table.

Both are pure text of an evaluation and carry LEAKY where the run is. Their sentences are the page's own.
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from moodfuse.cache.console import printable
from moodfuse.cache.files import write_text
from moodfuse.evaluate.evaluation import Evaluation
from moodfuse.evaluate.records import UNKNOWN, Interval
from moodfuse.evaluate.report.sentences import (
    counted,
    design_of,
    headline_words,
    paired_groups,
    repeat_commands,
    worth_groups,
)
from moodfuse.evaluate.results import ResultScore

MARKDOWN_NAME, LATEX_NAME = "report.md", "table.tex"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "–": "--",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
_MARKDOWN = re.compile(
    r"([\\`*_|<>~&$]|(?<=\])\(|:(?=//)|(?<=www)\.|^[#+=-](?=[\s#+=-]|$)|(?<=^\d)[.)](?=\s|$))"
)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no link, no mention of anybody."""
    return _MARKDOWN.sub(r"\\\1", printable(text)).replace("@", "&#64;")


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is.

    Examples
    --------
    >>> latex_text("50 % of a_b")
    '50 \\\\% of a\\\\_b'
    """
    return "".join(_LATEX.get(char, char) for char in printable(text))


def _share(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"


def _gain(value: float, interval: Interval) -> str:
    if math.isnan(value):
        return UNKNOWN
    return f"{100 * value:+.1f} {interval.shown('+.1f', scale=100)}"


def _ranked(evaluation: Evaluation) -> list[ResultScore]:
    return sorted(evaluation.scored, key=lambda item: item.rank)


def _cells(item: ResultScore) -> tuple[str, ...]:
    total, result = item.score, item.result
    names = ("+".join(result.sources), result.head, result.level)
    accuracy = f"{_share(total.accuracy)} {total.accuracy_ci95.shown('.0f', scale=100)}"
    return (
        *names,
        accuracy,
        _share(total.macro_f1),
        _number(total.auc),
        _number(total.log_loss),
        _number(total.ece),
    )


def markdown_report(evaluation: Evaluation) -> str:
    """Content of `report.md`: the headline, every result, paired tests, worth of the views, notes, commands."""
    return "\n\n".join(_markdown_blocks(evaluation)) + "\n"


def _markdown_blocks(evaluation: Evaluation) -> Iterator[str]:
    run, words = evaluation.run, headline_words(evaluation)
    mark = f"**{evaluation.marker}** " if evaluation.marker else ""
    yield f"# {mark}moodfuse report of {markdown_text(run.name)}"
    yield (
        f"{counted(len(run.ids), 'clip')} in {counted(evaluation.group_count, 'group')}, {len(run.classes)} emotions, "
        f"{markdown_text(design_of(run))}."
    )
    yield f"**{markdown_text(words.claim)}**"
    yield from map(markdown_text, words.meaning)
    yield f"## {mark}Results"
    yield "Accuracy with its 95 % interval and macro F1 in %, log loss in nats; the most accurate first."
    heads = ("sources", "head", "level", "accuracy [95 %]", "macro F1", "AUC", "log loss", "ECE", "notes")
    notes = ["; ".join(item.result.notes) for item in _ranked(evaluation)]
    rows = [(*_cells(item), note) for item, note in zip(_ranked(evaluation), notes, strict=True)]
    yield _markdown_table(heads, rows, right=5)
    yield f"## {mark}What cannot be told, and what can"
    yield _bullets(words.limits)
    sure = [test.sentence for group in paired_groups(evaluation) for test in (*group.better, *group.worse)]
    if sure:
        yield _bullets(sure)
    for group in worth_groups(evaluation):
        yield f"## {mark}What each view adds: {markdown_text(group.head)}, {markdown_text(group.level)}"
        worth = [
            (
                row.source,
                _share(row.alone),
                _gain(row.shapley, row.shapley_ci95),
                _gain(row.drop, row.drop_ci95),
            )
            for row in group.rows
        ]
        yield _markdown_table(
            ("view", "alone, %", "Shapley value, points", "lost without it, points"), worth, right=3
        )
    yield from _inflation_blocks(evaluation)
    if evaluation.notes:
        yield "## Notes"
        yield _bullets(evaluation.notes)
    yield "## To repeat it"
    yield "\n".join(f"    {printable(command)}" for command in repeat_commands(evaluation))


def _inflation_blocks(evaluation: Evaluation) -> Iterator[str]:
    """Honest beside leaky accuracy, where a leaky run was put beside."""
    found = evaluation.inflation
    if found is None:
        return
    yield "## What a leak is worth here"
    points = _gain(found.mean_points, found.mean_points_ci95)
    yield markdown_text(
        f"{found.honest_run} beside {found.leaky_run}, which is LEAKY: its networks saw every clip. On average over "
        f"fusions the leak adds {points} points."
    )
    rows = [
        (row.result, _share(row.honest), _share(row.leaky), _gain(row.points, row.points_ci95))
        for row in found.rows
    ]
    yield _markdown_table(("result", "honest, %", "LEAKY, %", "inflated by, points"), rows, right=3)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _markdown_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, right: int) -> str:
    """A table whose numbers, from the first of `right` columns that hold them, stand to the right."""
    first = next(index for index, head in enumerate(heads) if "[" in head or "%" in head)
    marks = ["---:" if first <= index < first + right else "---" for index in range(len(heads))]
    lines = [heads, *rows]
    text = [f"| {' | '.join(markdown_text(cell) for cell in line)} |" for line in lines]
    return "\n".join([text[0], f"| {' | '.join(marks)} |", *text[1:]])


def latex_table(evaluation: Evaluation) -> str:
    """Content of `table.tex`: every result in sections, for a document that loads booktabs."""
    run = evaluation.run
    mark = rf"\textbf{{{evaluation.marker}}}: the models saw the test clips. " if evaluation.marker else ""
    caption = (
        f"{mark}Accuracy with its 95\\,\\% interval over groups and macro F1 in \\%, of {len(run.ids)} clips in "
        f"{evaluation.group_count} groups, {latex_text(design_of(run))}. {latex_text(headline_words(evaluation).claim)}"
    )
    body = [line for part in evaluation.sections for line in (r"\midrule", *_latex_rows(part))]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', run.name)}}}",
        r"\begin{tabular}{lllrrrrr}",
        r"\toprule",
        r"Sources & Head & Level & Accuracy [95\,\%] & Macro F1 & AUC & Log loss & ECE \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_rows(items: Iterable[ResultScore]) -> list[str]:
    """Lines of a tabular; one that begins like an argument of the line before gets an empty group first."""
    lines = [" & ".join(latex_text(cell) for cell in _cells(item)) + r" \\" for item in items]
    return [f"{{}}{line}" if line[0] in "[*" else line for line in lines]


def write_papers(evaluation: Evaluation, folder: Path) -> tuple[Path, Path]:
    """Write `report.md` and `table.tex`, each whole or not at all; returns their paths."""
    markdown, latex = folder / MARKDOWN_NAME, folder / LATEX_NAME
    write_text(markdown, markdown_report(evaluation))
    write_text(latex, latex_table(evaluation))
    return markdown, latex
