"""`moodfuse predict`: usage, options that would be ignored, and how it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moodfuse.predict import batch as labelling

Predict = Callable[..., int]


def test_wrong_usage_is_said_before_anything_is_loaded(
    model: Path, predict: Predict, tmp_path: Path, capfd
) -> None:
    """No model, two models, a format without a file, or several videos for one page: exit code 2 and the remedy."""
    for arguments, said in (
        (["x.mp4"], "give one of --model DIR and --cache DIR"),
        (["--model", model, "--cache", "w", "x.mp4"], "give one of --model DIR and --cache DIR"),
        (["--model", model, "--format", "parquet", "x.mp4"], "give --output"),
        (["--model", model, "--output", tmp_path / "x.doc", "x.mp4"], "give --format"),
        (["--model", model, "--html", "x.html", "x.mp4", "y.mp4"], "are of one video"),
        (["--model", tmp_path / "none", "x.mp4"], "no such folder"),
        (["--model", model, "--timeline", "--hop", "0", "x.mp4"], "--hop is 0"),
        (["--model", model, "--retry", "x.mp4"], "--retry tries again"),
    ):
        assert predict(*arguments) == 2
        assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hop", "2"], "--hop belongs to --timeline, --html and --plot"),
        (["--timeline", "--jobs", "2"], "--jobs changes nothing of a time line"),
        (["--plot", "x.png", "--why"], "--why is of whole files"),
        (["--format", "csv", "--why"], "--why is of --format table; csv says it"),
        (["--output", "x.jsonl", "--why"], "--why is of --format table; jsonl says it"),
    ],
)
def test_what_would_be_ignored_is_refused(options: list[str], said: str, predict: Predict, capfd) -> None:
    """An option that changes nothing in this mode is named, with the way out."""
    assert predict("--model", "none", *options, "x.mp4") == 2
    assert said in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "interrupted; nothing is kept; with --output FILE a stopped run can go on"),
        (
            ["--output", "x.jsonl"],
            "interrupted; the rows written so far are kept, run the command again to go on",
        ),
    ],
)
def test_an_interrupt_says_what_is_kept(
    options: list[str], said: str, predict: Predict, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Rows in an output are; on the terminal nothing is. There is no word of a cache, which it does not have."""

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "label_all", interrupted)
    assert predict("--model", "none", *options, "x.mp4") == 130
    assert capfd.readouterr().err.strip() == said
