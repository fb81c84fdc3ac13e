"""The web service: each refusal has its status and sentence, nothing is opened or left behind, memory is bounded."""

import json
import os
import re
import runpy
import select
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")

from starlette.datastructures import Headers

from moodfuse.extract.media.container import MediaError
from moodfuse.model.predictions import Prediction, SourceContribution
from moodfuse.serve.messages import MIB, STATUSES, Limits, prediction_json
from moodfuse.serve.security import check_request
from moodfuse.serve.uploads import clean_name, is_media

ROOT = Path(__file__).resolve().parents[3]
load_script = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "serve_load.py")))
CLASSES, FORM, SLOW = load_script.CLASSES, load_script.FORM, load_script.SLOW_MARK * 100
form, StandIn = load_script.form, load_script.StandIn
LIMITS = Limits(upload_bytes=2 * MIB, upload_s=0.6, request_s=0.6, at_once=1, waiting=2, timeline_s=200.0)
TO_HERE = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"


@pytest.fixture(scope="module")
def clip() -> bytes:
    """A real video of two seconds."""
    return load_script.make_clip_bytes()


@contextmanager
def service(folder: Path, *, limits: Limits = LIMITS, labeller: Any = None) -> Iterator[Any]:
    """A service whose private folder lies in `folder`, and is gone when it has stopped."""
    with load_script.served(labeller or StandIn(), limits=limits, temporary=folder) as running:
        yield running
    assert os.listdir(folder) == []


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A service that the quick tests share; `.labeller` is its stand-in and `.folder` where its private folder lies."""
    folder, labeller = tmp_path_factory.mktemp("service"), StandIn(delay_s=30)
    with service(folder, labeller=labeller) as running:
        yield SimpleNamespace(ask=running.ask, predict=running.predict, raw=running.raw, running=running,
                              labeller=labeller, folder=folder, host=running.host, port=running.port)  # fmt: skip


@pytest.fixture
def quiet(one: Any) -> Iterator[Any]:
    """The shared service, which must be empty again when the test is over."""
    one.labeller.opened.clear()
    one.labeller.gate.clear()
    yield one
    one.labeller.gate.set()
    assert load_script.wait_until_empty(one.folder, seconds=5) == []


def background(call: Callable[[], Any]) -> "Background":
    return Background(call)


class Background:
    """A call in a thread, with its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        self._result = call()

    def result(self) -> Any:
        self._thread.join(timeout=20)
        return self._result


def until(condition: Callable[[], Any], *, seconds: float = 5.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def check_schema(value: Any, rule: dict[str, Any], root: dict[str, Any], where: str = "answer") -> None:
    """Hold a value to the part of JSON Schema that `schema.json` uses; anything else in a rule is an error."""
    rule = dict(rule)
    for note in ("$schema", "title", "description", "$defs"):
        rule.pop(note, None)
    if "$ref" in rule:
        check_schema(value, root["$defs"][rule.pop("$ref").removeprefix("#/$defs/")], root, where)
    for choice in rule.pop("anyOf", [])[-1:]:
        assert choice == {"type": "null"}
        return check_schema(value, {}, root, where) if value is None else None
    names = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "integer": int,
        "boolean": bool,
    }
    names["null"] = type(None)
    wanted = rule.pop("type", None)
    kinds = [wanted] if isinstance(wanted, str) else wanted or []
    assert not kinds or any(isinstance(value, names[kind]) for kind in kinds), where
    assert value in rule.pop("enum", [value]) and value == rule.pop("const", value), where
    if value is not None:
        assert rule.pop("minimum", float("-inf")) <= (value if isinstance(value, int | float) else 0), where
        assert rule.pop("maximum", float("inf")) >= (value if isinstance(value, int | float) else 0), where
    items = rule.pop("items", None)
    for item in value if items else ():
        check_schema(item, items, root, f"{where}[]")
    known, others = rule.pop("properties", {}), rule.pop("additionalProperties", {})
    assert set(rule.pop("required", [])) <= set(value if isinstance(value, dict) else ()), where
    for name in value if isinstance(value, dict) else ():
        assert name in known or others is not False, f"{where}.{name}"
        check_schema(value[name], known.get(name, others), root, f"{where}.{name}")
    assert rule.keys() <= {"minimum", "maximum"}, rule
    return None


def jobs_of(running: Any) -> Any:
    """The queue of a running service."""
    return running.server.config.app.state.jobs


def schema_of(running: Any) -> dict[str, Any]:
    answer: dict[str, Any] = running.ask("GET", "/schema.json").json
    return answer


# What is answered


def test_a_file_and_a_form_are_labelled(quiet: Any, clip: bytes) -> None:
    """The raw body and the form give the same answer, which keeps to the published schema and holds no path of ours."""
    schema = schema_of(quiet)
    raw, sent = (
        quiet.predict(clip),
        quiet.predict(form(clip, name='C:\\my\\dr"op.mp4'), "?threshold=0.9", FORM),
    )
    for answer in (raw, sent):
        assert answer.status == 200 and answer.headers["content-type"] == "application/json", answer
        check_schema(answer.json, schema, schema)
        assert str(quiet.folder).encode() not in answer.body and b"moodfuse-serve" not in answer.body
    assert (raw.json["file"], raw.json["model"]) == ("upload", "stand-in")
    assert (
        raw.json["confidence"]
        == raw.json["probabilities"][raw.json["label"]]
        == max(raw.json["probabilities"].values())
    )
    assert raw.json["probabilities"].keys() == set(CLASSES) and "timeline" not in raw.json
    assert sent.json["file"].endswith("op.mp4") and "\\my" not in sent.json["file"]
    assert [answer.json["uncertain"] for answer in (raw, sent)] == [raw.json["confidence"] < 0.5, True]
    for path in quiet.labeller.opened:
        assert re.fullmatch("[0-9a-f]{32}", path.name) and quiet.folder in path.parents


def test_a_time_line_comes_where_it_is_asked_for(quiet: Any) -> None:
    """Windows that cannot be read are null in every list, with their refusal, and no path stands in that."""
    long = load_script.make_clip_bytes(60.0)
    answer = quiet.predict(long, "?timeline=true&hop=5")
    schema = schema_of(quiet)
    check_schema(answer.json, schema, schema)
    line = answer.json["timeline"]
    assert len(line["starts_s"]) == len(line["ends_s"]) == len(line["labels"]) == 6 and line["hop_s"] == 5
    assert line["labels"][2] is None and all(column[2] is None for column in line["probabilities"].values())
    assert line["refusals"][0]["window"] == 2 and str(quiet.folder) not in answer.body.decode()
    for row in (0, 5):
        assert sum(column[row] for column in line["probabilities"].values()) == pytest.approx(1)
    for query, found in (("?timeline=true&hop=0.5", "makes 61 windows"), ("?timeline=true", "lasts 60 s")):
        few = replace(LIMITS, timeline_windows=60) if "hop" in query else replace(LIMITS, timeline_s=59.0)
        with refusing(quiet, few):
            refused = quiet.predict(long, query)
        assert (refused.status, refused.code) == (422, "timeline_too_long") and found in refused.json[
            "error"
        ]["detail"]


@contextmanager
def refusing(running: Any, limits: Limits) -> Iterator[None]:
    """Other limits for the shared service, for a moment."""
    endpoint = next(
        item.endpoint for item in running.running.server.config.app.routes if item.path == "/predict"
    )
    kept, endpoint.__self__.limits = endpoint.__self__.limits, limits
    yield
    endpoint.__self__.limits = kept


def test_a_source_that_cannot_read_the_clip_is_null() -> None:
    """`own` is null and `missing` says why; numbers are plain JSON."""
    shares = np.array([0.25, 0.75])
    prediction = Prediction(
        "x", ("a", "b"), shares, 0.0, 30.0, "sound", (SourceContribution("mel", None, shares),)
    )
    answer = prediction_json(prediction, threshold=0.8)
    assert answer["sources"] == {"mel": {"own": None, "without": {"a": 0.25, "b": 0.75}}}
    assert (
        answer["missing"] == "sound" and answer["uncertain"] is True and json.dumps(answer, allow_nan=False)
    )


def test_health_page_and_headers(quiet: Any) -> None:
    """Every answer, a refusal too, forbids what it does not need and allows no other site."""
    health = quiet.ask("GET", "/health")
    assert health.json == {"status": "ok", "model": "stand-in", "classes": list(CLASSES)}
    schema = schema_of(quiet)
    check_schema(health.json, schema["$defs"]["health"], schema)
    page = quiet.ask("GET", "/")
    assert b"<title>moodfuse" in page.body and "'unsafe" not in page.headers["content-security-policy"]
    for answer in (
        health,
        page,
        quiet.ask("GET", "/schema.json"),
        quiet.ask("GET", "/none"),
        quiet.predict(b""),
    ):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer" and "server" not in answer.headers
        assert not any(name.startswith("access-control") for name in answer.headers)


# What is refused


@pytest.mark.parametrize(
    ("query", "kind", "body", "status", "code"),
    [
        ("?timeline=perhaps", "video/mp4", b"x", 400, "bad_query"),
        ("?timeline=true&hop=nan", "video/mp4", b"x", 400, "bad_query"),
        ("?hop=5", "video/mp4", b"x", 400, "bad_query"),
        ("?threshold=2", "video/mp4", b"x", 400, "bad_query"),
        ("?threshold=.5&threshold=.5", "video/mp4", b"x", 400, "bad_query"),
        ("?file=/etc/passwd", "video/mp4", b"x", 400, "bad_query"),
        ("?path=/etc/passwd", "video/mp4", b"x", 400, "bad_query"),
        ("?url=http://127.0.0.1/a.mp4", "video/mp4", b"x", 400, "bad_query"),
        ("", "video/mp4", b"", 400, "empty_upload"),
        ("", FORM, form(b""), 400, "empty_upload"),
        ("", "multipart/form-data", b"x", 400, "malformed"),
        ("", f"multipart/form-data; boundary={'e' * 300}", b"x", 400, "malformed"),
        ("", FORM, b"no form", 400, "malformed"),
        ("", FORM, b"--edge--\r\n", 400, "malformed"),
        ("", FORM, form(b"x")[:-6], 400, "malformed"),
        ("", FORM, form(b"/etc/passwd", name=None), 400, "malformed"),
        ("", FORM, form(b"/etc/passwd", field="path"), 400, "malformed"),
        ("", FORM, form(b"x")[:-4] + b"\r\n" + form(b"x"), 400, "malformed"),
        ("", FORM, b"--edge\r\n" + b"a: b\r\n" * 5000 + b"\r\nx\r\n--edge--\r\n", 400, "malformed"),
        ("", FORM, form(b"#EXTM3U", kind="application/vnd.apple.mpegurl"), 415, "media_type"),
        ("", "application/json", b'{"path": "/etc/passwd"}', 415, "media_type"),
        ("", "application/x-www-form-urlencoded", b"file=/etc/passwd", 415, "media_type"),
        ("", "text/plain", b"file /etc/passwd", 415, "media_type"),
        ("", "audio/x-mpegurl", b"#EXTM3U\n/etc/passwd", 415, "media_type"),
        ("", "", b"x", 415, "media_type"),
        ("", "video/mp4", b"no media at all", 422, "not_media"),
    ],
)
def test_what_cannot_be_taken_says_why(
    quiet: Any, query: str, kind: str, body: bytes, status: int, code: str
) -> None:
    """Each has its status, its code and a sentence, keeps to the schema, and the labeller sees none but the last."""
    answer = quiet.predict(body, query, kind)
    assert (answer.status, answer.code) == (status, code)
    assert len(answer.json["error"]["detail"]) > 30 and str(quiet.folder) not in answer.body.decode()
    schema = schema_of(quiet)
    check_schema(answer.json, schema["$defs"]["error"], schema)
    assert bool(quiet.labeller.opened) == (status == 422)


def test_addresses_and_methods(quiet: Any) -> None:
    """What is not there is 404, another method 405 with those that are, both as JSON; nothing redirects."""
    for method, path, status, code in (
        ("GET", "/etc/passwd", 404, "not_found"),
        ("GET", "/predict/", 404, "not_found"),
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("GET", "/predict", 405, "wrong_method"),
        ("OPTIONS", "/predict", 405, "wrong_method"),
        ("PUT", "/health", 405, "wrong_method"),
    ):
        answer = quiet.ask(method, path)
        assert (answer.status, answer.code) == (status, code), path
    assert quiet.ask("GET", "/predict").headers["allow"] == "POST"


def test_malformed_http_is_refused(quiet: Any) -> None:
    """Bytes that are no HTTP, two lengths that differ and headers that do not end are 400; no length is 411."""
    for sent in (
        b"\x16\x03\x01rubbish\r\n\r\n",
        f"{TO_HERE}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".encode(),
        TO_HERE.encode() + b"x: " + b"y" * 40_000,
    ):
        assert quiet.raw(sent).startswith(b"HTTP/1.1 400")
    none = quiet.raw(f"{TO_HERE}Connection: close\r\n\r\n".encode())
    assert none.startswith(b"HTTP/1.1 411") and b'"no_length"' in none


def test_a_large_upload_is_stopped_and_not_read(quiet: Any) -> None:
    """413 comes before the body where its length is said, and soon behind the limit where it is not or is a lie."""
    begin = time.monotonic()
    said = quiet.raw(f"{TO_HERE}Content-Length: {10**15}\r\nExpect: 100-continue\r\n\r\n".encode())
    assert (
        said.startswith(b"HTTP/1.1 413")
        and b"upload_too_large" in said
        and b"connection: close" in said.lower()
    )
    assert time.monotonic() - begin < 0.5
    for head, piece in (
        (f"Content-Length: {LIMITS.upload_bytes + 1}\r\n\r\n", bytes(MIB)),
        ("Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + bytes(MIB) + b"\r\n"),
    ):
        sent = 0
        with socket.create_connection((quiet.host, quiet.port), timeout=10) as client:
            client.sendall(f"{TO_HERE}{head}".encode())
            try:
                while sent < 100:
                    client.sendall(piece)
                    sent += 1
            except OSError:
                pass
            assert client.recv(100).startswith(b"HTTP/1.1 413")
        # The limit, what lingers, and what the system's own buffers hold.
        assert sent < 25, f"{sent} MiB were taken"
    # A little more than the limit is taken and let go, so that a client which sends all before it reads has its answer.
    with socket.create_connection((quiet.host, quiet.port), timeout=10) as client:
        size = LIMITS.upload_bytes + MIB
        client.sendall(f"{TO_HERE}Content-Length: {size}\r\n\r\n".encode())
        for _ in range(size // 1024):
            client.sendall(bytes(1024))
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    for far in (form(bytes(LIMITS.upload_bytes + 1)), form(b"x") + bytes(LIMITS.upload_bytes + MIB)):
        pieces = (far[start : start + MIB] for start in range(0, len(far), MIB))
        headers = {"Content-Type": FORM}
        assert quiet.ask("POST", "/predict", pieces, headers, encode_chunked=True).code == "upload_too_large"
    assert quiet.predict(form(bytes(LIMITS.upload_bytes)), "", FORM).status == 422


def test_a_slow_upload_is_ended(quiet: Any, clip: bytes) -> None:
    """Bytes that trickle, and a body shorter than its length, are 408 when the time is over."""
    begin = time.monotonic()
    found = quiet.raw(f"{TO_HERE}Content-Length: {len(clip) + 9}\r\n\r\n".encode() + clip)
    assert found.startswith(b"HTTP/1.1 408") and b'"slow_upload"' in found
    assert LIMITS.upload_s <= time.monotonic() - begin < LIMITS.upload_s + 2.5


def test_uploads_that_trickle_keep_nobody_out(tmp_path: Path, clip: bytes) -> None:
    """An upload below the minimum rate is answered 408 early, so that its slot is free for others."""
    limits = replace(LIMITS, upload_s=60.0, request_s=20.0, grace_s=3.0, upload_rate=1000.0)
    with service(tmp_path, limits=limits) as running:

        def trickle() -> bytes:
            with socket.create_connection((running.host, running.port), timeout=10) as client:
                client.sendall(f"{TO_HERE}Content-Length: {len(clip)}\r\n\r\n".encode())
                for place in range(400):
                    client.sendall(clip[place : place + 1])
                    time.sleep(0.05)
                    if select.select([client], [], [], 0)[0]:
                        return b"".join(iter(lambda: client.recv(4096), b""))
            return b""

        slow = [background(trickle) for _ in range(limits.at_once + limits.waiting)]
        until(lambda: len(jobs_of(running)) == len(slow))
        assert running.predict(clip).code == "busy"
        for answer in slow:
            assert answer.result().startswith(b"HTTP/1.1 408") and b'"slow_upload"' in answer.result()
        assert running.predict(clip).status == 200
        # Slow, but above the least rate, and longer than the grace: 400 bytes in each 0.1 s, for 3.5 s.
        pieces = [clip[start : start + 400] for start in range(0, 14_000, 400)] + [clip[14_000:]]
        steady = (time.sleep(0.1) or piece for piece in pieces)
        headers = {"Content-Type": "video/mp4", "Content-Length": str(len(clip))}
        assert running.ask("POST", "/predict", steady, headers).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "content-length: 0\r\ntransfer-encoding: Chunked",
        "Content-Length: 4\r\nTransfer-Encoding: identity",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4, 5",
        "Content-Length: +4",
        "Content-Length: 4\r\nTransfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
    ],
)
@pytest.mark.parametrize("first", ["POST /predict", "GET /health"])
def test_a_request_with_two_ends_is_refused_and_the_connection_closed(
    quiet: Any, first: str, lines: str
) -> None:
    """A request with Content-Length and Transfer-Encoding is refused, and bytes after it are not read as a request."""
    head = TO_HERE.replace("POST /predict", first)
    smuggled = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = quiet.raw(f"{head}{lines}\r\n\r\n0\r\n\r\n".encode() + smuggled)
    assert answer.startswith(b"HTTP/1.1 400")
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"400"] and b"connection: close" in answer.lower()


def test_a_playlist_opens_nothing(quiet: Any, clip: bytes, tmp_path: Path) -> None:
    """Lists that name a real video of this machine and an address of this test open neither."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.mp4"
        for named in (str(secret), secret.as_uri(), address):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{named}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{named}'\n",
                named,
                f"<MPD><Period><BaseURL>{named}</BaseURL></Period></MPD>",
            ):
                for body, kind in ((text.encode(), "video/mp4"), (form(text.encode(), name="a.m3u8"), FORM)):
                    answer = quiet.predict(body, "", kind)
                    assert (answer.status, answer.code) == (422, "not_media"), (named, text)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_only_this_page_and_programs_may_post(quiet: Any, clip: bytes) -> None:
    """A POST of another origin, port or frame is refused, and so is a name that is not this machine's."""
    own = f"{quiet.host}:{quiet.port}"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": f"http://evil@{own}"},
        {"Origin": f"http://{own}#.evil"},
        {"Origin": f"file://{own}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": f"http://{own}"},
    ):
        answer = quiet.predict(clip, **headers)
        assert (answer.status, answer.code) == (403, "cross_origin"), headers
    for host in (
        *(
            "evil.example",
            f"evil.example:{quiet.port}",
            "127.0.0.1.evil.example",
            "[",
            "",
            "localhost.",
            "null",
        ),
        *(
            "evil@127.0.0.1",
            "evil:x@localhost",
            "@localhost",
            "127.0.0.1#.evil",
            "127.0.0.1/.evil",
            "localhost?evil",
        ),
        *(
            "localhost evil",
            "localhost,evil",
            "localhost\\evil",
            "http://localhost",
            "localhost%00",
            "%6cocalhost",
        ),
        *(
            "localhost:65536",
            "localhost:x",
            "localhost:1:2",
            "localhost:-1",
            "[::1",
            "::1",
            "[::1]evil",
            "[localhost]",
        ),
    ):
        answer = quiet.ask("GET", "/health", headers={"Host": host})
        assert (answer.status, answer.code) == (421, "wrong_host"), host
    assert quiet.labeller.opened == []
    assert quiet.predict(clip, **{"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}).status == 200
    for host in ("localhost", "LOCALHOST:1", "[::1]:8000", own):
        assert quiet.ask("GET", "/health", headers={"Host": host}).status == 200, host


@pytest.mark.parametrize(
    "hosts", ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil\r\n"]
)
def test_a_request_needs_one_host(quiet: Any, hosts: str) -> None:
    """An HTTP/1.1 request without a `Host` header, or with two, is malformed."""
    answer = quiet.raw(f"GET /health HTTP/1.1\r\n{hosts}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400")


def test_where_any_name_is_taken_a_malformed_one_is_not() -> None:
    """Without `--allow-host`, outside loopback, any valid host name is accepted, and HTTP/1.0 needs none."""
    for host, taken in (
        ("mood.example.org", True),
        ("[2001:db8::1]:80", True),
        ("", True),
        ("evil@a", False),
    ):
        found = check_request("GET", Headers({"host": host}), hosts=None)
        assert (found is None) == taken, host


# Who waits, and what is left behind


def test_too_many_are_told_to_come_back(quiet: Any, clip: bytes) -> None:
    """With one at work and two waiting, the next has 429 at once; those that waited too long have 504 at once."""
    three = [background(lambda: quiet.predict(SLOW)) for _ in range(3)]
    jobs = jobs_of(quiet.running)
    until(lambda: len(jobs) == 3)
    busy = quiet.predict(clip)
    assert (busy.status, busy.code) == (429, "busy") and int(busy.headers["retry-after"]) > 0
    assert [call.result().status for call in three] == [504] * 3
    # The one at work keeps its slot and its file until its thread ends; those that waited are gone at once.
    until(lambda: len(jobs) == 1)
    assert len(list(quiet.folder.rglob("*/*"))) == 1
    assert quiet.predict(clip).code == "out_of_time"
    quiet.labeller.gate.set()
    until(lambda: len(jobs) == 0)
    assert len(quiet.labeller.opened) == 1
    assert quiet.predict(clip).status == 200


def test_a_client_that_leaves_frees_its_place(quiet: Any, clip: bytes) -> None:
    """Broken off in the upload or while it waits, nothing is labelled and no file stays."""
    jobs = jobs_of(quiet.running)
    first = background(lambda: quiet.predict(SLOW))
    until(lambda: quiet.labeller.opened)
    for sent in (clip[: len(clip) // 2], clip):
        with socket.create_connection((quiet.host, quiet.port)) as client:
            client.sendall(f"{TO_HERE}Content-Length: {len(clip)}\r\n\r\n".encode() + sent)
            until(lambda: len(jobs) == 2)
        until(lambda: len(jobs) == 1)
    assert first.result().status == 504 and len(quiet.labeller.opened) == 1


class Odd(StandIn):  # type: ignore[misc, valid-type]
    """A labeller that looks at its file, and fails in the way that the file names."""

    lines = 0

    def label_file(self, path: Path, *, start_s: float = 0.0, end_s: float | None = None) -> Prediction:
        word = path.read_bytes()[:20].decode("latin-1")
        self.opened.append(path)
        if word.startswith("\0"):
            time.sleep(0.5)
            return Prediction("x", ("a", "b"), np.array([0.4, 0.6]), 0.0, 1.0)
        self.modes = (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
        if word == "bug":
            raise ValueError(f"secret of {path}")
        raise MediaError(word, path, f"frame 7 of {path}")

    def timeline(self, path: Path, *, hop_s: float) -> Any:
        self.lines += 1
        raise MediaError("no_audio", path)


def test_errors_of_the_labeller(tmp_path: Path, clip: bytes) -> None:
    """A refused file is 422 with its code; a fault of ours is 500 and says nothing of its cause; no path is told."""
    labeller = Odd()
    with service(tmp_path, labeller=labeller) as running:
        for code in ("no_audio", "truncated", "timeout", "memory", "empty", "too_large"):
            answer = running.predict(form(code.encode(), name="my\nclip.mp4"), "", FORM)
            assert (answer.status, answer.code) == (422, code)
            detail = answer.json["error"]["detail"]
            assert "frame 7 of my\\nclip.mp4" in detail and str(tmp_path) not in detail
        answer = running.predict(b"bug")
        assert (answer.status, answer.code) == (500, "failed") and b"secret" not in answer.body
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert load_script.wait_until_empty(tmp_path, seconds=2) == []
        labeller.opened.clear()
        head = TO_HERE.replace("/predict", "/predict?timeline=true")
        with socket.create_connection((running.host, running.port)) as client:
            client.sendall(f"{head}Content-Length: {len(clip)}\r\n\r\n".encode() + clip)
            until(lambda: labeller.opened)
        # The client has left: what is begun is ended, and no time line is begun for it.
        until(lambda: len(jobs_of(running)) == 0)
        assert labeller.lines == 0
    assert labeller.modes == (0o600, 0o700)


def test_a_full_disk_is_said(quiet: Any, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for an upload is 507, and its beginning is removed."""

    async def full(*arguments: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moodfuse.serve.uploads._save_body", full)
    answer = quiet.predict(clip)
    assert (answer.status, answer.code) == (507, "no_space")


def test_stopping_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Who uploads, waits or is at work has 503 at once; the folder is gone when the last thread has ended."""
    labeller = StandIn(delay_s=30)
    with service(tmp_path, labeller=labeller, limits=replace(LIMITS, request_s=30, upload_s=30)) as running:
        two = [background(lambda: running.predict(SLOW)) for _ in range(2)]
        slow = background(lambda: running.raw(f"{TO_HERE}Content-Length: 9\r\n\r\nabc".encode()))
        until(lambda: len(jobs_of(running)) == 3)
        running.server.should_exit = True
        assert [call.result().code for call in two] == ["stopping"] * 2 and b"stopping" in slow.result()
        assert len(os.listdir(tmp_path)) == 1
        labeller.gate.set()


@pytest.mark.slow
def test_two_hundred_requests_leave_nothing(tmp_path: Path, clip: bytes) -> None:
    """16 clients, good, bad, huge, slow and aborted: each kind gets one of its statuses, and no file is left."""
    limits = Limits(upload_bytes=2 * MIB, upload_s=0.8, request_s=0.8, at_once=2, waiting=12)
    with service(tmp_path, labeller=StandIn(delay_s=1.0), limits=limits) as running:
        load = load_script.Load(running, clip, limits)
        load.run()
        assert load.wrong == []
        statuses = Counter({status for _, status in load.outcomes})
        assert {200, 400, 408, 413, 415, 422, 504} <= statuses.keys(), load.outcomes
        assert load_script.wait_until_empty(tmp_path, seconds=5) == [] and len(jobs_of(running)) == 0
        assert running.predict(clip).status == 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_an_upload(tmp_path: Path) -> None:
    """A body of 200 MiB and a form of 100 MiB cost the process that takes them less than 30 MiB."""
    limits = replace(LIMITS, upload_bytes=256 * MIB, upload_s=60, request_s=60)
    edges = form(b"|").split(b"|")
    with load_script.served_apart(limits, tmp_path) as (running, process):
        for kind, count, first, last in (("video/mp4", 200, b"", b""), (FORM, 100, *edges)):
            running.predict(b"none")
            before = load_script.memory_bytes(process, "VmHWM")
            pieces = (bytes(MIB) for _ in range(count))
            size = len(first) + count * MIB + len(last)
            body = (piece for part in ([first], pieces, [last]) for piece in part)
            answer = running.ask(
                "POST", "/predict", body, {"Content-Type": kind, "Content-Length": str(size)}
            )
            assert answer.code == "not_media"
            assert load_script.memory_bytes(process, "VmHWM") - before < 30 * MIB


# Small parts, the command, the documentation


def test_names_types_and_limits() -> None:
    """Names lose folders and what cannot be printed; playlists are no media; limits that make no sense are refused."""
    assert clean_name("../../etc/passwd") == "passwd" and clean_name("a/") == clean_name(" ") == "upload"
    assert clean_name("x" * 999) == "x" * 120 and clean_name("a\r\nb\u202e.mp4").isprintable()
    assert is_media("video/mp4") and is_media("audio/ogg") and not is_media("audio/mpegurl")
    for wrong in ({"at_once": 0}, {"waiting": -1}, {"upload_s": 0.0}, {"request_s": float("inf")}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            Limits(**wrong)


def test_the_documentation_names_every_code_and_limit() -> None:
    """docs/serve.md has each code with its status, and the defaults of the limits."""
    text = (ROOT / "docs" / "serve.md").read_text("utf-8")
    assert [code for code, status in STATUSES.items() if f"| {status} | `{code}` |" not in text] == []
    for limit in (
        f"{Limits().upload_bytes // MIB} MB",
        f"{Limits().request_s:g} s",
        f"{Limits().timeline_windows}",
    ):
        assert limit in text
