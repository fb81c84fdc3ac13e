"""The web service: each refusal has its status and sentence, nothing is opened or left, memory is bounded."""

import re
import socket
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")

from answer_schema import check_answer
from running_service import (
    CLASSES,
    FORM,
    HEAD,
    StandIn,
    form,
    form_of,
    make_clip_bytes,
    served,
    wait_until,
    wait_until_empty,
)
from starlette.datastructures import Headers

from moodfuse.extract.media.container import MediaError
from moodfuse.model.answers import read_answer_schema
from moodfuse.model.predictions import Prediction
from moodfuse.serve.app import TOO_LONG, check_request
from moodfuse.serve.messages import MIB, STATUSES, Limits
from moodfuse.serve.monitoring import ACCESS_LOG
from moodfuse.serve.uploads import clean_name

ROOT = Path(__file__).resolve().parents[3]


# Answers


def test_a_file_and_a_form_are_labelled(service: Any, clip: bytes) -> None:
    """Body and form give the same answer, which follows the schema and contains no path of the server."""
    assert service.ask("GET", "/schema.json").json == read_answer_schema()
    sent = form(clip, name='C:\\my\\dr"op.mp4')
    body, as_form = service.predict(clip), service.predict(sent, "?threshold=0.9", FORM)
    for answer in (body, as_form):
        assert answer.status == 200 and answer.headers["content-type"] == "application/json", answer
        check_answer(answer.json, "prediction")
        assert str(service.folder).encode() not in answer.body and b"moodfuse-serve" not in answer.body
    assert (body.json["file"], body.json["model"]["name"]) == ("upload", "stand-in")
    assert body.json["probabilities"].keys() == set(CLASSES) and "timeline" not in body.json
    assert body.json["confidence"] == body.json["probabilities"][body.json["label"]]
    assert as_form.json["file"].endswith("op.mp4") and "\\my" not in as_form.json["file"]
    assert as_form.json["uncertain"] is True
    for path in service.labeller.opened:
        assert re.fullmatch("[0-9a-f]{32}", path.name) and service.folder in path.parents


def test_a_time_line_is_added_on_request(start_service: Callable, tmp_path: Path) -> None:
    """Windows that cannot be read have their reason; long timelines are refused."""
    video = make_clip_bytes(60.0)
    with start_service(tmp_path, limits=Limits(timeline_windows=60)) as running:
        answer = running.predict(video, "?timeline=true&hop=5")
        refused = running.predict(video, "?timeline=true&hop=0.5")
    check_answer(answer.json, "prediction")
    line = answer.json["timeline"]
    assert len(line["windows"]) == 6 and line["hop_s"] == 5 and line["missing"] is None
    assert [number for number, row in enumerate(line["windows"]) if "error" in row] == [2]
    assert line["windows"][1]["window"] == {"start_s": 5.0, "end_s": 35.0}
    assert sum(line["windows"][0]["probabilities"].values()) == pytest.approx(1)
    assert str(tmp_path) not in answer.body.decode()
    check_answer(refused.json, "refusal")
    assert (refused.status, refused.code) == (422, "timeline_too_long") and b"61 windows" in refused.body
    with start_service(tmp_path, limits=Limits(timeline_s=59.0)) as running:
        assert b"lasts 60 s" in running.predict(video, "?timeline=true").body


def test_a_batch_has_an_answer_for_each_file(start_service: Callable, tmp_path: Path, clip: bytes) -> None:
    """In the order of the form; a file that cannot be labelled is refused in its place."""
    files = {"a.mp4": clip, "b.txt": b"no media", "c.mp4": clip, "d.mp4": b""}
    with start_service(tmp_path, limits=Limits(batch_files=4)) as running:
        kind = {"Content-Type": FORM}
        answer = running.ask("POST", "/predict/batch", form_of(files), kind)
        assert answer.status == 200
        check_answer(answer.json, "batch")
        answers = answer.json["answers"]
        assert [row["file"] for row in answers] == list(files)
        assert ["label" in row for row in answers] == [True, False, True, False]
        assert answers[0] == running.predict(form(clip, name="a.mp4"), "", FORM).json
        assert answers[1] == running.predict(form(b"no media", name="b.txt"), "", FORM).json
        assert answers[3]["error"]["code"] == "empty"
        five = running.ask("POST", "/predict/batch", form_of({**files, "e.mp4": clip}), kind)
        assert (five.status, five.code) == (400, "malformed") and b"1 to 4 fields 'file'" in five.body
        raw = running.ask("POST", "/predict/batch", clip, {"Content-Type": "video/mp4"})
        assert (raw.status, raw.code) == (415, "media_type") and b"expected multipart/form-data" in raw.body
        assert wait_until_empty(tmp_path, seconds=2) == []


# Other addresses


def test_health_page_and_headers(service: Any) -> None:
    """Every answer, a refusal too, has the security headers and allows no other site."""
    health, page = service.ask("GET", "/health"), service.ask("GET", "/")
    named = {"name": "stand-in", "digest": "0" * 16}
    assert health.json == {"status": "ok", "model": named, "classes": list(CLASSES)}
    assert b"<title>moodfuse" in page.body and "'unsafe" not in page.headers["content-security-policy"]
    for answer in (health, page, service.ask("GET", "/none"), service.predict(b"")):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff" and "server" not in answer.headers
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_api_page_and_its_document_have_every_address(service: Any) -> None:
    """Each address and method of the OpenAPI document is answered; references in it are resolved."""
    document = service.ask("GET", "/openapi.json").json
    page = service.ask("GET", "/api").body.decode()
    assert "'unsafe" not in service.ask("GET", "/api").headers["content-security-policy"]
    assert document["openapi"] == "3.1.0" and "/metrics" not in document["paths"]
    for path, methods in document["paths"].items():
        for method in methods:
            assert service.ask(method.upper(), path, b"").status not in (404, 405), path
            assert f"{method.upper()} {path}" in page
    schemas = document["components"]["schemas"]
    references = re.findall(
        r'"#/components/schemas/(\w+)"', service.ask("GET", "/openapi.json").body.decode()
    )
    assert set(references) <= schemas.keys() and '"#/$defs/' not in str(document)
    assert set(STATUSES.values()) - {404, 405} <= set(
        map(int, document["paths"]["/predict"]["post"]["responses"])
    )


def test_metrics_and_the_access_log(tmp_path: Path, clip: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Requests by address and status, files by outcome; a line per request without query and file name."""
    caplog.set_level("INFO", logger=ACCESS_LOG)
    with served(StandIn(), limits=Limits(), temporary=tmp_path, show_metrics=True) as running:
        running.predict(form(clip, name="secret.mp4"), "?threshold=0.9", FORM)
        running.predict(b"no media")
        running.ask("GET", "/none")
        answer = running.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    for line in (
        'moodfuse_requests_total{address="/predict",status="200"} 1',
        'moodfuse_requests_total{address="/predict",status="422"} 1',
        'moodfuse_requests_total{address="other",status="404"} 1',
        "moodfuse_files_labelled_total 1",
        'moodfuse_files_refused_total{code="not_media"} 1',
        "moodfuse_queue_length 0",
    ):
        assert line in lines, lines
    # The last line of an earlier service may come after its answer.
    logged = [record.getMessage() for record in caplog.records if record.name == ACCESS_LOG][-4:]
    assert len(logged) == 4 and "secret" not in "".join(logged) and "?" not in "".join(logged)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:]{8}Z 127\.0\.0\.1 POST /predict 200 \d+\.\d{3} s \d+ bytes", logged[0]
    )


def test_metrics_are_off_by_default(service: Any) -> None:
    """The answer names the option."""
    answer = service.ask("GET", "/metrics")
    assert answer.status == 404 and answer.json["error"]["detail"].endswith("with --metrics")


# Refusals


@pytest.mark.parametrize(
    ("query", "kind", "body", "status", "code"),
    [
        ("?timeline=perhaps", "video/mp4", b"x", 400, "bad_query"),
        ("?timeline=true&hop=nan", "video/mp4", b"x", 400, "bad_query"),
        ("?hop=5", "video/mp4", b"x", 400, "bad_query"),
        ("?threshold=2", "video/mp4", b"x", 400, "bad_query"),
        ("?threshold=.5&threshold=.5", "video/mp4", b"x", 400, "bad_query"),
        ("?file=/etc/passwd", "video/mp4", b"x", 400, "bad_query"),
        ("", "video/mp4", b"", 400, "empty"),
        ("", FORM, form(b""), 400, "empty"),
        ("", "multipart/form-data", b"x", 400, "malformed"),
        ("", FORM, b"no form", 400, "malformed"),
        ("", FORM, form(b"x")[:-6], 400, "malformed"),
        ("", FORM, form(b"/etc/passwd", name=None), 400, "malformed"),
        ("", FORM, form(b"/etc/passwd", field="path"), 400, "malformed"),
        ("", FORM, form(b"x")[:-4] + b"\r\n" + form(b"x"), 400, "malformed"),
        ("", FORM, form(b"#EXTM3U", kind="application/vnd.apple.mpegurl"), 415, "media_type"),
        ("", "application/json", b'{"path": "/etc/passwd"}', 415, "media_type"),
        ("", "", b"x", 415, "media_type"),
        ("", "video/mp4", b"no media at all", 422, "not_media"),
    ],
)
def test_refusals(service: Any, query: str, kind: str, body: bytes, status: int, code: str) -> None:
    """Each has its status, its code and a sentence, and only a file of a valid request is opened."""
    answer = service.predict(body, query, kind)
    assert (answer.status, answer.code) == (status, code)
    check_answer(answer.json, "refusal" if status == 422 else "request_error")
    assert len(answer.json["error"]["detail"]) > 30 and str(service.folder) not in answer.body.decode()
    assert bool(service.labeller.opened) == (status == 422)


def test_addresses_and_methods(service: Any) -> None:
    """Unknown addresses are 404, other methods 405, both as JSON; nothing redirects."""
    for method, path, status, code in (
        ("GET", "/../../etc/passwd", 404, "not_found"),
        ("GET", "/predict/", 404, "not_found"),
        ("GET", "/predict", 405, "wrong_method"),
        ("PUT", "/health", 405, "wrong_method"),
    ):
        answer = service.ask(method, path)
        assert (answer.status, answer.code) == (status, code), path
    assert service.ask("GET", "/predict").headers["allow"] == "POST"


@pytest.mark.parametrize("first", ["Content-Length: 4", "Transfer-Encoding: chunked"])
def test_a_request_with_two_lengths_is_refused_and_the_connection_closed(service: Any, first: str) -> None:
    """Bytes after a request with Content-Length and Transfer-Encoding are not read as another request."""
    second = "Content-Length: 4" if first.startswith("Transfer") else "Transfer-Encoding: chunked"
    smuggled = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = service.raw(f"{HEAD}{first}\r\n{second}\r\n\r\n0\r\n\r\n{smuggled}".encode())
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"400"] and b"connection: close" in answer.lower()


def test_a_large_upload_is_refused(service: Any) -> None:
    """413 comes before the body where the length is given, and soon after the limit where it is not."""
    limit = service.jobs.limits.upload_bytes
    for sent in (
        f"{HEAD}Content-Length: {10**15}\r\nExpect: 100-continue\r\n\r\n".encode(),
        f"{HEAD}Content-Length: {limit + MIB}\r\n\r\n".encode() + bytes(limit + MIB),
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + (b"100000\r\n" + bytes(MIB) + b"\r\n") * 6,
    ):
        with socket.create_connection(service.address, timeout=10) as client:
            client.sendall(sent)
            assert client.recv(100).startswith(b"HTTP/1.1 413")
    assert service.raw(f"{HEAD}Connection: close\r\n\r\n".encode()).startswith(b"HTTP/1.1 411")
    answer = service.predict(form(bytes(limit + 1)), "", FORM)
    assert answer.code == "upload_too_large" and b"the limit of 2 MB;" in answer.body
    assert service.predict(form(bytes(limit)), "", FORM).status == 422


def test_a_slow_upload_is_ended(service: Any, clip: bytes) -> None:
    """A body that is shorter than its length is 408 when the time is over."""
    begin = time.monotonic()
    answer = service.raw(f"{HEAD}Content-Length: {len(clip) + 9}\r\n\r\n".encode() + clip)
    assert answer.startswith(b"HTTP/1.1 408") and b'"slow_upload"' in answer
    assert 0 <= time.monotonic() - begin - service.jobs.limits.upload_s < 2.5


def test_a_playlist_opens_nothing(service: Any, clip: bytes, tmp_path: Path) -> None:
    """Playlists with a video of this machine and an address open neither."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        for target in (str(secret), f"http://127.0.0.1:{listener.getsockname()[1]}/a.mp4"):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"<MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
            ):
                answer = service.predict(text.encode(), "", "audio/x-mpegurl")
                assert (answer.status, answer.code) == (422, "not_media"), text
        with pytest.raises(TimeoutError):
            listener.accept()


def test_only_this_page_and_programs_may_post(service: Any, clip: bytes) -> None:
    """A POST of another origin is refused, and so is a host name other than that of this machine."""
    own = "{}:{}".format(*service.address)
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": f"http://{own}"},
    ):
        answer = service.predict(clip, **headers)
        assert (answer.status, answer.code) == (403, "cross_origin"), headers
    for host in ("evil.example", f"evil.example:{own}", "127.0.0.1.evil.example", "", "localhost.", "::1"):
        answer = service.ask("GET", "/health", headers={"Host": host})
        assert (answer.status, answer.code) == (421, "wrong_host"), host
    assert service.labeller.opened == []
    assert service.predict(clip, **{"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}).status == 200
    for host in ("localhost", "LOCALHOST:1", "[::1]:8000", own):
        assert service.ask("GET", "/health", headers={"Host": host}).status == 200, host
    assert check_request("GET", Headers({"host": "mood.example.org"}), hosts=None) is None


class OddModel(StandIn):
    """Fails in the way that its file names, or labels a video slowly and counts timelines."""

    timelines = 0

    def label_file(self, path: Path) -> Prediction:
        self.opened.append(path)
        word = path.read_bytes()[:20].decode("latin-1")
        if word.startswith("\0"):
            time.sleep(0.3)
            return Prediction("x", ("a", "b"), np.array([0.4, 0.6]), 0.0, 1.0)
        if word == "bug":
            raise ValueError(f"secret of {path}")
        raise MediaError(word, path, f"frame 7 of {path}")

    def timeline(self, path: Path, *, hop_s: float) -> Any:
        self.timelines += 1


def test_errors_of_the_model(start_service: Callable, tmp_path: Path) -> None:
    """A refused file is 422 with its code; an internal error is 500 without its cause; no path is shown."""
    with start_service(tmp_path, labeller=OddModel()) as running:
        for code in ("no_audio", "timeout"):
            answer = running.predict(form(code.encode(), name="my\nclip.mp4"), "", FORM)
            assert (answer.status, answer.code) == (422, code)
            detail = answer.json["error"]["detail"]
            assert "frame 7 of my\\nclip.mp4" in detail and str(tmp_path) not in detail
        answer = running.predict(b"bug")
        assert (answer.status, answer.code) == (500, "failed") and b"secret" not in answer.body
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert wait_until_empty(tmp_path, seconds=2) == []


def test_no_time_line_for_a_client_that_has_left(
    start_service: Callable, tmp_path: Path, clip: bytes
) -> None:
    """The label is computed to its end, the timeline is not begun."""
    model = OddModel()
    with start_service(tmp_path, labeller=model) as running:
        head = HEAD.replace("/predict", "/predict?timeline=true")
        with socket.create_connection((running.host, running.port)) as client:
            client.sendall(f"{head}Content-Length: {len(clip)}\r\n\r\n".encode() + clip)
            wait_until(lambda: model.opened)
        wait_until(lambda: len(running.server.config.app.state.jobs) == 0)
    assert model.timelines == 0


def test_memory_does_not_grow_with_an_upload(start_service: Callable, tmp_path: Path) -> None:
    """Neither a body of 40 MiB nor a form of 40 MiB is held in memory."""
    edges = form(b"|").split(b"|")
    with start_service(tmp_path, limits=Limits(upload_bytes=64 * MIB)) as running:
        for kind, first, last in (("video/mp4", b"", b""), (FORM, *edges)):
            size = str(len(first) + 40 * MIB + len(last))
            body = (chunk for part in ([first], (bytes(MIB) for _ in range(40)), [last]) for chunk in part)
            tracemalloc.start()
            answer = running.ask("POST", "/predict", body, {"Content-Type": kind, "Content-Length": size})
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert answer.code == "not_media" and peak < 12 * MIB


def test_clean_names() -> None:
    """Names lose folders and characters that cannot be printed."""
    assert clean_name("../../etc/passwd") == "passwd" and clean_name("a/") == clean_name(" ") == "upload"
    assert clean_name("x" * 999) == "x" * 120 and clean_name("a\r\nb\u202e.mp4").isprintable()


def test_the_documentation_names_every_code() -> None:
    """docs/serve.md has each code with its status."""
    text = (ROOT / "docs" / "serve.md").read_text("utf-8")
    assert [
        code for code, status in {**STATUSES, TOO_LONG: 422}.items() if f"| {status} | `{code}` |" not in text
    ] == []
