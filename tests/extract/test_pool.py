"""Decoding in worker processes: order, the cost of a lost worker, and that none is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import misdeeds
from moodfuse.cache.errors import WorkersError
from moodfuse.extract.media import pool
from moodfuse.extract.media.decode import DecodedClip
from moodfuse.extract.media.limits import MAX_OPEN_FILES, Limits, MediaError, address_space_bytes
from moodfuse.extract.media.pool import (
    DecodeRequest,
    decode_many,
    read_windows_in_worker,
    run_in_workers,
)
from moodfuse.extract.media.windows import WindowRequest, read_windows
from moodfuse.synthetic_corpus import ClipSettings, make_clip

QUICK = Limits(deadline_s=1.0, deadline_per_s=0.0, memory_mb=256)
SLACK_S = 2.0
EARLIER: set[int | None] = set()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 47 s: five windows at a hop of 5 s."""
    settings = ClipSettings(duration_s=47.3, width=32, height=24, frames_per_s=4)
    return make_clip(tmp_path_factory.mktemp("video") / "video.mp4", mood="excited", settings=settings)


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    """The workers of a test end with it."""
    EARLIER.update(child.pid for child in multiprocessing.active_children())
    yield
    deadline = time.monotonic() + 5.0
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()


def workers() -> list[Any]:
    """The workers of this test, without children that earlier tests left."""
    return [child for child in multiprocessing.active_children() if child.pid not in EARLIER]


def code_of(result: Any) -> Any:
    """The code of a refusal, an empty text for a clip, or another result as it is."""
    if isinstance(result, DecodedClip):
        return ""
    return result.code if isinstance(result, MediaError) else result


def run_deeds(*names: str, jobs: int = 1, limits: Limits = QUICK) -> list[Any]:
    """The results of some misdeeds, one after the other."""
    tasks = [DecodeRequest(Path(f"{name}-{number}")) for number, name in enumerate(names)]
    return [code_of(result) for _, result in run_in_workers(misdeeds.work, tasks, jobs=jobs, limits=limits)]


def test_results_come_in_order_with_refusals_among_them(video: Path, tmp_path: Path) -> None:
    paths = [video, tmp_path / "none.mp4", video, video]
    requests = [DecodeRequest(path, float(number), number + 1.0) for number, path in enumerate(paths)]
    results = list(decode_many(requests, jobs=2))
    assert [request for request, _ in results] == requests
    assert [code_of(result) for _, result in results] == ["", "missing", "", ""]


def test_requests_are_taken_only_a_little_ahead() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[DecodeRequest]:
        for number in range(10):
            taken.append(number)
            yield DecodeRequest(Path("fine"))

    results = run_in_workers(misdeeds.work, tasks(), jobs=1, limits=QUICK)
    next(results)
    assert len(taken) <= 2
    results.close()  # type: ignore[attr-defined]
    assert not workers()


@pytest.mark.skipif(not address_space_bytes(), reason="the system does not report the size of a process")
def test_too_much_memory_costs_one_clip() -> None:
    patient = replace(QUICK, deadline_s=60)
    assert run_deeds("fine", "allocate", "fine", limits=patient) == ["fine", "memory", "fine"]


def test_the_deadline_is_kept() -> None:
    """A worker ends with its deadline, or 2 s after, whether it sleeps or computes in C."""
    begun_s = time.monotonic()
    assert run_deeds("sleep", "stuck", "fine") == ["timeout", "timeout", "fine"]
    assert time.monotonic() - begun_s <= 2 * QUICK.deadline_s + 3 * SLACK_S


def test_a_crash_costs_one_clip_and_leaves_no_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deeds = ("fine", "segfault", "killed", "fine")
    assert run_deeds(*deeds, jobs=2) == ["fine", "decode_failed", "memory", "fine"]
    assert list(tmp_path.iterdir()) == []


def test_the_system_holds_a_worker_to_its_limits() -> None:
    """No core dump, few open files, and a bounded address space."""
    (limits,) = run_deeds("limits")
    assert limits["RLIMIT_CORE"] == (0, 0)
    assert limits["RLIMIT_NOFILE"] == (MAX_OPEN_FILES, MAX_OPEN_FILES)
    if address_space_bytes():
        assert QUICK.memory_mb << 20 < limits["RLIMIT_AS"][1] < 16 << 30


def test_an_error_that_cannot_be_sent_costs_one_clip() -> None:
    ((_, result),) = run_in_workers(misdeeds.work, [DecodeRequest(Path("raise"))], jobs=1, limits=QUICK)
    assert isinstance(result, MediaError)
    assert (result.code, result.detail) == ("decode_failed", "UnpicklableError: shy")


@pytest.mark.parametrize("error", [TypeError, ImportError])
def test_a_bug_in_a_worker_ends_the_run(error: type[Exception]) -> None:
    """It is raised unchanged, and a note has the file, which is not refused, and the worker's traceback."""
    assert error in pool.PROGRAM_ERRORS
    with pytest.raises(error, match="a bug") as caught:
        run_deeds("fine", f"bug-{error.__name__}", "fine")
    (note,) = caught.value.__notes__
    assert note.startswith(f"In the process that reads bug-{error.__name__}-1:") and "in _bug" in note


def test_the_windows_of_a_worker_are_the_same_and_it_ends_when_closed(video: Path) -> None:
    request = WindowRequest(video, hop_s=5.0)
    results = read_windows_in_worker(request)
    for (window, clip), (other, expected) in zip(results, read_windows(request), strict=False):
        assert window == other
        for field in fields(DecodedClip):
            assert np.array_equal(getattr(clip, field.name), getattr(expected, field.name)), field.name
        if window.number == 1:
            break
    (worker,) = workers()
    results.close()  # type: ignore[attr-defined]
    assert worker.exitcode == -signal.SIGKILL and not workers()


def test_a_killed_worker_costs_its_window_and_those_that_overlap_it(tmp_path: Path) -> None:
    settings = ClipSettings(duration_s=80.0, width=32, height=24, frames_per_s=4)
    path = make_clip(tmp_path / "video.mp4", settings=settings)
    codes = []
    for window, clip in read_windows_in_worker(WindowRequest(path, hop_s=10.0)):
        codes.append(code_of(clip))
        if window.number == 0:
            (worker,) = workers()
            worker.kill()
    assert len(codes) == 6
    assert codes[0] == codes[-1] == "" and codes.count("memory") == 3


def test_errors_of_opening_and_bugs_are_raised_at_once(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("just some words\n" * 99)
    with pytest.raises(MediaError, match="not a video file"):
        next(read_windows_in_worker(WindowRequest(tmp_path / "text.mp4", hop_s=5.0)))
    request = WindowRequest(video, hop_s=5.0, short_side_px="two")  # type: ignore[arg-type]
    with pytest.raises(TypeError) as caught:
        list(read_windows_in_worker(request))
    assert "in read_windows" in caught.value.__notes__[0] and str(video) in caught.value.__notes__[0]


Read = Callable[[Path], Iterable[Any]]
READERS: dict[str, Read] = {
    "clips": lambda path: decode_many([DecodeRequest(path)] * 3, jobs=1),
    "windows": lambda path: read_windows_in_worker(WindowRequest(path, hop_s=5.0)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_an_interrupt_stops_every_worker(read: Read, video: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore SIGINT
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in read(video):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_daemonic_process_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(WorkersError, match="a daemonic process cannot start; .* daemon=False"):
        next(decode_many([DecodeRequest(Path("a.mp4"))], jobs=1))


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path: Path) -> None:
    """Workers that cannot begin refuse no clip: the error has the reason."""
    script = tmp_path / "script.py"
    call = "decode_many([DecodeRequest(Path('a.mp4'))], jobs=1)"
    script.write_text(
        f"from pathlib import Path\nfrom moodfuse.extract.media.pool import *\nprint(next({call}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("moodfuse.cache.errors.WorkersError: a worker process that decodes files ended")
    assert 'under `if __name__ == "__main__":`' in last


def test_workers_do_not_import_torch() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = "import sys, moodfuse.extract.media.pool; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
