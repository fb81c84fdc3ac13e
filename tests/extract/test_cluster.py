"""Two stages on a Dask cluster: features and predictions of a local run, also if a worker dies."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.cluster import cluster_address, run_on_cluster
from moodfuse.cache.errors import InputError, WorkersError
from moodfuse.cache.folds import PlanChoice, pair_holdouts, single_holdouts
from moodfuse.cache.store import FeatureCache
from moodfuse.extract import cluster
from moodfuse.extract.pipeline import extract_features
from moodfuse.extract.recipe_files import RecipeChoice
from moodfuse.extract.settings import ExtractSettings
from moodfuse.fuse.ablation import AblationSettings, run_ablation
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

RECIPE = """
name = "brief"
[onedmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 5e-3, epochs = 2, batch = 8 }
"""


@dataclass
class Cluster:
    """A scheduler, and workers that are not restarted when they die."""

    address: str
    workers: list["subprocess.Popen[bytes]"]


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[[int], Cluster]]:
    """Starts a cluster with a number of workers on this machine."""
    python_path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": python_path, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    file, null = tmp_path / "scheduler.json", subprocess.DEVNULL
    with ExitStack() as stack:

        def start(kind: str, *options: str) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"]
            command += ["--scheduler-file", str(file)]
            process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=null, stderr=null)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def cluster_of(count: int) -> Cluster:
            start("scheduler", "--port", "0", "--host", "127.0.0.1")
            deadline = time.monotonic() + 60
            while not file.is_file() and time.monotonic() < deadline:
                time.sleep(0.05)
            workers = [start("worker", "--nthreads", "1", "--no-nanny") for _ in range(count)]
            return Cluster(json.loads(file.read_text())["address"].replace("tcp://", "dask://"), workers)

        yield cluster_of


def settings_for(folder: Path) -> ExtractSettings:
    """One network's heads tuned, another's features frozen, on a small corpus."""
    clip = ClipSettings(duration_s=1.0, width=64, height=48)
    corpus = CorpusSettings(labels=("sad", "excited"), groups_per_label=3, clips_per_group=(1,), clip=clip)
    table = make_corpus(folder / "corpus", settings=corpus)
    (folder / "brief.toml").write_text(RECIPE)
    recipes = RecipeChoice(recipe=str(folder / "brief.toml"), depths={"twodmcnn": "frozen"}, device="cpu")
    sources = ("onedmcnn", "twodmcnn")
    return ExtractSettings(
        table, folder / "local", sources, plan=PlanChoice(folds=3), recipes=recipes, jobs=1
    )


def test_a_worker_that_dies_costs_only_its_task(
    start_cluster: Callable[[int], Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one of them killed during the run: every block and every prediction has the local run's bits."""
    settings = settings_for(tmp_path)
    extract_features(settings)
    started = start_cluster(2)
    monkeypatch.setattr(cluster, "CLIPS_PER_TASK", 2)
    monkeypatch.setattr(cluster, "NETWORKS_PER_TASK", 1)
    done: list[int] = []
    run = cluster.run_on_cluster

    def killing(calls: list[object], *, scheduler: str) -> Iterator[object]:
        for number, result in enumerate(run(calls, scheduler=scheduler)):  # type: ignore[arg-type]
            done.append(number)
            if len(done) == 5:  # decoding is over, and embedding has begun
                started.workers[0].kill()
            yield result

    monkeypatch.setattr(cluster, "run_on_cluster", killing)
    found = extract_features(replace(settings, cache=tmp_path / "spread", scheduler=started.address))
    assert started.workers[0].wait() != 0 and len(done) > 12
    local, spread = FeatureCache(settings.cache), FeatureCache(tmp_path / "spread")
    assert local.plan == spread.plan and found.tuned == 6
    tuned = [*single_holdouts(3), *pair_holdouts(3)]
    for source, holdouts in (("onedmcnn@brief", tuned), ("twodmcnn@brief", ["*"])):
        for holdout in holdouts:
            one, other = local.block(source, holdout), spread.block(source, holdout)
            assert list(one.digests) == list(other.digests) and np.array_equal(one.embedding, other.embedding)
            assert (one.logits is None) == (other.logits is None)
            assert one.logits is None or np.array_equal(one.logits, other.logits)
    here = run_ablation(local, AblationSettings(heads=("softmax",), jobs=1, keep=False))
    there = run_ablation(spread, AblationSettings(heads=("softmax",), scheduler=started.address, keep=False))
    for mine, theirs in zip(here.results, there.results, strict=True):
        assert mine.name == theirs.name and np.array_equal(mine.probabilities, theirs.probabilities)


@pytest.mark.parametrize(
    "address", ["localhost:8786", "http://host:1", "dask://host", "dask://host:99999", "dask://a b:1"]
)
def test_an_invalid_address_is_refused(address: str) -> None:
    """With the expected form."""
    with pytest.raises(InputError, match="expected dask://HOST:PORT"):
        cluster_address(address)


def test_addresses_are_given_to_dask_in_its_own_form() -> None:
    """With TLS if it is asked for."""
    assert cluster_address("dask://127.0.0.1:8786") == "tcp://127.0.0.1:8786"
    assert cluster_address("dask+tls://[::1]:8786/") == "tls://[::1]:8786"


def test_a_cluster_that_cannot_be_used_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler answers, or media are not kept, which is refused before anything is decoded."""
    monkeypatch.setattr("moodfuse.cache.cluster.WAIT_S", 0.5)
    with pytest.raises(WorkersError, match="no Dask scheduler answers"):
        list(run_on_cluster([(print, ())], scheduler="dask://127.0.0.1:1"))
    settings = replace(settings_for(tmp_path), scheduler="dask://127.0.0.1:1", keep_media=False)
    with pytest.raises(InputError, match="drop --no-keep-media"):
        extract_features(settings)
