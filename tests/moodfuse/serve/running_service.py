"""A service with a stand-in for the model, its answers, and the forms that are sent to it."""

import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moodfuse.extract.media.container import MediaError, open_media
from moodfuse.model.predictions import (
    LabelRequest,
    ModelId,
    Prediction,
    Refusal,
    SourceContribution,
    Timeline,
    make_refusal,
)

SLOW_MARK = b"SLOW"
SLOW = SLOW_MARK * 100
CLASSES = ("Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension")
FORM = "multipart/form-data; boundary=edge"
HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"


class StandIn:
    """A labeller that opens the file with FFmpeg and makes its answer up from the file's size.

    Parameters
    ----------
    delay_s : float
        How long a file takes that begins with `SLOW`, unless the event `gate` is set before.
    """

    name = "stand-in"
    id = ModelId("stand-in", "0" * 16)
    classes = CLASSES

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.gate = threading.Event()
        self.opened: list[Path] = []

    def label(self, requests: Sequence[LabelRequest]) -> list[Prediction | Refusal]:
        """The prediction or the refusal of each file."""
        results: list[Prediction | Refusal] = []
        for request in requests:
            try:
                results.append(self.label_file(Path(request.file)))
            except MediaError as error:
                results.append(make_refusal(request, error, self.id))
        return results

    def label_file(self, path: Path) -> Prediction:
        """Probabilities that fall from the first label on."""
        duration_s = self._open(path)
        shares = self._shares(0.0, 1)[0]
        sources = (
            SourceContribution("twodmcnn", shares[::-1].copy(), shares),
            SourceContribution("c3d", shares, shares[::-1].copy()),
        )
        return Prediction(
            str(path),
            CLASSES,
            shares,
            0.0,
            min(duration_s, 30.0),
            sources=sources,
            duration_s=duration_s,
            model=self.id,
        )

    def timeline(self, path: Path, *, hop_s: float) -> Timeline:
        """Probabilities that wander; the third window cannot be read."""
        duration_s = self._open(path)
        starts_s = np.arange(0.0, max(hop_s, duration_s - 30.0), hop_s)
        rows = self._shares(0.4, len(starts_s))
        refusals: tuple[tuple[int, Refusal], ...] = ()
        if len(starts_s) > 4:
            rows[2] = np.nan
            refusals = (
                (2, Refusal(str(path), "decode_failed", f"{path}: picture or sound cannot be decoded")),
            )
        ends_s = np.minimum(starts_s + 30.0, duration_s)
        return Timeline(
            str(path), CLASSES, starts_s, ends_s, rows, refusals, duration_s, hop_s=hop_s, model=self.id
        )

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
def served(labeller: Any, *, limits: Any, temporary: Path, show_metrics: bool = False) -> Iterator[Any]:
    """A running service on this machine, in a thread of this process."""
    from moodfuse.serve.app import make_app
    from moodfuse.serve.command import make_server

    app = make_app(labeller, limits=limits, temporary=temporary, show_metrics=show_metrics)
    server = make_server(app)
    listener = socket.create_server(("127.0.0.1", 0))
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
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> "Answer":
        """Send one request by a client that keeps to the protocol, and read its answer."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            # An answer may come before the body has gone out.
            with suppress(BrokenPipeError, ConnectionResetError):
                client.request(method, path, body, headers or {})
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


def form_of(files: dict[str, bytes]) -> bytes:
    """A form with a field `file` for each file, by name."""
    return b"".join(form(data, name=name).removesuffix(b"--edge--\r\n") for name, data in files.items()) + (
        b"--edge--\r\n"
    )


def form(
    data: bytes, *, field: str = "file", name: str | None = "clip.mp4", kind: str = "video/mp4"
) -> bytes:
    """A form with one field, by the boundary `edge`."""
    file = f'; filename="{name}"' if name is not None else ""
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"{file}\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + data + b"\r\n--edge--\r\n"


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


def make_clip_bytes(seconds: float = 2.0) -> bytes:
    """A small real video."""
    from moodfuse.synthetic_corpus import ClipSettings, make_clip

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        make_clip(path, mood="sad", settings=ClipSettings(duration_s=seconds, width=64, height=48))
        return path.read_bytes()
