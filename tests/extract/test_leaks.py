"""A network that holds out fold k does not depend on fold k: not its weights, not its stopping epoch.

The labels of fold k's clips are turned, and their sound or activations replaced by noise, with the plan fixed; networks
`{k}` and `{j,k}` must come out bit for bit the same. Then a leak is put into each step of tuning, and must be seen.
"""

import inspect
import shutil
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.media import Media, MediaStore
from moodfuse.cache.planning import PlanChoice
from moodfuse.cache.records import Holdout
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.embed import SourceWorker, make_network
from moodfuse.extract.media_supply import source_media
from moodfuse.extract.networks.weights.own_files import load_weights_file
from moodfuse.extract.pending import Wanted
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.tune_networks import activations_of, tune_one
from tests.extract.conftest import RECIPE, Runner

FOLD = 0
HOLDOUTS = (Holdout.of(FOLD), Holdout.of({FOLD, 1}))


def tuned(
    source: str, home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, noise: bool
) -> dict[str, object]:
    """Weights, kept epoch and roles of the networks that hold fold 0 out, tuned in a copy of a cache."""
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("networks"))
    cache = FeatureCache(folder)
    recipe = cache.recipe(source)
    held = {digest for digest, fold in cache.plan.assignment.items() if fold == FOLD}
    store = source_media(cache, recipe)
    with monkeypatch.context() as patch:
        if noise:
            first, second = cache.classes
            turn = {first: second, second: first}
            clips = tuple(
                replace(item, clip=replace(item.clip, label=turn[item.clip.label]))
                if item.digest in held
                else item
                for item in cache.clips
            )
            cache.__dict__["clips"] = tuple(clips)
            patch.setattr(MediaStore, "read", noisy_media(MediaStore.read, held))
            patch.setattr(FeatureCache, "rows", noisy_rows(FeatureCache.rows, held))
        worker = SourceWorker(recipe, make_network(recipe, None, len(cache.classes)), store)
        activations = activations_of(cache, recipe) if recipe.depth == "head" else {}
        found: dict[str, object] = {}
        for holdout in HOLDOUTS:
            roles = cache.roles(recipe, holdout)
            assert roles is not None
            tune_one(cache, worker, roles, activations)
            tensors, facts = load_weights_file(cache.network_path(recipe, roles))
            found[str(holdout)] = (
                roles,
                facts["epoch"],
                {name: value.numpy() for name, value in tensors.items()},
            )
    return found


def noisy_media(read, held: set[str]):
    """Media whose sound is noise for some clips."""

    def changed(self: MediaStore, digest: str) -> Media:
        media = read(self, digest)
        noise = np.random.default_rng(1).uniform(-1, 1, media.waveform.shape).astype(np.float32)
        return replace(media, waveform=noise) if digest in held else media

    return changed


def noisy_rows(read, held: set[str]):
    """Cached rows that are noise for some clips."""

    def changed(self: FeatureCache, recipe, roles, clips, names):
        rows = read(self, recipe, roles, clips, names)
        rng = np.random.default_rng(2)
        noisy = np.array([status.digest in held for status in clips])
        for value in rows.arrays.values():
            value[noisy] = rng.normal(size=value[noisy].shape)
        return rows

    return changed


def equal(one: dict[str, object], other: dict[str, object]) -> bool:
    """Whether two outcomes agree bit for bit."""
    for name, (roles, epoch, tensors) in one.items():  # type: ignore[misc]
        theirs_roles, theirs_epoch, theirs = other[name]  # type: ignore[misc]
        if (roles, epoch, set(tensors)) != (theirs_roles, theirs_epoch, set(theirs)):
            return False
        if not all(np.array_equal(tensors[key], theirs[key]) for key in tensors):
            return False
    return True


@pytest.fixture(scope="module")
def home(media: Path, heads_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of three folds with the recipes of a network tuned whole and one at its head; none needs to be tuned."""
    folder = tmp_path_factory.mktemp("leaks")
    shutil.copytree(heads_cache, folder / "work")
    (folder / "tiny.toml").write_text(RECIPE)
    runner = Runner(media, folder / "work", folder / "tiny.toml")
    runner(plan=PlanChoice(folds=3), networks=Wanted(crossfit=False))
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
    """Noise in fold 0 changes no bit of networks {0} and {0,1}, tuned whole or at the head."""
    clean = tuned(source, home, tmp_path / "clean", monkeypatch, noise=False)
    assert equal(clean, tuned(source, home, tmp_path / "noise", monkeypatch, noise=True))


@dataclass(frozen=True)
class Mutation:
    """A leak: some text of a method of the code, and what it becomes."""

    step: str
    owner: type
    name: str
    old: str
    new: str


STOPS = """return tuple(sorted((*tuning_roles(side, recipe.tuning, seed=recipe.seed),
            *((d, l, "stop") for u in units if u not in side for d, l in zip(u.digests, u.labels)))))"""
MUTATIONS = (
    Mutation(
        "network weights", FeatureCache, "roles", "if not wanted.covers(plan.assignment[unit.key])", "if True"
    ),
    Mutation(
        "stopping epoch",
        FeatureCache,
        "roles",
        "return tuning_roles(side, recipe.tuning, seed=recipe.seed)",
        STOPS,
    ),
    Mutation(
        "scaler of activations",
        SourceWorker,
        "head_data",
        'np.stack([activations[digest] for digest, _, role in roles if role == "tune"])',
        "np.stack(list(activations.values()))",
    ),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.step)
def test_a_planted_leak_is_seen(
    home: Path, mutation: Mutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a leak in tuning, networks depend on the fold that they hold out."""
    source = textwrap.dedent(inspect.getsource(getattr(mutation.owner, mutation.name)))
    assert mutation.old in source, f"{mutation.name} no longer holds {mutation.old!r}"
    namespace = dict(vars(sys.modules[mutation.owner.__module__]))
    exec(compile(source.replace(mutation.old, mutation.new), mutation.step, "exec"), namespace)
    monkeypatch.setattr(mutation.owner, mutation.name, namespace[mutation.name])
    clean = tuned("twodmcnn", home, tmp_path / "clean", monkeypatch, noise=False)
    assert not equal(clean, tuned("twodmcnn", home, tmp_path / "noise", monkeypatch, noise=True))
