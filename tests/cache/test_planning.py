"""A new fold plan follows its seed."""

from moodfuse.cache.digests import digest
from moodfuse.cache.folds import PlanChoice, next_plan
from moodfuse.cache.records import Clip, ClipStatus


def test_another_seed_gives_other_folds() -> None:
    """The same seed gives the same assignment, another seed another one."""
    clips = [Clip(str(number), f"/{number}", "ab"[number % 2]) for number in range(20)]
    statuses = [ClipStatus(clip, digest(clip.id), "", clip.id, ok=True) for clip in clips]
    first, again, other = (next_plan([], statuses, PlanChoice(folds=5, seed=seed)) for seed in (1, 1, 2))
    assert first.assignment == again.assignment != other.assignment
