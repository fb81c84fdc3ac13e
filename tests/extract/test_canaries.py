"""Files and names that refer to others are read as files, or refused: no other file is opened, and no host contacted."""

import csv
import json
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hostile.asking
from hostile.asking import mark
from hostile.canaries import CANARIES, SECRETS, make_canaries
from hostile.tracing import Trace, traced
from moodfuse.extract.media.decode import read_clip
from moodfuse.synthetic_corpus import ClipSettings, make_clip

SCRIPT = str(Path(hostile.asking.__file__))
ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())
SYSTEM = [
    "/usr/lib",
    "/lib",
    "/lib64",
    "/usr/share",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc",
    "/sys",
]
DEVICES = ["/dev/null", "/dev/shm", "/dev/urandom"]
PROGRAM = tuple({Path(path) for path in (*PYTHON, *map(os.path.realpath, PYTHON), *SYSTEM, *DEVICES)})
"""Where Python, the system's libraries and what else belongs to the program lie."""
NOT_IN_TABLES = ("no text", "holds a line break")  # names that a table or a line of output cannot contain


@pytest.fixture(scope="module")
def server_requests() -> list[str]:
    """The requests to a server that nobody should contact."""
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def names(folder: Path, server_requests: list[str]) -> Iterator[dict[str, str]]:
    """All canaries, with a server on this machine that would serve the secrets."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *values: object) -> None:
            server_requests.append(str(values))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield make_canaries(folder, server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def trace(names: dict[str, str], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The files that are opened when every canary is decoded."""
    log = tmp_path_factory.mktemp("trace") / "canaries.log"
    return traced([SCRIPT, "safe", json.dumps(list(names.values()))], folder=folder, log=log)


def foreign(trace: Trace, folder: Path, names: list[str]) -> list[str]:
    """Files that were opened, but neither requested nor part of the program."""
    own = (*PROGRAM, *(ROOT / room for room in ("cache", "extract", "fuse", "evaluate", "moodfuse", "tests")))
    allowed = {folder / name for name in names}
    found = {path for path in trace.opened if path.exists()}  # Python and the linker look in many places
    return sorted(str(path) for path in found - allowed if not any(map(path.is_relative_to, own)))


def test_canaries_open_only_themselves_and_reach_no_host(
    trace: Trace, folder: Path, names: dict[str, str], server_requests: list[str]
) -> None:
    assert len(CANARIES) >= 25 and not SECRETS & {*names.values()}
    assert foreign(trace, folder, list(names.values())) == []
    opened = {path.name for path in trace.opened if path.parent == folder}
    assert opened >= {"list.ffconcat", "link.mp4", "-i.mp4"}
    assert (trace.families, server_requests) == ((), [])


def test_each_canary_is_refused_or_read_for_what_it_is(
    trace: Trace, folder: Path, names: dict[str, str]
) -> None:
    """A good clip under an odd name gives its own features, everything else its reason."""
    marks = {mark(read_clip(folder / "clips" / name)) for name in ("mp4.mp4", "mkv.mkv", "late.mp4")}
    results = json.loads(trace.output)
    outcomes = {name: results[str(Path(asked))] for name, asked in names.items()}
    outcomes = {name: "features" if outcome in marks else outcome for name, outcome in outcomes.items()}
    unexpected = {name: code for name, code in outcomes.items() if code not in CANARIES[name].expected}
    assert unexpected == {}


@pytest.mark.parametrize(
    "followed",
    [
        {"ffconcat": "secret.mp4", "hls": "secret.ts", "image pattern": "secret-1.png", "sdp": "AF_INET"},
        {"alias": "secret.mp4", "concat:": "secret.ts", "ffconcat to a host": "AF_INET"},
        {"file:": "secret.mp4"},
    ],
)
def test_the_trace_sees_what_is_followed(
    followed: dict[str, str], folder: Path, names: dict[str, str], server_requests: list[str], tmp_path: Path
) -> None:
    """Opened without our options, the same files and names lead to a secret or a host, and the trace shows it."""
    asked = [names[name] for name in followed]
    trace = traced([SCRIPT, "unsafe", json.dumps(asked)], folder=folder, log=tmp_path / "log")
    found = {Path(path).name for path in foreign(trace, folder, asked)} | {*trace.families}
    server_requests.clear()
    assert {*followed.values()} <= found, trace.output


@pytest.mark.parametrize("command", ["check", "extract"])
def test_a_table_names_only_files(
    command: str, folder: Path, names: dict[str, str], server_requests: list[str], tmp_path: Path
) -> None:
    """A cell of a CSV is the name of a file, whatever it looks like."""
    expected = {asked: CANARIES[name].expected for name, asked in names.items() if name not in NOT_IN_TABLES}
    expected |= dict.fromkeys(("-", "/dev/no device"), frozenset({"missing"}))
    expected |= dict.fromkeys(("/dev/stdin", "/dev/zero", "clips", "."), frozenset({"not_a_file"}))
    good = [f"good-{number}.mp4" for number in range(4)]
    for number, name in enumerate(good):
        make_clip(folder / name, mood="sad", settings=ClipSettings(1.0, 64, 48, seed=number))
    table = folder / f"{command}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = [(name, "sad" if number % 2 else "fear", number) for number, name in enumerate(good)]
        rows += [(name, "fear", "") for name in expected]
        csv.writer(file).writerows([("path", "label", "group"), *rows])
    arguments = ["-m", "moodfuse", command, table.name, "--folds", "2", "--jobs", "2"]
    cache = tmp_path / "work"
    if command == "extract":
        arguments += ["--cache", str(cache), "--source", "onedmcnn", "--dry-run"]
    trace = traced(arguments, folder=folder, log=tmp_path / "log")
    refused = dict(re.findall(r"refused (.*): (\w+): ", trace.output + trace.errors))
    outcomes = {name: refused.get(name, "features") for name in (*expected, *good)}
    unexpected = {name for name, code in outcomes.items() if code not in expected.get(name, {"features"})}
    assert unexpected == set()
    opened = foreign(trace, folder, [*expected, *good, table.name])
    assert [path for path in opened if not Path(path).is_relative_to(cache)] == []
    assert (trace.families, server_requests) == ((), [])
