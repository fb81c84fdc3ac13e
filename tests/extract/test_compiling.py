"""Compiled networks: refused without a compiler, and the same features as eager ones but for rounding."""

import os
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch._inductor.config

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import Media
from moodfuse.extract.embed import SourceWorker, make_network
from moodfuse.extract.networks.compiling import check_compiler
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe


def test_a_compiler_is_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one the refusal names it and the ways out; one that the environment names will do, with the headers."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for device, variable in (("cpu", "CXX"), ("cuda", "CC")):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(
            InputError, match=rf"--compile: .* not found; install it .* {variable}, or leave --compile"
        ):
            check_compiler(device)
        monkeypatch.setenv(variable, "own++")
    with pytest.raises(InputError, match="own\\+\\+ is not found"):
        build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu", compile=True))
    own = tmp_path / "own++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"holds no Python.h; install them"):
        check_compiler("cpu")
    (tmp_path / "Python.h").touch()
    check_compiler("cuda")
    assert build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu", compile=True)).compile


def test_a_worker_that_cannot_compile_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On another machine than where the recipe was made, or with a model from there: whose recipe, and what to do."""
    recipe = replace(build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu")), compile=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"^onedmcnn: its recipe compiles: .* not found; .* use one that does not"
    ):
        SourceWorker(recipe, make_network(recipe, None, 2))


def test_a_compiled_network_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipe is another; embeddings differ by rounding, are the same bits when asked again, and follow weights."""
    try:
        check_compiler("cpu")
    except InputError as error:
        if os.environ.get("MOODFUSE_COMPILER") == "required":
            raise
        pytest.skip(str(error))
    monkeypatch.setattr(
        torch._inductor.config, "compile_threads", 1
    )  # more are processes that import torch too
    eager = build_recipe("onedmcnn", RecipeChoice(depth="full", device="cpu"))
    compiled = build_recipe("onedmcnn", RecipeChoice(depth="full", device="cpu", compile=True))
    assert compiled == replace(eager, compile=True) and compiled.digest16 != eager.digest16
    waveform = np.random.default_rng(0).normal(size=480_000).clip(-1, 1).astype(np.float32)
    clip = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), waveform, len(waveform))
    workers = [SourceWorker(recipe, make_network(recipe, None, 2)) for recipe in (eager, compiled, compiled)]
    first = [worker.full_rows_of(clip) for worker in workers]
    np.testing.assert_array_equal(first[1]["embedding"], first[2]["embedding"])
    tuned = {name: value * 1.5 for name, value in workers[0].tuned.state_dict().items()}
    for worker in workers:
        worker.tuned.load_state_dict(tuned)
    then = [worker.full_rows_of(clip) for worker in workers]
    for rows in (first, then):
        np.testing.assert_allclose(rows[1]["embedding"], rows[0]["embedding"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows[1]["logits"], rows[0]["logits"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(first[1]["embedding"], then[1]["embedding"], rtol=1e-2)
