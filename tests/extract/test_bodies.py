"""Bodies of networks: kept once, and enough, with a tuned head, to make the network again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.embed import SourceWorker, make_network
from moodfuse.extract.inference import load_arrays, network_from_files
from moodfuse.extract.networks.weights.files import WeightsError
from moodfuse.extract.networks.weights.own_files import save_weights
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.tune_networks import save_body


class Noise:
    """A clip of noise in memory."""

    def read(self, digest: str) -> Media:
        rng = np.random.default_rng(len(digest))
        frames = rng.integers(0, 255, (32, 128, 171, 3), dtype=np.uint8)
        sound = rng.normal(0, 0.1, 480_000).astype(np.float32)
        return Media(frames, np.arange(32.0), sound, len(sound))


def recipe_of(source: str) -> Recipe:
    return build_recipe(source, RecipeChoice(device="cpu"))


@pytest.mark.parametrize("source", ["twodmcnn", "c3d"])
def test_a_kept_body_gives_the_same_bits(source: str, narrow: None, tmp_path: Path) -> None:
    """A network made from the file embeds a clip as the one that was kept did, though it drew other weights first."""
    recipe = recipe_of(source)
    network = make_network(recipe, None, 3)
    save_body(tmp_path / "body.safetensors", recipe, network)
    torch.manual_seed(7)
    again = network_from_files(recipe, 3, tmp_path / "body.safetensors")
    kept, found = (SourceWorker(recipe, item, Noise()).frozen_rows("a") for item in (network, again))
    assert kept.keys() == found.keys()
    assert all(np.array_equal(kept[name], found[name]) for name in kept)


def test_what_goes_with_weights_comes_from_the_recipe() -> None:
    """BatchNorm's epsilon and the preprocessing are those of the recipe, not the network's own."""
    own = recipe_of("i3d")
    recipe = replace(own, weights="0" * 64 + " bn_eps=0.0625", preprocessing=recipe_of("c3d").preprocessing)
    network = network_from_files(recipe, 2, None)
    assert {module.eps for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)} == {
        0.0625
    }
    assert network.preprocessing == network_from_files(recipe_of("c3d"), 2, None).preprocessing


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda arrays: arrays.pop(sorted(arrays)[0]), "is missing"),
        (lambda arrays: arrays.update(other=torch.zeros(1)), "belongs to no layer"),
        (lambda arrays: arrays.update({sorted(arrays)[0]: torch.zeros(3, 3)}), "expected"),
        (lambda arrays: arrays[sorted(arrays)[0]].fill_(float("nan")), "NaN or infinity"),
    ],
)
def test_another_file_is_refused(harm: object, said: str, tmp_path: Path) -> None:
    """A sealed file whose arrays are not those of the network is refused with what is wrong."""
    network = make_network(recipe_of("twodmcnn"), None, 2)
    arrays = {
        name: value.clone()
        for name, value in dict(
            SourceWorker(recipe_of("twodmcnn"), network, Noise()).tuned.state_dict()
        ).items()
    }
    harm(arrays)  # type: ignore[operator]
    save_weights(tmp_path / "head.safetensors", arrays, {})
    with pytest.raises(WeightsError, match=said):
        load_arrays(
            tmp_path / "head.safetensors",
            dict(SourceWorker(recipe_of("twodmcnn"), network, Noise()).tuned.state_dict()),
        )


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    """A body with one flipped bit is refused."""
    recipe, path = recipe_of("twodmcnn"), tmp_path / "body.safetensors"
    save_body(path, recipe, make_network(recipe, None, 2))
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedPartError, match="sealed"):
        network_from_files(recipe, 2, path)
