"""`moodfuse evaluate`: the report of a run, or a model on a test set, and no option that only the other knows."""

from pathlib import Path

import pytest

from moodfuse.cli import main

OF_A_RUN, OF_A_MODEL = ["--cache", "none"], ["--model", "none", "test.csv"]


def evaluate(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*OF_A_RUN, "--group-pattern", "x"], "--group-pattern belongs to --model"),
        ([*OF_A_RUN, "--jobs", "2"], "--jobs belongs to --model"),
        ([*OF_A_RUN, "--device", "cpu"], "--device belongs to --model"),
        ([*OF_A_MODEL, "--run", "run-1"], "--run belongs to --cache"),
        ([*OF_A_MODEL, "--compare", "seed"], "--compare belongs to --cache"),
        ([*OF_A_MODEL, "--inflation"], "--inflation belongs to --cache"),
        ([*OF_A_MODEL, "--no-thumbnails"], "--no-thumbnails belongs to --cache"),
    ],
)
def test_what_would_be_ignored_is_refused(arguments: list[str], said: str, capfd) -> None:
    """An option of the other half is named, with where it belongs, also where it has its default."""
    assert evaluate(*arguments) == 2
    assert said in " ".join(capfd.readouterr().err.split())


def test_an_option_in_a_file_is_given_as_well(tmp_path: Path, capfd) -> None:
    """What a --config file sets is as much a wish as a flag."""
    (tmp_path / "evaluate.toml").write_text("jobs = 4\n")
    assert evaluate("--config", str(tmp_path / "evaluate.toml"), *OF_A_RUN) == 2
    assert "--jobs belongs to --model" in capfd.readouterr().err
