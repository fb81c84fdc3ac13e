"""Stage one end to end on tiny real media."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import InputError, MissingBlockError
from moodfuse.cache.planning import PlanChoice, holdouts, next_plan
from moodfuse.cache.records import Clip, ClipStatus
from moodfuse.cache.store import FeatureCache
from moodfuse.extract.networks import torchvision_video
from moodfuse.extract.pending import Wanted
from moodfuse.extract.pipeline import RefusedClipsError
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from tests.extract.conftest import DEPTHS, FOLDS, SOURCES, STILL, moodfuse_command


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and bytes."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_all_depths_leave_blocks_and_a_rerun_changes_nothing(all_depths) -> None:
    """Frozen, head and full tuning leave complete blocks; the same again decodes, tunes and writes nothing."""
    runner, done = all_depths.runner, all_depths.done
    assert (done.tuned, len(done.clips)) == (4, 4)
    assert any("onedmcnn" in line and "RANDOM" in line for line in all_depths.said)
    cache = runner.open()
    assert cache.sources() == ("onedmcnn", STILL, "twodmcnn")
    for source, width in (("onedmcnn", 256), ("twodmcnn", 160)):
        for fold in range(2):
            block = cache.block(source, {fold})
            assert block.embedding.shape == (4, width) and block.logits.shape == (4, 2)
            assert not {d for d in block.seen if cache.plan.assignment[d] == fold}
    assert cache.block(STILL, "*").embedding.shape == (4, 256) and cache.block(STILL, "*").logits is None
    before = snapshot(runner.cache)
    again = runner(sources=SOURCES, depths=DEPTHS, plan=FOLDS)
    assert (again.tuned, again.embedded) == (0, 0) and "nothing to decode" in runner.said[-1]
    assert snapshot(runner.cache) == before


def test_an_added_clip_is_the_only_one_decoded_and_no_other_moves(extracted) -> None:
    """With one clip added, one clip is decoded, folds stay, and only networks that must see it are tuned."""
    runner = extracted
    before = runner.open()
    media = len(list((runner.cache / "media").rglob("*.h5")))
    make_clip(runner.data / "sad" / "new.mp4", mood="sad", settings=ClipSettings(2.0, 64, 48, seed=99))
    done = runner(plan=FOLDS)
    after = runner.open()
    assert len(list((runner.cache / "media").rglob("*.h5"))) == media + 1
    assert {item: after.plan.assignment[item] for item in before.plan.assignment} == dict(
        before.plan.assignment
    )
    assert done.tuned == 1 and any("1 clip(s) added, 0 moved" in line for line in runner.said)


def test_a_corrected_label_tunes_only_what_saw_it(extracted) -> None:
    """Moving a file to another label folder retunes the network that had seen it and reuses the other."""
    shutil.move(extracted.data / "sad" / "0.mp4", extracted.data / "excited" / "0.mp4")
    assert extracted(plan=FOLDS).tuned == 1


def test_bad_files_are_named_and_cost_nothing_else(runner, all_depths) -> None:
    """Refused clips are listed with their reasons; features of the good ones equal those of a clean run."""
    clean = all_depths.runner.cache
    runner.keep(4)
    good = next((runner.data / "sad").glob("*.mp4"))
    (runner.data / "sad" / "zero.mp4").write_bytes(b"")
    (runner.data / "sad" / "text.mp4").write_text("not a video\n")
    (runner.data / "sad" / "cut.mp4").write_bytes(good.read_bytes()[: int(good.stat().st_size * 0.6)])
    make_clip(
        runner.data / "excited" / "mute.mp4", mood="excited", settings=ClipSettings(2.0, 64, 48), audio=False
    )
    done = runner(plan=FOLDS)
    reasons = {Path(status.clip.id).stem: status.reason for status in done.refused}
    assert (
        reasons["zero"] == "empty"
        and reasons["mute"] == "no_audio"
        and set(reasons) == {"zero", "text", "cut", "mute"}
    )
    assert all(any(name in line for line in runner.said) for name in reasons)
    assert "sad/zero.mp4" in (runner.cache / "clips.csv").read_text()
    for fold in range(2):
        ours, theirs = runner.open().block("twodmcnn", fold), FeatureCache(clean).block("twodmcnn", fold)
        assert ours.digests == theirs.digests
        np.testing.assert_array_equal(ours.embedding, theirs.embedding)
        np.testing.assert_array_equal(ours.logits, theirs.logits)


def test_strict_and_dry_runs_stop_before_tuning(runner) -> None:
    """Under strict, one bad clip fails the run; a dry run says how many networks, how long and how much disk."""
    runner.keep(4)
    (runner.data / "sad" / "zero.mp4").write_bytes(b"")
    with pytest.raises(RefusedClipsError, match="1 of 5 clips refused"):
        runner(plan=FOLDS, strict=True)
    assert not (runner.cache / "features").exists()
    done = runner(plan=FOLDS, dry_run=True)
    assert done.dry_run and not (runner.cache / "features").exists()
    assert any("2 networks to tune" in line and "MB of disk" in line for line in runner.said)


def test_two_clips_a_class_and_two_folds_still_run(extracted, caplog) -> None:
    """With too few groups to stop early, the recipe's fixed epochs are run, and that is said."""
    runner = extracted
    runner.keep(4)
    assert runner(plan=PlanChoice(folds=2, replan=True), sources=("twodmcnn",)).tuned == 2
    assert "fixed 5 epochs" in caplog.text
    with pytest.raises(InputError, match="use --folds 2"):
        runner(plan=PlanChoice(folds=6))


def test_another_seed_reuses_the_frozen_trunk(extracted) -> None:
    """A new fold seed retunes heads but passes no clip through the trunk again."""
    runner = extracted
    before = runner.open().plan.assignment
    done = runner(plan=PlanChoice(folds=2, seed=5))
    assert runner.open().plan.assignment != before
    assert done.embedded == 10 * done.tuned
    runner(plan=PlanChoice(folds=2, seed=0))
    assert runner.open().plan.assignment == before


def test_options_for_absent_sources_are_refused(runner) -> None:
    """--tune or --weights for a source that is not run is an error, not a silent no-op."""
    with pytest.raises(InputError, match="--tune names 'i3d'"):
        runner(depths={"i3d": "full"})


def test_a_missing_source_is_named(heads_cache: Path) -> None:
    """Asking for a block that was never extracted names the known sources."""
    with pytest.raises((MissingBlockError, InputError), match="known: twodmcnn"):
        FeatureCache(heads_cache).block("c3d", "*")


def test_killed_in_mid_tuning_resumes_to_the_same_bytes(runner, all_depths, tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint, then a second start: networks and features equal an unbroken run's."""
    runner.keep(4)
    options = ["--source", "onedmcnn", "--tune", "full", "--folds", "2", "--recipe", str(runner.recipe)]
    command = [*moodfuse_command(tmp_path), "extract", str(runner.data), "--cache", str(runner.cache)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while (
        not list(runner.cache.rglob("*.checkpoint")) and time.monotonic() < deadline and child.poll() is None
    ):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(runner.cache.rglob("*.checkpoint")), "the run was not interrupted in mid-tuning"
    assert runner(sources=("onedmcnn",), depths={"onedmcnn": "full"}, plan=FOLDS).tuned
    for room in ("features", "networks"):
        folders = [cache / room / "onedmcnn" for cache in (all_depths.runner.cache, runner.cache)]
        whole, broken = ({name: data for name, (_, data) in snapshot(folder).items()} for folder in folders)
        assert {name: data for name, data in broken.items() if ".tmp-" not in name} == whole and whole


def test_recipes_live_side_by_side_and_share_the_trunk(extracted) -> None:
    """A network under a second recipe is a source of its own; clips pass the trunk that both leave alone only once."""
    runner = extracted
    done = runner(plan=FOLDS, sources=("twodmcnn@seed-adam",), depths={"twodmcnn": "head"})
    assert (done.tuned, done.embedded) == (2, 20)
    cache = runner.open()
    assert cache.sources() == ("twodmcnn", "twodmcnn@seed-adam")
    first, second = (cache.block(source, {0}) for source in cache.sources())
    np.testing.assert_array_equal(first.embedding, second.embedding)
    assert np.abs(first.logits - second.logits).max() > 0


def test_torchvision_models_are_sources(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video model of torchvision, here of few frames, leaves frozen blocks, and that it has no weights is said."""
    monkeypatch.setattr(torchvision_video, "FRAMES", 4)
    monkeypatch.setattr(torchvision_video, "torchvision_spec", torchvision_video.torchvision_spec.__wrapped__)
    name = "torchvision:mc3_18"
    runner.keep(4)
    runner(plan=FOLDS, sources=(name,), depths={name: "frozen"})
    assert runner.open().block(name, "*").embedding.shape == (4, 512)
    assert any(name in line and "RANDOM" in line for line in runner.said)


def test_cross_fitting_tunes_every_pair_of_folds(extracted) -> None:
    """K + K (K - 1) / 2 networks by default, K without, one more for leaky runs; what is there is not tuned again."""
    runner, three = extracted, PlanChoice(folds=3)
    assert runner(plan=three, networks=Wanted(crossfit=False)).tuned == 3
    assert runner(plan=three).tuned == 3
    assert runner(plan=three, networks=Wanted(leaky=True)).tuned == 1
    cache = runner.open()
    for fold, other in ((0, 1), (0, 2), (1, 2)):
        block = cache.block("twodmcnn", {fold, other})
        assert {cache.plan.assignment[digest] for digest in block.seen} == {0, 1, 2} - {fold, other}
    assert cache.block("twodmcnn", "{}").seen == {status.digest for status in cache.clips}
    assert len(cache.commands) == 0


def test_two_folds_cannot_be_cross_fitted_and_that_is_said(extracted) -> None:
    """With two folds no pair can be held out; the networks of the folds are tuned all the same."""
    assert extracted(plan=PlanChoice(folds=2, seed=1)).tuned == 2
    assert any("cross-fitting is off" in line for line in extracted.said)


def test_repeats_tune_under_further_plans(extracted) -> None:
    """A second repeat is a plan of another seed over the same clips; the first stays in force and is reused."""
    runner = extracted
    runner(plan=FOLDS)
    plans = runner.open().plans
    assert runner(plan=FOLDS, networks=Wanted(repeats=2)).tuned == 2
    cache = runner.open()
    (further,) = cache.repeat_plans
    assert (further.seed, further.repeat, cache.plan.repeat) == (1, 1, 0) and cache.plans == plans
    assert (
        further.assignment != cache.plan.assignment
        and further.assignment.keys() == cache.plan.assignment.keys()
    )
    for fold in range(2):
        block = cache.block("twodmcnn", fold, plan=further)
        assert not {digest for digest in block.seen if further.assignment[digest] == fold}
    assert runner(plan=FOLDS, networks=Wanted(repeats=2)).tuned == 0
    with pytest.raises(InputError, match=r"holdout \{5\}: fold 5 is outside"):
        cache.block("twodmcnn", 5, plan=further)


def test_sound_that_nobody_reads_may_be_missing(extracted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label whose clips are all mute: fine for picture sources, cross-fitting too; for a sound source refused."""
    statuses = [
        ClipStatus(
            Clip(name, name, label), name, name, name, ok=True, missing="sound" if label == "sad" else ""
        )
        for name, label in zip("abcdefgh", ("sad", "excited") * 4, strict=True)
    ]
    plan = next_plan((), statuses, PlanChoice(folds=3, views=("picture",)))
    assert len(holdouts(plan, statuses, crossfit=True, leaky=False, views=("picture",))) == 6
    assert len(holdouts(plan, statuses, crossfit=True, leaky=False)) == 3
    with pytest.raises(
        InputError, match="'sad' has no clip with sound outside fold 0, so nothing that reads sound"
    ):
        next_plan((), statuses, PlanChoice(folds=3))
    asked: list[tuple[str, ...]] = []

    def stop(plans: object, found: object, choice: PlanChoice) -> None:
        asked.append(choice.views)
        raise InputError("far enough")

    monkeypatch.setattr("moodfuse.extract.pipeline.next_plan", stop)
    for sources in (("c3d",), ("twodmcnn", "c3d")):
        with pytest.raises(InputError, match="far enough"):
            extracted(plan=FOLDS, sources=sources, depths={"c3d": "frozen"})
    assert asked == [("picture",), ("picture", "sound")]


def test_a_clip_without_sound_is_kept_where_that_was_asked(runner, narrow) -> None:
    """--missing impute keeps a mute clip: its sound sources lack it, its picture sources do not; refuse refuses it."""
    runner.keep(4)
    make_clip(
        runner.data / "sad" / "mute.mp4", mood="sad", settings=ClipSettings(2.0, 64, 48, seed=50), audio=False
    )
    sources, depths = ("twodmcnn", "c3d"), {"c3d": "frozen"}
    assert [item.reason for item in runner(plan=FOLDS).refused] == ["no_audio"]
    done = runner(plan=FOLDS, sources=sources, depths=depths, impute=True)
    assert not done.refused and len(done.clips) == 5
    cache = runner.open()
    (mute,) = (status for status in cache.clips if status.missing)
    assert mute.missing == "sound" and mute.clip.id == "sad/mute.mp4"
    for fold in range(2):
        block = cache.block("twodmcnn", fold)
        assert block.absent == {mute.digest} and mute.digest not in block.seen
        assert not block.embedding[block.digests.index(mute.digest)].any()
    frozen = cache.block("c3d", "*")
    assert not frozen.absent and frozen.embedding[frozen.digests.index(mute.digest)].any()
    assert runner.open().reading == {"missing": "impute"}
    again = runner(plan=FOLDS, sources=sources, depths=depths, impute=True)
    assert (again.tuned, again.embedded) == (0, 0)
    assert len(runner(plan=FOLDS).refused) == 1
