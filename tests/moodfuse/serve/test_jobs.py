"""The queue of the service: full, stopped, and with clients that leave."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")

from running_service import FORM, HEAD, SLOW, StandIn, form, form_of, wait_until, wait_until_empty

from moodfuse.serve.messages import Limits


def test_a_full_queue(service: Any, clip: bytes, in_background: Callable) -> None:
    """With one at work and two waiting, the next gets 429; those that waited too long get 504."""
    three = [in_background(lambda: service.predict(SLOW)) for _ in range(3)]
    wait_until(lambda: len(service.jobs) == 3)
    busy = service.predict(clip)
    assert (busy.status, busy.code) == (429, "busy") and int(busy.headers["retry-after"]) > 0
    assert [call.result().status for call in three] == [504] * 3
    # The one at work keeps its slot and its file until its thread ends.
    wait_until(lambda: len(service.jobs) == 1)
    assert len(list(service.folder.rglob("*/*"))) == 1
    assert service.predict(clip).code == "out_of_time"
    service.labeller.gate.set()
    wait_until(lambda: len(service.jobs) == 0)
    assert len(service.labeller.opened) == 1
    assert service.predict(clip).status == 200


def test_a_queue_of_one(start_service: Callable, tmp_path: Path, in_background: Callable) -> None:
    labeller = StandIn(delay_s=30)
    with start_service(tmp_path, labeller=labeller, limits=Limits(at_once=1, waiting=0)) as running:
        first = in_background(lambda: running.predict(SLOW))
        wait_until(lambda: labeller.opened)
        assert b"the queue is full (1 request);" in running.predict(b"x").body
        labeller.gate.set()
        assert first.result().status == 422


def test_the_time_of_a_batch(start_service: Callable, tmp_path: Path) -> None:
    """It is that of a file times its files; what would take less time depends on the request."""
    batch, labeller = form_of({"a.mp4": SLOW, "b.mp4": SLOW}), StandIn(delay_s=30)
    with start_service(tmp_path, labeller=labeller, limits=Limits(request_s=0.2)) as running:
        for path, body, kind, message in (
            ("/predict", SLOW, "video/mp4", "no answer within 0.2 s; try again later"),
            (
                "/predict/batch?timeline=1",
                batch,
                FORM,
                "no answer within 0.4 s; try again later, or with fewer files, or without a timeline",
            ),
        ):
            answer = running.ask("POST", path, body, {"Content-Type": kind})
            assert (answer.status, answer.json["error"]["detail"]) == (504, message)
        labeller.gate.set()


def test_a_client_that_leaves_frees_its_slot(service: Any, clip: bytes, in_background: Callable) -> None:
    """If it leaves in the upload or while it waits, nothing is labelled and no file stays."""
    first = in_background(lambda: service.predict(SLOW))
    wait_until(lambda: service.labeller.opened)
    for sent in (clip[: len(clip) // 2], clip):
        with socket.create_connection(service.address) as client:
            client.sendall(f"{HEAD}Content-Length: {len(clip)}\r\n\r\n".encode() + sent)
            wait_until(lambda: len(service.jobs) == 2)
        wait_until(lambda: len(service.jobs) == 1)
    assert first.result().status == 504 and len(service.labeller.opened) == 1


def test_stopping(start_service: Callable, tmp_path: Path, in_background: Callable) -> None:
    """All requests get 503 at once; the folder is removed when the last thread has ended."""
    labeller = StandIn(delay_s=30)
    limits = Limits(at_once=1, request_s=30, upload_s=30)
    with start_service(tmp_path, labeller=labeller, limits=limits) as running:
        two = [in_background(lambda: running.predict(SLOW)) for _ in range(2)]
        slow = in_background(lambda: running.raw(f"{HEAD}Content-Length: 9\r\n\r\nabc".encode()))
        wait_until(lambda: len(running.server.config.app.state.jobs) == 3)
        running.server.should_exit = True
        assert [call.result().code for call in two] == ["stopping"] * 2 and b"stopping" in slow.result()
        assert len(os.listdir(tmp_path)) == 1
        labeller.gate.set()


def test_many_requests_at_once(
    start_service: Callable, tmp_path: Path, clip: bytes, in_background: Callable
) -> None:
    """Good, bad, slow and broken requests of eight clients: each kind gets its statuses, no file is left."""
    requests: list[tuple[bytes, str, str, set[int]]] = [
        (clip, "", "video/mp4", {200, 429, 504}),
        (form(clip), "?timeline=true", FORM, {200, 429, 504}),
        (SLOW, "", "video/mp4", {422, 429, 504}),
        (b"no media", "", "video/mp4", {422, 429, 504}),
        (form(clip)[:-9], "", FORM, {400, 429}),
        (b"{}", "", "application/json", {415}),
        (bytes(4 * 2**20), "", "video/mp4", {413}),
    ]
    limits = Limits(upload_bytes=2**20, request_s=0.5, at_once=2, waiting=4)
    with start_service(tmp_path, labeller=StandIn(delay_s=0.6), limits=limits) as running:
        sent = [(in_background(running.predict, *request), expected) for *request, expected in requests * 6]
        assert all(answer.result().status in expected for answer, expected in sent)
        assert wait_until_empty(tmp_path, seconds=5) == []
        assert running.predict(clip).status == 200
