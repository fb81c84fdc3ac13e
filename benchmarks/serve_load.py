"""200 requests by 16 clients at a running `moodfuse serve`: good, bad, huge, slow and aborted uploads.

Usage: serve_load.py [--model DIR] [--clip FILE] [REQUESTS]. Without a model, a stand-in opens the file and
makes up its answer. Bar: the service lives, every request gets a status that its kind may get, no file is
left, and memory does not grow with the uploads. Exits 1 if the bar is missed.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.extract.media.container import open_media
from moodfuse.model.predictions import Prediction, Refusal, SourceContribution, Timeline
from moodfuse.serve.messages import MIB, Limits

REQUESTS, CLIENTS = 200, 16
SLOW_MARK = b"SLOW"
CLASSES = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")
SERVE = Limits(upload_bytes=64 * MIB, upload_s=4.0, request_s=1.5, at_once=2, waiting=12)
MODEL_REQUEST_S = 60.0
BACK_OFF_S = 0.3
SLOW_KINDS = ("slow to label", "slow")
"""They come half as often as the others, since each keeps a slot for long."""

GROWTH_BYTES = 150 * MIB
"""How much a process may grow under this load: buffers of 14 requests, threads, and what decoding takes."""


class StandIn:
    """A labeller that opens the file with FFmpeg and makes its answer up from the file's size.

    Parameters
    ----------
    delay_s : float
        How long a file takes that begins with `SLOW`, unless the event `gate` is set before.
    """

    name = "stand-in"
    classes = CLASSES

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.gate = threading.Event()
        self.opened: list[Path] = []

    def label_file(self, path: Path, *, start_s: float = 0.0, end_s: float | None = None) -> Prediction:
        """Probabilities that fall from the first label on."""
        duration_s = self._open(path)
        shares = self._shares(0.0, 1)[0]
        sources = (
            SourceContribution("twodmcnn", shares[::-1].copy(), shares),
            SourceContribution("c3d", shares, shares[::-1].copy()),
        )
        return Prediction(
            str(path), CLASSES, shares, start_s, min(duration_s, 30.0), sources=sources, duration_s=duration_s
        )

    def timeline(self, path: Path, *, hop_s: float) -> Timeline:
        """Probabilities that wander; the third window cannot be read."""
        duration_s = self._open(path)
        starts_s = np.arange(0.0, max(hop_s, duration_s - 30.0), hop_s)
        rows = self._shares(0.4, len(starts_s))
        refusals = ()
        if len(starts_s) > 4:
            rows[2] = np.nan
            refusals = (
                (2, Refusal(str(path), "decode_failed", f"{path}: picture or sound cannot be decoded")),
            )
        ends_s = np.minimum(starts_s + 30.0, duration_s)
        return Timeline(str(path), CLASSES, starts_s, ends_s, rows, refusals, duration_s)

    def _open(self, path: Path) -> float:
        self.opened.append(path)
        with path.open("rb") as file:
            if file.read(len(SLOW_MARK)) == SLOW_MARK:
                self.gate.wait(self.delay_s)
        opened = open_media(path)
        opened.close()
        return opened.duration_s

    @staticmethod
    def _shares(step: float, rows: int) -> np.ndarray:
        logits = 1.6 * np.sin(step * np.arange(rows)[:, None] + np.arange(len(CLASSES))[None, ::-1] * 0.9)
        shares = np.exp(logits)
        return shares / shares.sum(axis=1, keepdims=True)


@contextmanager
def served(labeller: Any, *, limits: Limits, temporary: Path, port: int = 0) -> Iterator[Any]:
    """A running service on this machine, in a thread of this process."""
    from moodfuse.serve.app import make_app
    from moodfuse.serve.command import make_server

    app = make_app(labeller, limits=limits, temporary=temporary)
    server = make_server(app)
    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield Served("127.0.0.1", listener.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@dataclass(frozen=True)
class Served:
    """Where a service listens."""

    host: str
    port: int
    server: Any = None

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **more: Any
    ) -> "Answer":
        """Send one request by a client that keeps to the protocol, and read its answer."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            # An answer may come before the body has gone out.
            with suppress(BrokenPipeError, ConnectionResetError):
                client.request(method, path, body, headers or {}, **more)
            return Answer.of(client)
        finally:
            client.close()

    def predict(self, body: Any, query: str = "", kind: str = "video/mp4", **headers: str) -> "Answer":
        """Post a body to `/predict`."""
        return self.ask("POST", f"/predict{query}", body, {"Content-Type": kind, **headers})

    def raw(self, data: bytes) -> bytes:
        """Send bytes over a socket and read until the service closes it."""
        with socket.create_connection((self.host, self.port), timeout=30) as client:
            client.sendall(data)
            return b"".join(iter(lambda: client.recv(65536), b""))


@dataclass(frozen=True)
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, client: http.client.HTTPConnection) -> "Answer":
        """Read the answer that a connection waits for."""
        if client.sock is None:
            raise ConnectionResetError("the service closed the connection without an answer")
        response = http.client.HTTPResponse(client.sock)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return cls(response.status, headers, response.read())

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Code of a refusal."""
        return str(self.json["error"]["code"])


def form(
    data: bytes, *, field: str = "file", name: str | None = "clip.mp4", kind: str = "video/mp4"
) -> bytes:
    """A form with one field, by the boundary `edge`."""
    file = f'; filename="{name}"' if name is not None else ""
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"{file}\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + data + b"\r\n--edge--\r\n"


FORM = "multipart/form-data; boundary=edge"


@dataclass(frozen=True)
class Load:
    """What the clients send: a good clip, and the limits of the service."""

    served: Served
    clip: bytes
    limits: Limits
    outcomes: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def kinds(self) -> dict[str, tuple[Callable[[], int], set[int]]]:
        """Kind of request -> its call, and the statuses that it may get; 0 where the client does not wait."""
        send, clip = self.served.predict, self.clip
        return {
            "good": (lambda: send(clip).status, {200, 429, 504}),
            "good form, time line": (
                lambda: send(form(clip), "?timeline=true", FORM).status,
                {200, 429, 504},
            ),
            "no media": (lambda: send(b"\1no media" * 1000).status, {422, 429, 504}),
            "slow to label": (lambda: send(SLOW_MARK * 1000).status, {422, 429, 504}),
            "wrong type": (lambda: send(b"{}", "", "application/json").status, {415}),
            "half a form": (lambda: send(form(clip)[:-9], "", FORM).status, {400, 429}),
            "a path": (lambda: send(clip, "?path=/etc/passwd").status, {400}),
            "huge": (lambda: self._huge(length=True), {413}),
            "huge, length not said": (lambda: self._huge(length=False), {408, 413, 429}),
            "slow": (self._slow, {408, 429}),
            "breaks off": (self._break_off, {0}),
            "leaves before the answer": (self._leave, {0}),
        }

    def _huge(self, *, length: bool) -> int:
        size = 2 * self.limits.upload_bytes
        chunks = (bytes(MIB) for _ in range(size // MIB))
        if length:
            headers = {"Content-Type": "video/mp4", "Content-Length": str(size)}
            return self.served.ask("POST", "/predict", chunks, headers).status
        return self.served.ask(
            "POST", "/predict", chunks, {"Content-Type": "video/mp4"}, encode_chunked=True
        ).status

    def _begin(self, sent: bytes) -> http.client.HTTPConnection:
        client = http.client.HTTPConnection(self.served.host, self.served.port, timeout=30)
        client.putrequest("POST", "/predict")
        client.putheader("Content-Type", "video/mp4")
        client.putheader("Content-Length", str(len(self.clip)))
        client.endheaders(sent)
        return client

    def _slow(self) -> int:
        client = self._begin(self.clip[:100])
        try:
            return Answer.of(client).status
        finally:
            client.close()

    def _break_off(self) -> int:
        self._begin(self.clip[: len(self.clip) // 2]).close()
        return 0

    def _leave(self) -> int:
        client = self._begin(self.clip)
        time.sleep(0.01)
        client.close()
        return 0

    def run(self, requests: int = REQUESTS, *, clients: int = CLIENTS) -> None:
        """Send so many requests, the kinds in turn, by so many clients at once."""
        once = list(self.kinds().items())
        kinds = once + [kind for kind in once if kind[0] not in SLOW_KINDS]
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(lambda number: self._one(*kinds[number % len(kinds)]), range(requests)))

    def _one(self, kind: str, request: tuple[Callable[[], int], set[int]]) -> None:
        send, expected = request
        try:
            status = send()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.outcomes[kind, type(error).__name__] += 1
            self.wrong.append(f"{kind}: {error!r}")
            return
        self.outcomes[kind, status] += 1
        if status == 429:
            time.sleep(BACK_OFF_S)
        if status not in expected:
            self.wrong.append(f"{kind}: {status}, expected {sorted(expected)}")


def wait_until(condition: Callable[[], Any], *, seconds: float = 5.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not become true")
        time.sleep(0.005)


def wait_until_empty(folder: Path, *, seconds: float = 30.0) -> list[str]:
    """Files in the private folders under a folder, when none is left or the time is over."""
    end = time.monotonic() + seconds
    while left := [path.name for path in folder.rglob("*") if path.is_file()]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return left


def memory_bytes(process: int, what: str) -> int:
    """A figure of `/proc/PID/status`, such as `VmHWM`, the most that a process has held."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(what)


def serve_here(limits: Limits, temporary: Path, model: str) -> None:
    """Serve until standard input ends; prints the port. Runs in the process whose memory is measured."""
    labeller: Any = StandIn(delay_s=limits.request_s + 0.3)
    if model:
        from moodfuse.model.model import Model

        labeller = Model.load(Path(model))
    with served(labeller, limits=limits, temporary=temporary) as running:
        print(running.port, flush=True)
        sys.stdin.read()


@contextmanager
def served_apart(limits: Limits, temporary: Path, *, model: str = "") -> Iterator[tuple[Served, int]]:
    """A service in a process of its own: yields where it listens and its process id."""
    arguments = [sys.executable, __file__, "--serve", json.dumps(vars(limits)), str(temporary), model]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield Served("127.0.0.1", int(process.stdout.readline())), process.pid
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def make_clip_bytes(seconds: float = 2.0) -> bytes:
    """A small real video."""
    from moodfuse.synthetic_corpus import ClipSettings, make_clip

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        make_clip(path, mood="sad", settings=ClipSettings(duration_s=seconds, width=64, height=48))
        return path.read_bytes()


def main(arguments: list[str]) -> int:
    """Run the load and print what came of it; 1 if the bar is missed."""
    limits = replace(SERVE, request_s=MODEL_REQUEST_S) if "--model" in arguments else SERVE
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    requests = int(arguments[-1]) if len(arguments) % 2 else REQUESTS
    clip = Path(options["--clip"]).read_bytes() if "--clip" in options else make_clip_bytes()
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        with served_apart(limits, temporary, model=options.get("--model", "")) as (running, process):
            first = running.predict(clip)
            before = memory_bytes(process, "VmHWM")
            load = Load(running, clip, limits)
            begin = time.monotonic()
            load.run(requests)
            seconds = time.monotonic() - begin
            left = wait_until_empty(temporary)
            alive = (
                running.ask("GET", "/health").status == 200 and running.predict(clip).status == first.status
            )
            peak = memory_bytes(process, "VmHWM")
        remains = os.listdir(temporary)
    print(
        f"{requests} requests by {CLIENTS} clients in {seconds:.1f} s; "
        f"files of up to {SERVE.upload_bytes // MIB} MiB"
    )
    for kind in load.kinds():
        counts = sorted(
            (str(status), count) for (name, status), count in load.outcomes.items() if name == kind
        )
        print(
            f"  {kind:26}",
            ", ".join(f"{count} x {status if status != '0' else 'left'}" for status, count in counts),
        )
    grown = peak - before
    print(f"peak memory {peak / MIB:.0f} MiB, {grown / MIB:.0f} MiB more than after the first answer")
    print(
        f"files left: {len(left)} while it ran, {len(remains)} after it stopped; first answer {first.status}"
    )
    print(*load.wrong[:5], sep="\n", end="\n" if load.wrong else "")
    held = alive and first.status == 200 and not (load.wrong or left or remains) and grown < GROWTH_BYTES
    print(f"bar 6: {'held' if held else 'missed'}")
    return int(not held)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_here(Limits(**json.loads(sys.argv[2])), Path(sys.argv[3]), sys.argv[4])
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
