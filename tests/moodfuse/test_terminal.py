"""Every command in a terminal of 80 columns, with long names of sources, labels and clips; -v and -q."""

import csv
import logging
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moodfuse.cache import terminal
from moodfuse.cli import COMMANDS, main
from moodfuse.extract.networks import create_network
from moodfuse.predict.outputs import format_table

SOURCES = ("hf-facebook--dinov2-base-my-long-recipe-1", "hf-facebook--dinov2-base-my-long-recipe-2")
LABELS = ("a-label-of-thirty-characters-1", "a-label-of-thirty-characters-2")
RUN = ("--cache", "work")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command as in a terminal of 80 columns, and return what it prints."""
    original = terminal.terminal_width
    for name, module in list(
        sys.modules.items()
    ):  # modules that were imported before have a name of their own
        if name.startswith("moodfuse") and getattr(module, "terminal_width", None) is original:
            monkeypatch.setattr(module, "terminal_width", lambda stream: 80)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main(list(arguments))
        return "".join(capfd.readouterr())

    return run


def write_dataset(folder: Path) -> None:
    """Labels and features of 24 clips to import."""
    ids = [f"a-folder-with-a-long-name/a-clip-with-a-long-name-{number:02}.mp4" for number in range(24)]
    labels = [LABELS[number % 2] for number in range(24)]
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *zip(ids, labels, strict=True)])
    rng = np.random.default_rng(0)
    for source in SOURCES:
        features = rng.standard_normal((24, 4)) + np.arange(24)[:, None] % 2
        np.savez(folder / f"{source}.npz", id=np.array(ids), embedding=features.astype(np.float32))
    for label in LABELS:
        (folder / "clips" / label).mkdir(parents=True)
        for number in range(2):
            (folder / "clips" / label / f"a-clip-with-a-long-name-{number}.mp4").write_text("not a video")


def test_no_line_of_any_command_is_longer_than_80_columns(
    call: Callable[..., str], trained: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All commands but those that download, or serve; `extract` and `demo` with nothing to do."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path)
    labelled = Path("a-folder-with-a-long-name", "a-clip-with-a-long-name-and-a-number-01.mp4")
    labelled.parent.mkdir()
    labelled.hardlink_to(trained.held[0])
    weights = create_network("onedmcnn", num_classes=1).state_dict()
    torch.save(weights, "a-file-of-weights-with-a-long-name.pt")
    convert = ("weights", "convert", "a-file-of-weights-with-a-long-name.pt", "--network", "onedmcnn")
    printed = {}
    for source in SOURCES:
        words = ("cache", "import", f"{source}.npz", *RUN, "--labels", "labels.csv", "--source", source)
        printed[f"import {source}"] = call(*words, "--holdout", "*")
    printed |= {
        "check": call("check", "clips", "--folds", "2", "--no-audit"),
        "fuse": call("fuse", *RUN, "--head", "softmax", "--head", "mean", "--jobs", "1", "--repeats", "1"),
        "evaluate": call("evaluate", *RUN, "--draws", "50", "--no-thumbnails"),
        "compare": call("compare", *RUN, "--draws", "50", SOURCES[0], "+".join(SOURCES)),
        "cache ls": call("cache", "ls", *RUN, "--long"),
        "cache prune": call("cache", "prune", *RUN, "--source", SOURCES[0], "--fits", "--runs", "run-1"),
        "cache verify": call("cache", "verify", *RUN),
        "cache export": call(
            "cache", "export", *RUN, "--source", SOURCES[0], "--output", f"{SOURCES[0]}.csv"
        ),
        "weights": call("weights", "ls"),
        "weights convert": call(*convert, "--output", f"{SOURCES[0]}.safetensors"),
        "networks": call("networks"),
        "predict": call("predict", "--model", str(model), "--why", str(labelled)),
        "predict without a model": call("predict", "--model", "none", "clips"),
        "serve": call("serve", "--model", "none", "--port", "0"),
        "extract": call("extract", "clips", *RUN),
        "demo": call("demo", "--seed", "x"),
    }
    assert {name.split()[0] for name in printed} >= COMMANDS.keys() - {"cache"}
    long = [(name, line) for name, text in printed.items() for line in text.splitlines() if len(line) > 80]
    assert long == [], "\n".join(map(str, long))
    for name in ("fuse", "evaluate", "compare", "cache ls", "cache prune", "cache export", "weights convert"):
        assert "hf-facebook--dinov2" in printed[name], printed[name]
    assert "-01.mp4  " in printed["predict"] and "onedmcnn@brief" in printed["predict"], printed["predict"]


def test_rows_of_predict_fit_80_columns() -> None:
    """Names of files are cut in the middle, other labels are left out, and what is left is wrapped."""
    probabilities = {LABELS[0]: 0.8, LABELS[1]: 0.2}
    contribution = {"own": probabilities, "without": probabilities, "contribution": 0.0}
    row = {
        "file": "a-folder-with-a-long-name/a-clip-with-a-long-name-and-a-number-01.mp4",
        "requested": {"start_s": 0.0, "end_s": None},
        "window": {"start_s": 0.0, "end_s": 30.0},
        "label": LABELS[0],
        "confidence": 0.8,
        "uncertain": True,
        "missing": "audio",
        "partial": None,
        "probabilities": probabilities,
        "sources": dict.fromkeys(SOURCES, contribution),
    }
    reason = {"code": "truncated", "detail": "only 3.2 s of 30.0 s could be decoded " * 3}
    refusal = {"file": row["file"], "requested": row["requested"], "error": reason}
    for shown in (row, row | {"requested": {"start_s": 65.5, "end_s": 95.5}}, refusal):
        text = format_table(shown, width=60, why=True, line_width=80)
        assert max(map(len, text.splitlines())) <= 80
        assert text.startswith("a-folder-with-a-long…") and "-01.mp4" in text.splitlines()[0]
    assert row["file"] in format_table(row, width=60, why=False)


def test_verbose_and_quiet_count_before_and_after_the_command(tmp_path: Path) -> None:
    """Under -v warnings and progress are logged with a traceback of errors; under -q errors are left."""

    def error_lines(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "moodfuse", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        return done.stderr.splitlines()

    wrong = ("cache", "ls", "--cache", "none")
    for words in (("-v", *wrong), (*wrong, "--verbose"), ("cache", "-v", "ls", "--cache", "none")):
        assert any(line.startswith("Traceback") for line in error_lines(*words)), words
    for words in (wrong, ("-q", *wrong), (*wrong, "-q")):
        (line,) = error_lines(*words)
        assert line.startswith("Error: none is not a moodfuse cache")
    write_dataset(tmp_path)
    words = (
        "cache",
        "import",
        f"{SOURCES[0]}.npz",
        "--labels",
        "labels.csv",
        "--source",
        "x",
        "--holdout",
        "*",
    )
    assert error_lines(*words, "--cache", "loud") and error_lines(*words, "--cache", "silent", "-q") == []


def test_the_level_is_reset_by_the_next_command(tmp_path: Path) -> None:
    """A program that calls several commands, such as a test, is not quiet for ever."""
    for words, level in ((("-q",), logging.ERROR), ((), logging.WARNING), (("-v",), logging.INFO)):
        with pytest.raises(SystemExit):
            main([*words, "cache", "ls", "--cache", str(tmp_path)])
        assert logging.getLogger().level == level
        assert terminal.is_quiet() == (level == logging.ERROR)
    with pytest.raises(SystemExit):
        main(["--version"])


def read_terminal(command: list[str], *, until: bytes, timeout_s: float) -> tuple[bytes, float]:
    """What a command prints to a terminal until a text appears, and after how many seconds it did."""
    main_end, terminal_end = pty.openpty()
    start, shown = time.monotonic(), b""
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=terminal_end, stderr=terminal_end, env=environment)
    os.close(terminal_end)
    try:
        while until not in shown and time.monotonic() - start < timeout_s:
            if select.select([main_end], [], [], 0.05)[0]:
                shown += os.read(main_end, 65536)
        return shown, time.monotonic() - start
    finally:
        process.kill()
        process.wait()
        os.close(main_end)


def test_predict_of_100_files_shows_a_bar_within_two_seconds(trained, model: Path, tmp_path: Path) -> None:
    """In the fastest of three starts, on an idle machine; rows appear above it."""
    for number in range(100):
        os.link(trained.held[0], tmp_path / f"{number:03}.mp4")
    command = [sys.executable, "-m", "moodfuse", "predict", "--model", str(model), str(tmp_path)]
    starts = [read_terminal(command, until=b"0/100", timeout_s=30) for _ in range(3)]
    assert all(b"0/100" in shown for shown, _ in starts)
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert min(seconds for _, seconds in starts) < 2 * load
    shown, _ = read_terminal(command, until=b" 2/100", timeout_s=60)
    assert b"000.mp4  " in shown and b" 1/100" in shown
