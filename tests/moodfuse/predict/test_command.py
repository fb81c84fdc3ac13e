"""`moodfuse predict`: usage, options without effect, which model it uses, and how it ends."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.predict import batch
from moodfuse.predict.command import _newest_model
from moodfuse.predict.outputs import lock_output

Predict = Callable[..., int]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --model DIR and --cache DIR"),
        (["--model", "none", "--format", "parquet"], "give --output"),
        (["--model", "none", "--output", "x.doc"], "give --format"),
        (["--model", "none", "--output", "x.csv", "--format", "table"], "table is for reading"),
        (
            ["--model", "none", "--timeline", "--allow-partial"],
            "--allow-partial cannot be used with a timeline",
        ),
        (["--model", "none", "--html", "x.html", "y.mp4"], "show one video"),
        (["--model", "none"], "no such model"),
        (["--model", "none", "--retry"], "--retry tries"),
        (["--model", "none", "--hop", "2"], "--hop belongs to --timeline, --html and --plot"),
        (["--model", "none", "--timeline", "--jobs", "2"], "--jobs has no effect on a timeline"),
        (["--model", "none", "--plot", "x.png", "--why"], "--why is for whole files"),
        (["--model", "none", "--format", "csv", "--why"], "--why is for --format table; csv always has it"),
    ],
)
def test_wrong_usage_is_exit_code_two(options: list[str], message: str, predict: Predict, capfd) -> None:
    """Wrong or useless options are named with the remedy."""
    assert predict(*options, "x.mp4") == 2
    assert message in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing is kept; with --output FILE"),
        (["--output", "x.jsonl"], "the rows written so far are kept"),
    ],
)
def test_an_interrupt_reports_what_is_kept(
    options: list[str], message: str, predict: Predict, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """With an output its rows are kept, without one nothing."""

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "label_all", interrupted)
    assert predict("--model", "none", *options, "x.mp4") == 130
    assert capfd.readouterr().err.startswith(f"interrupted; {message}")


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.parquet"])
def test_an_output_that_another_run_writes_to_is_refused(
    name: str, predict: Predict, tmp_path: Path, capfd
) -> None:
    """With exit code 2, before the model is read."""
    output = tmp_path / name
    with lock_output(output):
        assert predict("--model", "none", "--output", output, "x.mp4") == 2
    assert capfd.readouterr().err.splitlines() == [
        f"Error: {output}: another predict is writing to this file; wait for it, or choose another --output"
    ]


def test_a_cache_gives_the_model_of_its_newest_run(trained: Any, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(trained.cache.path, tmp_path / "cache"))
    with pytest.raises(InputError, match="no run has a model; run: moodfuse fuse --cache"):
        _newest_model(cache)
    model = cache / "runs" / trained.fewer.name / "model"
    model.mkdir()
    (model / "model.json").touch()
    assert _newest_model(cache) == model
