"""Audio networks tuned in several processes give the files of one process."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from moodfuse.extract.pending import Work
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training import tune_networks
from moodfuse.extract.training.tune_networks import count_processes
from tests.extract.conftest import FOLDS


@pytest.mark.parametrize(
    ("source", "cores", "to_tune", "expected"),
    [("onedmcnn", 2, 21, 1), ("onedmcnn", 16, 21, 7), ("onedmcnn", 16, 5, 1), ("i3d", 16, 21, 1)],
)
def test_audio_networks_share_the_cores(source: str, cores: int, to_tune: int, expected: int) -> None:
    """As many processes as the recipe's two threads fit into the cores, with at least three networks each."""
    recipe = build_recipe(source, RecipeChoice(device="cpu"))
    assert count_processes(Work(recipe, (), ((),) * to_tune, to_tune, 52), cores) == expected


def features(folder: Path) -> dict[str, bytes]:
    """The bytes of every network of onedmcnn, and the names of its parts, which contain their digests."""
    networks = folder.glob("networks/onedmcnn/**/*.safetensors")
    contents = dict.fromkeys(folder.glob("features/onedmcnn/**/*.h5"), b"")
    contents |= {path: path.read_bytes() for path in networks}
    return {path.relative_to(folder).as_posix(): content for path, content in contents.items()}


def test_several_processes_write_the_files_of_one(
    runner: Any, all_depths: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that tune one network each."""
    runner.keep(4)
    monkeypatch.setattr(tune_networks, "NETWORKS_PER_TASK", 1)
    whole = all_depths.runner.cache
    shutil.copytree(whole, runner.cache, ignore=shutil.ignore_patterns("features", "networks"))
    done = runner(sources=("onedmcnn",), jobs=4, plan=FOLDS)
    assert (done.tuned, done.embedded) == (2, 8)
    assert features(runner.cache) == features(whole) and len(features(whole)) == 4
