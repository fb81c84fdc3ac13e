"""The three stages, export and prediction on real clips, by the commands of the README."""

import csv
import json
import os
from pathlib import Path

import pytest

from moodfuse.cli import main

LABELS, CLIPS_PER_LABEL = 2, 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A CSV of the first clips of the first labels."""
    folder = os.environ.get("MOODFUSE_CLIPS")
    if not folder:
        pytest.skip("MOODFUSE_CLIPS is not set: no folder of real clips")
    labels = sorted(path for path in Path(folder).iterdir() if path.is_dir())[:LABELS]
    clips = [(clip, label.name) for label in labels for clip in sorted(label.iterdir())[:CLIPS_PER_LABEL]]
    with open(tmp_path / "clips.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label"), *clips])
    return tmp_path / "clips.csv"


def run(*words: str | Path) -> None:
    """Run a command, which must succeed."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert not end.value.code


def test_real_clips_pass_all_stages(data: Path, tmp_path: Path) -> None:
    """Frozen features are fused and evaluated; the exported model labels a clip."""
    cache, model = ("--cache", tmp_path / "work"), tmp_path / "model"
    sources = ("--source", "twodmcnn", "--tune", "frozen")
    run("extract", data, *cache, *sources, "--folds", "2")
    run(
        "fuse",
        *cache,
        "--head",
        "softmax",
        "--repeats",
        "1",
        "--jobs",
        "1",
        "--export",
        "best",
        "--force",
        "--model",
        model,
    )
    run("evaluate", *cache, "--draws", "50")
    metrics = json.loads((tmp_path / "work" / "runs" / "run-1" / "report" / "metrics.json").read_text())
    assert metrics["clips"] == LABELS * CLIPS_PER_LABEL
    clip = next(csv.DictReader(data.open(encoding="utf-8")))["path"]
    run("predict", "--model", model, clip, "--output", tmp_path / "labels.jsonl")
    (row,) = map(json.loads, (tmp_path / "labels.jsonl").read_text().splitlines())
    assert row["label"] in metrics["classes"] and sum(row["probabilities"].values()) == pytest.approx(1)
