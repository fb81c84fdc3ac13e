"""Limits of what a clip may cost, refusals of a batch, and the options for both."""

import csv
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cli import main
from moodfuse.extract.media import pool
from moodfuse.extract.media.limits import MAX_DEADLINE_S, Limits, MediaError, ReadingRules
from moodfuse.extract.media.pool import DecodeRequest
from moodfuse.extract.progress import FailureCounter, TooManyRefusedError, count_reasons
from moodfuse.synthetic_corpus import ClipSettings, make_clip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"deadline_s": 0.0}, "deadline is 0.0 s"),
        ({"deadline_s": math.nan}, "deadline is nan s"),
        ({"deadline_s": 1e9}, "expected more than 0, at most 1000000 s"),
        ({"memory_mb": 63}, "63 MB of memory"),
        ({"memory_mb": 1 << 60}, "MB of memory for a clip; expected 64 to 16777216"),
    ],
)
def test_impossible_limits_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**values)


def test_the_deadline_grows_with_the_window_up_to_a_limit() -> None:
    assert Limits().seconds_for(DecodeRequest(Path("a.mp4")).window_s) == 120.0
    assert Limits().seconds_for(DecodeRequest(Path("a.mp4"), 5.0, 15.0).window_s) == 80.0
    assert Limits().seconds_for(1e300) == Limits().seconds_for(math.inf) == MAX_DEADLINE_S


def test_an_error_survives_pickling() -> None:
    error = MediaError("no_audio", "a.mp4", "why")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.path) == (str(error), error.code, error.path)


def test_refusals_are_counted_by_reason() -> None:
    """The most frequent reason comes first."""
    assert count_reasons(["empty", "truncated", "truncated"]) == "3 refused: 2 truncated, 1 empty"


def test_a_batch_ends_at_its_number_of_refusals() -> None:
    """Up to one less than that it goes on, without a number always; the error names what was refused."""
    endless, tally = FailureCounter(ReadingRules()), FailureCounter(ReadingRules(max_failures=2))
    for number in range(100):
        endless.count(str(number), "empty")
    tally.count("a", "empty")
    tally.count("b")
    with pytest.raises(
        TooManyRefusedError, match=r"2 refused: .* is 2\. They are a \(empty\), c \(codec\)\."
    ):
        tally.count("c", "codec")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of two clips each, and a clip of 6 s that breaks off after more than half of it."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(4):
        label, settings = "excited" if number % 2 else "sad", ClipSettings(1.0, 64, 48, seed=number)
        (folder / label).mkdir(exist_ok=True)
        make_clip(folder / label / f"{number}.mp4", mood=label, settings=settings)
    whole = make_clip(folder / "whole.mp4", mood="excited", settings=ClipSettings(6.0, 64, 48, seed=9))
    data = whole.read_bytes()
    (folder / "excited" / "half.mp4").write_bytes(data[: int(len(data) * 0.7)])
    whole.unlink()
    return folder


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on a copy of the clips; returns its exit code, and all that it printed."""
    data = shutil.copytree(media, tmp_path / "clips")
    extracting = ["--cache", str(tmp_path / "work"), "--source", "onedmcnn", "--dry-run"]

    def run(command: str, *options: str) -> tuple[int, str]:
        more = extracting if command == "extract" else []
        with pytest.raises(SystemExit) as stopped:
            main([command, str(data), *more, "--folds", "2", "--jobs", "1", *options])
        return int(stopped.value.code or 0), "".join(capfd.readouterr())

    return run


def rows(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Status and reason of each clip in the cache's table."""
    with (tmp_path / "work" / "clips.csv").open(newline="") as file:
        return {row["id"]: (row["status"], row["reason"]) for row in csv.DictReader(file)}


HALF = "excited/half.mp4"


def test_extract_with_partial_and_refused_clips(run: Run, tmp_path: Path) -> None:
    """`--allow-partial` accepts a partial clip with a warning; without it the same cache refuses that clip
    again.

    As many refusals as `--max-failures`, on record and new ones together, end the run; fewer do not.
    """
    code, printed = run("extract", "--allow-partial")
    assert code == 0 and f"WARNING {HALF}" in printed and rows(tmp_path)[HALF] == ("ok", "partial")
    code, printed = run("extract", "--max-failures", "1")
    assert code not in (0, 3) and f"1 refused: 1 truncated; --max-failures is 1. They are {HALF}" in printed
    code, printed = run("extract", "--max-failures", "2")
    assert code == 3 and "1 refused: 1 truncated" in printed
    assert rows(tmp_path)[HALF] == ("refused", "truncated")
    (tmp_path / "clips" / "sad" / "new.mp4").write_text("no film")
    code, printed = run("extract", "--max-failures", "2")
    assert code == 1 and "excited/half.mp4 (truncated), sad/new.mp4 (not_media)" in printed


def test_check_with_partial_and_refused_clips(run: Run) -> None:
    code, printed = run("check", "--allow-partial")
    assert code == 0 and f"WARNING {HALF}: video: " in printed
    code, printed = run("check", "--max-failures", "1")
    assert code not in (0, 3) and f"1 refused: 1 truncated; --max-failures is 1. They are {HALF}" in printed
    code, printed = run("check", "--max-failures", "2")
    assert code == 3 and f"refused {HALF}: truncated" in printed and "1 refused: 1 truncated" in printed


@pytest.mark.parametrize("option", ["--audit", "--no-audit"])
def test_check_refuses_windows_outside_of_their_files(
    option: str, media: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the headers alone, too, and whatever the length of the window."""
    table = media / "windows.csv"
    windows = {"sad/0": "0,1e300", "sad/2": "5,8", "excited/1": ",", "excited/3": ","}
    lines = [f"{name}.mp4,{name.split('/')[0]},{window}" for name, window in windows.items()]
    table.write_text("\n".join(["path,label,start_s,end_s", *lines]))
    with pytest.raises(SystemExit):
        main(["check", str(table), option, "--folds", "2", "--jobs", "1"])
    assert "2 refused: 2 window_outside" in "".join(capfd.readouterr())


@pytest.mark.parametrize("options", [("--deadline", "0"), ("--deadline", "nan"), ("--memory", "63")])
def test_the_command_line_refuses_impossible_limits(options: tuple[str, str], run: Run) -> None:
    code, printed = run("check", *options)
    assert code == 2 and "Error: " in printed and "Traceback" not in printed


def test_memory_and_deadline_reach_the_workers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Limits] = []
    whole = pool.run_in_workers

    def noted(*arguments: Any, limits: Limits, **named: Any) -> Any:
        given.append(limits)
        return whole(*arguments, limits=limits, **named)

    monkeypatch.setattr(pool, "run_in_workers", noted)
    assert run("check", "--deadline", "30", "--memory", "300")[0] == 3
    assert run("extract", "--deadline", "31", "--memory", "301")[0] == 3
    assert [(one.deadline_s, one.memory_mb) for one in given] == [(30.0, 300), (31.0, 301)]
