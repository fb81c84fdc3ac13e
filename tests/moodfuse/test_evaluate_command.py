"""`moodfuse evaluate` reports a run or tests a model, and accepts only the options of that mode."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.cli import main
from moodfuse.evaluate_command import choose_runs, evaluate_command
from tests.evaluate.conftest import build_run

MakeRun = Callable[..., Run]
OF_A_RUN, OF_A_MODEL = ["--cache", "none"], ["--model", "none", "test.csv"]


def evaluate(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*OF_A_RUN, "--group-pattern", "x"], "--group-pattern belongs to --model"),
        ([*OF_A_RUN, "--jobs", "2"], "--jobs belongs to --model"),
        ([*OF_A_MODEL, "--run", "run-1"], "--run belongs to --cache"),
        ([*OF_A_MODEL, "--inflation"], "--inflation belongs to --cache"),
        ([*OF_A_MODEL, "--only", "c3d"], "--only belongs to --cache"),
        ([*OF_A_RUN, "--all-rows", "--head", "mean"], "--all-rows shows every result"),
        ([*OF_A_RUN, *OF_A_MODEL], "give --cache DIR for the report of a run, or --model DIR and DATA"),
        (OF_A_MODEL[:2], "give --cache DIR for the report of a run, or --model DIR and DATA"),
    ],
)
def test_options_of_the_other_mode_are_errors(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message names the option and its mode, also where it has its default value."""
    assert evaluate(*arguments) == 2
    assert message in " ".join(capfd.readouterr().err.split())


def test_the_report_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the page's path; `--compare` adds a file, and changes no other."""
    monkeypatch.setattr("moodfuse.evaluate.report.draw_figures", lambda *_: [])
    monkeypatch.setattr("moodfuse.evaluate.report.read_thumbnails", lambda *_: {0: "data:image/jpeg;base64,"})
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, build_run())
    outputs, opened = [], list[str]()
    monkeypatch.setattr("click.launch", lambda page: opened.append(page) or 0)
    for options in ([], ["--no-thumbnails", "--compare", "zhou2022", "--open"]):
        output = work.path / "runs" / "one" / "report" if not options else tmp_path / "output"
        arguments = ["--cache", str(work.path), "--draws", "40", *options]
        arguments += ["--output", str(output)] if options else []
        done = CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False)
        assert done.exit_code == 0 and done.output.splitlines()[-1] == f"page: {output / 'report.html'}"
        outputs.append({file.name: file.read_text("utf-8") for file in output.iterdir()})
    assert opened == [str(tmp_path / "output" / "report.html")]
    assert outputs[1].keys() - outputs[0].keys() == {"comparison-zhou2022.csv"}
    assert ["data:image/jpeg" in files["report.html"] for files in outputs] == [True, False]
    assert outputs[0]["metrics.json"] == outputs[1]["metrics.json"]
    assert f"moodfuse fuse --cache {work.path}" in done.output


def test_rows_of_one_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--only` and `--head` leave rows out of the tables; estimate and metrics.csv are of the whole run."""
    monkeypatch.setattr("moodfuse.evaluate.report.draw_figures", lambda *_: [])
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, build_run())
    report = work.path / "runs" / "one" / "report"
    texts = {}
    for options in ((), ("--only", "i3d+c3d", "--head", "softmax", "--head", "mean")):
        arguments = ["--cache", str(work.path), "--draws", "40", *options]
        done = CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False)
        names = ("metrics.csv", "metrics.json", "table.tex", "report.md")
        texts[options] = {name: (report / name).read_text("utf-8") for name in names}
        assert "corrected for selecting the best of 4 results" in done.output
    every, some = texts.values()
    assert every["metrics.csv"] == some["metrics.csv"] and every["metrics.json"] == some["metrics.json"]
    assert [text["table.tex"].count(" & ") for text in texts.values()] == [7 * 5, 7 * 3]
    assert "2 of 4 results; metrics.csv has all" in some["report.md"]
    assert "metrics.csv has all" not in every["report.md"]


def test_inflation_uses_the_newest_run_of_each_kind(tmp_path: Path) -> None:
    """Runs that cannot be read are skipped; the message has the commands for a missing leaky run."""
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, replace(build_run(), name="run-1"))
    with pytest.raises(InputError, match="extract DATA .* --leaky, then moodfuse fuse .* --protocol leaky"):
        choose_runs(work, None, inflation=True)
    for name, protocol in (("old", "leaky"), ("second", "crossfit"), ("new", "leaky"), ("damaged", "leaky")):
        write_run(work, replace(build_run(protocol=protocol), name=name))
    (work.path / "runs" / "damaged" / "run.json").write_text("{")
    for name, wanted in ((None, "second"), ("run-1", "run-1")):
        run, leaky = choose_runs(work, name, inflation=True)
        assert leaky is not None and (run.name, leaky.name) == (wanted, "new")
    with pytest.raises(InputError, match="give another --run"):
        choose_runs(work, "old", inflation=True)
    assert choose_runs(work, None, inflation=False)[0].name == "new"
    with pytest.raises(InputError, match="has no run 'two'; it has: "):
        choose_runs(work, "two", inflation=False)
