"""What is measured before it is done, and what is not worth it."""

import pytest

from moodfuse.extract.pending import Work
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.training.estimate import LEAST_CLIPS, is_long, measure

FROZEN = build_recipe("onedmcnn", RecipeChoice(depth="frozen", device="cpu"))
CLIPS = tuple(f"{number:064d}" for number in range(LEAST_CLIPS))


@pytest.mark.parametrize(
    ("work", "long"),
    [
        (Work(FROZEN, CLIPS[:-1], (), 0, 52), False),
        (Work(FROZEN, CLIPS, (), 0, 52), True),
        (Work(FROZEN, CLIPS[:1], (), 0, 52, body=True), True),
        (Work(FROZEN, (), ((),), 1, 52), True),
    ],
)
def test_short_work_is_not_measured_first(work: Work, long: bool) -> None:
    """A few clips past a network that is kept already; networks to tune, and one to keep, always are."""
    assert is_long(work) is long


def test_an_estimate_grows_with_the_work() -> None:
    """Twice the clips take twice the disk; the body that is kept is the network's own size."""
    one, two = (measure(Work(FROZEN, CLIPS * times, (), 0, 52), None, classes=("a", "b")) for times in (1, 2))
    assert one.seconds > 0 and two.megabytes == 2 * one.megabytes > 0
    body = measure(Work(FROZEN, (), (), 0, 52, body=True), None, classes=("a", "b"))
    assert body.seconds == 0 and body.megabytes == pytest.approx(
        4e-6 * (4 * 32 + 3 * (32 * 32 * 3 + 32) + 257 * 2)
    )
