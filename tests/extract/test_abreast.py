"""Small networks tuned several at a time: the same files, whoever tunes them, and none is lost with a helper."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from moodfuse.cache.planning import PlanChoice
from moodfuse.extract.pending import Work
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training import tune_networks
from moodfuse.extract.training.tune_networks import processes_for


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
    """The bytes of every network of onedmcnn, and the names of its parts, whose digests stand in them."""
    parts, networks = (
        folder.glob("features/onedmcnn/**/*.h5"),
        folder.glob("networks/onedmcnn/**/*.safetensors"),
    )
    contents = dict.fromkeys(parts, b"") | {path: path.read_bytes() for path in networks}
    return {path.relative_to(folder).as_posix(): content for path, content in contents.items()}


def test_the_bits_are_those_of_one_process(
    runner: Any, all_depths: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes, then two of which one dies at once, so that one does all: the networks and features of one."""
    runner.keep(4)
    monkeypatch.setattr(tune_networks, "FEWEST_NETWORKS", 1)
    caches = [runner.cache.with_name(name) for name in ("two", "died")]
    done = []
    for cache in caches:
        shutil.copytree(all_depths.runner.cache, cache, ignore=shutil.ignore_patterns("features", "networks"))
        if cache.name == "died":
            monkeypatch.setattr(
                tune_networks, "_tune_part", os._exit
            )  # called with other arguments, so it raises
        with caplog.at_level(logging.WARNING):
            done.append(runner(cache=cache, sources=("onedmcnn",), jobs=4, plan=PlanChoice(folds=2)))
    assert [(item.tuned, item.embedded) for item in done] == [(2, 8)] * 2
    alone = features(all_depths.runner.cache)
    assert features(caches[0]) == features(caches[1]) == alone
    assert len(alone) == 4
    assert [record for record in caplog.records if "a tuning process ended with exit code" in record.message]
