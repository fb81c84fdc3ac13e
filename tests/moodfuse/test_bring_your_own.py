"""Features and a table of labels are enough: import, fuse and evaluate without media or a network."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moodfuse.cli import group

LABELS = ("fear", "joy", "sad")
IDS = tuple(f'{LABELS[number % 3]}/a "clip", no. {number}\nof 24' for number in range(24))


def run(*arguments: str) -> str:
    """Run a command and return its standard output."""
    result = CliRunner().invoke(group, list(arguments), catch_exceptions=False, prog_name="moodfuse")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_from_features_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sources, their rows in different orders, are fused at both levels and reported."""
    monkeypatch.chdir(tmp_path)
    with open("labels.csv", "w", newline="", encoding="utf-8") as stream:
        rows = ((name, LABELS[row % 3], f"song {row // 6}-{row % 3}") for row, name in enumerate(IDS))
        csv.writer(stream).writerows([("id", "label", "group"), *rows])
    rng, cache = np.random.default_rng(0), ("--cache", "work")
    for source, width, plan in (
        ("clip-vit", 6, ("--labels", "labels.csv", "--folds", "3")),
        ("wav2vec", 4, ()),
    ):
        embedding = 3 * rng.normal(size=(3, width))[np.arange(24) % 3] + rng.normal(size=(24, width))
        order = rng.permutation(24)
        np.savez(f"{source}.npz", id=np.array(IDS)[order], embedding=embedding[order])
        shown = run("cache", "import", *cache, "--source", source, "--holdout", "*", *plan, f"{source}.npz")
        assert shown.startswith(f"24 clips, embedding {width}; 24 rows written to source {source}, holdout *")
    fused = run("fuse", *cache, "--head", "softmax", "--head", "mean", "--repeats", "1", "--jobs", "1")
    for name in ("softmax logits", "softmax embedding", "mean logits"):
        assert f"clip-vit+wav2vec {name}" in fused
    run("evaluate", *cache, "--draws", "50")
    report = tmp_path / "work" / "runs" / "run-1" / "report"
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["clips"] == 24 and metrics["groups"] == 12 and len(metrics["results"]) == 9
    assert max(result["accuracy"] for result in metrics["results"]) > 0.8
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" not in page and "moodfuse cache import clip-vit.npz --cache work" in page
