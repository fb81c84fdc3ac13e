"""The front door: every command has help and an example, stands in the README, and errors are one line."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodfuse.cli import COMMANDS, LogFormatter, group, main, prepare_streams

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
    modules = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
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


def test_a_config_file_sets_options_and_flags_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbfcache = 'from-file'\n", "from-file is not a moodfuse cache"),
        (
            "cache = 'x'".encode("utf-16"),
            "fuse.toml: is UTF-16, as some editors and spreadsheets save text; save the file as UTF-8",
        ),
        (b"cache = '\xe9'", "fuse.toml: not TOML"),
        (b"cache = " + b"[" * 100_000, "fuse.toml: not TOML"),
        (b"fuse = 3", "fuse is 3; expected a table, [fuse]"),
        (b"cache = 'here'\nhead = 'softmax'", "here is not a moodfuse cache"),
        (b"cache = 'here'\nhead = ['softmax', 'mean']", "here is not a moodfuse cache"),
    ],
)
def test_config_files_of_every_editor(content: bytes, said: str, tmp_path: Path, monkeypatch, capfd) -> None:
    """A TOML file may have a byte order mark and one value for a list; other encodings and types are errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fuse.toml").write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["fuse", "--config", "fuse.toml"])
    err = capfd.readouterr().err
    assert said in err and stopped.value.code == 2 and "Traceback" not in err


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
        "Error: the output cannot be written (No space left on device); make room, or write elsewhere\n"
    )


def run_shell(line: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell line in which `$MOODFUSE` is the command."""
    names = {"MOODFUSE": f"{sys.executable} -m moodfuse", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **names},
    )


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("$MOODFUSE weights ls --network c3d >&-", 0, ""),
        ("$MOODFUSE weights ls --network c3d 2>&- >/dev/null", 0, ""),
        ("$MOODFUSE weights ls --network c3d >/dev/full", 1, "cannot be written (No space left on device)"),
        ("$MOODFUSE weights ls --network c3d 1</dev/null", 1, "cannot be written (Bad file descriptor)"),
        ("$MOODFUSE fuse --cache none 2>&-", 2, ""),
        ("$MOODFUSE fuse --cache none 2>/dev/full", 2, ""),
        ("$MOODFUSE fuse 2>/dev/full", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(line: str, code: int, message: str) -> None:
    """A closed stream acts like the null device; a full standard output is an error that names the cause."""
    done = run_shell(line)
    assert (
        done.returncode == code and message in done.stderr and len(done.stderr.splitlines()) == bool(message)
    )


def test_the_table_of_weights_is_printed_in_any_encoding() -> None:
    """The table of weights needs only ASCII characters, and no column is cut; `test_fetch` has the whole table."""
    done = run_shell("$MOODFUSE weights ls --network c3d", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and not done.stderr and "c3d-sports1m" in done.stdout
    assert done.stdout.isascii() and "\\u" not in done.stdout


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("latin-1", "é 快", "é \\u5feb"),
        ("cp1252", "€ 快", "€ \\u5feb"),
        ("ascii", "é", "\\xe9"),
        ("utf-8", "快 \udcff", "快 \\udcff"),
    ],
)
def test_text_that_a_stream_cannot_encode_is_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, shown: str
) -> None:
    """Standard output and standard error take any text, bytes of file names that are not UTF-8 included."""
    for name in ("stdout", "stderr"):
        written = io.BytesIO()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding=encoding, errors="strict"))
        prepare_streams()
        print(text, end="", file=getattr(sys, name), flush=True)
        assert written.getvalue().decode(encoding) == shown


def test_control_characters_of_names_do_not_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Escape sequences in a file name are shown escaped in error messages and in the log; line ends stay."""
    monkeypatch.chdir(tmp_path)
    for arguments, shown in (
        (["fuse", "--cache", "a\x1b[2J\rb"], "a\\x1b[2J\\rb"),
        (["predict", "x", "--model", "m", "--output", "a\r\x9bb"], "a\\r\\x9bb"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        said = capfd.readouterr().err
        assert shown in said and not {"\x1b", "\x9b", "\r"} & set(said) and said.endswith("\n")
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", ("a\rb\nc",), None)
    assert LogFormatter("%(levelname)s %(message)s").format(record) == "WARNING a\\rb\nc"


def test_a_missing_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Where no folder for temporary files is writable, as in a read-only container, the remedy is TMPDIR."""

    def unusable(*arguments: object, **options: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(group, "main", unusable)
    with pytest.raises(SystemExit) as stopped:
        main(["check", "."])
    assert stopped.value.code == 1 and "set TMPDIR" in capfd.readouterr().err


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
