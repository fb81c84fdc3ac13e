"""A small dataset of real files with its cache and models, made once per session; synthetic timelines."""

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import hub_stages
import numpy as np
import pytest

from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.runs import Run, write_run
from moodfuse.cache.store import FeatureCache
from moodfuse.cli import main
from moodfuse.export import ExportSettings, export_model
from moodfuse.extract import estimate
from moodfuse.extract.pipeline import extract_features
from moodfuse.extract.recipe_files import RecipeChoice
from moodfuse.extract.settings import ExtractSettings, NetworkChoice
from moodfuse.fuse.ablation import run_ablation
from moodfuse.fuse.settings import AblationSettings
from moodfuse.model.predictions import Refusal, Timeline
from moodfuse.synthetic_corpus import ClipSettings, CorpusSettings, make_corpus

FOLDS = 4
QUICK = "onedmcnn@brief+twodmcnn@brief softmax logits"
RECIPE = """
name = "brief"
[onedmcnn]
depth = "head"
head = { optimizer = "adamw", learning_rate = 5e-3, epochs = 3, patience = 3, batch = 8 }
[twodmcnn]
depth = "frozen"
"""


@dataclass(frozen=True)
class Trained:
    """A dataset of 8 clips in 4 declared folds.

    `cache` has the plan of all folds but the last, whose files are `held`. `table` lists the clips of all
    folds, `recipe` is that of the networks, `run` is of all clips and `fewer` of those without the last fold.
    """

    cache: FeatureCache
    table: Path
    recipe: Path
    run: Run
    fewer: Run
    held: tuple[str, ...]


def extract(table: Path, folder: Path, recipe: Path) -> FeatureCache:
    """Stage one on a table of clips."""
    settings = ExtractSettings(
        data=table,
        cache=folder,
        sources=("onedmcnn", "twodmcnn"),
        plan=PlanChoice(),
        recipes=RecipeChoice(recipe=str(recipe), device="cpu"),
        networks=NetworkChoice(leaky=True),
        jobs=1,
    )
    extract_features(settings)
    return FeatureCache(folder)


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """A table of clips."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fuse(cache: FeatureCache, name: str) -> Run:
    """Stage two on a cache.

    The notes that folds are too small to select settings in are removed, because models are compared with the
    run of all clips, whose folds are large enough.
    """
    settings = AblationSettings(run=name, combine=("all",), heads=("softmax", "lightgbm"), jobs=1)
    run = run_ablation(cache, settings)
    run = replace(run, results=tuple(replace(result, notes=()) for result in run.results))
    write_run(cache, run)
    return run


@pytest.fixture
def extract_again(trained: Trained, tmp_path: Path) -> Callable[[list[dict[str, str]]], FeatureCache]:
    """Stage one on another table of the same files, in a copy of the cache."""

    def run(rows: list[dict[str, str]]) -> FeatureCache:
        table = write_table(trained.table.with_name(f"{tmp_path.name}.csv"), rows)
        folder = Path(shutil.copytree(trained.cache.path, tmp_path / "cache"))
        return extract(table, folder, trained.recipe)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train on the dataset; read-only."""
    folder = tmp_path_factory.mktemp("trained")
    clip = ClipSettings(duration_s=2.0, width=64, height=48)
    settings = CorpusSettings(
        labels=("sad", "excited"), groups_per_label=FOLDS, clips_per_group=(1,), clip=clip
    )
    made = make_corpus(folder / "corpus", settings=settings)
    with made.open(newline="", encoding="utf-8") as stream:
        rows = [{**row, "fold": str(number % FOLDS)} for number, row in enumerate(csv.DictReader(stream))]
    recipe = folder / "brief.toml"
    recipe.write_text(RECIPE)
    table = write_table(made.with_name("all.csv"), rows)
    cache = extract(table, folder / "cache", recipe)
    run = fuse(cache, "all")
    fewer = [row for row in rows if int(row["fold"]) < FOLDS - 1]
    cache = extract(write_table(made.with_name("fewer.csv"), fewer), folder / "cache", recipe)
    held = tuple(str(made.parent / row["path"]) for row in rows if int(row["fold"]) == FOLDS - 1)
    return Trained(cache, table, recipe, run, fuse(cache, "fewer"), held)


@pytest.fixture(scope="session")
def models(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model of a result by name, exported from the clips of all folds but the last; read-only."""
    folder = tmp_path_factory.mktemp("models")

    def make(name: str, *, impute: bool = False) -> Path:
        target = folder / f"{name} {impute}".replace(" ", "-")
        if not target.exists():
            export_model(trained.cache, trained.fewer, ExportSettings(name, target, impute, force=True))
        return target

    return make


@pytest.fixture
def model(models: Callable[[str], Path]) -> Path:
    """The model that is fitted fastest; read-only."""
    return models(QUICK)


@pytest.fixture
def model_copy(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that may be changed."""
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def predict() -> Callable[..., int]:
    """Run `moodfuse predict` and return its exit code."""

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(["predict", *map(str, arguments)])
        return int(stopped.value.code or 0)

    return run


# Timelines

SIX = ("excited", "fear", "neutral", "relaxation", "sad", "tension")


def make_timeline(
    classes: Sequence[str] = SIX,
    *,
    windows: int = 43,
    hop_s: float = 5.0,
    window_s: float = 30.0,
    lost: Sequence[int] = (),
    file: str = "clip.webm",
) -> Timeline:
    """Probabilities that wander; the windows in `lost` could not be read."""
    rng = np.random.default_rng(1)
    steps = rng.standard_normal((windows, len(classes))).cumsum(axis=0)
    powers = np.exp(steps - steps.mean(axis=0))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    probabilities[list(lost)] = np.nan
    starts = hop_s * np.arange(windows)
    refusals = tuple((row, Refusal(file, "no_audio", f"there is no sound in {row}")) for row in lost)
    end_s = float(starts[-1] + window_s)
    return Timeline(file, tuple(classes), starts, starts + window_s, probabilities, refusals, end_s)


@pytest.fixture
def timeline() -> Callable[..., Timeline]:
    """Make a timeline; see `make_timeline`."""
    return make_timeline


# Networks of other packages


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `hub_stages.make_dataset`; read-only."""
    folder = tmp_path_factory.mktemp("dataset")
    hub_stages.make_dataset(folder)
    return folder


@pytest.fixture
def export(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`hub_stages.export_model` on the dataset, without timing networks before they run."""
    monkeypatch.setattr(estimate, "measure", lambda *args, **options: estimate.Estimate(60.0, 1.0))
    return partial(hub_stages.export_model, dataset)
