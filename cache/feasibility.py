"""Whether clips can have a fold plan at all, by their labels, groups and folds, before any file is read."""

from collections.abc import Sequence

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import (
    DEFAULT_FOLDS,
    PlanChoice,
    check_fold_numbers,
    check_group_counts,
    clip_groups,
    declared_folds,
    groups_per_label,
    join_groups,
    validate,
)
from moodfuse.cache.records import Clip, ClipStatus


def check_feasible(clips: Sequence[Clip], choice: PlanChoice) -> None:
    """Check that a fold plan is possible if every clip can be read.

    Reading files can only refuse clips and join groups, of identical files. So what is refused here would be
    refused after decoding, except for a label whose clips are all unreadable.

    Parameters
    ----------
    clips : sequence of Clip
        All clips of the dataset.
    choice : PlanChoice
        Settings of the plan.

    Raises
    ------
    InputError
        If there are fewer than two labels, fewer groups of a label than folds, or declared folds that cannot
        be used.
    """
    check_fold_numbers(clips)
    training = [clip for clip in clips if clip.split == "train"]
    if not training:
        raise InputError(
            f"none of the {len(clips)} clips is in the split 'train'; correct the column 'split'"
        )
    groups = join_groups(training, {clip.id: clip.path for clip in training})
    statuses = [ClipStatus(clip, clip.id, "", groups[clip.id], ok=True) for clip in training]
    if (declared := declared_folds(statuses)) is not None:
        folds, assignment = declared
        validate(clip_groups(statuses), assignment, folds)
        return
    folds = DEFAULT_FOLDS if choice.folds is None else choice.folds
    check_group_counts(groups_per_label(clip_groups(statuses)), folds)
