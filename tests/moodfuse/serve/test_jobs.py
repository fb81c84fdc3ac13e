"""The queue of the service: full, stopped, and with clients that leave."""

import os
import runpy
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")

from moodfuse.serve.messages import MIB, Limits

ROOT = Path(__file__).resolve().parents[3]
load_script = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "serve_load.py")))
SLOW, StandIn = load_script.SLOW_MARK * 100, load_script.StandIn
HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"


def test_a_full_queue(service: Any, clip: bytes, in_background: Callable) -> None:
    """With one at work and two waiting, the next gets 429; those that waited too long get 504."""
    three = [in_background(lambda: service.predict(SLOW)) for _ in range(3)]
    load_script.wait_until(lambda: len(service.jobs) == 3)
    busy = service.predict(clip)
    assert (busy.status, busy.code) == (429, "busy") and int(busy.headers["retry-after"]) > 0
    assert [call.result().status for call in three] == [504] * 3
    # The one at work keeps its slot and its file until its thread ends.
    load_script.wait_until(lambda: len(service.jobs) == 1)
    assert len(list(service.folder.rglob("*/*"))) == 1
    assert service.predict(clip).code == "out_of_time"
    service.labeller.gate.set()
    load_script.wait_until(lambda: len(service.jobs) == 0)
    assert len(service.labeller.opened) == 1
    assert service.predict(clip).status == 200


def test_a_client_that_leaves_frees_its_slot(service: Any, clip: bytes, in_background: Callable) -> None:
    """If it leaves in the upload or while it waits, nothing is labelled and no file stays."""
    first = in_background(lambda: service.predict(SLOW))
    load_script.wait_until(lambda: service.labeller.opened)
    for sent in (clip[: len(clip) // 2], clip):
        with socket.create_connection(service.address) as client:
            client.sendall(f"{HEAD}Content-Length: {len(clip)}\r\n\r\n".encode() + sent)
            load_script.wait_until(lambda: len(service.jobs) == 2)
        load_script.wait_until(lambda: len(service.jobs) == 1)
    assert first.result().status == 504 and len(service.labeller.opened) == 1


def test_stopping(start_service: Callable, tmp_path: Path, in_background: Callable) -> None:
    """All requests get 503 at once; the folder is removed when the last thread has ended."""
    labeller = StandIn(delay_s=30)
    limits = Limits(at_once=1, request_s=30, upload_s=30)
    with start_service(tmp_path, labeller=labeller, limits=limits) as running:
        two = [in_background(lambda: running.predict(SLOW)) for _ in range(2)]
        slow = in_background(lambda: running.raw(f"{HEAD}Content-Length: 9\r\n\r\nabc".encode()))
        load_script.wait_until(lambda: len(running.server.config.app.state.jobs) == 3)
        running.server.should_exit = True
        assert [call.result().code for call in two] == ["stopping"] * 2 and b"stopping" in slow.result()
        assert len(os.listdir(tmp_path)) == 1
        labeller.gate.set()


@pytest.mark.slow
def test_two_hundred_requests_leave_nothing(start_service: Callable, tmp_path: Path, clip: bytes) -> None:
    """16 clients, good, bad, huge, slow and aborted: each kind gets its statuses, and no file is left."""
    limits = Limits(upload_bytes=2 * MIB, upload_s=0.8, request_s=0.8, at_once=2, waiting=12)
    with start_service(tmp_path, labeller=StandIn(delay_s=1.0), limits=limits) as running:
        load = load_script.Load(running, clip, limits)
        load.run()
        assert load.wrong == []
        statuses = Counter({status for _, status in load.outcomes})
        assert {200, 400, 408, 413, 415, 422, 504} <= statuses.keys(), load.outcomes
        assert load_script.wait_until_empty(tmp_path, seconds=5) == []
        assert running.predict(clip).status == 200
