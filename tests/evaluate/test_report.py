"""Files and terminal: the published form, equal bytes, escaped names, and LEAKY with every number of a leaky run."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.cache.runs import Run, read_run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.intervals import Interval
from moodfuse.evaluate.markup import latex_text, markdown_text
from moodfuse.evaluate.report import metrics_csv, metrics_json, metrics_values, write_report
from moodfuse.evaluate.report.terminal import print_evaluation
from moodfuse.evaluate.report.text import latex_table, markdown_report, summarize
from moodfuse.evaluate.shapley import SourceImportance

MakeRun = Callable[..., Run]
HOSTILE = r"a_b & 50% $x$ #1 {y} \end{table} ~ ^ | <b>*no*</b> [l](http://x) @me"
RESULT_KEYS = {
    "sources",
    "head",
    "level",
    "log_loss",
    "ece",
    "ece_ci95",
    "per_fold",
    "per_class",
    "calibration",
}
RESULT_KEYS |= {"repeated", "complete", "confusion_matrix"}
RESULT_KEYS |= {f"{name}{suffix}" for name in ("accuracy", "macro_f1", "auc") for suffix in ("", "_ci95")}


def with_importance(run: Run, source: str = "c3d") -> Evaluation:
    """An evaluation with the importance of two sources; `source` replaces c3d in every name."""
    results = tuple(
        replace(item, sources=tuple(source if name == "c3d" else name for name in item.sources))
        for item in run.results
    )
    near = Interval(-0.1, 0.2)
    rows = [
        SourceImportance(name, "softmax", "logits", 0.5, 0.1, near, 0.0, near) for name in (source, "i3d")
    ]
    return replace(evaluate_run(replace(run, results=results), draws=50), importance=tuple(rows))


def test_a_run_gives_the_same_files_twice(make_run: MakeRun, tmp_path: Path) -> None:
    """Read from a cache, a run gives every file of a report with the same bytes."""
    cache = FeatureCache(tmp_path / "work", create=True)
    write_run(cache, replace(make_run(), results=make_run().results[3:]))
    contents = []
    for name in ("first", "second"):
        write_report(evaluate_run(read_run(cache), draws=50), tmp_path / name)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert {"metrics.json", "metrics.csv", "report.md", "table.tex", "report.html"} < set(contents[0])
    assert {"accuracy.svg", "accuracy.png", "folds.svg"} < set(contents[0])


def test_metrics_json_has_the_published_form(make_run: MakeRun) -> None:
    """It has every key of the schema, and matrices that sum to the clips."""
    found = json.loads(metrics_json(evaluate_run(make_run(), draws=200)))
    keys = {
        "schema",
        "run",
        "classes",
        "clips",
        "groups",
        "folds",
        "protocol",
        "results",
        "headline",
        "paired",
    }
    keys |= {"shapley", "missing", "commands", "versions", "recipes", "seed", "draws"}
    assert keys <= set(found) and not {"inflation", "audit", "leaky"} & set(found)
    assert (found["schema"], found["clips"], found["groups"], found["folds"]) == (1, 36, 18, 3)
    assert found["missing"] == {"sound": 1} and found["versions"] == {"numpy": "2.4.6"}
    assert {test["verdict"] for test in found["paired"]} <= {"better", "worse", "cannot tell"}
    for result in found["results"]:
        assert set(result) >= RESULT_KEYS and result["complete"]["clips"] == 35
        assert sum(map(sum, result["confusion_matrix"])) == 36
        assert sum(fold["clips"] for fold in result["per_fold"]) == 36


def test_inflation_keeps_its_keys_in_metrics_json(make_run: MakeRun) -> None:
    """They are those of schema 1."""
    found = evaluate_run(make_run(), draws=50, leaky=make_run(1, protocol="leaky", skill=0.9))
    values: dict = metrics_values(found)["inflation"]  # type: ignore[assignment]
    assert list(values) == ["honest_run", "leaky_run", "rows", "mean_points", "mean_points_ci95"]
    assert (values["honest_run"], values["leaky_run"]) == ("one", "leak")
    assert {tuple(row) for row in values["rows"]} == {("result", "honest", "leaky", "points", "points_ci95")}


def test_only_the_best_result_is_corrected(make_run: MakeRun) -> None:
    """metrics.csv has the corrected accuracy in one row, and repeats where there are any."""
    found = evaluate_run(make_run(), draws=200)
    rows = list(csv.DictReader(io.StringIO(metrics_csv(found))))
    corrected = [f"{row['sources']} {row['head']} {row['level']}" for row in rows if row["corrected"]]
    assert found.headline is not None and corrected == [found.headline.result]
    assert [row["repeats"] for row in rows] == ["", "", "", "2"]
    assert all(row["ece_ci95_low"] <= row["ece"] <= row["ece_ci95_high"] for row in rows)


def test_undefined_numbers_are_null(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of one group has no interval: null in JSON, a dash elsewhere."""
    found = evaluate_run(replace(make_run(), groups=("one",) * 36), draws=20)
    text = json.dumps(metrics_values(found), allow_nan=False)
    assert json.loads(text)["headline"]["corrected"] is None
    print_evaluation(found)
    shown = capsys.readouterr().out + markdown_report(found) + latex_table(found) + text
    assert "nan" not in shown.lower() and "[–]" in shown and "no interval: one group" in shown


def test_the_terminal_shows_claim_results_and_comparisons(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line is the corrected claim; tests, importance and inflation follow."""
    print_evaluation(evaluate_run(make_run(), draws=200, leaky=make_run(1, protocol="leaky", skill=0.9)))
    shown = capsys.readouterr().out
    assert shown.startswith("Estimated accuracy of the selected model: ")
    assert "corrected for selecting the best of 4 results" in shown.splitlines()[0]
    rows = re.findall(r"^ *(c3d\+i3d|c3d|i3d) +(network|mean|softmax) +logits", shown, re.MULTILINE)
    names = {("c3d", "network"), ("i3d", "network"), ("c3d+i3d", "mean"), ("c3d+i3d", "softmax")}
    assert set(rows) == names
    for text in ("ECE", "no significant difference in", "Shapley value", "LEAKY", "u: uncalibrated"):
        assert text in shown
    assert "mean of the fusions: +" in shown


def test_names_on_the_terminal_are_neither_markup_nor_control_sequences(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets and colons of a source are kept, and escape bytes of a label are shown escaped."""
    source, label = "[bold]c3d[/bold]:smile:", "a\x1b[2Jb"
    run = make_run()
    run = replace(run, classes=(label, "b", "c"), labels=tuple(label if k == "a" else k for k in run.labels))
    print_evaluation(with_importance(run, source))
    printed = capsys.readouterr().out
    assert printed.count(source) >= 2 and "a\\x1b[2Jb" in printed and "\x1b" not in printed


def test_markdown_has_claim_tables_and_commands(make_run: MakeRun) -> None:
    """Every result has a row, the claim is at the top, and the commands are at the end."""
    found = with_importance(make_run())
    text = markdown_report(found)
    assert markdown_text(summarize(found).claim) in text
    assert text.count("| network | logits |") == 2 and text.count("| softmax | logits |") == 1
    assert "Shapley value" in text and "+10.0 [-10.0, +20.0]" in text
    commands = "    moodfuse fuse\n    moodfuse evaluate --cache DIR --run one --draws 50 --seed 0\n"
    assert text.endswith(commands)


def test_latex_is_a_booktabs_table(make_run: MakeRun) -> None:
    """It has rules and one row per result with eight cells, networks above fusions."""
    text = latex_table(evaluate_run(replace(make_run(), name="run_1"), draws=50))
    rows = re.findall(r"^.* & .*\\\\$", text, re.MULTILINE)
    assert [row.count(" & ") for row in rows] == [7] * 5 and "c3d+i3d" in rows[-1]
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:run-1}"))


def test_names_are_escaped(make_run: MakeRun) -> None:
    """A name of special characters breaks neither table."""
    found = with_importance(make_run(), HOSTILE)
    latex, markdown = latex_table(found), markdown_report(found)
    assert r"\end{table} ~" not in latex and latex.count(r"\end{table}") == 1
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}") and not re.search(r"(?<!\\)[#$^~]", bare)
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {11, 6}
    assert not re.search(r"(?<!\\)<b>", markdown) and "](http" not in markdown and "@me" not in markdown


def test_a_row_that_begins_like_an_argument_is_no_argument(make_run: MakeRun) -> None:
    """An empty group separates it from the line break before."""
    assert "\n{}[x] & network" in latex_table(with_importance(make_run(), "[x]"))


@pytest.mark.parametrize(
    ("text", "wanted"), [("50 %", r"50 \%"), ("a\nb", r"a\textbackslash{}nb"), ("é", "é")]
)
def test_latex_text(text: str, wanted: str) -> None:
    """Special characters are escaped; line ends become visible."""
    assert latex_text(text) == wanted


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


def test_a_leaky_run_is_marked_everywhere(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The mark is with every number in JSON, CSV, Markdown, LaTeX and on the terminal; no other run has it."""
    found = with_importance(make_run(protocol="leaky"))
    values = metrics_values(found)
    assert values["leaky"] is True and str(values["notes"][0]).startswith("LEAKY")  # type: ignore[index]
    assert all(result["notes"][0] == "LEAKY" for result in values["results"])  # type: ignore[attr-defined]
    rows = list(csv.DictReader(io.StringIO(metrics_csv(found))))
    assert len(rows) == 4 and all(row["protocol"] == "LEAKY" and "LEAKY" in row["notes"] for row in rows)
    print_evaluation(found)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("LEAKY: ") and "LEAKY run leak" in shown[1]
    assert all("LEAKY" in line for line in shown if "network    logits" in line or " softmax  " in line)
    headings = re.findall(r"^#+ .*$", markdown_report(found), re.MULTILINE)
    assert [text for text in headings if "LEAKY" not in text] == ["## Notes", "## Commands"]
    assert r"\caption{\textbf{LEAKY}" in latex_table(found)
    summary = summarize(found)
    assert summary.claim.startswith("LEAKY: ") and "do not predict" in " ".join(summary.context)
    clean = with_importance(make_run())
    assert "LEAKY" not in markdown_report(clean) + latex_table(clean)
