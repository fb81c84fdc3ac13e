"""Windows read by a worker process: the same clips, and what a worker that is lost costs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import WorkersError
from moodfuse.extract.media.decode import DecodedClip, MediaError
from moodfuse.extract.media.limits import Limits
from moodfuse.extract.media.window_worker import place_after_loss, read_windows_apart
from moodfuse.extract.media.windows import Window, WindowsWish, read_windows
from moodfuse.synthetic_corpus import ClipSettings, make_clip

OTHERS: set[int | None] = set()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 47 s: five windows at a hop of 5 s."""
    settings = ClipSettings(duration_s=47.3, width=64, height=48, frames_per_s=8)
    return make_clip(tmp_path_factory.mktemp("apart") / "video.mp4", mood="excited", settings=settings)


@pytest.fixture(autouse=True, scope="module")
def others() -> None:
    """Note the workers that earlier tests left, such as joblib's."""
    OTHERS.update(child.pid for child in multiprocessing.active_children())


def workers() -> list[multiprocessing.Process]:
    """Worker processes that tests of this module started."""
    return [child for child in multiprocessing.active_children() if child.pid not in OTHERS]


def assert_equal(one: DecodedClip | MediaError, other: DecodedClip | MediaError) -> None:
    """Hold two results to each other, bit for bit."""
    assert isinstance(one, DecodedClip) and isinstance(other, DecodedClip)
    for field in fields(DecodedClip):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_a_file_that_is_no_media_is_refused_at_once(tmp_path: Path) -> None:
    """The refusal comes from the other process, which is gone."""
    (tmp_path / "text.mp4").write_text("just some words\n" * 99)
    with pytest.raises(MediaError, match="not a video file"):
        next(read_windows_apart(WindowsWish(tmp_path / "text.mp4", hop_s=5.0)))
    assert not workers()


def test_a_bug_in_the_worker_ends_the_run(video: Path) -> None:
    """An error of the program is raised as it is, with the traceback of the worker, and refuses no window."""
    wish = WindowsWish(video, hop_s=5.0, threads="two")  # type: ignore[arg-type]
    with pytest.raises(TypeError) as caught:
        next(read_windows_apart(wish))
    assert "in open_media" in caught.value.__notes__[0] and str(video) in caught.value.__notes__[0]
    assert not workers()


def test_a_worker_gives_the_same_and_is_gone_when_closed(video: Path) -> None:
    """What comes from another process is the same, and closing ends it although it has more to give."""
    results = read_windows_apart(WindowsWish(video, hop_s=5.0))
    for place, ((window, clip), (other, expected)) in enumerate(
        zip(results, read_windows(WindowsWish(video, hop_s=5.0)), strict=False)
    ):
        assert window == other
        assert_equal(clip, expected)
        if place == 1:
            break
    (worker,) = workers()
    results.close()  # type: ignore[attr-defined]
    assert worker.exitcode == -signal.SIGKILL
    assert not workers()


def test_a_killed_worker_costs_one_window(video: Path) -> None:
    """Killed as for want of memory, it costs the window that it had, and another goes on to the end."""
    codes = []
    for window, clip in read_windows_apart(WindowsWish(video, hop_s=5.0)):
        codes.append(clip.code if isinstance(clip, MediaError) else "")
        if window.number == 0:
            (worker,) = workers()
            worker.kill()
    assert len(codes) == 5
    assert codes[0] == codes[-1] == "" and codes.count("memory") == 1
    assert not workers()


def test_a_deadline_and_an_interrupt_leave_no_worker(video: Path) -> None:
    """A worker that takes too long is a refusal in time, and an interrupt ends it."""
    with pytest.raises(MediaError, match="took longer than its deadline"):
        next(read_windows_apart(WindowsWish(video, hop_s=5.0), limits=Limits(0.01, 0.0)))
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background shell starts with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in read_windows_apart(WindowsWish(video, hop_s=5.0)):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 5.0
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()


def test_a_daemonic_process_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may have no children, which is said before one is started."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(WorkersError, match="MainProcess is daemonic, so it may start none; .* daemon=False"):
        next(read_windows_apart(WindowsWish(tmp_path / "a.mp4", hop_s=5.0)))


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path: Path) -> None:
    """A worker that cannot begin refuses no file: the error says why, in the process that wanted it."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom moodfuse.extract.media.window_worker import read_windows_apart\n"
        "from moodfuse.extract.media.windows import WindowsWish\n"
        "print(next(read_windows_apart(WindowsWish(Path('a.mp4'), hop_s=5.0))))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(
        "moodfuse.cache.errors.WorkersError: the processes that decode files ended"
    )
    assert 'under `if __name__ == "__main__":`' in last and "freeze_support" not in done.stderr


def test_losses_in_a_row_lose_more_windows() -> None:
    """First one window, then all that overlap it, then the rest."""
    windows = [Window(number, 10.0 * number, 10.0 * number + 30.0) for number in range(9)]
    assert [place_after_loss(windows, 2, losses=losses) for losses in (1, 2, 3)] == [3, 5, 9]
    assert place_after_loss(windows, 8, losses=2) == 9


def test_a_worker_imports_no_torch() -> None:
    """The module that a worker imports brings no torch with it."""
    code = "import sys, moodfuse.extract.media.window_worker; raise SystemExit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
