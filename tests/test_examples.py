"""The notebook of examples/ runs, and its commands are those of this version."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_quick_start_notebook(tmp_path: Path) -> None:
    """The code cells run in order, commands included, and write a report."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    notebook = json.loads((EXAMPLES / "quick_start.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lines = ["import subprocess"]
    for line in "\n".join(cells).splitlines():
        command = f"subprocess.run({line[1:]!r}, shell=True, check=True)"
        lines.append(command if line.startswith("!") else line)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=tmp_path / "examples",
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both sources instead of CLIP alone" in done.stdout
    report = "examples/data/cache/runs/run-1/report/report.html"
    assert (tmp_path / report).is_file()


def test_help_of_make_inputs_writes_nothing(tmp_path: Path) -> None:
    """An option is not the name of a folder."""
    call = [sys.executable, EXAMPLES / "make_inputs.py", "--help"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage: make_inputs.py [-h] [folder]" in done.stdout and not list(tmp_path.iterdir())


def test_make_inputs_overwrites_nothing(tmp_path: Path) -> None:
    """A file of one of its names stays as it is."""
    (tmp_path / "labels.csv").write_text("id,label\n")
    call = [sys.executable, EXAMPLES / "make_inputs.py"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "labels.csv already; give another folder" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["labels.csv"]
