"""A synthetic cache with two sources, written through the real `FeatureCache`; no media, no network."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from cache.folds import GROUP_RULE, deal, units_of
from cache.recipe import Recipe, Tuning
from cache.records import Clip, ClipStatus, Plan
from cache.store import FeatureCache, record_name

CLASSES = ("excited", "fear", "sad")


@dataclass(frozen=True)
class Corpus:
    """What the synthetic clips are like.

    `signal` is the distance of class means in units of the noise; `memory` is how much further a tuned network
    pulls the clips that it saw; `permute` deals labels to groups at random, so that nothing can be learned.
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
    seed: int = 0


def digest_of(text: str) -> str:
    """A clip digest that depends on the name alone."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_statuses(corpus: Corpus) -> tuple[ClipStatus, ...]:
    """Readable clips in groups; ids do not sort by label."""
    rng = np.random.default_rng(corpus.seed)
    count = corpus.groups_per_class * len(corpus.classes)
    labels = [corpus.classes[number % len(corpus.classes)] for number in range(count)]
    if corpus.permute:
        labels = list(rng.permutation(labels))
    statuses = []
    for group, label in enumerate(labels):
        for window in range(corpus.clips_per_group):
            name = f"{corpus.seed}-{group:03d}-{window}.mp4"
            clip = Clip(id=name, path=f"/clips/{name}", label=str(label), group=f"song{group:03d}")
            sha = digest_of(name)
            statuses.append(
                ClipStatus(clip, digest=digest_of(f"{name}:0"), file_sha256=sha, group=f"song{group:03d}", ok=True)
            )
    return tuple(statuses)


def make_plan(statuses: tuple[ClipStatus, ...], folds: int, seed: int = 0) -> Plan:
    """The plan that extract would make."""
    assignment = deal(units_of(statuses), folds=folds, seed=seed, placed={})
    return Plan(folds, seed, GROUP_RULE, assignment, tuple(sorted(map(record_name, statuses))))


def make_recipe(source: str, *, tuned: bool, embedding_tuned: bool = True) -> Recipe:
    """A recipe without pretrained weights."""
    tuning = Tuning(optimizer="adam", learning_rate=1e-3, epochs=2) if tuned else None
    depth = "full" if tuned else "frozen"
    return Recipe(source, source, 1, "random", "{}", depth, tuning, embedding_tuned=tuned and embedding_tuned)  # type: ignore[arg-type]


def write_source(cache: FeatureCache, corpus: Corpus, source: str, width: int, *, tuned: bool) -> None:
    """Write a source's blocks: one of holdout `*`, or one of `{k}` a fold, with logits."""
    recipe = make_recipe(source, tuned=tuned)
    cache.write_recipe(recipe)
    cache.select([recipe])
    digests = [status.digest for status in cache.clips]
    truth = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
    if corpus.permute:  # features know a label that the clips do not carry
        truth = np.arange(len(truth)) % len(cache.classes)
    for fold in range(corpus.folds) if tuned else (0,):
        rng = np.random.default_rng([corpus.seed, width, fold])
        means = rng.normal(size=(len(cache.classes), width)) * corpus.signal / np.sqrt(width)
        embedding = means[truth] + rng.normal(size=(len(digests), width))
        if not tuned:
            cache.write_block_part(recipe, None, digests, {"embedding": embedding.astype(np.float32)})
            continue
        roles = cache.roles(recipe, {fold})
        assert roles is not None
        cache.write_roles(recipe, roles)
        seen = np.isin(digests, [digest for digest, _, _ in roles])
        labels = np.array([cache.classes.index(status.clip.label) for status in cache.clips])
        embedding += corpus.memory * seen[:, None] * means[labels]
        arrays = {"embedding": embedding, "logits": embedding @ means.T - (means**2).sum(axis=1) / 2}
        arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
        cache.write_block_part(recipe, roles, digests, arrays)


def make_cache(folder: Path, corpus: Corpus | None = None) -> FeatureCache:
    """A cache as stage one leaves it."""
    corpus = corpus or Corpus()
    cache = FeatureCache(folder, create=True)
    statuses = make_statuses(corpus)
    cache.write_plan(make_plan(statuses, corpus.folds), statuses)
    for source, width in corpus.frozen.items():
        write_source(cache, corpus, source, width, tuned=False)
    for source, width in corpus.tuned.items():
        write_source(cache, corpus, source, width, tuned=True)
    return cache


@pytest.fixture
def build(tmp_path: Path) -> Callable[[Corpus], FeatureCache]:
    """Builds caches in folders of their own."""
    made: list[FeatureCache] = []

    def make(corpus: Corpus) -> FeatureCache:
        made.append(make_cache(tmp_path / f"cache{len(made)}", corpus))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """A cache of 24 clips, 3 classes, 4 folds; `c3d` tuned, `i3d` frozen. Not to be written to."""
    return make_cache(tmp_path_factory.mktemp("synthetic") / "cache")


@pytest.fixture
def build_corpus() -> type[Corpus]:
    """The settings of a synthetic corpus."""
    return Corpus
