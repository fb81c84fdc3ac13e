"""Networks applied to clips: stored ones give the bits of training, compiled ones those but for rounding."""

import os
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config

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
from moodfuse.extract.networks.hardware import check_compiler
from moodfuse.extract.networks.weights.files import WeightsError, save_weights
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.tune_networks import save_body

RNG = np.random.default_rng(3)
AUDIO = RNG.normal(0, 0.1, 480_000).astype(np.float32)
NOISE = Media(RNG.integers(0, 255, (32, 128, 171, 3), dtype=np.uint8), np.arange(32.0), AUDIO, len(AUDIO))


def recipe_of(source: str, depth: str | None = None, *, compile: bool = False) -> Recipe:
    return build_recipe(source, RecipeChoice(device="cpu", depth=depth, compile=compile))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two clips' rows are equal bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("source", ["twodmcnn", "c3d"])
def test_a_stored_body_gives_the_same_bits(source: str, narrow: None, tmp_path: Path) -> None:
    """A network made from the file embeds a clip as the stored one did, whatever the random state."""
    recipe, path = recipe_of(source), tmp_path / "body.safetensors"
    network = make_network(recipe, None, 3)
    save_body(path, recipe, network)
    torch.manual_seed(7)
    again = network_from_files(recipe, 3, path)
    assert same(*(SourceWorker(recipe, made).frozen_rows(NOISE) for made in (network, again)))
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedPartError, match="its bytes differ"):
        network_from_files(recipe, 3, path)


def test_arrays_of_another_network_are_refused(tmp_path: Path) -> None:
    """The error names the first difference: a missing or further array, another shape, NaN."""
    recipe, path = recipe_of("twodmcnn"), tmp_path / "head.safetensors"
    expected = SourceWorker(recipe, make_network(recipe, None, 2)).tuned.state_dict()
    first, *others = sorted(expected)
    for arrays, message in (
        ({name: expected[name] for name in others}, "is missing"),
        (expected | {"other": torch.zeros(1)}, "belongs to no layer"),
        (expected | {first: torch.zeros(3, 3)}, "expected"),
        (expected | {first: torch.full_like(expected[first], float("nan"))}, "NaN or infinity"),
    ):
        save_weights(path, arrays, {})
        with pytest.raises(WeightsError, match=message):
            load_arrays(path, expected)


@pytest.mark.parametrize("depth", ["full", "last:1", "head", "frozen"])
def test_each_network_gives_the_bits_of_training(depth: str, tmp_path: Path) -> None:
    """Two tuned networks give, in their order and each time, the rows of the networks that were saved."""
    recipe, files, expected = recipe_of("onedmcnn", depth), [], []
    worker = SourceWorker(recipe, make_network(recipe, None, 2))
    body = None if recipe.tunes_trunk else tmp_path / "body.safetensors"
    if body is not None:
        save_body(body, recipe, worker.network)
    frozen = worker.frozen_rows(NOISE)
    for number in range(0 if depth == "frozen" else 2):
        torch.manual_seed(number)
        with torch.no_grad():
            for value in worker.tuned.parameters():
                value.add_(0.01 * torch.randn_like(value))
        files.append(tmp_path / f"{number}.safetensors")
        save_weights(files[-1], worker.tuned.state_dict(), {})
        whole = recipe.tunes_trunk
        expected.append(worker.full_rows(NOISE) if whole else worker.head_rows(frozen["embedding"]))
    shipped = ShippedSource(recipe, 2, body, files)
    for _ in range(2):
        assert all(same(*pair) for pair in zip(shipped.embed(NOISE), expected or [frozen], strict=True))


def test_invalid_recipes_are_refused() -> None:
    """Another network version, another input, or settings out of range, each with its reason."""
    recipe = recipe_of("twodmcnn")
    check_shipped_recipe(recipe)
    for change, message in (
        ({"network_version": 2}, "version 2 of twodmcnn, .* `moodfuse extract`, then `moodfuse fuse"),
        ({"network": "nothing"}, "no installed package registers the network .nothing."),
        ({"preprocessing": "{}"}, "cannot be used"),
        ({"threads": 0}, "0 threads"),
        ({"weights": "0" * 64 + " bn_eps=7"}, "bn_eps"),
        ({"device": "tpu"}, "tpu"),
    ):
        with pytest.raises(InputError, match=message):
            check_shipped_recipe(replace(recipe, **change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="do not fit its depth"):  # a head needs a body
        ShippedSource(recipe, 2, None, [Path("head.safetensors")])


def test_compiling_needs_a_compiler_and_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names what is missing and what to do; a compiler named in the environment is used."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"--compile: .* not found; install it .* CXX, or leave --compile"):
        check_compiler("cpu")
    monkeypatch.setenv("CXX", "own++")
    (tmp_path / "own++").write_text("#!/bin/sh\n")
    (tmp_path / "own++").chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"holds no Python.h; install them"):
        check_compiler("cpu")
    (tmp_path / "Python.h").touch()
    assert recipe_of("onedmcnn", compile=True).compile


def test_a_compiled_network_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings differ by rounding and follow changed weights; its recipe is another one."""
    try:
        check_compiler("cpu")
    except InputError as error:
        if os.environ.get("MOODFUSE_COMPILER") == "required":
            raise
        pytest.skip(str(error))
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # others import torch in a process
    eager, compiled = (recipe_of("onedmcnn", "full", compile=compile) for compile in (False, True))
    assert compiled == replace(eager, compile=True) and compiled.digest16 != eager.digest16
    workers = [SourceWorker(recipe, make_network(recipe, None, 2)) for recipe in (eager, compiled)]
    first = [worker.full_rows(NOISE) for worker in workers]
    changed = {name: value * 1.5 for name, value in workers[0].tuned.state_dict().items()}
    for worker in workers:
        worker.tuned.load_state_dict(changed)
    then = [worker.full_rows(NOISE) for worker in workers]
    for rows in (first, then):
        for name in ("embedding", "logits"):
            np.testing.assert_allclose(rows[1][name], rows[0][name], rtol=1e-4, atol=1e-5)
    assert not np.allclose(first[1]["embedding"], then[1]["embedding"], rtol=1e-2)
