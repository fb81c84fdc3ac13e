"""The command line: help, `--config`, and errors as one line and an exit code."""

import io
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moodfuse.cache.terminal import LogFormatter
from moodfuse.cli import group, main, prepare_streams

ROOT = Path(__file__).parents[2]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def test_help_loads_nothing_heavy() -> None:
    """Help imports no torch, scikit-learn, LightGBM or matplotlib."""
    code = (
        "import sys\nfrom moodfuse.cli import group\n"
        "for name in ('fuse', 'evaluate', 'cache'):\n"
        "    group.main([name, '--help'], standalone_mode=False)\n"
        "print(*{'torch', 'sklearn', 'lightgbm', 'matplotlib'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "--protocol" in done.stdout and not done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "none", "--cache", "work"], "none does not exist"),
        (
            ["extract", ".", "--cache", "work", "--source", "c4d"],
            "unknown source 'c4d'; known: audio-stats, c3d",
        ),
        (["extract", ".", "--cache", "work", "--weights", "c3d"], "expected SOURCE=VALUE"),
        (["fuse", "--cache", "none"], "not a moodfuse cache"),
        (["evaluate"], "give --cache DIR for the report of a run"),
        (["dance"], "No such command 'dance'"),
        (["fuse", "--cache", "a\x1b[2J\rb"], "a\\x1b[2J\\rb"),
        (["fuse", "--config", b"cache = 'file'"], "file is not a moodfuse cache"),
        (["fuse", "--config", b"cache = 'file'\nhead = 'softmax'", "--cache", "flag"], "flag is not a"),
        (["fuse", "--config", b"\xef\xbb\xbf[fuse]\ncache = 'here'"], "here is not a moodfuse cache"),
        (["fuse", "--config", b"cash = 1"], "unknown option 'cash'; known: cache"),
        (["fuse", "--config", b"cache = "], "options.toml: not TOML in UTF-8"),
        (
            ["extract", "clips", "--config", b"cache = 'x'\ncrossfit = 3"],
            "expected true or false, found integer 3",
        ),
        (
            ["extract", "clips", "--config", b"cache = 'x'\nfolds = true"],
            "folds: expected integer, found true or",
        ),
        (["fuse", "--config", b"cache = 'x'\nrepeats = 2024-01-01"], "expected integer, found date"),
        (["extract", "clips", "--config", b"folds = '6'"], "folds: expected integer, found text 6"),
        (["extract", "clips", "--config", b"source = ['c3d', 1]"], "source: expected text, found integer 1"),
        (["evaluate", "--config", b"cache = ['work']"], "cache: expected text, found list"),
        (["extract", "x", "--config", b"[extrac]"], "unknown table [extrac]; did you mean [extract]? Known"),
        (
            ["extract", "x", "--config", b"[zzz]\nfolds = 2"],
            "unknown table [zzz]; known: check, extract, fuse",
        ),
        (
            ["fuse", "--config", b"cache = 'x'\nheads.softmax.D = 1"],
            "unknown setting of softmax 'D'; known",
        ),
        (["fuse", "--config", b"cache = 'x'\nheads.svm.C = 1"], "unknown head 'svm'; known: lightgbm"),
        (["fuse", "--config", b"cache = 'x'\nheads.lightgbm.num_leaves = 2.5"], "num_leaves is '2.5'"),
        (
            ["fuse", "--config", b"cache = 'x'\nheads.softmax.C = [1, 10]"],
            "C is [1, 10]; expected a number (for",
        ),
        (["fuse", "--config", b"cache = 'x'\nheads.softmax = 3"], "[heads]: expected a table of settings"),
        (
            ["fuse", "--cache", "x", "--head", "softmax:B=1", "--search", "3"],
            "of softmax 'B'",
        ),
    ],
)
def test_bad_input_is_one_message_and_exit_code_two(
    arguments: list[str | bytes], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Cause and remedy without a traceback; control characters of names are escaped.

    Options are read from a file, whose content is given as bytes, and the command line overrides it.
    """
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "options.toml"
    config.write_bytes(next((word for word in arguments if isinstance(word, bytes)), b""))
    assert exit_code(*(str(config) if isinstance(word, bytes) else word for word in arguments)) == 2
    shown = capfd.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert not {"\x1b", "\r"} & set(shown)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "run the command again"),
        (
            PermissionError(13, "Permission denied", "x"),
            1,
            "Error: cannot read or write x: Permission denied;",
        ),
    ],
)
def test_an_interrupt_or_an_error_of_the_system_is_one_line(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Ctrl-C reports that finished work is kept; other errors name the file and the reason."""

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(group, "main", fail)
    assert exit_code("check", ".") == code
    shown = capfd.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_a_termination_ends_as_an_interrupt_does() -> None:
    """SIGTERM, of systemd or docker stop: one line and exit code 143."""
    code = (
        "import signal, sys\nfrom moodfuse.cli import group, main\n"
        "group.main = lambda *arguments, **options: signal.raise_signal(signal.SIGTERM)\n"
        "main(['check', '.'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 128 + signal.SIGTERM == 143
    assert done.stderr.startswith("interrupted; ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--help >/dev/full", 1, "Error: cannot read or write the output: No space left on device"),
        ("fuse --cache none >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full(arguments: str, code: int, message: str) -> None:
    """A closed stream acts as the null device, and a full output is an error."""
    command = ["bash", "-c", f"{sys.executable} -m moodfuse {arguments}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code and done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == bool(message)


def test_a_closed_pipe_ends_the_command_silently() -> None:
    """As with `| head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "moodfuse", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(write)
    assert done.returncode == 1 and not done.stderr


def test_text_that_a_stream_cannot_encode_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of file names that are not UTF-8, and characters that the encoding does not have."""
    for encoding, text, shown in (("latin-1", "é 快", "é \\u5feb"), ("utf-8", "快 \udcff", "快 \\udcff")):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
        prepare_streams()
        print(text, end="", flush=True)
        assert written.getvalue().decode(encoding) == shown
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", ("a\rb\nc",), None)
    assert LogFormatter("%(levelname)s %(message)s").format(record) == "WARNING a\\rb\nc"
