"""The wheel that users install holds every module and data file, and nothing else."""

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
NOT_SOURCE = shutil.ignore_patterns("__pycache__", ".*")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a wheel is built from, so that building leaves nothing in the repository."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in (*STAGES, "moodfuse"):
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=NOT_SOURCE)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Build a wheel through the backend's own hook, as an installer does, with nothing fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    hook = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    built = subprocess.run(
        [sys.executable, "-c", hook], cwd=checkout, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.Path(path)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Give what setup.py hands to setuptools."""
    settings: dict[str, object] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: settings.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    return settings


def metadata(wheel: zipfile.Path, name: str) -> str:
    """Read one file of the wheel's metadata folder."""
    (folder,) = (entry for entry in wheel.iterdir() if entry.name.endswith(".dist-info"))
    return (folder / name).read_text("utf-8")


def test_wheel_holds_every_file(wheel: zipfile.Path, checkout: Path) -> None:
    """Each module, recipe, template and format page is in the wheel under moodfuse/, and no other file is."""
    in_stages = [path for stage in STAGES for path in files(checkout / stage)]
    stages = {f"moodfuse/{path.relative_to(checkout).as_posix()}" for path in in_stages}
    own = {path.relative_to(checkout).as_posix() for path in files(checkout / "moodfuse")}
    packed = {name for name in wheel.root.namelist() if not name.endswith("/")}
    assert {name for name in packed if ".dist-info/" not in name} == stages | own
    assert {"moodfuse/py.typed", "moodfuse/cache/FORMAT.md"} <= packed


def test_wheel_has_version_licence_and_command(wheel: zipfile.Path) -> None:
    """The wheel's metadata carries the version of moodfuse/_version.py, the licence and the `moodfuse` command."""
    version = runpy.run_path(str(ROOT / "moodfuse" / "_version.py"))["__version__"]
    assert f"\nVersion: {version}\n" in metadata(wheel, "METADATA")
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert "moodfuse = moodfuse.cli:main" in metadata(wheel, "entry_points.txt")


def requirements(described: dict[str, object], *extras: str) -> dict[str, Requirement]:
    """Requirements of setup.py by name: those of every installation, and those of some extras."""
    required, optional = described["install_requires"], described["extras_require"]
    assert isinstance(required, list)
    assert isinstance(optional, dict)
    parsed = [
        Requirement(text) for text in [*required, *(text for extra in extras for text in optional[extra])]
    ]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def test_lock_file_agrees_with_setup(described: dict[str, object]) -> None:
    """requirements.lock pins each requirement of setup.py to a version in its range, with hashes, and no other one."""
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text("utf-8").rstrip())
    pins = [re.match(r"(\S+?)==(\S+)", entry) for entry in entries]
    assert all(pins)
    assert all("--hash=sha256:" in entry for entry in entries)
    direct = {
        pin[1] for pin, entry in zip(pins, entries, strict=True) if pin and "moodfuse (setup.py)" in entry
    }
    wanted = requirements(described, "dev")
    assert direct == set(wanted), "run: make lock"
    outside = [pin[0] for pin in pins if pin and pin[1] in wanted and pin[2] not in wanted[pin[1]].specifier]
    assert not outside, "run: make lock"


def test_lock_file_names_no_index() -> None:
    """requirements.lock can be used with any package index."""
    assert "://" not in (ROOT / "requirements.lock").read_text("utf-8")


@pytest.mark.parametrize(
    ("folders", "extras"),
    [((*STAGES, "moodfuse"), ("parquet", "serve", "distributed")), (("tests", "benchmarks"), ("dev",))],
)
def test_every_import_is_declared(
    described: dict[str, object], folders: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    """Each distribution that a module imports is a requirement in setup.py: of its users, or for tests, of `dev`."""
    modules = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    scripts = (path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*"))
    own = {"moodfuse", "tests", *scripts}
    names = {name for module in modules for name in imported(module)} - own - sys.stdlib_module_names
    known = packages_distributions()
    declared = requirements(described, *extras)
    missing = {
        name
        for name in names
        if not {canonicalize_name(found) for found in known.get(name, ())} & set(declared)
    }
    assert not missing


def imported(file: Path) -> set[str]:
    """Names of the top-level modules that a file imports absolutely."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def files(folder: Path) -> list[Path]:
    """List the files under a folder, without links to other folders and what importing or building left there."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
