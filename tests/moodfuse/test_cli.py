"""The front door: every command has help and an example, stands in the README, and errors are one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodfuse.cli import COMMANDS, group, main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "sklearn", "lightgbm", "matplotlib")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_a_line_in_the_readme(name: str) -> None:
    """Help runs, shows an example, and the README names the command."""
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Example: moodfuse {name}" in result.output and "--config" in result.output
    assert f"moodfuse {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fuse", "--help"], ["evaluate", "--help"], ["cache", "import", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """`-X importtime` names no torch, scikit-learn, LightGBM or matplotlib."""
    command = [sys.executable, "-X", "importtime", "-m", "moodfuse", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    modules = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "moodfuse" in modules and not modules & set(HEAVY)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["extract", "none", "--cache", "work"], 2, "none does not exist"),
        (["extract", ".", "--cache", "work", "--source", "c4d"], 2, "unknown source 'c4d'; known: c3d"),
        (["extract", ".", "--cache", "work", "--weights", "c3d"], 2, "expected SOURCE=VALUE"),
        (["fuse", "--cache", "none"], 2, "not a moodfuse cache"),
        (["evaluate", "--cache", "none"], 2, "not a moodfuse cache"),
        (["evaluate"], 2, "give --cache DIR for the report of a run"),
        (["dance"], 2, "No such command 'dance'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """No traceback: the cause, the remedy, and the exit code."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    said = capfd.readouterr().err
    assert stopped.value.code == code and message in said and "Traceback" not in said


def test_a_config_file_sets_options_and_flags_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Defaults < file < flags; an unknown option in the file is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fuse.toml").write_text('cache = "from-file"\n')
    for extra, expected in (([], "from-file"), (["--cache", "from-flag"], "from-flag")):
        with pytest.raises(SystemExit):
            main(["fuse", "--config", "fuse.toml", *extra])
        assert f"{expected} is not a moodfuse cache" in capfd.readouterr().err
    (tmp_path / "fuse.toml").write_text("cash = 1\n")
    with pytest.raises(SystemExit):
        main(["fuse", "--config", "fuse.toml"])
    assert "unknown option 'cash'; known:" in capfd.readouterr().err
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--config", "pipe.toml"])
    assert stopped.value.code == 2
    assert "pipe.toml: cannot be read (is a pipe; expected a regular file)" in capfd.readouterr().err


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Ctrl-C says that what was finished is kept."""

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(group, "main", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["check", "."])
    assert stopped.value.code == 130 and "run the command again" in capfd.readouterr().err


def test_a_full_disk_behind_the_output_is_one_line(tmp_path: Path) -> None:
    """Exit code 1 and the reason, without a traceback, also not as the interpreter ends."""
    command = [sys.executable, "-m", "moodfuse", "--help"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: the output cannot be written (No space left on device); make room, or send it elsewhere\n"
    )


def test_a_reader_that_has_gone_ends_it_quietly() -> None:
    """As behind `| head -1`: nothing more is said."""
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "moodfuse", "--help"]
    done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(written)
    assert done.returncode == 1 and not done.stderr


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system that is not about the output is not made up to be one."""

    def broken(*arguments: object, **options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "x")

    monkeypatch.setattr(group, "main", broken)
    with pytest.raises(FileNotFoundError):
        main(["check", "."])
