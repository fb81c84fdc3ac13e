"""Datasets that cannot have a fold plan are refused by their labels, groups and folds alone."""

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.feasibility import check_feasible
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.records import Clip


def make_clips(**counts: int) -> list[Clip]:
    """Clips of labels, each in a file of its own."""
    names = [(label, f"{label}/{number}.mp4") for label, count in counts.items() for number in range(count)]
    return [Clip(id=name, path=name, label=label) for label, name in names]


def change(clips: list[Clip], **values: object) -> list[Clip]:
    """The clips with other values of attributes."""
    return [Clip(**{**{"id": clip.id, "path": clip.path, "label": clip.label}, **values}) for clip in clips]


def test_enough_groups_of_each_label_are_accepted() -> None:
    """For the folds that are chosen, those of the last plan, or 6."""
    check_feasible(make_clips(sad=6, happy=7), PlanChoice())
    check_feasible(make_clips(sad=2, happy=3), PlanChoice(folds=2))
    check_feasible(make_clips(sad=3, happy=3), PlanChoice(folds=3))


@pytest.mark.parametrize(
    ("clips", "folds", "message"),
    [
        (make_clips(sad=9), None, r"found 1 label\(s\)"),
        (
            make_clips(sad=9, happy=5),
            None,
            r"'happy' has 5 group\(s\), fewer than the 6 folds; use --folds 5",
        ),
        (make_clips(sad=9, happy=1), 2, "add clips of 'happy', or drop it"),
        (make_clips(sad=9, happy=9), 1, "--folds is 1; expected 2 or more"),
        (change(make_clips(sad=9), group="x") + make_clips(happy=9), 2, r"'sad' has 1 group"),
        (change(make_clips(sad=9), path="one.mp4") + make_clips(happy=9), 2, r"'sad' has 1 group"),
        (change(make_clips(sad=9, happy=9), split="test"), 2, "none of the 18 clips is in the split 'train'"),
        (change(make_clips(sad=9, happy=9), fold=1), None, "counts from 1"),
        (change(make_clips(sad=9), fold=0) + make_clips(happy=9), None, "has no fold while others"),
        (change(make_clips(sad=9), fold=0) + change(make_clips(happy=9), fold=1), None, "would be absent"),
    ],
)
def test_impossible_plans_are_refused(clips: list[Clip], folds: int | None, message: str) -> None:
    """With the reason that the plan would give after decoding."""
    with pytest.raises(InputError, match=message):
        check_feasible(clips, PlanChoice(folds=folds))
