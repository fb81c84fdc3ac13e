"""Imported features in models: the network that made them is exported with the model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_models import save_timm
from hub_stages import run

from moodfuse.cache.errors import InputError
from moodfuse.cache.store import FeatureCache
from moodfuse.model.model import Model

SOURCE = "timm:test_vit.r160_in1k"


@pytest.fixture(scope="module")
def features(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with features of a frozen network, `features.npz`, and its weights, `model.safetensors`."""
    folder = tmp_path_factory.mktemp("features")
    _, weights = save_timm(SOURCE.removeprefix("timm:"), folder)
    cache = shutil.copytree(dataset / "work", folder / "work")
    options = ("--source", SOURCE, "--weights", f"{SOURCE}={weights}", "--recipe", dataset / "tiny.toml")
    run("extract", dataset / "clips/clips.csv", "--cache", cache, *options, "--jobs", 1)
    run("cache", "export", "--cache", cache, "--source", SOURCE, "--output", folder / "features.npz")
    return folder


@pytest.fixture
def fuse_imported(dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    """Import a file as the source `brought`, fuse it and export a model."""

    def fuse(file: Path, *options: str) -> Path:
        cache, model = shutil.copytree(dataset / "work", tmp_path / "work"), tmp_path / "model"
        run("cache", "import", file, "--cache", cache, "--source", "brought", "--holdout", "*", *options)
        combine = ("--combine", "brought+onedmcnn", "--head", "softmax", "--level", "logits", "--repeats", 1)
        export = ("--export", "brought+onedmcnn softmax logits", "--model", model, "--force", "--jobs", 1)
        run("fuse", "--cache", cache, *combine, *export)
        return model

    return fuse


def test_a_model_contains_the_network_that_made_the_features(
    features: Path, dataset: Path, fuse_imported: Callable[..., Path], tmp_path: Path
) -> None:
    """It labels files, and its embedding of a clip is the imported one."""
    model = Model.load(fuse_imported(features / "features.npz", "--made-by", f"{SOURCE}={features}"))
    file = next((dataset / "clips").rglob("*.mp4"))
    assert np.ptp(model.predict_proba([str(file)])[0]) > 0
    cache = FeatureCache(tmp_path / "work")
    assert cache.recipe("brought").made_by == f"{SOURCE}={features}"
    assert {source.recipe.network for source in model.card.sources} == {SOURCE, "onedmcnn"}
    with pytest.raises(InputError, match="was imported with --made-by .*; use another --source name"):
        run("cache", "import", features / "features.npz", "--cache", cache.path, "--source", "brought",
            "--holdout", "*")  # fmt: skip


def test_features_of_another_network_are_refused(
    features: Path, fuse_imported: Callable[..., Path], tmp_path: Path
) -> None:
    """The message has the error; without a name of the network it is the option."""
    with np.load(features / "features.npz") as arrays:
        values = dict(arrays)
    values["embedding"] = values["embedding"] + np.float32(0.1)
    np.savez(tmp_path / "other.npz", **values)
    with pytest.raises(InputError, match="makes other features of .* a relative error of 0"):
        fuse_imported(tmp_path / "other.npz", "--made-by", f"{SOURCE}={features}")
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(
        InputError, match="brought was imported, .* import it under another name with --made-by"
    ):
        fuse_imported(features / "features.npz")


def test_a_cache_does_not_choose_what_an_export_imports(
    features: Path, fuse_imported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a cache of an older version, which did not check the name, may name anything."""
    monkeypatch.setattr("moodfuse.extract.recipe_files.check_made_by", lambda text: None)
    with pytest.raises(InputError, match="no installed package registers the network 'numpy:ndarray'"):
        fuse_imported(features / "features.npz", "--made-by", "numpy:ndarray")


def test_made_by_needs_features_of_a_frozen_network(features: Path, dataset: Path) -> None:
    with pytest.raises(InputError, match="--made-by is for features of a frozen network"):
        run("cache", "import", features / "features.npz", "--cache", dataset / "work", "--source", "x",
            "--holdout", "{0}", "--made-by", SOURCE)  # fmt: skip
