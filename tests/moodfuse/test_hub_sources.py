"""Networks of hubs go through all stages: tuning at depth head, fusion, export, prediction elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_models import (
    add_tiny_bundle,
    save_huggingface,
    save_timm,
    save_tiny_bundle,
    save_torchvision,
)

from moodfuse.model.model import Model

FAMILIES: dict[str, Callable[[Path], object]] = {
    "torchvision:shufflenet_v2_x0_5": lambda folder: save_torchvision("shufflenet_v2_x0_5", folder)[1],
    "timm:test_vit.r160_in1k": lambda folder: save_timm("test_vit.r160_in1k", folder)[1],
    "hf:clip": lambda folder: save_huggingface("clip", folder) and folder,
    "hf:dinov2": lambda folder: save_huggingface("dinov2", folder) and folder,
    "hf:siglip": lambda folder: save_huggingface("siglip", folder) and folder,
    "hf:videomae": lambda folder: save_huggingface("videomae", folder) and folder,
    "hf:wavlm": lambda folder: save_huggingface("wavlm", folder) and folder,
    "hf:ast": lambda folder: save_huggingface("ast", folder) and folder,
    "hf:clap": lambda folder: save_huggingface("clap", folder) and folder,
    "hf:mert": lambda folder: save_huggingface("mert", folder) and folder,
    "torchaudio:TINY": save_tiny_bundle,
}
"""Source to what saves its checkpoint in a folder and returns the path."""
ROOT = Path(__file__).resolve().parents[2]
WITH_TINY_BUNDLE = """
import sys
import pytest
from hub_models import add_tiny_bundle
from moodfuse.cli import main
add_tiny_bundle(pytest.MonkeyPatch())
main(sys.argv[1:])
"""


@pytest.mark.parametrize("source", FAMILIES)
def test_a_network_of_a_hub_goes_through_all_stages(
    source: str,
    export: Callable[..., Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its head is tuned and fused; a new process labels a file without cache and checkpoint."""
    (tmp_path / "download").mkdir()
    if source.startswith("torchaudio:"):  # the models of torchaudio take seconds a clip
        add_tiny_bundle(monkeypatch)
    model = export(source, tmp_path, FAMILIES[source](tmp_path / "download"))
    shutil.rmtree(tmp_path / "download")
    file = str(next((dataset / "clips").rglob("*.mp4")))
    expected = Model.load(model).predict_proba([file])[0]
    assert np.ptp(expected) > 0
    if source == "hf:mert":  # reads audio at 24 kHz
        (over_time,) = Model.load(model).timeline(file).probabilities
        np.testing.assert_allclose(over_time, expected, atol=1e-6)
    moved = shutil.copytree(model, tmp_path / "elsewhere" / "model")
    command = [sys.executable, "-m", "moodfuse"]
    if source.startswith("torchaudio:"):
        command[1:] = ["-c", WITH_TINY_BUNDLE]
    command += ["predict", "--model", str(moved), file, "--format", "jsonl"]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/extract")))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    predicted = list(json.loads(done.stdout)["probabilities"].values())
    np.testing.assert_allclose(predicted, expected, atol=1e-6)


def test_short_windows_go_through_all_stages(
    export: Callable[..., Path], dataset: Path, tmp_path: Path
) -> None:
    """The model reads them as well, in a whole file and in a window that moves over it."""
    folder = export("frame-stats", tmp_path, others=("--frames", "frame-stats=windows:2@10"))
    (recipe,) = (
        entry["recipe"]
        for entry in json.loads((folder / "model.json").read_text())["sources"]
        if entry["recipe"]["source"] == "frame-stats"
    )
    preprocessing = json.loads(recipe["preprocessing"])
    assert (preprocessing["windows"], preprocessing["frame_rate_hz"]) == (2, 10.0)
    file = str(next((dataset / "clips").rglob("*.mp4")))
    model = Model.load(folder)
    (over_time,) = model.timeline(file).probabilities
    np.testing.assert_array_equal(over_time, model.predict_proba([file])[0])


@pytest.mark.parametrize("source", ["hf:clip", "hf:wavlm"])
def test_a_network_tuned_in_its_last_block_goes_through_all_stages(
    source: str, export: Callable[..., Path], dataset: Path, tmp_path: Path
) -> None:
    """Networks of both folds are stored whole and differ, so the model has no file of shared layers."""
    (tmp_path / "download").mkdir()
    model = export(source, tmp_path, FAMILIES[source](tmp_path / "download"), depth="last:1")
    shutil.rmtree(tmp_path / "download")
    sources = {
        entry["recipe"]["source"]: entry
        for entry in json.loads((model / "model.json").read_text())["sources"]
    }
    assert sources[source]["recipe"]["depth"] == "last:1" and sources[source]["body"] is None
    file = str(next((dataset / "clips").rglob("*.mp4")))
    assert np.ptp(Model.load(model).predict_proba([file])[0]) > 0
