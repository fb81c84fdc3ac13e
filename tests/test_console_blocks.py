"""The commands of README.md and docs/ run, page by page, and print the lines that the pages show.

Every page starts in a copy of the folder of the first tutorial: the files of examples/make_inputs.py, a cache
`work` with the run `run-1`, and a model `model`. Numbers are not compared: they depend on the versions of
libraries.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIRST = ROOT / "docs" / "tutorials" / "clips.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {
    r"make |python examples/make_inputs\.py|\. \.venv|git clone|cd ": "sets up what this test has already",
    r"pip install|conda ": "changes the environment; needs a network",
    r"docker ": "needs Docker; `.ci/docker_steps` runs the steps of the Dockerfile",
    r"moodfuse demo": "tests/moodfuse/test_demo.py runs it",
    r"moodfuse .*(musicvideos|--cache (frozen|tuned)|hf:|timm:)": "needs the real clips or their weights",
    r"moodfuse .*dask://|dask |DASK_": "needs a Dask cluster; tests/extract/test_cluster.py starts one",
    r"python benchmarks/": "takes minutes to hours",
}
"""Start of a command that is not run -> the reason."""
SHORTER = {
    "moodfuse extract": "--source frame-stats --source audio-stats",
    "moodfuse fuse": "--head softmax --head mean",
}
"""Options for commands that name no source or head: the default ones take minutes to hours."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"^```(console|pycon)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block, with the lines of output below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def is_run(command: str) -> bool:
    """Whether no reason is listed against running a command."""
    return not any(re.match(start, command) for start in NOT_RUN)


def masked(text: str) -> str:
    """Text without its numbers, the rules of its tables and repeated spaces."""
    return " ".join(re.sub(r"\d+([.:]\d+)*|[─━]+", "0", text).split())


def run_page(page: Path, folder: Path) -> None:
    """Run the commands and the Python examples of a page in a folder."""
    with ExitStack() as stack:
        port = 0
        for language, block in blocks(page):
            if language == "pycon":
                run_python(block, folder)
                continue
            for command, shown in commands(block):
                if command.startswith("moodfuse serve"):
                    stack.close()
                    port = stack.enter_context(service(command, folder))
                elif is_run(command):
                    run_command(command.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), shown, folder)


def run_command(command: str, shown: list[str], folder: Path) -> None:
    """Run a command, and find the lines that the page shows in what it printed, in order."""
    command = re.sub(r"\s+# .*$", "", command)
    for start, options in SHORTER.items():
        if command.startswith(start) and not re.search("--(source|head|run|dry-run)", command):
            command += f" {options}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 3), f"{command}\n{done.stdout}"  # 3: files were refused
    rest = masked(done.stdout)
    for line in shown:
        if line.strip() not in ("", "..."):
            _, match, rest = rest.partition(masked(line.removesuffix("...")))
            assert match, f"{command}\ndoes not print, or not in this order:\n{line}\nbut:\n{done.stdout}"


def run_python(block: str, folder: Path) -> None:
    """Run a Python example with its results by doctest."""
    example = folder / "example.txt"
    example.write_text(block, encoding="utf-8")
    options = ["-o", "ELLIPSIS", "-o", "NORMALIZE_WHITESPACE"]
    done = subprocess.run(
        [sys.executable, "-m", "doctest", *options, str(example)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    """Environment whose `moodfuse` and `python` are those of the tests."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def service(command: str, folder: Path) -> Iterator[int]:
    """Run `moodfuse serve` on a free port, which is given once it answers, until the end of the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [*shlex.split(command, comments=True), "--port", str(port)]
    process = subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            assert process.poll() is None, f"{command} ended with exit code {process.returncode}"
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the first tutorial, after its commands."""
    folder = tmp_path_factory.mktemp("start")
    subprocess.run([sys.executable, ROOT / "examples" / "make_inputs.py", folder], check=True)
    run_page(FIRST, folder)
    return folder


def test_first_tutorial(start: Path) -> None:
    """The tutorial on labelled clips leaves the report and the model that it describes."""
    assert (start / "work" / "runs" / "run-1" / "report" / "report.html").is_file()
    assert (start / "model" / "model.json").is_file()


def commands_of(page: Path) -> list[str]:
    """The commands of a page, and its Python examples."""
    found = []
    for language, block in blocks(page):
        found += ["python"] if language == "pycon" else [command for command, _ in commands(block)]
    return found


OTHERS = [page for page in PAGES if page != FIRST and any(map(is_run, commands_of(page)))]


@pytest.fixture(scope="module")
def runs(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Future[None]]]:
    """The other pages, which run two at a time."""

    def run_copy(page: Path, folder: Path) -> None:
        shutil.copytree(start, folder, dirs_exist_ok=True)
        run_page(page, folder)

    pool = ThreadPoolExecutor(max_workers=2)
    yield {page: pool.submit(run_copy, page, tmp_path_factory.mktemp(page.stem)) for page in OTHERS}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page(page: Path, runs: dict[Path, Future[None]]) -> None:
    """Each command ends with exit code 0 or 3, and prints what the page shows."""
    runs[page].result()


def test_every_reason_not_to_run_a_command_has_one() -> None:
    """NOT_RUN lists no command that no page has."""
    found = [command for page in PAGES for command in commands_of(page)]
    assert [start for start in NOT_RUN if not any(re.match(start, command) for command in found)] == []


def test_commands_are_in_console_blocks() -> None:
    """No page shows commands in a block of another language, which would not be run."""
    pattern = re.compile(r"^```(bash|sh|shell)$", re.MULTILINE)
    assert [page for page in PAGES if pattern.search(page.read_text(encoding="utf-8"))] == []
