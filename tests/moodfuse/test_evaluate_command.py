"""`moodfuse evaluate` reports a run or tests a model, and refuses options of the other mode."""

from pathlib import Path

import pytest

from moodfuse.cli import main

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
        ([*OF_A_RUN, "--device", "cpu"], "--device belongs to --model"),
        ([*OF_A_MODEL, "--run", "run-1"], "--run belongs to --cache"),
        ([*OF_A_MODEL, "--compare", "zhou2022"], "--compare belongs to --cache"),
        ([*OF_A_MODEL, "--inflation"], "--inflation belongs to --cache"),
        ([*OF_A_MODEL, "--no-thumbnails"], "--no-thumbnails belongs to --cache"),
    ],
)
def test_options_of_the_other_mode_are_refused(arguments: list[str], message: str, capfd) -> None:
    """The message names the option and its mode, also where it has its default value."""
    assert evaluate(*arguments) == 2
    assert message in " ".join(capfd.readouterr().err.split())


def test_an_option_in_a_file_is_given_as_well(tmp_path: Path, capfd) -> None:
    """An option set in a --config file counts like a flag."""
    (tmp_path / "evaluate.toml").write_text("jobs = 4\n")
    assert evaluate("--config", str(tmp_path / "evaluate.toml"), *OF_A_RUN) == 2
    assert "--jobs belongs to --model" in capfd.readouterr().err
