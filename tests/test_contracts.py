"""The import contracts of pyproject.toml hold, and each of them can fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOW = "Data flows one way"
TORCH = "Only extract imports torch"
H5PY = "Only cache imports h5py"
PICKLE = "No pickle anywhere"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in a folder."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    call = [sys.executable, "-c", command, "--no-cache", "--no-logo"]
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(call, cwd=folder, env=wide, capture_output=True, text=True, timeout=60)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy the packages and the contracts to a folder where an import can be added."""
    for folder in ("cache", "extract", "fuse", "evaluate", "moodfuse"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold() -> None:
    """import-linter finds no import that the contracts forbid."""
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("package", "imported", "contract"),
    [
        ("cache", "moodfuse.extract", FLOW),
        ("fuse", "moodfuse.evaluate", FLOW),
        ("evaluate", "moodfuse.cli", FLOW),
        ("fuse", "torch", TORCH),
        ("moodfuse", "torchvision", TORCH),
        ("evaluate", "h5py", H5PY),
        ("extract", "pickle", PICKLE),
    ],
)
def test_forbidden_import_breaks_its_contract(copy: Path, package: str, imported: str, contract: str) -> None:
    """A forbidden import, even inside a function, breaks the contract that names it, and no other."""
    (copy / package / "added.py").write_text(f"def load():\n    import {imported}\n    return {imported}\n")
    result = lint_imports(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = [line.partition(" BROKEN")[0] for line in result.stdout.splitlines() if " BROKEN" in line]
    assert broken == [contract]


@pytest.mark.parametrize(
    "name", ["moodfuse", "moodfuse.cache", "moodfuse.extract", "moodfuse.fuse", "moodfuse.evaluate"]
)
def test_importing_a_package_loads_no_heavy_library(name: str) -> None:
    """Importing a package's top level loads neither torch nor the libraries that only a fit needs."""
    heavy = ("torch", "sklearn", "lightgbm")
    code = f"import sys, {name}; print(*sorted(set(sys.modules) & set({heavy!r})))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
