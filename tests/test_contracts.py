"""The import contracts of pyproject.toml hold, and each of them can fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cache", "extract", "fuse", "evaluate", "moodfuse")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in a folder."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    call = [sys.executable, "-c", command, "--no-cache", "--no-logo"]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_forbidden_imports_break_their_contracts(tmp_path: Path) -> None:
    """Forbidden imports, even inside functions, break the contracts that name them."""
    for folder in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package, imported in (
        ("cache", "moodfuse.extract"),
        ("fuse", "torch"),
        ("evaluate", "h5py"),
        ("extract", "pickle"),
    ):
        module = f"def load():\n    import {imported}\n    return {imported}\n"
        (tmp_path / package / "added.py").write_text(module)
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = {line.partition(" BROKEN")[0] for line in result.stdout.splitlines() if " BROKEN" in line}
    assert broken >= {
        "Data flows one way",
        "Only extract imports torch",
        "Only cache imports h5py",
        "No pickle except in the restricted reader of weights",
    }


def test_importing_a_package_loads_no_heavy_library() -> None:
    """The top level of a package imports neither torch nor the libraries that only a fit needs."""
    names = ["moodfuse", *(f"moodfuse.{name}" for name in PACKAGES[:-1])]
    code = f"import sys, {', '.join(names)}; print(*{{'torch', 'sklearn', 'lightgbm'}} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == ""
