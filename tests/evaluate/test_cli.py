"""The command chooses the right runs, writes the report, and prints where it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodfuse.cache.errors import CacheError, InputError
from moodfuse.cache.runs import Run, write_run
from moodfuse.cache.storage.parts import read_part
from moodfuse.cache.store import FeatureCache
from moodfuse.evaluate.cli import choose_runs, evaluate_command

MakeRun = Callable[..., Run]


def test_the_command_writes_the_report(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints the page's path; `--no-thumbnails` reads no thumbnails."""
    monkeypatch.setattr("moodfuse.evaluate.report.draw_figures", lambda *_: iter(()))
    monkeypatch.setattr(
        "moodfuse.evaluate.report.page.read_thumbnails", lambda *_, tick: {0: "data:image/jpeg;base64,"}
    )
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, make_run())
    pages = []
    for options in ([], ["--no-thumbnails"]):
        output = tmp_path / str(len(pages))
        arguments = ["--cache", str(work.path), "--output", str(output), "--draws", "40", *options]
        done = CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False)
        assert done.exit_code == 0 and done.output.splitlines()[-1] == f"page: {output / 'report.html'}"
        assert {"report.html", "report.md", "table.tex"} <= {item.name for item in output.iterdir()}
        pages.append((output / "report.html").read_text("utf-8"))
    assert ["data:image/jpeg" in page for page in pages] == [True, False]


def test_an_existing_or_unknown_run_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    """The message lists the known runs."""
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, make_run())
    with pytest.raises(InputError, match="run 'one' exists.*choose another"):
        write_run(work, make_run())
    with pytest.raises(InputError, match="has no run 'two'; it has: one"):
        choose_runs(work, "two", inflation=False)


def test_inflation_uses_the_newest_run_of_each_kind(make_run: MakeRun, tmp_path: Path) -> None:
    """The message has the commands for a missing leaky run."""
    work = FeatureCache(tmp_path / "work", create=True)
    write_run(work, replace(make_run(), name="run-1"))
    with pytest.raises(InputError, match="extract DATA .* --leaky, then moodfuse fuse .* --protocol leaky"):
        choose_runs(work, None, inflation=True)
    for name, protocol in (("old", "leaky"), ("second", "crossfit"), ("new", "leaky")):
        write_run(work, replace(make_run(protocol=protocol), name=name))
    for name, wanted in ((None, "second"), ("run-1", "run-1")):
        run, leaky = choose_runs(work, name, inflation=True)
        assert leaky is not None and (run.name, leaky.name) == (wanted, "new")
    with pytest.raises(InputError, match="'old' is leaky itself"):
        choose_runs(work, "old", inflation=True)
    assert choose_runs(work, None, inflation=False)[0].name == "new"


def test_inflation_reads_only_the_runs_it_needs(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of six runs are read; damaged ones are skipped with a warning."""
    work = FeatureCache(tmp_path / "work", create=True)
    for number, protocol in enumerate(("crossfit", "leaky", "crossfit", "leaky", "crossfit", "leaky")):
        write_run(work, replace(make_run(protocol=protocol), name=f"run-{number}"))
    read: list[str] = []
    monkeypatch.setattr(
        "moodfuse.cache.runs.read_part", lambda path: read.append(path.parent.name) or read_part(path)
    )
    run, leaky = choose_runs(work, None, inflation=True)
    assert leaky is not None and (run.name, leaky.name) == ("run-4", "run-5")
    assert sorted(read) == ["run-4", "run-5"]
    (work.path / "runs" / "run-5" / "run.json").write_text("{")
    next((work.path / "runs" / "run-4").glob("predictions-*.h5")).write_bytes(b"no part")
    run, leaky = choose_runs(work, None, inflation=True)
    assert leaky is not None and (run.name, leaky.name) == ("run-2", "run-3")
    for number in (4, 5):
        assert caplog.text.count(f"run run-{number} cannot be read and is skipped") == 1
    with pytest.raises(CacheError, match="not JSON"):
        choose_runs(work, "run-5", inflation=False)
    with pytest.raises(InputError, match="run 'run-5' exists"):
        write_run(work, replace(make_run(), name="run-5"))
    write_run(work, replace(make_run(), name="run-6"))
    assert choose_runs(work, None, inflation=False)[0].name == "run-6"
