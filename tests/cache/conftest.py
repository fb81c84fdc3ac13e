"""Small caches made of records alone: no media, no networks."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cache.folds import deal, units_of
from cache.identity import clip_digest, digest
from cache.manifest import table_name
from cache.records import Clip, ClipStatus, Plan
from cache.store import FeatureCache


def make_statuses(labels: Sequence[str], groups: Sequence[str] | None = None) -> list[ClipStatus]:
    """One readable status per label; every clip its own group unless groups are given."""
    statuses = []
    for number, label in enumerate(labels):
        clip = Clip(id=f"{number:03d}", path=f"/data/{number:03d}.mp4", label=label)
        file = digest(f"file {number}")
        group = clip.id if groups is None else groups[number]
        statuses.append(ClipStatus(clip, clip_digest(file, 0.0, None), file, group, ok=True, duration_s=30.0))
    return statuses


def make_plan(statuses: Sequence[ClipStatus], *, folds: int = 3, seed: int = 0) -> Plan:
    """A dealt plan over all statuses."""
    assignment = deal(units_of(statuses), folds=folds, seed=seed, placed={})
    return Plan(folds, seed, "test", assignment, (table_name(statuses),))


@pytest.fixture
def small_cache(tmp_path: Path) -> Callable[..., FeatureCache]:
    """A cache with a plan over labelled clips."""

    def make(labels: Sequence[str] = ("a", "b") * 9, **options: int) -> FeatureCache:
        cache = FeatureCache(tmp_path / "work", create=True)
        statuses = make_statuses(labels)
        cache.write_plan(make_plan(statuses, **options), statuses)
        return cache

    return make
