"""Stage one on a Dask cluster: the features of a local run, also if a worker dies."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.cluster import cluster_address, run_on_cluster
from moodfuse.cache.errors import InputError, WorkersError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.store import FeatureCache
from moodfuse.extract import pipeline
from moodfuse.extract.pipeline import extract_features
from moodfuse.extract.recipe_files import RecipeChoice
from moodfuse.extract.settings import ExtractSettings, NetworkChoice
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

RECIPE = """
name = "brief"
[onedmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 5e-3, epochs = 2, batch = 8 }
"""


Start = Callable[[int], tuple[str, list["subprocess.Popen[bytes]"]]]


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Start]:
    """Starts a scheduler and workers that are not restarted; returns its address and their processes."""
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

        def start_all(count: int) -> tuple[str, list["subprocess.Popen[bytes]"]]:
            start("scheduler", "--port", "0", "--host", "127.0.0.1")
            deadline = time.monotonic() + 60
            while not file.is_file() and time.monotonic() < deadline:
                time.sleep(0.05)
            workers = [start("worker", "--nthreads", "1", "--no-nanny") for _ in range(count)]
            return json.loads(file.read_text())["address"].replace("tcp://", "dask://"), workers

        yield start_all


def settings_for(folder: Path) -> ExtractSettings:
    """One network's heads tuned under two folds of a small corpus."""
    clip = ClipSettings(duration_s=1.0, width=64, height=48)
    corpus = CorpusSettings(labels=("sad", "excited"), groups_per_label=3, clips_per_group=(1,), clip=clip)
    table = make_corpus(folder / "corpus", settings=corpus)
    (folder / "brief.toml").write_text(RECIPE)
    recipes = RecipeChoice(recipe=str(folder / "brief.toml"), device="cpu")
    networks = NetworkChoice(crossfit=False)
    return ExtractSettings(
        table, folder / "local", ("onedmcnn",), PlanChoice(folds=2), recipes, networks, jobs=1
    )


def test_a_worker_that_dies_costs_only_its_task(
    start_cluster: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, one of them killed during the run: every block has the local run's bits."""
    settings = settings_for(tmp_path)
    extract_features(settings)
    address, workers = start_cluster(2)
    monkeypatch.setattr(pipeline, "CLIPS_PER_TASK", 2)
    monkeypatch.setattr(pipeline, "NETWORKS_PER_TASK", 1)
    done: list[int] = []
    run = pipeline.run_on_cluster

    def killing(calls: list[object], *, scheduler: str) -> Iterator[object]:
        for number, result in enumerate(run(calls, scheduler=scheduler)):  # type: ignore[arg-type]
            done.append(number)
            if len(done) == 4:  # decoding is over, and embedding has begun
                workers[0].kill()
            yield result

    monkeypatch.setattr(pipeline, "run_on_cluster", killing)
    found = extract_features(replace(settings, cache=tmp_path / "spread", scheduler=address))
    assert workers[0].wait() != 0 and len(done) == 8 and found.tuned == 2
    local, spread = FeatureCache(settings.cache), FeatureCache(tmp_path / "spread")
    assert local.plan == spread.plan
    for fold in range(2):
        one, other = (cache.block("onedmcnn@brief", fold) for cache in (local, spread))
        assert list(one.digests) == list(other.digests)
        assert np.array_equal(one.embedding, other.embedding) and np.array_equal(one.logits, other.logits)


def test_addresses_are_given_to_dask_in_its_own_form() -> None:
    """With TLS if the address asks for it; the error of an invalid address has the expected form."""
    assert cluster_address("dask://127.0.0.1:8786") == "tcp://127.0.0.1:8786"
    assert cluster_address("dask+tls://[::1]:8786/") == "tls://[::1]:8786"
    for address in ("localhost:8786", "http://host:1", "dask://host", "dask://host:99999", "dask://a b:1"):
        with pytest.raises(InputError, match="expected dask://HOST:PORT"):
            cluster_address(address)


def test_a_cluster_that_cannot_be_used_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler answers, or media are not kept, which is refused before anything is decoded."""
    monkeypatch.setattr("moodfuse.cache.cluster.WAIT_S", 0.5)
    with pytest.raises(WorkersError, match="no Dask scheduler answers"):
        list(run_on_cluster([(print, ())], scheduler="dask://127.0.0.1:1"))
    settings = replace(settings_for(tmp_path), scheduler="dask://127.0.0.1:1", keep_media=False)
    with pytest.raises(InputError, match="drop --no-keep-media"):
        extract_features(settings)
