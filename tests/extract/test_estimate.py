"""Estimates of time and disk, and when they are made."""

from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.extract.estimate import Estimate, describe_export, describe_work, measure
from moodfuse.extract.pending import MIN_CLIPS, Work
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.settings import ExtractSettings

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


def test_tuned_embeddings_need_a_network_of_all_clips() -> None:
    """Without cross-fitting logits need it as well; the line names the level, the sources and the option."""
    head, full = (
        build_recipe("onedmcnn", RecipeChoice(depth=depth, device="cpu")) for depth in ("head", "full")
    )
    recipes = [replace(head, source="a", embedding_tuned=False), replace(full, source="b")]
    assert (
        describe_export([], crossfit=False)
        == "export: every result of these sources can be exported as a model"
    )
    assert describe_export(recipes[:1], crossfit=True) == describe_export([], crossfit=True)
    line = describe_export(recipes, crossfit=True)
    assert "except those at the level of embedding of b; add --for-export" in line
    line = describe_export(recipes, crossfit=False)
    assert "except those at the level of logits of a, b and at the level of embedding of b; add" in line


def test_small_estimates_have_no_zeros() -> None:
    """Nothing is said to take 0.0 minutes or 0 MB."""
    assert str(Estimate(3.0, 0.2)) == "less than a minute, less than 1 MB of disk"
    assert str(Estimate(90.0, 951.4)) == "about 1.5 minutes, 951 MB of disk"


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("even", "i3d (frozen): "),
        ("windows:2", "i3d (frozen, 2 windows of 32 frames at 25.0 per second): "),
        ("even,crops:3", "i3d (frozen, 3 crops): "),
        ("windows:1@5,crops:3", "i3d (frozen, 1 window of 32 frames at 5.0 per second, 3 crops): "),
    ],
)
def test_the_line_of_a_source_has_its_frames(frames: str, expected: str) -> None:
    """Unless it reads one crop of even frames."""
    recipe = build_recipe("i3d", RecipeChoice(depth="frozen", frames={"i3d": frames}, device="cpu"))
    settings = ExtractSettings(Path("clips"), Path("work"))
    (line,) = describe_work([Work(recipe, CLIPS[:1], (), 0, 52)], settings, ("a", "b"))
    assert line == f"{expected}1 clips to embed, 0 networks to tune for one frozen block"
