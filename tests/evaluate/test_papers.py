"""The paper outputs: Markdown and LaTeX say what the page says, escaped, and LEAKY where the run is."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.runs import Result, Run
from moodfuse.evaluate.evaluation import Evaluation, evaluate_run
from moodfuse.evaluate.records import Interval, SourceWorth
from moodfuse.evaluate.report.markdown_latex import (
    latex_table,
    latex_text,
    markdown_report,
    markdown_text,
    write_papers,
)
from moodfuse.evaluate.report.sentences import headline_words

HOSTILE = r"a_b & 50% $x$ #1 {y} \end{table} ~ ^ | <b>*no*</b> [l](http://x) @me"


def make_evaluation(*, protocol: str = "crossfit", source: str = "c3d") -> Evaluation:
    """Three results over 24 clips, with the worth of their views."""
    rng = np.random.default_rng(1)
    labels = np.arange(24) % 3

    def result(sources: tuple[str, ...], head: str) -> Result:
        return Result(sources, head, "logits", 0.7 * rng.dirichlet(np.ones(3), 24) + 0.3 * np.eye(3)[labels])

    run = Run(
        name="run_1",
        protocol=protocol,
        classes=("a", "b", "c"),
        ids=tuple(f"{row}" for row in range(24)),
        labels=tuple("abc"[label] for label in labels),
        groups=tuple(f"{row}" for row in range(24)),
        folds=tuple(row // 3 % 3 for row in range(24)),
        fold_count=3,
        seed=0,
        recipes=(),
        results=(
            result((source,), "network"),
            result(("i3d",), "network"),
            result((source, "i3d"), "softmax"),
        ),
        commands=("moodfuse fuse --cache work",),
    )
    near = Interval(-0.1, 0.2)
    worth = tuple(
        SourceWorth(name, "softmax", "logits", 0.5, 0.1, near, 0.0, near) for name in (source, "i3d")
    )
    return replace(evaluate_run(run, draws=50), worth=worth)


def test_markdown_holds_headline_table_worth_and_commands() -> None:
    """Every result has a row, the headline stands on top, and the commands close the report."""
    found = make_evaluation()
    text = markdown_report(found)
    assert markdown_text(headline_words(found).claim) in text
    assert text.count("| network | logits |") == 2 and text.count("| softmax | logits |") == 1
    assert (
        "Shapley value" in text
        and "    moodfuse fuse --cache work\n" in text
        and "+10.0 [-10.0, +20.0]" in text
    )


def test_latex_is_a_booktabs_table() -> None:
    """Rules, one row a result with eight cells, networks above fusions."""
    text = latex_table(make_evaluation())
    rows = re.findall(r"^.* & .*\\\\$", text, re.MULTILINE)
    assert [row.count(" & ") for row in rows] == [7] * 4 and "softmax" in rows[-1]
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:run-1}"))


def test_names_are_escaped() -> None:
    """A name of special characters breaks neither table."""
    found = make_evaluation(source=HOSTILE)
    latex = latex_table(found)
    assert r"\end{table} ~" not in latex and latex.count(r"\end{table}") == 1
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}") and not re.search(r"(?<!\\)[#$^~]", bare)
    lines = [line for line in markdown_report(found).splitlines() if line.startswith("| ")]
    cells = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
    assert cells == {11, 6} and "<b>" not in "".join(re.findall(r"(?<!\\)<b>", markdown_report(found)))
    assert "](http" not in markdown_report(found) and "@me" not in markdown_report(found)


@pytest.mark.parametrize(
    ("text", "wanted"), [("50 %", r"50 \%"), ("a\nb", r"a\textbackslash{}nb"), ("é", "é")]
)
def test_latex_text(text: str, wanted: str) -> None:
    """Special characters are set as they are; line ends become visible."""
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


def test_leaky_papers_say_so() -> None:
    """Every heading over numbers and the caption say LEAKY; honest papers never do."""
    found = make_evaluation(protocol="leaky")
    headings = re.findall(r"^#+ .*$", markdown_report(found), re.MULTILINE)
    assert all("LEAKY" in heading for heading in headings if heading not in ("## Notes", "## To repeat it"))
    assert r"\caption{\textbf{LEAKY}" in latex_table(found)
    honest = make_evaluation()
    assert "LEAKY" not in markdown_report(honest) + latex_table(honest)


def test_equal_bytes(tmp_path: Path) -> None:
    """The same evaluation gives the same files."""
    first, second = (write_papers(make_evaluation(), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
