"""Tests of extract.networks.fetch against a small server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodfuse.extract.networks.weights.fetch import fetch_weights, weights_folder
from moodfuse.extract.networks.weights.load import WeightsError, resolve_weights
from moodfuse.extract.networks.weights.published import KNOWN_WEIGHTS, FileCheck, KnownWeights

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `breaks_after` cuts off the next answer, without `ranges` parts are not served."""

    breaks_after: int | None = None
    ranges = True
    wrong_range = False
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start > len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            shown = 0 if self.server.wrong_range else start
            self.send_header("Content-Range", f"bytes {shown}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server in a thread."""
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def known(server: Server) -> KnownWeights:
    """An entry of the table that this server publishes."""
    check = FileCheck("sha256", hashlib.sha256(CONTENT).hexdigest())
    url = f"http://127.0.0.1:{server.server_port}/models/net.pt"
    return replace(KNOWN_WEIGHTS["i3d-kinetics-piergiaj"], url=url, file="net.pt", check=check)


def test_fetched_once_and_checked(server: Server, known: KnownWeights, tmp_path: Path) -> None:
    """The file arrives whole, and a second call asks no server."""
    path = fetch_weights(known, folder=tmp_path)
    assert path.read_bytes() == CONTENT and fetch_weights(known, folder=tmp_path) == path
    assert server.asked == [""] and sorted(file.name for file in tmp_path.iterdir()) == ["net.pt"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_when_run_again(
    server: Server, known: KnownWeights, tmp_path: Path, ranges: bool
) -> None:
    """A partial download is kept; the next run fetches the rest, or all where parts are not served."""
    server.breaks_after, server.ranges = 300_000, ranges
    with pytest.raises(
        WeightsError, match=r"cannot be fetched .*run again.* put the file by hand at .*net\.pt"
    ):
        fetch_weights(known, folder=tmp_path)
    assert not (tmp_path / "net.pt").exists() and 0 < next(tmp_path.glob("net.pt.part")).stat().st_size < len(
        CONTENT
    )
    assert fetch_weights(known, folder=tmp_path).read_bytes() == CONTENT
    assert server.asked[1].startswith("bytes=") and server.asked[1] != "bytes=0-"


def test_a_wrong_part_or_page_is_never_used(
    server: Server, known: KnownWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is too long or not the requested one is dropped; a web page is refused."""
    unchecked = replace(known, check=FileCheck("none"))
    (tmp_path / "net.pt.part").write_bytes(bytes(len(CONTENT) + 1))
    with pytest.raises(WeightsError, match="run again"):
        fetch_weights(unchecked, folder=tmp_path)
    server.breaks_after, server.wrong_range = 300_000, True
    for _ in range(2):
        with pytest.raises(WeightsError, match="cannot be fetched"):
            fetch_weights(unchecked, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(globals(), "CONTENT", b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="it is a web page"):
        fetch_weights(unchecked, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sha256", "git-blob", "sha256-prefix"])
def test_other_content_is_never_used(known: KnownWeights, tmp_path: Path, kind: str) -> None:
    """A file that fails its check is an error with both digests, whether fetched now or before."""
    zeros = "0" * (8 if kind == "sha256-prefix" else 40)
    other = replace(known, check=FileCheck(kind, zeros))  # type: ignore[arg-type]
    for before in (False, True):
        if before:
            (tmp_path / "net.pt").write_bytes(CONTENT)
        with pytest.raises(
            WeightsError, match=rf"not the published .*: {kind} is [0-9a-f]+, expected 0+; delete it"
        ):
            fetch_weights(other, folder=tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == (["net.pt"] if before else [])


def test_without_a_network_the_address_and_the_place_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no server answers, the error names the address and where to put the file, which is then used."""
    known = replace(
        KNOWN_WEIGHTS["i3d-kinetics-piergiaj"], url="http://127.0.0.1:9/net.pt", check=FileCheck("none")
    )
    monkeypatch.setitem(KNOWN_WEIGHTS, known.name, known)
    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    place = tmp_path / "weights" / "rgb_imagenet.pt"
    with pytest.raises(
        WeightsError, match=rf"http://127.0.0.1:9/net.pt cannot be fetched .* by hand at {place}"
    ):
        resolve_weights(known.name, "i3d")
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"\x80by hand")
    assert weights_folder() == place.parent and resolve_weights(known.name, "i3d") == (place, known)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: KnownWeights) -> None:
    """`ls` names every entry and what is here, `fetch` fetches, an unknown name lists the known ones."""
    from moodfuse.cli import group

    monkeypatch.setenv("MOODFUSE_HOME", str(tmp_path))
    monkeypatch.setitem(KNOWN_WEIGHTS, known.name, known)
    run = CliRunner()
    fetched = run.invoke(group, ["weights", "fetch", known.name])
    assert fetched.exit_code == 0 and str(tmp_path / "weights" / "net.pt") in fetched.output
    listed = run.invoke(group, ["weights", "ls"], terminal_width=200).output
    assert all(name in listed for name in (*KNOWN_WEIGHTS, "torchvision:r3d_18=KINETICS400_V1", "yes"))
    plain = CliRunner(charset="latin-1").invoke(group, ["weights", "ls"]).output
    assert known.name in plain and plain.isascii() and "\\u" not in plain
    long = run.invoke(group, ["weights", "ls", "--long", "--network", "c3d"]).output
    assert (
        "BGR x 1 - 90.25/97.66/101.4" in long and "none published" in long and "not loaded: fc6, fc7" in long
    )
    made = tmp_path / "out" / "net.safetensors"
    wrong = run.invoke(
        group, ["weights", "convert", str(tmp_path / "no"), "--network", "c3d", "--output", str(made)]
    )
    assert "no such file, and no known name" in str(wrong.exception) and not made.exists()
    unknown = run.invoke(group, ["weights", "fetch", "nothing"])
    assert "i3d-kinetics-piergiaj" in str(unknown.exception)
