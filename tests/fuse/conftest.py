"""A synthetic cache with two sources, written through the real `FeatureCache`; no media, no network."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.folds import GROUP_RULE, assign_folds, clip_groups, pair_holdouts, single_holdouts
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Clip, ClipStatus, Holdout, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import make_fit_keys
from moodfuse.fuse.cross_fitting import PlanFeatures, fit_features
from moodfuse.fuse.fitting import FitRunner
from moodfuse.fuse.leak_guard import make_clip_rows
from moodfuse.fuse.run_inputs import read_blocks, read_inputs, read_part_digests

CLASSES = ("excited", "fear", "sad")
SIGNAL, MEMORY = 3.0, 3.0
"""Distance of class means in units of the noise, and how much further a tuned network moves its clips."""


@dataclass(frozen=True)
class Corpus:
    """Settings of a synthetic corpus.

    `permute` assigns labels at random; `pairs` adds networks of pair holdouts and the one that saw all; the
    first `without_video` clips have no video, which every source reads; networks exist under `repeats` fold
    plans.
    """

    groups_per_class: int = 8
    clips_per_group: int = 1
    folds: int = 4
    frozen: dict[str, int] = field(default_factory=lambda: {"i3d": 12})
    tuned: dict[str, int] = field(default_factory=lambda: {"c3d": 10})
    permute: bool = False
    pairs: bool = False
    without_video: int = 0
    repeats: int = 1
    seed: int = 0


def make_statuses(corpus: Corpus) -> tuple[ClipStatus, ...]:
    """Readable clips in groups; ids do not sort by label."""
    labels = list(CLASSES) * corpus.groups_per_class
    if corpus.permute:
        labels = list(np.random.default_rng(corpus.seed).permutation(labels))
    statuses = []
    for group, label in enumerate(labels):
        song = f"song{group:03d}"
        for window in range(corpus.clips_per_group):
            name = f"{corpus.seed}-{group:03d}-{window}.mp4"
            clip = Clip(id=name, path=f"/clips/{name}", label=str(label), group=song)
            sha, digest = (hashlib.sha256(text.encode()).hexdigest() for text in (name, f"{name}:0"))
            missing = "picture" if len(statuses) < corpus.without_video else ""
            statuses.append(
                ClipStatus(clip, digest=digest, file_sha256=sha, group=song, ok=True, missing=missing)
            )
    return tuple(statuses)


def write_source(cache: FeatureCache, corpus: Corpus, source: str, width: int, *, tuned: bool) -> None:
    """Write a source's blocks: one of holdout `*`, or one of `{k}` a fold, with logits."""
    tuning = Tuning(optimizer="adam", learning_rate=1e-3, epochs=2) if tuned else None
    recipe = Recipe(source, source, 1, "random", "{}", "full" if tuned else "frozen", tuning, tuned)
    cache.write_recipe(recipe)
    cache.select([recipe])
    clips = cache.clips_with(recipe)
    digests = [status.digest for status in clips]
    labels = np.array([cache.classes.index(status.clip.label) for status in clips])
    # Permuted labels say nothing about the features.
    y_true = np.arange(len(labels)) % len(cache.classes) if corpus.permute else labels
    if not tuned:
        means, embedding = make_embedding(corpus, width, (0,), y_true)
        cache.write_block_part(recipe, None, digests, {"embedding": embedding.astype(np.float32)})
        return
    for plan in (cache.plan, *cache.repeat_plans):
        pairs = (*pair_holdouts(corpus.folds), Holdout.of(())) if corpus.pairs else ()
        for holdout in (*single_holdouts(corpus.folds), *pairs):
            training_clips = cache.training_clips(recipe, holdout, plan=plan)
            assert training_clips is not None
            if cache.block_folder(recipe, training_clips).exists():
                continue
            cache.write_training_clips(recipe, training_clips)
            means, embedding = make_embedding(corpus, width, tuple(sorted(holdout.folds or ())), y_true)
            seen = np.isin(digests, [digest for digest, _, _ in training_clips])
            embedding += MEMORY * seen[:, None] * means[labels]
            arrays = {"embedding": embedding, "logits": embedding @ means.T - (means**2).sum(axis=1) / 2}
            arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
            cache.write_block_part(recipe, training_clips, digests, arrays)


def make_embedding(
    corpus: Corpus, width: int, key: tuple[int, ...], y_true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class means and rows of one network; its own axes depend on its holdout."""
    rng = np.random.default_rng([corpus.seed, width, *key, len(key)])
    means = rng.normal(size=(len(CLASSES), width)) * SIGNAL / np.sqrt(width)
    return means, means[y_true] + rng.normal(size=(len(y_true), width))


def make_cache(folder: Path, corpus: Corpus) -> FeatureCache:
    """A cache as stage one leaves it."""
    cache = FeatureCache(folder, create=True)
    statuses = make_statuses(corpus)
    for repeat in range(corpus.repeats):
        assignment = assign_folds(clip_groups(statuses), folds=corpus.folds, seed=repeat, placed={})
        plan = Plan(corpus.folds, repeat, GROUP_RULE, assignment, (table_name(statuses),), repeat=repeat)
        cache.write_plan(plan, statuses)
    for source, width in (corpus.frozen | corpus.tuned).items():
        write_source(cache, corpus, source, width, tuned=source in corpus.tuned)
    return cache


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FeatureCache]:
    """Builds a cache of a synthetic corpus, given its settings."""
    return lambda **settings: make_cache(tmp_path_factory.mktemp("synthetic") / "cache", Corpus(**settings))


@pytest.fixture(scope="session")
def cache(build: Callable[..., FeatureCache]) -> FeatureCache:
    """A cache of 24 clips, 3 classes, 4 folds; `c3d` tuned, `i3d` frozen. Not to be written to."""
    return build()


@pytest.fixture(scope="session")
def crossfitted(build: Callable[..., FeatureCache]) -> FeatureCache:
    """The same with pair networks, one that saw all, and two clips without video. Read-only."""
    return build(pairs=True, without_video=2)


@pytest.fixture(scope="session")
def load_features() -> Callable[..., PlanFeatures]:
    """What sources give to each outer fold under a protocol and a plan, by default the current one."""

    def load(
        cache: FeatureCache, sources: Sequence[str], protocol: str, *, plan: Plan | None = None
    ) -> PlanFeatures:
        inputs, plan = read_inputs(cache, sources, protocol), plan or cache.plan
        rows, blocks = make_clip_rows(plan, inputs.clips), read_blocks(cache, inputs, plan)
        keys = make_fit_keys(inputs, plan, read_part_digests(cache, inputs, plan))
        return fit_features(inputs, rows, blocks, keys, FitRunner())

    return load
