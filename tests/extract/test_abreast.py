"""Small networks tuned several at a time: the same files, whoever tunes them, and none is lost with a helper."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from cache.planning import PlanChoice
from extract import abreast
from extract.abreast import processes_for
from extract.recipe_files import RecipeChoice, build_recipe
from extract.work import Work

FOLDS = 3


def work(source: str, *, to_tune: int) -> Work:
    """So many networks of a source, of a recipe with two threads."""
    return Work(build_recipe(source, RecipeChoice(device="cpu")), (), ((),) * to_tune, to_tune, 52)


@pytest.mark.parametrize(
    ("source", "cores", "to_tune", "expected"),
    [
        ("onedmcnn", 2, 21, 1),
        ("onedmcnn", 16, 21, 7),
        ("twodmcnn", 6, 21, 3),
        ("onedmcnn", 16, 5, 1),
        ("i3d", 16, 21, 1),
    ],
)
def test_small_networks_share_the_cores(source: str, cores: int, to_tune: int, expected: int) -> None:
    """As many processes as the recipe's threads fit into the cores, each with some networks; only those of sound."""
    assert processes_for(work(source, to_tune=to_tune), cores) == expected


def features(folder: Path) -> dict[str, bytes]:
    """The bytes of every network, and the names of every part, whose digests stand in them."""
    parts = {path.relative_to(folder).as_posix(): b"" for path in folder.glob("features/**/*.h5")}
    return parts | {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("networks/**/*.safetensors")
    }


def test_the_bits_are_those_of_one_process(
    runner: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes, then two of which one dies at once, so that one does all: the same networks and features."""
    runner.keep(6)
    runner.recipe.write_text(runner.recipe.read_text().replace("threads = 2", "threads = 1"))
    caches = [runner.cache.with_name(name) for name in ("two", "died")]
    done = []
    for cache in caches:
        if cache.name == "died":
            monkeypatch.setattr(abreast, "_help", os._exit)  # called with other arguments, so it raises
        with caplog.at_level(logging.WARNING):
            done.append(runner(cache=cache, sources=("onedmcnn",), jobs=2, plan=PlanChoice(folds=FOLDS)))
    assert [(item.tuned, item.embedded) for item in done] == [(6, 36)] * 2
    assert features(caches[0]) == features(caches[1])
    assert len(features(caches[0])) == 12
    assert [record for record in caplog.records if "a helping process ended with exit code" in record.message]
