"""The wheel has every module and data file; requirements are declared and locked."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("cache", "extract", "fuse", "evaluate")


def test_the_wheel_has_every_file_and_the_command(tmp_path: Path) -> None:
    """Each module, recipe, template and format page is under moodfuse/, and no other file."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for folder in (*STAGES, "moodfuse"):
        shutil.copytree(ROOT / folder, checkout / folder, symlinks=True, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    in_stages = [file for stage in STAGES for file in (checkout / stage).rglob("*") if file.is_file()]
    expected = {f"moodfuse/{file.relative_to(checkout).as_posix()}" for file in in_stages}
    own = [file for file in (checkout / "moodfuse").rglob("*") if file.is_file()]
    expected |= {file.relative_to(checkout).as_posix() for file in own}
    hook = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    built = subprocess.run(
        [sys.executable, "-c", hook], cwd=checkout, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
        packed = {name for name in wheel.namelist() if not name.endswith("/")}
    assert packed - files.keys() == expected
    metadata = {name.partition(".dist-info/")[2]: text for name, text in files.items()}
    version = runpy.run_path(str(ROOT / "moodfuse" / "_version.py"))["__version__"]
    assert f"\nVersion: {version}\n" in metadata["METADATA"]
    assert "Apache License" in metadata["licenses/LICENSE"]
    assert "moodfuse = moodfuse.cli:main" in metadata["entry_points.txt"]


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The arguments that setup.py passes to setuptools."""
    arguments: dict[str, object] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **values: arguments.update(values))
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def requirements(setup_arguments: dict[str, object], *extras: str) -> dict[str, Requirement]:
    """Requirements of setup.py by name: those of every installation, and those of the extras."""
    required, optional = setup_arguments["install_requires"], setup_arguments["extras_require"]
    assert isinstance(required, list) and isinstance(optional, dict)
    texts = [*required, *(text for extra in extras for text in optional[extra])]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def test_lock_file_agrees_with_setup(setup_arguments: dict[str, object]) -> None:
    """requirements.lock pins each requirement of setup.py in its range, with hashes, for any index."""
    lock = (ROOT / "requirements.lock").read_text("utf-8").rstrip()
    assert "://" not in lock
    expected, pins = requirements(setup_arguments, "dev"), {}
    for entry in re.split(r"\n(?=\S)", lock):
        name, version = re.findall(r"^(\S+?)==(\S+)", entry)[0]
        assert "--hash=sha256:" in entry
        if "moodfuse (setup.py)" in entry:
            pins[name] = version
    assert pins.keys() == expected.keys(), "run: make lock"
    outside = [name for name, version in pins.items() if version not in expected[name].specifier]
    assert not outside, "run: make lock"


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        ((*STAGES, "moodfuse"), ("parquet", "serve", "distributed", "timm", "transformers")),
        (("tests", "benchmarks", "docs", "examples"), ("dev",)),
    ],
)
def test_every_import_is_declared(
    setup_arguments: dict[str, object], folders: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    """Each imported distribution is a requirement in setup.py: of its users, or for tests, of `dev`."""
    scripts = (path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*"))
    own = {"moodfuse", "tests", *scripts, *sys.stdlib_module_names}
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    names = {name for file in files for name in imported_modules(file)} - own
    declared, distributions = requirements(setup_arguments, *extras).keys(), packages_distributions()
    undeclared = {
        name for name in names if declared.isdisjoint(map(canonicalize_name, distributions.get(name, ())))
    }
    assert not undeclared


def imported_modules(file: Path) -> set[str]:
    """Names of the top-level modules that a file imports absolutely."""
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def test_container_and_conda_files_agree_with_the_repository(setup_arguments: dict[str, object]) -> None:
    """The container gets every file that its steps need, and the extras that are installed exist."""
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignore[1] == "*"
    kept = {line[1:] for line in ignore if line.startswith("!")}
    files = {"setup.py", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"}
    assert kept == {"moodfuse", *STAGES, *files}
    assert [name for name in kept if not (ROOT / name).exists()] == []
    optional = setup_arguments["extras_require"]
    assert isinstance(optional, dict)
    for file in ("Dockerfile", "environment.yml"):
        (extras,) = re.findall(r"\.\[([a-z,]+)\]", (ROOT / file).read_text("utf-8"))
        assert set(extras.split(",")) <= optional.keys()
