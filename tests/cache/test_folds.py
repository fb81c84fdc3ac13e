"""Plans: grouped, stratified, stable, validated."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moodfuse.cache.digests import clip_digest, digest, digest16, training_digest16
from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import (
    ClipGroup,
    PlanChoice,
    assign_folds,
    check_fold_numbers,
    clip_groups,
    declared_folds,
    inner_folds,
    join_groups,
    next_plan,
    tuning_clips,
    validate,
)
from moodfuse.cache.recipe import Tuning
from moodfuse.cache.records import Clip, ClipStatus


def clip_group(number: int, label: str, clips: int = 1) -> ClipGroup:
    """A group of clips with one label."""
    return mixed_group(number, label * clips)


def mixed_group(number: int, labels: str) -> ClipGroup:
    """A group of clips with these labels."""
    digests = tuple(sorted(digest([number, clip]) for clip in range(len(labels))))
    return ClipGroup(digests[0], tuple(labels), digests)


mixed_strategy = st.lists(st.text("abcd", min_size=1, max_size=6), min_size=1, max_size=40).map(
    lambda rows: [mixed_group(number, labels) for number, labels in enumerate(rows)]
)


@settings(max_examples=60, deadline=None)
@given(mixed_strategy, st.integers(2, 5), st.integers(0, 3))
def test_groups_are_never_split(clip_groups: list[ClipGroup], folds: int, seed: int) -> None:
    """In plans, inner folds and roles each group has one fold, each clip its label, and no class is lost."""
    plan = assign_folds(clip_groups, folds=folds, seed=seed, placed={})
    assert assign_folds(clip_groups[::-1], folds=folds, seed=seed, placed={}) == plan
    before = assign_folds(clip_groups[::2], folds=folds, seed=seed, placed={})
    after = assign_folds(clip_groups, folds=folds, seed=seed, placed=before)
    assert {clip: after[clip] for clip in before} == before
    inner = inner_folds(clip_groups, most=5, seed=seed)
    training_clips = tuning_clips(clip_groups, Tuning("adam", 1e-3, 3), seed=seed)
    by_clip = {clip: (label, role) for clip, label, role in training_clips}
    for group in clip_groups:
        assert len({plan[clip] for clip in group.digests}) == 1
        assert inner is None or len({inner[clip] for clip in group.digests}) == 1
        assert len({by_clip[clip][1] for clip in group.digests}) == 1
        assert tuple(by_clip[clip][0] for clip in group.digests) == group.labels
    tuned = {label for label, role in by_clip.values() if role == "tune"}
    assert tuned == {label for group in clip_groups for label in group.labels}


@settings(max_examples=40, deadline=None)
@given(st.text("abc", min_size=1, max_size=40), st.integers(2, 6), st.integers(0, 3))
def test_labels_of_single_clips_are_spread_evenly(labels: str, folds: int, seed: int) -> None:
    clip_groups = [clip_group(number, label) for number, label in enumerate(labels)]
    assignment = assign_folds(clip_groups, folds=folds, seed=seed, placed={})
    for label in set(labels):
        counts = Counter(assignment[group.key] for group in clip_groups if group.labels == (label,))
        assert max(counts.values()) - min(counts.get(fold, 0) for fold in range(folds)) <= 1


def test_plans_and_roles_are_the_same_in_every_version() -> None:
    """Reference digests of a plan, of the plan after clips were added, and of roles."""
    clip_groups = [clip_group(number, "abc"[number % 3], 1 + number % 4) for number in range(40)]
    plan = assign_folds(clip_groups, folds=5, seed=1, placed={})
    added = [clip_group(100 + number, "abcd"[number % 4], 1 + number % 2) for number in range(20)]
    later = assign_folds([*clip_groups, *added], folds=5, seed=1, placed=plan)
    training_clips = tuning_clips(clip_groups, Tuning("adam", 1e-3, 3), seed=2)
    assert digest16(sorted(plan.items())) == "a94483f55b22a102"
    assert digest16(sorted(later.items())) == "508baa08cd133b87"
    assert training_digest16(training_clips) == "bfe59a1ac07edc3f"


def test_a_rare_label_decides_where_a_mixed_group_goes() -> None:
    clip_groups = [mixed_group(number, "aaaab") for number in range(3)] + [
        clip_group(10 + number, "a") for number in range(9)
    ]
    assignment = assign_folds(clip_groups, folds=3, seed=0, placed={})
    assert {assignment[one.key] for one in clip_groups[:3]} == {0, 1, 2}
    validate(clip_groups, assignment, 3)


def test_a_new_group_goes_where_its_label_is_scarcest() -> None:
    old = [clip_group(0, "a"), clip_group(1, "a"), clip_group(2, "b")]
    placed = {old[0].key: 0, old[1].key: 1, old[2].key: 0}
    new = clip_group(3, "b")
    assert assign_folds([*old, new], folds=2, seed=0, placed=placed)[new.key] == 1


def test_a_merged_group_moves_to_the_fold_with_most_of_its_clips() -> None:
    merged = clip_group(0, "a", 3)
    placed = dict(zip(merged.digests, (1, 1, 0), strict=True))
    assert set(assign_folds([merged], folds=2, seed=0, placed=placed).values()) == {1}


def test_groups_join_by_name_and_by_equal_files() -> None:
    """Two declared groups that share a file are one group."""
    clips = [
        Clip("1", "/1", "a", group="x"),
        Clip("2", "/2", "a", group="y"),
        Clip("3", "/3", "a", group="y"),
        Clip("4", "/4", "a"),
    ]
    assert join_groups(clips, {"1": "f", "2": "f", "3": "g", "4": "h"}) == {
        "1": "x",
        "2": "x",
        "3": "x",
        "4": "4",
    }


def status(number: int, label: str, group: str, fold: int | None = None) -> ClipStatus:
    """A readable clip."""
    clip = Clip(str(number), f"/{number}", label, fold=fold)
    return ClipStatus(clip, clip_digest(str(number), 0, None), str(number), group, ok=True)


def window(start_s: float, end_s: float | None, label: str) -> ClipStatus:
    """A window of one film."""
    clip = Clip(f"film@{start_s:g}", "/film", label, start_s=start_s, end_s=end_s)
    return ClipStatus(clip, clip_digest("film", start_s, end_s), "film", "film", ok=True)


def test_windows_of_a_film_may_have_other_labels_where_they_do_not_overlap() -> None:
    """The same seconds under two labels are an error, also where no end is declared."""
    assert len(clip_groups([window(0, 20, "a"), window(20, None, "b"), window(60, 70, "c")])[0].labels) == 3
    clip_groups([window(0, 100, "a"), window(30, 40, "b")])  # a clip ends after 30 s
    for other in (window(29, None, "b"), window(10, 11, "b")):
        with pytest.raises(
            InputError, match=r"film@0 is labelled 'a' and film@\d+ 'b', .* windows of one file"
        ):
            clip_groups([window(0, None, "a"), other])


def test_the_same_file_under_two_labels_is_an_error() -> None:
    first = status(0, "a", "g")
    other = replace(first, clip=replace(first.clip, id="1", label="b"))
    with pytest.raises(
        InputError, match="0 is labelled 'a' and 1 'b', .* same file twice; .* drop one of them$"
    ):
        clip_groups([first, other])


def test_declared_folds_are_used_and_checked() -> None:
    assert declared_folds([status(0, "a", "0", 1), status(1, "b", "1", 0)])[0] == 2  # type: ignore[index]
    assert declared_folds([status(0, "a", "0")]) is None
    with pytest.raises(InputError, match="has no fold"):
        declared_folds([status(0, "a", "0", 1), status(1, "b", "1")])
    with pytest.raises(InputError, match="is in folds 0 and 1"):
        declared_folds([status(0, "a", "g", 0), status(1, "a", "g", 1)])


@pytest.mark.parametrize(
    ("labels", "folds", "message"),
    [
        ("aaaa", 2, "found 1 label"),
        ("aaab", 2, r"'b' has 1 group\(s\), fewer than the 2 folds; add clips"),
        ("aaaabb", 3, r"'b' has 2 group\(s\), fewer than the 3 folds; use --folds 2"),
        ("aabb", 1, "--folds is 1"),
    ],
)
def test_plans_without_a_fair_test_are_errors(labels: str, folds: int, message: str) -> None:
    clip_groups = [clip_group(number, label) for number, label in enumerate(labels)]
    assignment = assign_folds(clip_groups, folds=folds, seed=0, placed={})
    with pytest.raises(InputError, match=message):
        validate(clip_groups, assignment, folds)


def test_an_empty_fold_and_an_unlearnable_class_are_errors() -> None:
    clip_groups = [clip_group(number, label) for number, label in enumerate("aaabbb")]
    keys = [one.key for one in clip_groups]
    with pytest.raises(InputError, match="fold 2 is empty"):
        validate(clip_groups, dict(zip(keys, (0, 1, 0, 0, 1, 1), strict=True)), 3)
    with pytest.raises(InputError, match="'a' is in fold 0 only"):
        validate(clip_groups, dict(zip(keys, (0, 0, 0, 0, 1, 1), strict=True)), 2)


def test_inner_folds_need_three_groups_a_class() -> None:
    """With two groups of a class there is no inner split, and every clip is tuned on."""
    few = [clip_group(number, label) for number, label in enumerate("aabbb")]
    tuning = Tuning("adam", 1e-3, 3)
    assert inner_folds(few, most=5, seed=0) is None
    assert {role for _, _, role in tuning_clips(few, tuning, seed=0)} == {"tune"}


def test_stopping_clips_share_no_group_with_tuning_clips() -> None:
    """The inner split is grouped, and every class is tuned on."""
    clip_groups = [clip_group(number, "abc"[number % 3], 2) for number in range(30)]
    training_clips = {
        clip: role for clip, _, role in tuning_clips(clip_groups, Tuning("adam", 1e-3, 3), seed=0)
    }
    assert set(training_clips.values()) == {"tune", "stop"}
    for one in clip_groups:
        assert len({training_clips[clip] for clip in one.digests}) == 1
    assert {one.labels[0] for one in clip_groups if training_clips[one.key] == "tune"} == set("abc")


@pytest.mark.parametrize(
    ("folds", "cause"), [((1, 2, 3), "from 1: found folds 1 to 3"), ((2, 4), "from 2: found")]
)
def test_folds_that_do_not_count_from_zero_are_refused(folds: tuple[int, ...], cause: str) -> None:
    """The message names the first fold and says to subtract it from each fold."""
    statuses = [status(row, "ab"[row % 2], str(row), folds[row // 2 % len(folds)]) for row in range(12)]
    with pytest.raises(
        InputError, match=rf"counts {cause}.* in 12 clips; .*: subtract {folds[0]} from each, .*--holdout"
    ):
        next_plan((), statuses, PlanChoice())


def test_folds_that_count_from_zero_are_kept() -> None:
    """The folds 0 to 2 of a dataset make a plan of three folds, with each clip in its own."""
    statuses = [status(row, "ab"[row % 2], str(row), row // 2 % 3) for row in range(12)]
    plan = next_plan((), statuses, PlanChoice())
    assert (
        plan.folds == 3 and [plan.assignment[status.digest] for status in statuses] == [0, 0, 1, 1, 2, 2] * 2
    )


def test_a_first_fold_of_refused_clips_or_of_test_clips() -> None:
    """Refused clips of fold 0 count as fold 0; the folds of test clips are not used."""
    clips = [Clip("a", "/a", "sad", fold=0), Clip("b", "/b", "sad", fold=1), Clip("c", "/c", "sad")]
    check_fold_numbers(clips)
    check_fold_numbers([replace(clips[1], split="test"), clips[0]])
    with pytest.raises(InputError, match=r"counts from 1: found folds 1 to 1 in 1 clips"):
        check_fold_numbers([replace(clips[0], split="test"), clips[1]])
