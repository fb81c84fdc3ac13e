"""Compiled networks: refused without a compiler, and the features of eager ones but for rounding."""

import os
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch._inductor.config

from moodfuse.cache.errors import InputError
from moodfuse.cache.media import Media
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.networks.hardware import check_compiler
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe

FROZEN = RecipeChoice(depth="frozen", device="cpu")


def test_compiling_needs_a_compiler_and_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names what is missing and what to do; a compiler named in the environment is used."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for device, variable in (("cpu", "CXX"), ("cuda", "CC")):
        monkeypatch.delenv(variable, raising=False)
        remedy = rf"--compile: .* not found; install it .* {variable}, or leave --compile"
        with pytest.raises(InputError, match=remedy):
            check_compiler(device)
        monkeypatch.setenv(variable, "own++")
    with pytest.raises(InputError, match="own\\+\\+ is not found"):
        build_recipe("onedmcnn", replace(FROZEN, compile=True))
    (tmp_path / "own++").write_text("#!/bin/sh\n")
    (tmp_path / "own++").chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match=r"holds no Python.h; install them"):
        check_compiler("cpu")
    (tmp_path / "Python.h").touch()
    check_compiler("cuda")
    assert build_recipe("onedmcnn", replace(FROZEN, compile=True)).compile


def test_a_compiled_network_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings differ by rounding, are equal each time, and follow changed weights; its recipe is another one."""
    try:
        check_compiler("cpu")
    except InputError as error:
        if os.environ.get("MOODFUSE_COMPILER") == "required":
            raise
        pytest.skip(str(error))
    monkeypatch.setattr(
        torch._inductor.config, "compile_threads", 1
    )  # others are processes that import torch
    eager = build_recipe("onedmcnn", replace(FROZEN, depth="full"))
    compiled = build_recipe("onedmcnn", replace(FROZEN, depth="full", compile=True))
    assert compiled == replace(eager, compile=True) and compiled.digest16 != eager.digest16
    waveform = np.random.default_rng(0).normal(size=480_000).clip(-1, 1).astype(np.float32)
    clip = Media(np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0), waveform, len(waveform))
    workers = [SourceWorker(recipe, make_network(recipe, None, 2)) for recipe in (eager, compiled, compiled)]
    first = [worker.full_rows_of(clip) for worker in workers]
    np.testing.assert_array_equal(first[1]["embedding"], first[2]["embedding"])
    changed = {name: value * 1.5 for name, value in workers[0].tuned.state_dict().items()}
    for worker in workers:
        worker.tuned.load_state_dict(changed)
    then = [worker.full_rows_of(clip) for worker in workers]
    for rows in (first, then):
        for name in ("embedding", "logits"):
            np.testing.assert_allclose(rows[1][name], rows[0][name], rtol=1e-4, atol=1e-5)
    assert not np.allclose(first[1]["embedding"], then[1]["embedding"], rtol=1e-2)
