"""What checkpoints and model folders of others may not do: run code, read other files, choose imports."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_models import save_huggingface

from moodfuse.cache.errors import InputError
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.inference import check_shipped_recipe
from moodfuse.extract.networks import WeightsError, weights_facts
from moodfuse.extract.recipe_files import RecipeChoice, name_hf_sources

pytestmark = pytest.mark.usefixtures("one_thread")


def test_no_code_of_a_checkpoint_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A processor in a file of the checkpoint is refused without a question."""
    save_huggingface("clip", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nclass Processor: pass\n")
    processor = {"image_processor_type": "Processor", "auto_map": {"AutoImageProcessor": "evil.Processor"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises((WeightsError, InputError)):
        weights_facts(str(tmp_path), "hf:clip")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("weight_map", [{}, {"a": "../other.safetensors"}, ["a"]])
def test_an_index_lists_files_of_its_own_folder(weight_map: Any, tmp_path: Path) -> None:
    """Weights that are split are not read from elsewhere."""
    save_huggingface("clip", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "other.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match="does not list files of this folder"):
        weights_facts(str(tmp_path), "hf:clip")


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    """Also where a key is absent that the library expects."""
    save_huggingface("clip", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="config.json or preprocessor_config.json cannot be used"):
        weights_facts(str(tmp_path), "hf:clip")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["hf:a/clip@v1", "hf:a/clip@v2"], "would both be called hf:a--clip"),
        (["hf:"], "names no repository and no folder"),
        (["hf:/"], "names no repository and no folder"),
    ],
)
def test_names_of_hugging_face_are_one_to_one(sources: list[str], message: str) -> None:
    """Two revisions or folders of one name are refused."""
    with pytest.raises(InputError, match=message):
        name_hf_sources(sources, RecipeChoice(device="cpu"))


@pytest.mark.parametrize("network", ["numpy.f2py.__main__:x", "colours:SPEC"])
def test_a_model_folder_does_not_choose_what_is_imported(network: str) -> None:
    """Only networks of moodfuse, of hubs and of entry points."""
    recipe = Recipe("other", network, 1, "random", "{}", "frozen", None, False)
    with pytest.raises(InputError, match="no installed package registers the network"):
        check_shipped_recipe(recipe)
