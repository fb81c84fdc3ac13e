"""Reading the windows of a video in a worker process that can be killed, so that a bad file costs no more than itself.

As with `moodfuse.extract.media.pool`, the worker is started by a main process (or another non-daemonic one) and is spawned, so a
script that calls `read_windows_apart` does so under `if __name__ == "__main__":`. It loads no torch.
"""

import multiprocessing
import queue
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from moodfuse.cache.errors import InputError, WorkersError
from moodfuse.cache.records import WINDOW_S
from moodfuse.extract.media.collect import DecodedClip
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.limits import Limits, allow_cpu
from moodfuse.extract.media.pool import (
    NOT_STARTED,
    PROGRAM_ERRORS,
    check_can_start,
    prepare_worker,
    refusal_for_exit,
)
from moodfuse.extract.media.windows import Window, WindowsWish, plan_windows, read_planned

WAITING = 2
ERROR_OF_PYTHON = 1
"""Exit code after an error that no one caught: the worker's own code catches all, so it never came to that."""


def read_windows_apart(
    wish: WindowsWish, *, limits: Limits | None = None
) -> Iterator[tuple[Window, DecodedClip | MediaError]]:
    """Do what `moodfuse.extract.media.windows.read_windows` does, in a worker process.

    At most two windows wait to be taken, beside the one that the worker has in hand; then it pauses. Closing the
    iterator, an error or an interrupt kills it at once. A worker that is killed, crashes or exceeds the deadline costs
    the window that it had, and another goes on after it; see `place_after_loss` for when that does not help.

    Parameters
    ----------
    wish : WindowsWish
    limits : Limits, optional
        What a worker may spend; the deadline is that of each window, and of opening the file.

    Yields
    ------
    (Window, DecodedClip or MediaError)

    Raises
    ------
    MediaError
        If the file cannot be opened.
    WorkersError
        If no worker can be started.
    TypeError, AttributeError, ...
        A bug in the worker (see `moodfuse.extract.media.pool.PROGRAM_ERRORS`), with its traceback in the notes.
    """
    check_can_start()
    limits = limits or Limits()
    deadline_s = limits.seconds_for(WINDOW_S)
    worker = _Worker(wish, limits)
    place = losses = 0
    try:
        windows: list[Window] = worker.receive(deadline_s)
        while place < len(windows):
            try:
                clip = worker.receive(deadline_s)
            except MediaError as error:
                worker.stop()
                losses += 1
                first, place = place, place_after_loss(windows, place, losses=losses)
                for window in windows[first:place]:
                    yield window, MediaError(error.code, error.path, error.detail)
                if place < len(windows):
                    worker = _Worker(wish, limits, windows[place:])
            else:
                yield windows[place], clip
                place, losses = place + 1, 0
    finally:
        worker.stop()


def place_after_loss(windows: Sequence[Window], place: int, *, losses: int) -> int:
    """Return with which window to go on after a worker was lost.

    Parameters
    ----------
    windows : sequence of Window
    place : int
        Of the window that the worker had.
    losses : int
        Workers lost since the last window that was read.

    Returns
    -------
    int
        The next window; after a second loss in a row the next that begins after this one ends, since those between hold
        the same bad place; after a third, none (the number of windows).
    """
    if losses == 1:
        return place + 1
    if losses == 2:
        return next((one.number for one in windows if one.start_s >= windows[place].end_s), len(windows))
    return len(windows)


class _Worker:
    """A process that reads windows; without any, it plans them first."""

    def __init__(self, wish: WindowsWish, limits: Limits, windows: Sequence[Window] | None = None) -> None:
        self.path = wish.path
        context = multiprocessing.get_context("spawn")
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(sender, wish, limits, windows), daemon=True)
        self.process.start()
        sender.close()

    def receive(self, deadline_s: float) -> Any:
        """Return the next thing that the worker sends; raise what ended it."""
        if not self.receiver.poll(deadline_s):
            raise MediaError("timeout", self.path)
        try:
            ended, sent = self.receiver.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            if self.process.exitcode == ERROR_OF_PYTHON:
                raise WorkersError(NOT_STARTED) from error
            raise refusal_for_exit(self.path, self.process.exitcode) from error
        if ended:
            raise sent
        return sent

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.receiver.close()


def _work(
    sender: "Connection[Any, Any]", wish: WindowsWish, limits: Limits, windows: Sequence[Window] | None
) -> None:
    """Send the plan, where none is given, and what each window gives; with True before it what ends the work."""
    prepare_worker(limits)
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(
        maxsize=WAITING - 1
    )  # one more waits while it is sent
    threading.Thread(target=_send, args=(sender, waiting), daemon=True).start()
    try:
        if windows is None:
            windows = plan_windows(wish)
            waiting.put((False, windows))
        seconds = limits.seconds_for(WINDOW_S)
        allow_cpu(seconds)
        for _, clip in read_planned(wish, windows):
            waiting.put((False, clip))
            allow_cpu(seconds)
    except InputError as error:
        waiting.put((True, error))
    except MemoryError:
        waiting.put((True, MediaError("memory", wish.path)))
    except PROGRAM_ERRORS as error:
        error.add_note(f"In the process that decodes {wish.path}:\n{traceback.format_exc()}")
        waiting.put((True, error))
    except Exception as error:  # noqa: BLE001 - it costs one window, as in extract.media.pool
        waiting.put((True, MediaError("decode_failed", wish.path, f"{type(error).__name__}: {error}")))
    waiting.join()


def _send(sender: "Connection[Any, Any]", waiting: "queue.Queue[tuple[bool, Any]]") -> None:
    while True:
        sender.send(waiting.get())
        waiting.task_done()
