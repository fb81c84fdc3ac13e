"""Terminal, Markdown and LaTeX: the claim, every result, escaped names, and LEAKY for a leaky run."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from moodfuse.cache.runs import Run
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.intervals import Interval
from moodfuse.evaluate.markup import latex_text, markdown_text
from moodfuse.evaluate.paired import SourceImportance
from moodfuse.evaluate.report import metrics_values
from moodfuse.evaluate.report.documents import latex_class_table, latex_table, markdown_report
from moodfuse.evaluate.report.page import render_page
from moodfuse.evaluate.report.text import print_evaluation, results_table, summarize
from tests.evaluate.test_planned import make_run as planned_run

MakeRun = Callable[..., Run]
HOSTILE = r"a_b & 50% $x$ #1 {y} \end{table} ~ ^ | <b>*no*</b> [l](http://x) @me"


def with_importance(run: Run, source: str = "c3d") -> Evaluation:
    """An evaluation with the importance of two sources; `source` replaces c3d in every name."""
    results = tuple(
        replace(result, sources=tuple(source if name == "c3d" else name for name in result.sources))
        for result in run.results
    )
    near = Interval(-0.1, 0.2)
    rows = [
        SourceImportance(name, "softmax", "logits", 0.5, 0.1, near, 0.0, near) for name in (source, "i3d")
    ]
    return replace(evaluate_run(replace(run, results=results), draws=50), importance=tuple(rows))


def test_undefined_numbers_are_dashes(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of one group has no interval."""
    evaluation = evaluate_run(replace(make_run(), groups=("one",) * 36), draws=20)
    print_evaluation(evaluation)
    shown = capsys.readouterr().out + markdown_report(evaluation) + latex_table(evaluation)
    assert "nan" not in shown.lower() and "[–]" in shown and "no confidence interval" in shown


def test_the_terminal_shows_claim_results_and_comparisons(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line is the corrected claim; tests, importance and inflation follow."""
    leaky = make_run(1, protocol="leaky", skill=0.9)
    evaluation = evaluate_run(make_run(), draws=200, leaky=leaky)
    print_evaluation(evaluation)
    shown = capsys.readouterr().out
    assert shown.startswith("Estimated accuracy of the selected model: ")
    assert "corrected for selecting the best of 4 results" in shown.splitlines()[0]
    rows = re.findall(r"^ *(c3d\+i3d|c3d|i3d) +(network|mean|softmax) +logits", shown, re.MULTILINE)
    assert set(rows) == {("c3d", "network"), ("i3d", "network"), ("c3d+i3d", "mean"), ("c3d+i3d", "softmax")}
    first_table = [" ".join((*row, "logits")) for row in rows[:4]]
    assert first_table == [scored.result.name for scored in evaluation.ranked]
    assert f"The best result on these clips is {first_table[0]}: it has the lowest log loss" in shown
    for text in ("ECE", "Using a trained head instead of the mean", "Shapley value", "LEAKY", "uncalibrated"):
        assert text in shown
    assert "Mean inflation of the fusions: +" in shown


def test_tables_of_results_have_the_accuracy_of_the_figure(make_run: MakeRun) -> None:
    """The mean over the fold plans; numbers of the first plan have that in their captions."""
    run = make_run()
    evaluation = with_importance(run)
    (accuracy, interval), first = evaluation.scored[-1].mean_accuracy, evaluation.scored[-1].score.accuracy
    cell = f"{100 * accuracy:.1f} {interval.shown('.0f', scale=100)}"
    assert f"{100 * accuracy:.1f}" != f"{100 * first:.1f}"
    (row,) = [row for row in results_table(evaluation, [evaluation.ranked]).sections[0] if "softmax" in row]
    page, markdown, latex = render_page(evaluation), markdown_report(evaluation), latex_table(evaluation)
    assert row[3] == cell and cell in markdown and cell in latex
    assert f'<td class="n wide" data-value="{accuracy}">' in page
    note = "accuracy and log loss are means over 2 fold plans, macro F1, AUC and ECE those of the first"
    assert all(note in text for text in (page, markdown, latex))
    assert markdown.count("under the first fold plan") == 4  # contributions, matrix, scores, errors
    assert "emotion (columns) under the first fold plan" in page
    assert "under the first fold plan" in latex_class_table(evaluation)
    single = replace(run, repeat_folds=(), results=run.results[:3])
    texts = [make(evaluate_run(single, draws=50)) for make in (render_page, markdown_report, latex_table)]
    assert not any("fold plan" in text for text in texts)


def test_whether_video_helps_is_answered_by_modality(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of audio, video and both, and the planned tests between them, in every form of the report."""
    run = planned_run()
    evaluation = evaluate_run(run, draws=50)
    print_evaluation(evaluation)
    shown, markdown, page = capsys.readouterr().out, markdown_report(evaluation), render_page(evaluation)
    values: list = metrics_values(evaluation)["modalities"]  # type: ignore[assignment]
    assert [row["modality"] for row in values] == ["audio", "video", "audio and video"]
    for text in (shown, markdown, page):
        assert text.count("Does video help?") == 1 and text.index("Adding video to audio ") > 0
        for row in values:
            assert f"{100 * row['accuracy']:.1f}" in text
    section = page[page.index('id="modalities"') : page.index('id="importance"')]
    assert "Adding video to audio raises accuracy" in section and section.count("<tr>") == 4
    assert "Does video help?" not in markdown_report(evaluate_run(make_run(), draws=20))
    marked = render_page(evaluate_run(replace(run, protocol="leaky"), draws=20))
    assert '<strong class="marker">LEAKY</strong> Does video help?' in marked


def test_names_on_the_terminal_are_neither_markup_nor_control_sequences(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets and colons of a source are kept, and escape bytes of a label are shown escaped."""
    source = "[bold]c3d[/bold]:smile:"
    print_evaluation(with_importance(make_run(classes=("a\x1b[2Jb", "b", "c")), source))
    printed = capsys.readouterr().out
    assert printed.count(source) >= 2 and "a\\x1b[2Jb" in printed and "\x1b" not in printed


def test_markdown_has_claim_tables_and_commands(make_run: MakeRun) -> None:
    """The claim is at the top, every result has a row, and commands and versions are at the end."""
    evaluation = with_importance(make_run())
    text = markdown_report(evaluation)
    assert markdown_text(summarize(evaluation).claim) in text
    assert evaluation.selection_note and evaluation.selection_note not in text
    assert text.count("| network | logits |") == 2 and text.count("| softmax | logits |") == 1
    assert "Shapley value" in text and "+10.0 [-10.0, +20.0]" in text
    assert text.endswith(
        "    moodfuse fuse --cache work\n    moodfuse evaluate --cache DIR --run one --draws 50 --seed 0\n\n"
        "numpy 2.4.6\n"
    )
    headings = " ".join(re.findall("^## (\\w+)", text, re.MULTILINE))
    assert headings == "Results Contribution Planned Confusion Scores Errors Limitations Data Reproducibility"


def test_latex_is_a_booktabs_table(make_run: MakeRun) -> None:
    """It has rules and one row per result with eight cells, networks above fusions."""
    text = latex_table(evaluate_run(make_run(name="run_1"), draws=50))
    rows = re.findall(r"^.* & .*\\\\$", text, re.MULTILINE)
    assert [row.count(" & ") for row in rows] == [7] * 5 and "c3d+i3d" in rows[-1]
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:run-1}"))


def test_latex_has_a_table_of_classes(make_run: MakeRun) -> None:
    """One row per emotion of the best result, with dashes where a score is not defined."""
    evaluation = evaluate_run(make_run(name="run_1"), draws=50)
    text = latex_class_table(evaluation)
    best = evaluation.best.per_class[0]
    assert f"\na & 12 & {100 * best.precision:.1f} & {100 * best.recall:.1f} & " in text
    assert len(re.findall(r"^[abc] & .*\\\\$", text, re.MULTILINE)) == 3
    assert evaluation.best.result.name in text and r"\label{tab:run-1-classes}" in text


def test_names_are_escaped(make_run: MakeRun) -> None:
    """A name of special characters breaks neither table, and a row that begins like an argument is none."""
    evaluation = with_importance(make_run(classes=(HOSTILE, "b", "c")), HOSTILE)
    latex, markdown = latex_table(evaluation) + latex_class_table(evaluation), markdown_report(evaluation)
    assert r"\end{table} ~" not in latex and latex.count(r"\end{table}") == 2
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}") and not re.search(r"(?<!\\)[#$^~]", bare)
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {11, 8, 6}
    assert not re.search(r"(?<!\\)<b>", markdown) and "](http" not in markdown and "@me" not in markdown
    assert "\n{}[x] & network" in latex_table(with_importance(make_run(), "[x]"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a | b", r"a \| b"),
        ("[l](http://x)", r"[l]\(http\://x)"),
        ("see https://a.example or www.b.example", r"see https\://a.example or www\.b.example"),
        ("at 12:30, a.b", "at 12:30, a.b"),
        ("a\nb", r"a\\nb"),
    ],
)
def test_markdown_text(text: str, wanted: str) -> None:
    """Markdown characters and addresses are escaped; plain text is unchanged."""
    assert markdown_text(text) == wanted
    assert latex_text("50 %\né") == r"50 \%\textbackslash{}né"


def test_a_leaky_run_is_marked_everywhere(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The mark is with every number in Markdown, LaTeX and on the terminal; no other run has it."""
    evaluation = with_importance(make_run(protocol="leaky", name="leak"))
    print_evaluation(evaluation)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("LEAKY: ") and "LEAKY run leak" in shown[1]
    assert all("LEAKY" in line for line in shown if "network    logits" in line or " softmax  " in line)
    headings = re.findall(r"^#+ .*$", markdown_report(evaluation), re.MULTILINE)
    assert [text for text in headings if "LEAKY" not in text] == ["## Data audit", "## Reproducibility"]
    assert r"\caption{\textbf{LEAKY}" in latex_table(evaluation)
    summary = summarize(evaluation)
    assert summary.claim.startswith("LEAKY: ") and "do not predict" in " ".join(summary.context)
    clean = with_importance(make_run())
    assert "LEAKY" not in markdown_report(clean) + latex_table(clean)
