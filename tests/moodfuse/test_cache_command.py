"""`moodfuse cache import --made-by` is checked before anything is read."""

import subprocess
import sys
from pathlib import Path

import pytest

from moodfuse.cache.errors import UnknownNameError
from moodfuse.cli import group

WORDS = ["cache", "import", "none.npz", "--cache", "work", "--source", "x", "--holdout", "*", "--made-by"]


@pytest.mark.parametrize("name", ["hff:facebook/dinov2-base", "c4d=file", "numpy:ndarray"])
def test_an_unknown_network_is_reported_at_import_with_the_known_ones(name: str) -> None:
    """Only networks that a model folder may name are accepted."""
    with pytest.raises(UnknownNameError, match="unknown network of --made-by .*; known: .*c3d.*hf:MODEL"):
        group.main([*WORDS, name], standalone_mode=False)


def test_known_networks_are_checked_without_torch(tmp_path: Path) -> None:
    """Importing torch takes seconds."""
    code = (
        "import sys\nfrom moodfuse.cli import main\n"
        f"try:\n    main({[*WORDS, 'hf:facebook/dinov2-base=folder']!r})\n"
        "finally:\n    print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "none.npz" in done.stderr and done.stdout.strip() == "False"
