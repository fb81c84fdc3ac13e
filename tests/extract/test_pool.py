"""Decoding many clips in workers: order, and what one bad clip costs."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.seeds import remux
from moodfuse.cache.errors import WorkersError
from moodfuse.extract.media.decode import DecodedClip, MediaError
from moodfuse.extract.media.limits import Limits
from moodfuse.extract.media.pool import DecodeRequest, check_locks, decode_many
from moodfuse.synthetic_corpus import ClipSettings, make_clip

EARLIER: list[int] = []


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four small clips."""
    folder = tmp_path_factory.mktemp("clips")
    settings = [ClipSettings(duration_s=1.0, width=64, height=48, seed=seed) for seed in range(4)]
    return [make_clip(folder / f"{one.seed}.mp4", settings=one) for one in settings]


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that takes long to decode: 120 s, of which 5 are encoded."""
    folder = tmp_path_factory.mktemp("long")
    settings = ClipSettings(duration_s=5.0, width=320, height=240, frames_per_s=24)
    return remux(
        make_clip(folder / "short.mp4", settings=settings), folder / "long.mp4", times=24, pause_s=0.1
    )


def workers() -> list[int]:
    """Return the process ids of this process's workers, without those that it had before the test."""
    return [
        child.pid for child in multiprocessing.active_children() if child.pid and child.pid not in EARLIER
    ]


@pytest.fixture(autouse=True)
def earlier() -> None:
    """Note the processes of other tests in this process."""
    EARLIER[:] = [child.pid for child in multiprocessing.active_children() if child.pid]


def has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open."""
    try:
        return any(
            os.path.realpath(link) == str(path.resolve()) for link in Path(f"/proc/{pid}/fd").iterdir()
        )
    except OSError:
        return False


def test_results_come_in_order_with_refusals_among_them(clips: list[Path], tmp_path: Path) -> None:
    """Each request gives its clip or its refusal, in input order, and no worker is left."""
    requests = [DecodeRequest(path, short_side_px=32) for path in clips]
    requests.insert(1, DecodeRequest(tmp_path / "none.mp4"))
    results = list(decode_many(requests, jobs=2))
    assert [request for request, _ in results] == requests
    assert [isinstance(clip, DecodedClip) for _, clip in results] == [True, False, True, True, True]
    assert isinstance(results[1][1], MediaError) and results[1][1].code == "missing"
    assert not workers()


def test_requests_are_taken_only_a_little_ahead(clips: list[Path]) -> None:
    """At most two requests a job are taken before the first result is given."""
    taken: list[int] = []

    def requests() -> Iterator[DecodeRequest]:
        for number in range(10):
            taken.append(number)
            yield DecodeRequest(clips[number % 4])

    results = decode_many(requests(), jobs=1)
    next(results)
    assert len(taken) <= 2
    results.close()  # type: ignore[attr-defined]
    assert not workers()


def test_a_clip_past_its_deadline_costs_one_clip(clips: list[Path], long_clip: Path) -> None:
    """A worker is stopped at the deadline and the next clips are decoded."""
    slow = DecodeRequest(long_clip, end_s=115.0)
    results = [
        clip for _, clip in decode_many([slow, DecodeRequest(clips[0])], jobs=1, limits=Limits(0.5, 0.0))
    ]
    assert isinstance(results[0], MediaError) and results[0].code == "timeout"
    assert isinstance(results[1], DecodedClip)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see which file a worker reads")
def test_a_killed_worker_costs_one_clip(clips: list[Path], long_clip: Path) -> None:
    """A worker killed from outside, as for want of memory, costs the clip it had."""

    def kill_soon() -> None:
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            for pid in workers():
                if has_open(pid, long_clip):
                    os.kill(pid, signal.SIGKILL)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_soon)
    thread.start()
    requests = [DecodeRequest(long_clip, end_s=115.0), DecodeRequest(clips[0])]
    results = [clip for _, clip in decode_many(requests, jobs=1)]
    thread.join()
    assert isinstance(results[0], MediaError) and results[0].code == "memory"
    assert isinstance(results[1], DecodedClip)


def test_an_interrupt_stops_every_worker(clips: list[Path]) -> None:
    """An interrupt between two clips leaves no worker behind."""
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background shell starts with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in decode_many([DecodeRequest(path) for path in clips], jobs=2):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 5.0
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()


def test_the_deadline_grows_with_the_window() -> None:
    """The default deadline is a minute and twice the window."""
    assert Limits().seconds_for(DecodeRequest(Path("a.mp4")).window_s) == 120.0
    assert Limits().seconds_for(DecodeRequest(Path("a.mp4"), 5.0, 15.0).window_s) == 80.0


def test_no_jobs_are_refused() -> None:
    """A pool needs a worker."""
    with pytest.raises(ValueError, match="expected 1 or more"):
        next(decode_many([], jobs=0))


def test_a_daemonic_process_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have no children, which is said before one is started."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(WorkersError, match="MainProcess is daemonic, so it may start none; .* daemon=False"):
        next(decode_many([DecodeRequest(Path("a.mp4"))], jobs=1))


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOSYS, errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_missing_or_full_dev_shm_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    """Where /dev/shm takes no lock, the error names it, its state and the remedy."""

    def refused(self: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("multiprocessing.context.BaseContext.RLock", refused)
    with pytest.raises(WorkersError, match=f"^/dev/shm: {os.strerror(code)}; .* --shm-size=64m") as caught:
        next(decode_many([DecodeRequest(tmp_path / "a.mp4")], jobs=1))
    assert caught.value.exit_code == 1


def test_other_errors_of_locks_are_not_blamed_on_dev_shm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of locks with another cause, such as too many open files, are raised unchanged."""
    check_locks()

    def refused(self: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("multiprocessing.context.BaseContext.RLock", refused)
    with pytest.raises(OSError, match="Too many open files") as caught:
        check_locks()
    assert not isinstance(caught.value, WorkersError)


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path: Path) -> None:
    """Workers that cannot begin refuse no clip: the error says why, in the process that wanted them."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from moodfuse.extract.media.pool import DecodeRequest, decode_many\n"
        "print('read', flush=True)\n"
        "print(next(decode_many([DecodeRequest(Path('a.mp4'))], jobs=1)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and set(done.stdout.split()) == {"read"}
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "moodfuse.cache.errors.WorkersError: the processes that decode files ended with none in hand"
    )
    assert 'under `if __name__ == "__main__":`' in last and "freeze_support" not in done.stderr


def test_workers_do_not_import_torch() -> None:
    """The module that workers import brings no torch with it."""
    code = "import sys, moodfuse.extract.media.pool; raise SystemExit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
