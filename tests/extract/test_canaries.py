"""Files and names that point at others are read as files, or refused: nothing else is opened, and no host is asked."""

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
from hostile.tracing import Trace, find_strace, read_log, traced
from moodfuse.extract.media.decode import read_clip
from moodfuse.synthetic_corpus import ClipSettings, make_clip

SCRIPT = str(Path(hostile.asking.__file__))
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = tuple(
    map(
        Path,
        {
            *(
                os.path.realpath(path)
                for path in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())
            ),
            *(sys.prefix, sys.base_prefix, "/usr/lib", "/lib", "/lib64", "/usr/share", "/etc/ld.so.cache"),
            *("/proc", "/sys", "/dev/null", "/dev/shm", "/dev/urandom", "/etc/localtime", "/usr/local/lib"),
        },
    )
)
"""Where what belongs to the program lies, Python and the system's libraries with it."""
UNTOLD = ("no text", "holds a line break")
"""Canaries whose names a table in UTF-8 cannot hold, or a line cannot show as they are."""


@pytest.fixture(scope="module")
def asked_of_server() -> list[str]:
    """What was asked of the server, which nobody should know of."""
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def names(folder: Path, asked_of_server: list[str]) -> Iterator[dict[str, str]]:
    """Every canary made, with a server on this machine that would give the secrets."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *values: object) -> None:
            asked_of_server.append(str(values))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield make_canaries(folder, server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def trace(names: dict[str, str], folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What decoding every canary opens."""
    log = tmp_path_factory.mktemp("trace") / "canaries.log"
    return traced([SCRIPT, "safe", json.dumps(list(names.values()))], folder=folder, log=log)


def strange(trace: Trace, folder: Path, names: list[str]) -> list[str]:
    """What was opened that is neither asked for nor the program's own."""
    own = (*PROGRAM, *(ROOT / room for room in ("cache", "extract", "fuse", "evaluate", "moodfuse", "tests")))
    allowed = {folder / name for name in names}
    found = {path for path in trace.opened if path.exists()}  # Python and the linker look in many places
    return sorted(str(path) for path in found - allowed if not any(map(path.is_relative_to, own)))


def test_canaries_open_nothing_but_themselves(trace: Trace, folder: Path, names: dict[str, str]) -> None:
    """Of files that are not the program's own only those asked for are opened, and no secret among them."""
    assert len(CANARIES) >= 25 and not SECRETS & {*names.values()}
    assert strange(trace, folder, list(names.values())) == []
    assert {path.name for path in trace.opened if path.parent == folder} >= {
        "list.ffconcat",
        "link.mp4",
        "-i.mp4",
    }


def test_canaries_reach_no_host(trace: Trace, asked_of_server: list[str]) -> None:
    """No socket is made, of this machine or another, and nothing is asked of the server."""
    assert trace.families == ()
    assert asked_of_server == []


def test_each_canary_is_refused_or_read_for_what_it_is(
    trace: Trace, folder: Path, names: dict[str, str]
) -> None:
    """A good clip under an odd name gives its own features, everything else its reason."""
    marks = {mark(read_clip(folder / "clips" / name)) for name in ("mp4.mp4", "mkv.mkv", "late.mp4")}
    found = json.loads(trace.said)
    outcomes = {name: found[str(Path(asked))] for name, asked in names.items()}
    outcomes = {name: "features" if outcome in marks else outcome for name, outcome in outcomes.items()}
    assert {
        name: outcome for name, outcome in outcomes.items() if outcome not in CANARIES[name].expected
    } == {}


@pytest.mark.parametrize(
    "followed",
    [
        {"ffconcat": "secret.mp4", "hls": "secret.ts", "image pattern": "secret-1.png", "sdp": "AF_INET"},
        {"alias": "secret.mp4", "concat:": "secret.ts", "ffconcat to a host": "AF_INET"},
        {"file:": "secret.mp4"},
    ],
)
def test_the_trace_sees_what_is_followed(
    followed: dict[str, str], folder: Path, names: dict[str, str], asked_of_server: list[str], tmp_path: Path
) -> None:
    """Opened without care, the same files and names lead each to a secret or a host, and the trace shows it."""
    asked = [names[name] for name in followed]
    trace = traced([SCRIPT, "unsafe", json.dumps(asked)], folder=folder, log=tmp_path / "log")
    found = {Path(path).name for path in strange(trace, folder, asked)} | {*trace.families}
    asked_of_server.clear()
    assert {*followed.values()} <= found, trace.said


@pytest.mark.parametrize("command", ["check", "extract"])
def test_a_table_names_files_alone(
    command: str, folder: Path, names: dict[str, str], asked_of_server: list[str], tmp_path: Path
) -> None:
    """What a CSV says is a file's name, however it reads: it is refused by its reason, and nothing waits or follows."""
    expected = {asked: CANARIES[name].expected for name, asked in names.items() if name not in UNTOLD}
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
    refused = dict(re.findall(r"refused (.*): (\w+): ", trace.said + trace.warned))
    outcomes = {name: refused.get(name, "features") for name in (*expected, *good)}
    assert {
        name: code for name, code in outcomes.items() if code not in expected.get(name, {"features"})
    } == {}
    opened = strange(trace, folder, [*expected, *good, table.name])
    assert [path for path in opened if not Path(path).is_relative_to(cache)] == []
    assert (trace.families, asked_of_server) == ((), [])


@pytest.mark.parametrize(
    ("required", "what"), [("", pytest.skip.Exception), ("required", pytest.fail.Exception)]
)
def test_without_strace_it_is_said(
    required: str, what: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These tests are skipped where it is not installed, and fail where it is required."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("MOODFUSE_STRACE", required)
    with pytest.raises(what, match="apt-get install strace"):
        find_strace()


def test_a_log_is_read_line_by_line(tmp_path: Path) -> None:
    """Paths in octal, calls that were interrupted, folders, and sockets of every family."""
    log = (
        '7 openat(AT_FDCWD, "a\\303\\244 \\"b\\"", O_RDONLY|O_CLOEXEC) = 3\n'
        '8 open("/c", O_RDONLY <unfinished ...>\n'
        '8 openat2(AT_FDCWD, "/d", {flags=O_RDONLY, resolve=0}, 24) = 4\n'
        '8 openat(AT_FDCWD, "/e", O_RDONLY|O_DIRECTORY) = 4\n'
        "8 socket(AF_INET6, SOCK_DGRAM, 0) = 5\n"
        '8 connect(5, {sa_family=AF_UNIX, sun_path="/run/nscd"}, 110) = -1 ENOENT\n'
    )
    opened, families = read_log(log, tmp_path)
    assert opened == (tmp_path / 'aä "b"', Path("/c"), Path("/d"))
    assert families == ("AF_INET6", "AF_UNIX")
