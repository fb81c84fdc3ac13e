"""Networks of hubs go through all stages: tuning at depth head, fusion, export, prediction elsewhere."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hub_models import save_huggingface, save_timm, save_torchvision

from moodfuse.cli import group
from moodfuse.extract import estimate
from moodfuse.extract.estimate import Estimate
from moodfuse.model.model import Model
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

RECIPE = """
name = "default"
threads = 1
[onedmcnn]
depth = "frozen"
[other]
head = { optimizer = "adamw", learning_rate = 5e-3, epochs = 2, patience = 2, batch = 8 }
"""
FAMILIES: dict[str, Callable[[Path], object]] = {
    "torchvision:shufflenet_v2_x0_5": lambda folder: save_torchvision("shufflenet_v2_x0_5", folder)[1],
    "timm:test_vit.r160_in1k": lambda folder: save_timm("test_vit.r160_in1k", folder)[1],
    "hf:clip": lambda folder: save_huggingface("clip", folder) and folder,
    "hf:dinov2": lambda folder: save_huggingface("dinov2", folder) and folder,
    "hf:siglip": lambda folder: save_huggingface("siglip", folder) and folder,
    "hf:videomae": lambda folder: save_huggingface("videomae", folder) and folder,
    "hf:wavlm": lambda folder: save_huggingface("wavlm", folder) and folder,
    "hf:ast": lambda folder: save_huggingface("ast", folder) and folder,
}
"""Source to what saves its checkpoint in a folder and returns the path."""


def run(*arguments: object) -> str:
    """Run a command and return its standard output."""
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(group, texts, catch_exceptions=False, prog_name="moodfuse")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are not timed before they run."""
    monkeypatch.setattr(estimate, "measure", lambda *args, **options: Estimate(60.0, 1.0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips in two folds, decoded in `work` with features of a frozen network; read-only."""
    folder = tmp_path_factory.mktemp("dataset")
    clip = ClipSettings(duration_s=2.0, width=64, height=48)
    settings = CorpusSettings(labels=("sad", "excited"), groups_per_label=4, clips_per_group=(1,), clip=clip)
    table = make_corpus(folder / "clips", settings=settings)
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [{**row, "fold": str(number % 2)} for number, row in enumerate(csv.DictReader(stream))]
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "tiny.toml").write_text(RECIPE)
    recipe = ("--recipe", folder / "tiny.toml", "--jobs", 1)
    run("extract", table, "--cache", folder / "work", "--source", "onedmcnn", *recipe)
    return folder


def predict_elsewhere(model: Path, file: str, folder: Path) -> list[float]:
    """Probabilities from a fresh process that has the model folder only."""
    moved = shutil.copytree(model, folder / "elsewhere" / "model")
    command = [sys.executable, "-m", "moodfuse", "predict", "--model", str(moved), file, "--format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["probabilities"].values())


@pytest.mark.parametrize("source", FAMILIES)
def test_a_network_of_a_hub_goes_through_all_stages(source: str, dataset: Path, tmp_path: Path) -> None:
    """Its head is tuned and fused, and the model labels a file without cache and checkpoint."""
    cache = shutil.copytree(dataset / "work", tmp_path / "work")
    (tmp_path / "download").mkdir()
    weights = FAMILIES[source](tmp_path / "download")
    options = ("--source", source, "--tune", f"{source}=head", "--weights", f"{source}={weights}")
    recipe = ("--recipe", dataset / "tiny.toml", "--jobs", 1, "--for-export")
    run("extract", dataset / "clips/clips.csv", "--cache", cache, *options, *recipe)
    combination = "+".join(sorted(("onedmcnn", source)))
    head = ("--combine", combination, "--head", "softmax", "--level", "logits", "--repeats", 1, "--jobs", 1)
    export = ("--export", f"{combination} softmax logits", "--model", tmp_path / "model")
    run("fuse", "--cache", cache, *head, *export)
    shutil.rmtree(tmp_path / "download")
    file = str(next((dataset / "clips").rglob("*.mp4")))
    expected = Model.load(tmp_path / "model").predict_proba([file])[0]
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(predict_elsewhere(tmp_path / "model", file, tmp_path), expected, atol=1e-6)
