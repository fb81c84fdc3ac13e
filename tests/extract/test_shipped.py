"""Sources from shipped files: what each tuned network says, and recipes that cannot be used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import Media
from moodfuse.extract.embed import SourceWorker, make_network
from moodfuse.extract.inference import ShippedSource, check_shipped_recipe
from moodfuse.extract.networks.weights.own_files import save_weights
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.tune_networks import save_body


class OneClip:
    """A clip of noise in memory."""

    def __init__(self) -> None:
        sound = np.random.default_rng(3).normal(0, 0.1, 480_000).astype(np.float32)
        self.media = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), sound, len(sound))

    def read(self, digest: str) -> Media:
        return self.media


@pytest.mark.parametrize("depth", ["full", "head", "frozen"])
def test_each_network_says_what_it_said_when_it_was_tuned(depth: str, tmp_path: Path) -> None:
    """Two tuned networks give, in their order and as often as asked, the bits of the networks that were saved."""
    recipe = build_recipe("onedmcnn", RecipeChoice(device="cpu", depths={"onedmcnn": depth}))
    clip, files, expected = OneClip(), [], []
    worker = SourceWorker(recipe, make_network(recipe, None, 2), clip)
    body = None if depth == "full" else tmp_path / "body.safetensors"
    if body is not None:
        save_body(body, recipe, worker.network)
    for number in range(0 if depth == "frozen" else 2):
        torch.manual_seed(number)
        with torch.no_grad():
            for value in worker.tuned.parameters():
                value.add_(0.01 * torch.randn_like(value))
        files.append(tmp_path / f"{number}.safetensors")
        save_weights(files[-1], worker.tuned.state_dict(), {})
        rows = worker.frozen_rows("clip")
        expected.append(worker.full_rows("clip") if depth == "full" else worker.head_rows(rows["embedding"]))
    shipped = ShippedSource(recipe, 2, body, files)
    for _ in range(2):
        found = shipped.embed(clip.media)
        if depth == "frozen":
            expected = [worker.frozen_rows("clip")]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_recipes_that_cannot_be_followed_are_refused() -> None:
    """Another network version, another input, or settings out of range: each with its reason."""
    recipe = build_recipe("twodmcnn", RecipeChoice(device="cpu"))
    check_shipped_recipe(recipe)
    for change, said in (
        ({"network_version": 99}, "version 99"),
        ({"network": "nothing"}, "unknown source"),
        ({"preprocessing": "{}"}, "cannot be used"),
        ({"threads": 0}, "0 threads"),
        ({"weights": "0" * 64 + " bn_eps=7"}, "bn_eps"),
        ({"device": "tpu"}, "tpu"),
    ):
        with pytest.raises(InputError, match=said):
            check_shipped_recipe(replace(recipe, **change))  # type: ignore[arg-type]


def test_files_that_do_not_fit_the_depth_are_refused(tmp_path: Path) -> None:
    """A network tuned whole has no body, a frozen one no tuned network."""
    recipe = build_recipe("twodmcnn", RecipeChoice(device="cpu"))
    with pytest.raises(InputError, match="do not fit its depth"):
        ShippedSource(recipe, 2, None, [tmp_path / "head.safetensors"])
