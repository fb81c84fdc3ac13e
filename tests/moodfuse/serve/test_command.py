"""`moodfuse serve`: address, options, and end."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")

from running_service import SLOW, Served, StandIn, wait_until, wait_until_empty

from moodfuse.serve import command
from moodfuse.serve.command import serve_command
from moodfuse.serve.messages import MIB, Limits

ROOT = Path(__file__).resolve().parents[3]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says how to install it."""
    monkeypatch.setattr("moodfuse.serve.command.importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(serve_command, ["--model", "m"])
    assert "pip install 'moodfuse[serve]'" in str(done.exception)


COMMAND = """
import sys, types
from running_service import StandIn
module = types.ModuleType("moodfuse.model.model")
load = lambda folder, device, limits: StandIn(delay_s=60)
module.Model = type("Model", (), {"load": staticmethod(load)})
sys.modules["moodfuse.model.model"] = module
from moodfuse.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("number", "busy"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_the_command_serves_until_it_is_interrupted(
    tmp_path: Path, clip: bytes, number: int, busy: bool
) -> None:
    """It prints its address, labels, and ends at Ctrl-C or SIGTERM; with a thread at work, at the second."""
    call = [sys.executable, "-c", COMMAND, "serve", "--model", "m", "--port", "0"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent))),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(call, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        match = re.search(r"http://127.0.0.1:(\d+)/", said)
        assert match, said + process.stderr.read()
        running = Served("127.0.0.1", int(match[1]))
        wait_until(lambda: connects(running))
        assert running.predict(clip).status == 200 and len(os.listdir(tmp_path)) == 1
        if busy:
            with ThreadPoolExecutor(1) as background:
                waits = background.submit(running.predict, SLOW)
                wait_until(lambda: bool(wait_until_empty(tmp_path, seconds=0)))
                process.send_signal(signal.SIGINT)
                assert waits.result().code == "stopping"
        process.send_signal(number)
        said += process.stderr.read()
        assert process.wait(timeout=20) == (130 if busy else 0), said
    assert os.listdir(tmp_path) == [] and "login" not in said and said.endswith("stopped\n") != busy


def connects(running: Any) -> bool:
    try:
        return bool(running.ask("GET", "/health").status == 200)
    except OSError:
        return False


def test_a_port_that_is_taken_is_named() -> None:
    """The error comes before the model is loaded, and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(serve_command, ["--model", "m", "--port", str(port)])
    assert f"cannot listen on 127.0.0.1, port {port}" in str(done.exception) and "--port" in str(
        done.exception
    )


@pytest.mark.parametrize("name", ["http://mood.example.org", "mood.example.org:443"])
def test_allow_host_takes_a_name_only(name: str) -> None:
    """A port, a scheme or a path is refused."""
    done = CliRunner().invoke(serve_command, ["--model", "m", "--allow-host", name])
    assert f"--allow-host {name!r}: expected a host name" in str(done.exception)


def test_an_address_that_others_reach_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other than on loopback there is a warning, and any host name is allowed; options set the limits."""
    apps: list[Any] = []
    loaded: list[Any] = []

    def load(folder: Path, *, device: str, limits: Any) -> Any:
        loaded.append((device, limits.memory_mb, limits.deadline_s))
        return StandIn()

    model = SimpleNamespace(Model=SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "moodfuse.model.model", model)
    monkeypatch.setattr(
        command, "make_server", lambda app: SimpleNamespace(run=lambda sockets: apps.append(app))
    )
    local = {"localhost", "127.0.0.1", "[::1]"}
    options = (
        "--model m --port 0 --max-upload 3 --at-once 4 --timeout 9 --memory 512 --deadline 7 --device cpu"
    )
    for address, hosts in (
        ("--host 0.0.0.0 --metrics --no-access-log", None),
        ("--host 127.0.0.1", local),
        ("--host 127.0.0.1 --allow-host b.example", {*local, "b.example"}),
    ):
        done = CliRunner().invoke(serve_command, f"{options} {address}".split(), catch_exceptions=False)
        assert done.exit_code == 0 and ("there is no login" in done.output) == (hosts is None)
        assert apps[-1].user_middleware[1].kwargs == {"hosts": hosts}
        assert apps[-1].user_middleware[0].kwargs["is_logged"] is (hosts is not None)
        assert any(route.path == "/metrics" for route in apps[-1].routes) is (hosts is None)
        assert apps[-1].state.jobs.limits == Limits(upload_bytes=3 * MIB, at_once=4, request_s=9.0)
        assert loaded[-1] == ("cpu", 512, 7.0)
