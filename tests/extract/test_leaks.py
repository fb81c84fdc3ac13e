"""A network that holds out fold k does not depend on fold k: neither its weights nor its stopping epoch.

The labels of fold k's clips are swapped, and their audio or activations replaced by noise, with the plan
fixed; networks `{k}` and `{j,k}` must be equal bit for bit. Then a leak is planted in each step of tuning,
and must be detected.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.media import Media, MediaStore
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache, TrainingClips
from moodfuse.extract.inference import SourceWorker, make_network
from moodfuse.extract.media_supply import open_source_media
from moodfuse.extract.networks.weights.files import load_weights_file
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.settings import NetworkChoice
from moodfuse.extract.training import tune_networks
from moodfuse.extract.training.tune_networks import Activations
from tests.extract.conftest import RECIPE, Runner

FOLD = 0
HOLDOUTS = {"onedmcnn": (Holdout.of({FOLD, 1}),), "twodmcnn": (Holdout.of(FOLD), Holdout.of({FOLD, 1}))}


def tuned(
    source: str, home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, noise: bool
) -> list[tuple[object, dict[str, bytes]]]:
    """Roles, best epoch and weights of the networks that hold out fold 0, tuned in a copy of a cache."""
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("networks"))
    cache = FeatureCache(folder)
    recipe = cache.recipe(source)
    held_out = {digest for digest, fold in cache.plan.assignment.items() if fold == FOLD}
    found = []
    with monkeypatch.context() as patch:
        if noise:
            add_noise(patch, cache, held_out)
        store = open_source_media(cache, recipe)
        worker = SourceWorker(recipe, make_network(recipe, None, len(cache.classes)), store)
        activations = tune_networks.read_activations(cache, recipe) if recipe.depth == "head" else {}
        for holdout in HOLDOUTS[source]:
            training_clips = cache.training_clips(recipe, holdout)
            assert training_clips is not None
            tune_networks.tune_one(cache, worker, training_clips, activations)
            tensors, facts = load_weights_file(cache.network_path(recipe, training_clips))
            weights = {name: value.numpy().tobytes() for name, value in tensors.items()}
            found.append(((training_clips, facts["epoch"]), weights))
    return found


def add_noise(patch: pytest.MonkeyPatch, cache: FeatureCache, held_out: set[str]) -> None:
    """Swap the labels of the held-out clips, and read noise in place of their audio and activations."""
    swapped = dict(zip(cache.classes, reversed(cache.classes), strict=True))
    clips = (
        replace(status, clip=replace(status.clip, label=swapped[status.clip.label]))
        if status.digest in held_out
        else status
        for status in cache.clips
    )
    cache.__dict__["clips"] = getattr(type(cache.clips), "of", tuple)(tuple(clips))
    read_media, read_rows = MediaStore.read, FeatureCache.rows

    def noisy_media(self: MediaStore, digest: str) -> Media:
        media = read_media(self, digest)
        noise = np.random.default_rng(1).uniform(-1, 1, media.waveform.shape).astype(np.float32)
        return replace(media, waveform=noise) if digest in held_out else media

    def noisy_rows(self: FeatureCache, recipe, training_clips, clips, names):
        rows = read_rows(self, recipe, training_clips, clips, names)
        noisy = np.array([status.digest in held_out for status in clips])
        for value in rows.arrays.values():
            value[noisy] = np.random.default_rng(2).normal(size=value[noisy].shape)
        return rows

    patch.setattr(MediaStore, "read", noisy_media)
    patch.setattr(FeatureCache, "rows", noisy_rows)


@pytest.fixture(scope="module")
def home(media: Path, heads_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of three folds with the recipes of a network tuned whole and one tuned at the head."""
    folder = tmp_path_factory.mktemp("leaks")
    shutil.copytree(heads_cache, folder / "work")
    (folder / "tiny.toml").write_text(RECIPE)
    runner = Runner(media, folder / "work", folder / "tiny.toml")
    runner(plan=PlanChoice(folds=3), networks=NetworkChoice(crossfit=False))
    cache = runner.open()
    choice = RecipeChoice(recipe=str(runner.recipe))
    recipes = [build_recipe(source, choice) for source in ("onedmcnn", "twodmcnn")]
    cache.write_recipe(recipes[0])
    cache.select(recipes, command="", reading={})
    return folder / "work"


@pytest.mark.parametrize("source", ["onedmcnn", "twodmcnn"])
def test_networks_do_not_depend_on_the_fold_they_hold_out(
    home: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise in fold 0 changes no bit of network {0,1}, tuned whole, and of heads {0} and {0,1}."""
    clean = tuned(source, home, tmp_path / "clean", monkeypatch, noise=False)
    assert clean == tuned(source, home, tmp_path / "noise", monkeypatch, noise=True)


def train_on_all(patch: pytest.MonkeyPatch) -> None:
    """Leak: a network is tuned on the clips that it should hold out, too."""
    training_clips = FeatureCache.training_clips
    patch.setattr(
        FeatureCache, "training_clips", lambda cache, recipe, holdout: training_clips(cache, recipe, ())
    )


def stop_by_held_out_clips(patch: pytest.MonkeyPatch) -> None:
    """Leak: the stopping epoch is chosen on the held-out clips, too."""
    training_clips = FeatureCache.training_clips

    def leaking(cache: FeatureCache, recipe: Recipe, holdout: Holdout) -> TrainingClips:
        allowed = training_clips(cache, recipe, holdout)
        digests = {digest for digest, _, _ in allowed}
        others = [status for status in cache.clips if status.digest not in digests]
        return (*allowed, *((status.digest, status.clip.label, "stop") for status in others))

    patch.setattr(FeatureCache, "training_clips", leaking)


def scale_by_all_clips(patch: pytest.MonkeyPatch) -> None:
    """Leak: mean and scale of the activations are those of all clips."""
    tune_one, standardise = tune_networks.tune_one, tune_networks.Standardisation.of

    def leaking(
        cache: FeatureCache, worker: SourceWorker, training_clips: TrainingClips, activations: Activations
    ) -> bool:
        every = list(activations.values())
        patch.setattr(tune_networks.Standardisation, "of", staticmethod(lambda rows: standardise(every)))
        return tune_one(cache, worker, training_clips, activations)

    patch.setattr(tune_networks, "tune_one", leaking)


@pytest.mark.parametrize("leak", [train_on_all, stop_by_held_out_clips, scale_by_all_clips])
def test_a_planted_leak_is_detected(
    home: Path, leak: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a leak in tuning, networks depend on the fold that they hold out."""
    leak(monkeypatch)
    clean = tuned("twodmcnn", home, tmp_path / "clean", monkeypatch, noise=False)
    assert clean != tuned("twodmcnn", home, tmp_path / "noise", monkeypatch, noise=True)
