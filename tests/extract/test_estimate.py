"""Estimates of time and disk, and when they are made."""

import pytest

from moodfuse.extract.estimate import measure
from moodfuse.extract.pending import MIN_CLIPS, Work
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe

FROZEN = build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu"))
CLIPS = tuple(f"{number:064d}" for number in range(MIN_CLIPS))


def test_only_long_work_is_measured() -> None:
    """A few clips for a stored network are not; many clips, networks to tune and one to store are."""
    assert not Work(FROZEN, CLIPS[:-1], (), 0, 52).is_long and Work(FROZEN, CLIPS, (), 0, 52).is_long
    assert Work(FROZEN, CLIPS[:1], (), 0, 52, body=True).is_long and Work(FROZEN, (), ((),), 1, 52).is_long


def test_an_estimate_grows_with_the_work() -> None:
    """Twice the clips take twice the disk; a stored body has the network's own size."""
    one, two = (measure(Work(FROZEN, CLIPS * times, (), 0, 52), None, classes=("a", "b")) for times in (1, 2))
    assert one.seconds > 0 and two.megabytes == 2 * one.megabytes > 0
    body = measure(Work(FROZEN, (), (), 0, 52, body=True), None, classes=("a", "b"))
    size = 4 * 32 + 3 * (32 * 32 * 3 + 32) + 257 * 2
    assert body.seconds == 0 and body.megabytes == pytest.approx(4e-6 * size)
