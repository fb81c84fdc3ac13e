"""A synthetic cache with two sources, written through the real `FeatureCache`; no media, no network."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.folds import GROUP_RULE, assign_folds, clip_groups, pair_holdouts, single_holdouts
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Clip, ClipStatus, Holdout, Plan
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import fit_features
from moodfuse.fuse.cross_fitting import PlanFeatures
from moodfuse.fuse.leak_guard import clip_rows
from moodfuse.fuse.run_inputs import read_blocks, read_inputs

CLASSES = ("excited", "fear", "sad")


@dataclass(frozen=True)
class Corpus:
    """Settings of a synthetic corpus.

    `signal` is the distance of class means in units of the noise, `memory` how much further a tuned network
    moves the clips that it saw; `permute` assigns labels at random; `pairs` adds networks of pair holdouts
    and the one that saw all; the first `without_video` clips have no video, which every source reads;
    networks exist under `repeats` fold plans.
    """

    groups_per_class: int = 8
    clips_per_group: int = 1
    classes: tuple[str, ...] = CLASSES
    folds: int = 4
    frozen: Mapping[str, int] = field(default_factory=lambda: {"i3d": 12})
    tuned: Mapping[str, int] = field(default_factory=lambda: {"c3d": 10})
    signal: float = 3.0
    memory: float = 3.0
    permute: bool = False
    pairs: bool = False
    without_video: int = 0
    repeats: int = 1
    seed: int = 0


def digest_of(text: str) -> str:
    """A clip digest that depends on the name alone."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_statuses(corpus: Corpus) -> tuple[ClipStatus, ...]:
    """Readable clips in groups; ids do not sort by label."""
    rng = np.random.default_rng(corpus.seed)
    labels = list(corpus.classes) * corpus.groups_per_class
    if corpus.permute:
        labels = list(rng.permutation(labels))
    statuses = []
    for group, label in enumerate(labels):
        song = f"song{group:03d}"
        for window in range(corpus.clips_per_group):
            name = f"{corpus.seed}-{group:03d}-{window}.mp4"
            clip = Clip(id=name, path=f"/clips/{name}", label=str(label), group=song)
            sha = digest_of(name)
            missing = "picture" if len(statuses) < corpus.without_video else ""
            digest = digest_of(f"{name}:0")
            statuses.append(
                ClipStatus(clip, digest=digest, file_sha256=sha, group=song, ok=True, missing=missing)
            )
    return tuple(statuses)


def make_plan(statuses: tuple[ClipStatus, ...], folds: int, seed: int = 0) -> Plan:
    """The plan that extract would make."""
    assignment = assign_folds(clip_groups(statuses), folds=folds, seed=seed, placed={})
    return Plan(folds, seed, GROUP_RULE, assignment, (table_name(statuses),))


def make_recipe(source: str, *, tuned: bool) -> Recipe:
    """A recipe without pretrained weights."""
    tuning = Tuning(optimizer="adam", learning_rate=1e-3, epochs=2) if tuned else None
    depth = "full" if tuned else "frozen"
    return Recipe(source, source, 1, "random", "{}", depth, tuning, tuned)  # type: ignore[arg-type]


def write_source(cache: FeatureCache, corpus: Corpus, source: str, width: int, *, tuned: bool) -> None:
    """Write a source's blocks: one of holdout `*`, or one of `{k}` a fold, with logits."""
    recipe = make_recipe(source, tuned=tuned)
    cache.write_recipe(recipe)
    cache.select([recipe])
    clips = cache.clips_with(recipe)
    digests = [status.digest for status in clips]
    labels = np.array([cache.classes.index(status.clip.label) for status in clips])
    y_true = (
        np.arange(len(labels)) % len(cache.classes) if corpus.permute else labels
    )  # unlike the clips' labels
    if not tuned:
        means, embedding = draw_embedding(corpus, width, (0,), y_true)
        cache.write_block_part(recipe, None, digests, {"embedding": embedding.astype(np.float32)})
        return
    for plan in (cache.plan, *cache.repeat_plans):
        pairs = (*pair_holdouts(corpus.folds), Holdout.of(())) if corpus.pairs else ()
        for holdout in (*single_holdouts(corpus.folds), *pairs):
            roles = cache.roles(recipe, holdout, plan=plan)
            assert roles is not None
            if cache.block_folder(recipe, roles).exists():
                continue
            cache.write_roles(recipe, roles)
            means, embedding = draw_embedding(corpus, width, tuple(sorted(holdout.folds or ())), y_true)
            seen = np.isin(digests, [digest for digest, _, _ in roles])
            embedding += corpus.memory * seen[:, None] * means[labels]
            arrays = {"embedding": embedding, "logits": embedding @ means.T - (means**2).sum(axis=1) / 2}
            arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
            cache.write_block_part(recipe, roles, digests, arrays)


def draw_embedding(
    corpus: Corpus, width: int, key: tuple[int, ...], y_true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Class means and rows of one network; its own axes depend on its holdout."""
    rng = np.random.default_rng([corpus.seed, width, *key, len(key)])
    means = rng.normal(size=(len(corpus.classes), width)) * corpus.signal / np.sqrt(width)
    return means, means[y_true] + rng.normal(size=(len(y_true), width))


def make_cache(folder: Path, corpus: Corpus | None = None) -> FeatureCache:
    """A cache as stage one leaves it."""
    corpus = corpus or Corpus()
    cache = FeatureCache(folder, create=True)
    statuses = make_statuses(corpus)
    for repeat in range(corpus.repeats):
        plan = make_plan(statuses, corpus.folds, seed=repeat)
        cache.write_plan(replace(plan, repeat=repeat), statuses)
    for source, width in corpus.frozen.items():
        write_source(cache, corpus, source, width, tuned=False)
    for source, width in corpus.tuned.items():
        write_source(cache, corpus, source, width, tuned=True)
    return cache


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., FeatureCache]:
    """Builds caches of synthetic corpora, given their settings, in folders of their own."""
    numbers = count()
    return lambda **settings: make_cache(tmp_path / f"cache{next(numbers)}", Corpus(**settings))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of 24 clips, 3 classes, 4 folds; `c3d` tuned, `i3d` frozen. Not to be written to."""
    return make_cache(tmp_path_factory.mktemp("synthetic") / "cache")


@pytest.fixture(scope="session")
def crossfitted(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """The same with pair networks, one that saw all, and two clips without video. Read-only."""
    return make_cache(tmp_path_factory.mktemp("synthetic") / "cache", Corpus(pairs=True, without_video=2))


@pytest.fixture(scope="session")
def build_in() -> Callable[..., FeatureCache]:
    """Builds a cache of a synthetic corpus, given its settings, in a folder."""
    return lambda folder, **settings: make_cache(folder, Corpus(**settings))


@pytest.fixture(scope="session")
def load_features() -> Callable[..., PlanFeatures]:
    """What some sources give to each outer fold under a protocol, and under another plan if one is given."""

    def load(
        cache: FeatureCache, sources: Sequence[str], protocol: str, *, plan: Plan | None = None
    ) -> PlanFeatures:
        inputs, plan = read_inputs(cache, sources, protocol), plan or cache.plan
        return fit_features(inputs, plan, clip_rows(plan, inputs.clips), read_blocks(cache, inputs, plan))

    return load


@pytest.fixture(scope="session")
def replace_clips() -> Callable[[FeatureCache, Iterable[ClipStatus]], None]:
    """Puts other clips in the place of those that a cache read."""

    def put(cache: FeatureCache, clips: Iterable[ClipStatus]) -> None:
        cache.__dict__["clips"] = tuple(clips)

    return put
