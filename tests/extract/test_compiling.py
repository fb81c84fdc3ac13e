"""Compiled networks: refused without a compiler, and the same features as eager ones but for rounding."""

import os
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.media import Media
from extract.embed import SourceWorker, make_network
from extract.networks.compiling import check_compiler
from extract.recipe_files import RecipeChoice, build_recipe
from extract.streaming import InHand


def test_a_compiler_is_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one the refusal names it and the ways out; one that CXX names will do; a GPU needs none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"--compile: .* is not found; install it .* CXX, or leave --compile out"):
        build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu", compile=True))
    check_compiler("cuda")
    own = tmp_path / "own++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", "own++")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"holds no Python.h; install them"):
        check_compiler("cpu")
    (tmp_path / "Python.h").touch()
    assert build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu", compile=True)).compile


def test_a_compiled_network_is_another_source_with_the_same_features() -> None:
    """The recipe's digest tells them apart; embeddings differ by rounding, and are the same bits when asked again."""
    try:
        check_compiler("cpu")
    except InputError as error:
        if os.environ.get("MOODFUSE_COMPILER") == "required":
            raise
        pytest.skip(str(error))
    eager = build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu"))
    compiled = build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu", compile=True))
    assert compiled == replace(eager, compile=True) and compiled.digest16 != eager.digest16
    waveform = np.random.default_rng(0).normal(size=480_000).clip(-1, 1).astype(np.float32)
    clip = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), waveform, len(waveform))
    rows = [
        SourceWorker(recipe, make_network(recipe, None, 2), InHand()).frozen_rows_of(clip)["embedding"]
        for recipe in (eager, compiled, compiled)
    ]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(rows[1], rows[2])
