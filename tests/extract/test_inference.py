"""Sources of exported models: stored bodies and tuned networks give the bits of training, and bad files are refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.cache.errors import DamagedPartError, InputError
from moodfuse.cache.media import Media
from moodfuse.cache.recipe import Recipe
from moodfuse.extract.inference import (
    ShippedSource,
    SourceWorker,
    check_shipped_recipe,
    load_arrays,
    make_network,
    network_from_files,
)
from moodfuse.extract.networks.weights.files import WeightsError, save_weights
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.tune_networks import save_body

RNG = np.random.default_rng(3)
AUDIO = RNG.normal(0, 0.1, 480_000).astype(np.float32)
NOISE = Media(RNG.integers(0, 255, (32, 128, 171, 3), dtype=np.uint8), np.arange(32.0), AUDIO, len(AUDIO))


def recipe_of(source: str, depth: str | None = None) -> Recipe:
    return build_recipe(source, RecipeChoice(device="cpu", depth=depth))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two clips' rows are equal bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("source", ["twodmcnn", "c3d"])
def test_a_stored_body_gives_the_same_bits(source: str, narrow: None, tmp_path: Path) -> None:
    """A network made from the file embeds a clip as the stored one did, whatever the random state."""
    recipe = recipe_of(source)
    network = make_network(recipe, None, 3)
    save_body(tmp_path / "body.safetensors", recipe, network)
    torch.manual_seed(7)
    again = network_from_files(recipe, 3, tmp_path / "body.safetensors")
    assert same(*(SourceWorker(recipe, item).frozen_rows_of(NOISE) for item in (network, again)))


def test_settings_of_weights_come_from_the_recipe() -> None:
    """BatchNorm's epsilon and the preprocessing are those of the recipe, not the network's own."""
    other = recipe_of("c3d").preprocessing
    recipe = replace(recipe_of("i3d"), weights="0" * 64 + " bn_eps=0.0625", preprocessing=other)
    network = network_from_files(recipe, 2, None)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert {norm.eps for norm in norms} == {0.0625}
    assert network.preprocessing == network_from_files(recipe_of("c3d"), 2, None).preprocessing


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda arrays: arrays.pop(sorted(arrays)[0]), "is missing"),
        (lambda arrays: arrays.update(other=torch.zeros(1)), "belongs to no layer"),
        (lambda arrays: arrays.update({sorted(arrays)[0]: torch.zeros(3, 3)}), "expected"),
        (lambda arrays: arrays[sorted(arrays)[0]].fill_(float("nan")), "NaN or infinity"),
    ],
)
def test_arrays_of_another_network_are_refused(
    harm: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path
) -> None:
    """An undamaged file whose arrays do not fit the network is refused with the first difference."""
    recipe = recipe_of("twodmcnn")
    expected = SourceWorker(recipe, make_network(recipe, None, 2)).tuned.state_dict()
    arrays = {name: value.clone() for name, value in expected.items()}
    harm(arrays)
    save_weights(tmp_path / "head.safetensors", arrays, {})
    with pytest.raises(WeightsError, match=message):
        load_arrays(tmp_path / "head.safetensors", expected)


def test_a_changed_bit_is_detected(tmp_path: Path) -> None:
    """A body with one flipped bit is refused."""
    recipe, path = recipe_of("twodmcnn"), tmp_path / "body.safetensors"
    save_body(path, recipe, make_network(recipe, None, 2))
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedPartError, match="sealed"):
        network_from_files(recipe, 2, path)


@pytest.mark.parametrize("depth", ["full", "head", "frozen"])
def test_each_network_gives_the_bits_of_training(depth: str, tmp_path: Path) -> None:
    """Two tuned networks give, in their order and each time, the rows of the networks that were saved."""
    recipe, files, expected = recipe_of("onedmcnn", depth), [], []
    worker = SourceWorker(recipe, make_network(recipe, None, 2))
    body = None if depth == "full" else tmp_path / "body.safetensors"
    if body is not None:
        save_body(body, recipe, worker.network)
    frozen = worker.frozen_rows_of(NOISE)
    for number in range(0 if depth == "frozen" else 2):
        torch.manual_seed(number)
        with torch.no_grad():
            for value in worker.tuned.parameters():
                value.add_(0.01 * torch.randn_like(value))
        files.append(tmp_path / f"{number}.safetensors")
        save_weights(files[-1], worker.tuned.state_dict(), {})
        full = depth == "full"
        expected.append(worker.full_rows_of(NOISE) if full else worker.head_rows(frozen["embedding"]))
    shipped = ShippedSource(recipe, 2, body, files)
    for _ in range(2):
        assert all(same(*pair) for pair in zip(shipped.embed(NOISE), expected or [frozen], strict=True))


def test_invalid_recipes_are_refused() -> None:
    """Another network version, another input, or settings out of range, each with its reason."""
    recipe = recipe_of("twodmcnn")
    check_shipped_recipe(recipe)
    for change, message in (
        ({"network_version": 99}, "version 99"),
        ({"network": "nothing"}, "unknown source"),
        ({"preprocessing": "{}"}, "cannot be used"),
        ({"threads": 0}, "0 threads"),
        ({"weights": "0" * 64 + " bn_eps=7"}, "bn_eps"),
        ({"device": "tpu"}, "tpu"),
    ):
        with pytest.raises(InputError, match=message):
            check_shipped_recipe(replace(recipe, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="do not fit its depth"):  # a head needs a body
        ShippedSource(recipe, 2, None, [Path("head.safetensors")])
