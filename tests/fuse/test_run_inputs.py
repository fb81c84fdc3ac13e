"""The fold plans and the protocol of a run: further plans divide the clips in other ways."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.cache.folds import assign_folds, can_cross_fit, check_modalities
from moodfuse.cache.records import Plan
from moodfuse.cache.runs import UNCALIBRATED
from moodfuse.cache.store import FeatureCache
from moodfuse.fuse.ablation import make_result_notes, run_ablation
from moodfuse.fuse.run_inputs import choose_plans, choose_protocol, read_inputs
from moodfuse.fuse.settings import AblationSettings

Builder = Callable[..., FeatureCache]


def fold_plans(
    cache: FeatureCache, sources: tuple[str, ...], protocol: str, repeats: int | None
) -> tuple[tuple[Plan, ...], str]:
    """The plans of a run, and the note on them."""
    return choose_plans(read_inputs(cache, sources, protocol), repeats)


def divisions(plans: Iterable[Plan]) -> set[frozenset[frozenset[str]]]:
    """How plans divide the clips, regardless of the numbers of the folds."""
    return {
        frozenset(
            frozenset(digest for digest, at in plan.assignment.items() if at == fold)
            for fold in range(plan.folds)
        )
        for plan in plans
    }


def renamed(plan: Plan, **changes: int) -> Plan:
    """The same division with other names of folds."""
    turned = {digest: (fold + 1) % plan.folds for digest, fold in plan.assignment.items()}
    return replace(plan, assignment=turned, **changes)  # type: ignore[arg-type]


def test_renamed_folds_are_the_same_plan(build: Builder) -> None:
    """A stored repeat that divides the clips as the first plan does counts once, for all sources."""
    cache = build(pairs=True)
    cache.write_plan(renamed(cache.plan, seed=1, repeat=1), cache.statuses)
    assert len(cache.repeat_plans) == 1
    plans, _ = fold_plans(cache, ("i3d",), "crossfit", None)
    assert [plan.repeat for plan in plans] == [0, 2, 3, 4, 5] and len(divisions(plans)) == 5
    plans, note = fold_plans(cache, ("c3d",), "crossfit", None)
    assert plans == (cache.plan,)
    assert note.startswith("1 of 2 fold plans were left out: they divide the clips as another does")
    run = run_ablation(cache, AblationSettings(heads=("mean",), jobs=1))
    assert run.repeat_folds == () and run.results[0].repeats is None and run.notes[-1] == note


def test_few_groups_can_be_divided_in_few_ways(build: Builder) -> None:
    """Two groups of three classes in two folds: four ways at most, and the note counts them."""
    cache = build(groups_per_class=2, folds=2, tuned={})
    plans, note = fold_plans(cache, ("i3d",), "no-crossfit", 9)
    count = len(plans)
    assert 1 < count == len(divisions(plans)) <= 4 and plans[0] == cache.plan
    assert f"over {count} distinct fold plans; {9 - count} of 9 fold plans were left out" in note
    assert fold_plans(cache, ("i3d",), "no-crossfit", 1) == ((cache.plan,), "")


def test_further_plans_pass_what_the_first_passed(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that leave a class to one fold, or to two where the run is cross-fitted, are passed over."""
    cache = build(tuned={})
    fear = [status.digest for status in cache.clips if status.clip.label == "fear"]

    def assign(groups: object, *, folds: int, seed: int, placed: object) -> dict[str, int]:
        assignment = assign_folds(groups, folds=folds, seed=seed, placed={})  # type: ignore[arg-type]
        if seed % 3 < 2:
            assignment |= {digest: row % (seed % 3 + 1) for row, digest in enumerate(fear)}
        return assignment

    monkeypatch.setattr("moodfuse.fuse.run_inputs.assign_folds", assign)
    plans, _ = fold_plans(cache, ("i3d",), "crossfit", 4)
    assert [plan.seed for plan in plans] == [0, 2, 5, 8]
    assert all(can_cross_fit(plan, cache.clips) for plan in plans)


def test_only_modalities_that_are_read_can_stop_a_run(build: Builder) -> None:
    """Clips without audio do not affect sources that read video: cross-fitting stays on.

    Where all clips of a class but those of one fold have no video, those sources are an error before any fit.
    """
    cache = build(tuned={}, frozen={"c3d": 6, "i3d": 6})

    def fear_without(modality: str) -> tuple[object, ...]:
        return tuple(
            replace(status, missing=modality) if status.clip.label == "fear" else status
            for status in cache.clips
        )

    mute, blind = fear_without("sound"), fear_without("picture")
    assert can_cross_fit(cache.plan, cache.clips) and not can_cross_fit(cache.plan, blind)
    assert can_cross_fit(cache.plan, mute, ("picture",))
    cache.__dict__["clips"] = mute
    assert choose_protocol(cache, ("c3d", "i3d"), None) == "crossfit"
    run = run_ablation(cache, AblationSettings(heads=("mean",), repeats=1, jobs=1))
    assert run.protocol == "crossfit" and run.notes[0].endswith("cross-fitted")
    cache.__dict__["clips"] = blind
    assert choose_protocol(cache, ("c3d", "i3d"), "crossfit") == "no-crossfit"
    check_modalities(cache.plan, blind, ("sound",))
    with pytest.raises(InputError, match="label 'fear' has no clip with video outside fold 0"):
        run_ablation(cache, AblationSettings(heads=("mean",), jobs=1))


def test_notes_hold_for_every_plan() -> None:
    """Settings that were chosen under a part of the plans are noted after the state of the first plan."""
    part = "settings were chosen under 1 of {} fold plans"
    for chosen, leaky, notes in (
        ([True, True], False, ()),
        ([True, False, False], False, (part.format(3),)),
        ([False, False], True, ("LEAKY", UNCALIBRATED)),
        ([False, True], False, (UNCALIBRATED, part.format(2))),
    ):
        assert make_result_notes(chosen, default=UNCALIBRATED, leaky=leaky) == notes


def test_a_repeat_counts_once_and_an_unfinished_one_is_left_out(
    build: Builder, caplog: pytest.LogCaptureFixture
) -> None:
    """Plans of another seed's repeats are not used; a repeat without all pair networks is skipped."""
    cache = build(tuned={}, repeats=3)
    cache.write_plan(replace(cache.plan, seed=1, assignment=cache.repeat_plans[0].assignment), cache.statuses)
    assert cache.plan.seed == 1 and cache.repeat_plans == ()
    plans, _ = fold_plans(cache, ("i3d",), "crossfit", None)
    assert [plan.seed for plan in plans] == [1, 2, 3, 4, 5] and len(divisions(plans)) == 5
    tuned = build(repeats=2, pairs=True)
    assert len(fold_plans(tuned, ("c3d",), "crossfit", None)[0]) == 2
    message = r"--repeats is 3, but there are 2 fold plan\(s\): only extract makes more"
    with pytest.raises(InputError, match=message):
        fold_plans(tuned, ("c3d",), "crossfit", 3)
    recipe, plan = tuned.recipe("c3d"), tuned.repeat_plans[0]
    (tuned.block_folder(recipe, tuned.training_clips(recipe, {0, 1}, plan=plan)) / "trained.json").unlink()
    assert len(fold_plans(tuned, ("c3d",), "crossfit", None)[0]) == 1 and "is left out" in caplog.text
    assert len(fold_plans(tuned, ("c3d",), "no-crossfit", None)[0]) == 2
    with pytest.raises(InputError, match="--repeats is 2, but there are 1 .* leaky protocol"):
        fold_plans(tuned, ("c3d",), "leaky", 2)
