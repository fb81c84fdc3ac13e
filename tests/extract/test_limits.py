"""What reading a clip may cost, what ends a worker and what that costs its neighbours, and the options for it."""

import csv
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostile import misdeeds
from hostile.misdeeds import Task
from moodfuse.cache.errors import InputError
from moodfuse.cli import main
from moodfuse.extract.failures import NAMED, Tally, TooManyRefusedError, counted
from moodfuse.extract.media import pool
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.limits import (
    MAX_DEADLINE_S,
    MAX_OPEN_FILES,
    Limits,
    ReadingRules,
    address_space_bytes,
)
from moodfuse.extract.media.pool import work_apart
from moodfuse.synthetic_corpus import ClipSettings, make_clip

QUICK = Limits(deadline_s=1.0, deadline_per_s=0.0, memory_mb=256)
SLACK_S = 2.0
needs_proc = pytest.mark.skipif(
    not address_space_bytes(), reason="the system does not say what a process takes"
)


def done(*names: str, folder: Path = Path(), jobs: int = 1, limits: Limits = QUICK) -> list[Any]:
    """Do misdeeds one after the other; what each gives, a refusal as its code."""
    tasks = [Task(folder / f"{name}-{number}") for number, name in enumerate(names)]
    results = work_apart(misdeeds.work, tasks, jobs=jobs, limits=limits)
    return [found.code if isinstance(found, MediaError) else found for _, found in results]


@needs_proc
def test_too_much_memory_costs_one_clip() -> None:
    """A worker that allocates more than it may is stopped at that, and its neighbours live."""
    patient = replace(QUICK, deadline_s=60)
    assert done("fine", "allocate", "fine", "fine", jobs=2, limits=patient) == [
        "fine",
        "memory",
        "fine",
        "fine",
    ]


def test_the_deadline_is_kept() -> None:
    """Whatever a worker does, in Python, in C or on many threads, it ends with its deadline, or 2 s after."""
    deeds = ("sleep", "spin", "stuck", "threads")
    tasks = [Task(Path("fine")), *(Task(Path(deed)) for deed in deeds), Task(Path("fine"))]
    found, ended_s = [], []
    for _, result in work_apart(misdeeds.work, tasks, jobs=1, limits=QUICK):
        found.append(result.code if isinstance(result, MediaError) else result)
        ended_s.append(time.monotonic())
    assert found == ["fine", *["timeout"] * len(deeds), "fine"]
    for deed, before_s, after_s in zip(deeds, ended_s, ended_s[1:], strict=False):
        assert after_s - before_s <= QUICK.deadline_s + SLACK_S, deed


def test_a_crash_costs_one_clip_and_leaves_no_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmentation fault is a refusal, and no core file is written."""
    monkeypatch.chdir(tmp_path)
    assert done("fine", "segfault", "segfault", "fine", jobs=2) == ["fine", *["decode_failed"] * 2, "fine"]
    assert list(tmp_path.iterdir()) == []


def test_the_system_holds_a_worker_to_its_limits() -> None:
    """No core dump, few open files, and so much address space beside its own."""
    (limits,) = done("limits")
    assert limits["RLIMIT_CORE"] == (0, 0)
    assert limits["RLIMIT_NOFILE"] == (MAX_OPEN_FILES, MAX_OPEN_FILES)
    if address_space_bytes():
        assert QUICK.memory_mb << 20 < limits["RLIMIT_AS"][1] < 16 << 30


def test_open_files_are_bounded() -> None:
    """A worker that opens ever more files is refused, and the next has them all."""
    assert done("open", "fine") == ["decode_failed", "fine"]


def test_an_error_that_cannot_be_sent_costs_one_clip() -> None:
    """An error that pickles, but is not read again, does not break the pool."""
    ((_, found),) = work_apart(misdeeds.work, [Task(Path("raise"))], jobs=1, limits=QUICK)
    assert isinstance(found, MediaError) and (found.code, found.detail) == ("decode_failed", "_ShyError: shy")


@pytest.mark.parametrize(("kind", "expected"), [("type", TypeError), ("attribute", AttributeError)])
def test_a_bug_in_a_worker_ends_the_run(kind: str, expected: type[Exception]) -> None:
    """An error of the program is raised with the worker's traceback; a note names the file, which is not refused."""
    with pytest.raises(expected, match="a bug") as caught:
        done("fine", f"bug-{kind}", "fine")
    assert "in _bug" in str(caught.value.__cause__)
    assert caught.value.__notes__ == [f"In the process that reads bug-{kind}-1"]


@pytest.mark.parametrize("error", pool.PROGRAM_ERRORS)
def test_no_error_of_the_program_becomes_a_refusal(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A programming error is raised unchanged by the worker and by the parent process."""

    def fail(task: Task) -> None:
        raise error("a bug")

    monkeypatch.setattr(pool, "allow_cpu", lambda seconds: None)
    monkeypatch.setattr("gc.collect", lambda: 0)  # slow in a process with all that the tests have imported
    with pytest.raises(error, match="a bug"):
        pool._timed(fail, Task(Path("a.mp4")), 60.0)
    future: Any = Future()
    future.set_exception(error("a bug"))
    with pytest.raises(error, match="a bug"):
        pool._result(Task(Path("a.mp4")), future)


def test_workers_that_are_killed_idle_cost_nothing() -> None:
    """All workers killed between two clips, as for want of memory, are replaced."""

    def tasks() -> Any:
        for number in range(6):
            if number == 3:
                time.sleep(0.5)
                for child in pool.multiprocessing.active_children():
                    child.kill()
                time.sleep(0.5)
            yield Task(Path(f"fine-{number}"))

    assert [found for _, found in work_apart(misdeeds.work, tasks(), jobs=2, limits=QUICK)] == ["fine"] * 6


def test_a_worker_killed_while_it_answers_costs_one_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an answer, and a lock that nobody will release, do not stop the batch."""
    monkeypatch.setattr(pool, "LOST_AFTER_S", 1.0)
    found = done("fine", "answering", "fine", "fine", folder=tmp_path, jobs=2)
    assert found[1] in ("memory", "fine") and found[:1] + found[2:] == ["fine"] * 3


def test_many_that_die_at_once_cost_themselves() -> None:
    """A killed worker never costs another's clip, whenever it dies."""
    assert done(*["killed", "fine"] * 3, jobs=2) == ["memory", "fine"] * 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"deadline_s": 0.0}, "deadline is 0.0 s"),
        ({"deadline_s": math.nan}, "deadline is nan s"),
        ({"deadline_per_s": -1.0}, "deadline is -1.0 s for a second"),
        ({"deadline_s": 1e9}, "expected more than 0, and a year at most"),
        ({"memory_mb": 63}, "63 MB of memory"),
        ({"memory_mb": 1 << 60}, "MB of memory for a clip; expected 64 to 16777216"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(values: dict[str, Any], said: str) -> None:
    """A deadline is more than 0, memory 64 MB or more, and neither more than clocks and the system take."""
    with pytest.raises(InputError, match=said):
        Limits(**values)


def test_refusals_are_counted_by_reason() -> None:
    """The most frequent stands first."""
    assert counted(["empty", "truncated", "truncated"]) == "3 refused: 2 truncated, 1 empty"


def test_a_window_without_end_has_a_deadline() -> None:
    """However long a window is asked for."""
    assert Limits().seconds_for(30.0) == 120.0
    assert Limits().seconds_for(1e300) == Limits().seconds_for(math.inf) == MAX_DEADLINE_S


def test_a_batch_ends_at_its_number_of_refusals() -> None:
    """Up to one less than that it goes on, without a number always; the end names what was refused, if not all."""
    endless, tally = Tally(ReadingRules()), Tally(ReadingRules(max_failures=2))
    for number in range(100):
        endless.count(str(number), "empty")
    tally.count("a", "empty")
    tally.count("b")
    with pytest.raises(
        TooManyRefusedError, match=r"after 3 clips, 2 refused: .* is 2\. They are a \(empty\), c \(codec\)\."
    ):
        tally.count("c", "codec")
    many = Tally(ReadingRules(max_failures=NAMED + 2))
    with pytest.raises(TooManyRefusedError, match=r"9 \(empty\) and 2 more\. Correct"):
        for number in range(NAMED + 2):
            many.count(str(number), "empty")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of two clips each, and a clip of 6 s that breaks off after more than half of it."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(4):
        label = "excited" if number % 2 else "sad"
        (folder / label).mkdir(exist_ok=True)
        make_clip(
            folder / label / f"{number}.mp4", mood=label, settings=ClipSettings(1.0, 64, 48, seed=number)
        )
    whole = make_clip(folder / "whole.mp4", mood="excited", settings=ClipSettings(6.0, 64, 48, seed=9))
    data = whole.read_bytes()
    (folder / "excited" / "half.mp4").write_bytes(data[: int(len(data) * 0.7)])
    whole.unlink()
    return folder


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on a copy of the clips; its exit code, and all that it said."""
    data = shutil.copytree(media, tmp_path / "clips")

    def run(command: str, *options: str) -> tuple[int, str]:
        more = (
            ["--cache", str(tmp_path / "work"), "--source", "onedmcnn", "--dry-run"]
            if command == "extract"
            else []
        )
        with pytest.raises(SystemExit) as stopped:
            main([command, str(data), *more, "--folds", "2", "--jobs", "1", *options])
        said = capfd.readouterr()
        return int(stopped.value.code or 0), said.out + said.err

    return run


def rows(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Status and reason of each clip in the cache's table."""
    with (tmp_path / "work" / "clips.csv").open(newline="") as file:
        return {row["id"]: (row["status"], row["reason"]) for row in csv.DictReader(file)}


def test_extract_with_partial_and_refused_clips(run: Run, tmp_path: Path) -> None:
    """`--allow-partial` takes a partial clip and says so; without it the same cache refuses that clip again.

    As many refusals as `--max-failures` end the run, those on record and new ones together; fewer do not.
    """
    half = "excited/half.mp4"
    code, said = run("extract", "--allow-partial")
    assert code == 0 and f"WARNING {half}" in said and rows(tmp_path)[half] == ("ok", "partial")
    code, said = run("extract", "--max-failures", "1")
    assert code not in (0, 3) and f"1 refused: 1 truncated; --max-failures is 1. They are {half}" in said
    code, said = run("extract", "--max-failures", "2")
    assert code == 3 and "1 refused: 1 truncated" in said and rows(tmp_path)[half] == ("refused", "truncated")
    (tmp_path / "clips" / "sad" / "new.mp4").write_text("no film")
    code, said = run("extract", "--max-failures", "2")
    assert code == 1 and "excited/half.mp4 (truncated), sad/new.mp4 (not_media)" in said


def test_check_with_partial_and_refused_clips(run: Run) -> None:
    """As extract does."""
    half = "excited/half.mp4"
    code, said = run("check", "--allow-partial")
    assert code == 0 and f"WARNING {half}: picture: " in said
    code, said = run("check", "--max-failures", "1")
    assert code not in (0, 3) and f"1 refused: 1 truncated; --max-failures is 1. They are {half}" in said
    code, said = run("check", "--max-failures", "2")
    assert code == 3 and f"refused {half}: truncated" in said and "1 refused: 1 truncated" in said


@pytest.mark.parametrize("option", ["--audit", "--no-audit"])
def test_check_refuses_windows_outside_of_their_files(
    option: str, media: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the headers alone too; and one of any length is no error of ours."""
    table = media / "windows.csv"
    windows = {"sad/0": "0,1e300", "sad/2": "5,8", "excited/1": ",", "excited/3": ","}
    rows = [f"{name}.mp4,{name.split('/')[0]},{window}" for name, window in windows.items()]
    table.write_text("\n".join(["path,label,start_s,end_s", *rows]))
    with pytest.raises(SystemExit):
        main(["check", str(table), option, "--folds", "2", "--jobs", "1"])
    assert "2 refused: 2 window_outside" in "".join(capfd.readouterr())


@pytest.mark.parametrize("options", [("--deadline", "0"), ("--deadline", "nan"), ("--memory", "63")])
def test_the_command_line_refuses_limits_that_cannot_be_kept(options: tuple[str, str], run: Run) -> None:
    """Before anything is read, in one line."""
    code, said = run("check", *options)
    assert code == 2 and "Error: " in said and "Traceback" not in said


@needs_proc
def test_memory_and_deadline_reach_the_workers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line allows is what each clip is decoded with."""
    given: list[Limits] = []
    whole = pool.work_apart

    def noted(*arguments: Any, limits: Limits, **named: Any) -> Any:
        given.append(limits)
        return whole(*arguments, limits=limits, **named)

    monkeypatch.setattr(pool, "work_apart", noted)
    assert run("check", "--deadline", "30", "--memory", "300")[0] == 3
    assert run("extract", "--deadline", "31", "--memory", "301")[0] == 3
    assert [(one.deadline_s, one.memory_mb) for one in given] == [(30.0, 300), (31.0, 301)]


def test_a_run_goes_on_without_a_place_to_complain(media: Path) -> None:
    """Started with stderr closed, as by some schedulers, a command says on stdout what it found."""
    words = [
        sys.executable,
        "-m",
        "moodfuse",
        "check",
        str(media),
        "--folds",
        "2",
        "--jobs",
        "1",
        "--no-audit",
    ]
    ended = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *words], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0 and ended.stdout.startswith("5 clips in ")
