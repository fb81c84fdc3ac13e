"""Stage one end to end on tiny real media."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import CacheError, InputError, MissingBlockError
from moodfuse.cache.folds import PlanChoice
from moodfuse.cache.store import FeatureCache
from moodfuse.cli import main
from moodfuse.extract.networks import NETWORKS
from moodfuse.extract.pipeline import RefusedClipsError
from moodfuse.extract.settings import NetworkChoice
from moodfuse.synthetic_corpus import ClipSettings, make_clip
from tests.extract.conftest import DEPTHS, FOLDS, SOURCES, STILL

ODD_NAMES = (
    "with space.mp4",
    "quo'te\".mp4",
    "new\nline.mp4",
    os.fsdecode(b"bytes\xff\xfe.mp4"),
    "x" * 251 + ".mp4",
)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and bytes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def command(*words: str) -> int:
    """Exit code of a moodfuse command."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def add_mute_clip(runner) -> None:
    """Add a sad clip without audio."""
    settings = ClipSettings(2.0, 64, 48, seed=50)
    make_clip(runner.data / "sad" / "mute.mp4", mood="sad", settings=settings, audio=False)


def test_a_group_pattern_stays_in_force_in_its_cache(runner) -> None:
    """An empty pattern ends it."""
    runner.keep(8)
    runner(plan=FOLDS, sources=("frame-stats",), group_pattern="[a-z]+/[0-3]")
    groups = [status.group for status in runner.open().clips]
    runner(plan=FOLDS, sources=("frame-stats",))
    assert [status.group for status in runner.open().clips] == groups
    assert "groups as in the cache: --group-pattern '[a-z]+/[0-3]'; '' is for no pattern" in runner.lines
    runner(plan=FOLDS, sources=("frame-stats",), group_pattern="")
    assert [status.group for status in runner.open().clips] != groups


def test_all_depths_give_blocks_and_a_rerun_changes_nothing(all_depths) -> None:
    """Frozen, head and full tuning give complete blocks; a rerun decodes, tunes and writes nothing."""
    runner, done = all_depths.runner, all_depths.done
    assert (done.tuned, len(done.clips)) == (4, 4)
    assert any("onedmcnn" in line and "RANDOM" in line for line in all_depths.lines)
    cache = runner.open()
    assert cache.sources() == ("onedmcnn", STILL, "twodmcnn")
    for source, width in (("onedmcnn", 256), ("twodmcnn", 160)):
        for fold in range(2):
            block = cache.block(source, {fold})
            assert block.embedding.shape == (4, width) and block.logits.shape == (4, 2)
            assert not {digest for digest in block.training_clips if cache.plan.assignment[digest] == fold}
    assert cache.block(STILL, "*").embedding.shape == (4, 256) and cache.block(STILL, "*").logits is None
    before = snapshot(runner.cache)
    again = runner(sources=SOURCES, depths=DEPTHS, plan=FOLDS)
    assert (again.tuned, again.embedded) == (0, 0) and "nothing to decode" in runner.lines[-1]
    assert snapshot(runner.cache) == before


def test_only_an_added_clip_is_decoded_and_no_other_moves(extracted) -> None:
    """Folds stay, and only networks that must see the new clip are tuned."""
    runner = extracted
    before = runner.open()
    media = len(list((runner.cache / "media").rglob("*.h5")))
    make_clip(runner.data / "sad" / "new.mp4", mood="sad", settings=ClipSettings(2.0, 64, 48, seed=99))
    done = runner(plan=FOLDS)
    after = runner.open()
    assert len(list((runner.cache / "media").rglob("*.h5"))) == media + 1
    assert dict(before.plan.assignment).items() <= dict(after.plan.assignment).items()
    assert done.tuned == 1 and any("1 clip(s) added, 0 moved" in line for line in runner.lines)


def test_a_corrected_label_tunes_only_what_saw_it(extracted) -> None:
    """The network that had seen the clip is tuned again and the other reused; the cache stays valid."""
    runner = extracted
    shutil.move(runner.data / "sad" / "0.mp4", runner.data / "excited" / "0.mp4")
    assert runner(plan=FOLDS).tuned == 1
    assert command("cache", "verify", "--cache", runner.cache) == 0
    assert command("cache", "prune", "--cache", runner.cache, "--media", "--yes") == 0
    assert not list((runner.cache / "media").rglob("*.h5")) and runner(plan=FOLDS).tuned == 0


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_lost_record_of_a_network_is_restored(extracted, harm: str) -> None:
    """Without a valid `trained.json` no reader finds the block until extract has run again."""
    runner = extracted
    cache = runner.open()
    before = cache.block("twodmcnn", 0).embedding
    recipe = cache.recipe("twodmcnn")
    record = cache.block_folder(recipe, cache.training_clips(recipe, 0)) / "trained.json"
    record.unlink() if harm == "gone" else record.write_text("[]")
    with pytest.raises(CacheError, match="extract again"):
        runner.open().block("twodmcnn", 0)
    done = runner(plan=FOLDS)
    assert (done.tuned, done.embedded) == (0, 0)
    assert (runner.open().block("twodmcnn", 0).embedding == before).all()


def test_bad_files_are_named_and_do_not_change_the_others(runner, all_depths) -> None:
    """Refused clips are listed with their reasons; features of the others equal those of a clean run."""
    runner.keep(4)
    good = next((runner.data / "sad").glob("*.mp4"))
    (runner.data / "sad" / "zero.mp4").write_bytes(b"")
    (runner.data / "sad" / "text.mp4").write_text("not a video\n")
    (runner.data / "sad" / "cut.mp4").write_bytes(good.read_bytes()[: int(good.stat().st_size * 0.6)])
    add_mute_clip(runner)
    done = runner(plan=FOLDS)
    reasons = {Path(status.clip.id).stem: status.reason for status in done.refused}
    assert reasons["zero"] == "empty" and reasons["mute"] == "no_audio"
    assert set(reasons) == {"zero", "text", "cut", "mute"}
    assert all(any(name in line for line in runner.lines) for name in reasons)
    assert "sad/zero.mp4" in (runner.cache / "clips.csv").read_text()
    for fold in range(2):
        blocks = (cache.block("twodmcnn", fold) for cache in (runner.open(), all_depths.runner.open()))
        ours, theirs = blocks
        assert list(ours.digests) == list(theirs.digests)
        np.testing.assert_array_equal(ours.embedding, theirs.embedding)
        np.testing.assert_array_equal(ours.logits, theirs.logits)


def test_strict_and_dry_runs_stop_before_tuning(runner) -> None:
    """Under strict, one bad clip fails the run; a dry run reports the networks to tune."""
    runner.keep(4)
    (runner.data / "sad" / "zero.mp4").write_bytes(b"")
    with pytest.raises(RefusedClipsError, match="1 of 5 clips refused"):
        runner(plan=FOLDS, strict=True)
    assert runner(plan=FOLDS, dry_run=True).tuned == 0 and not (runner.cache / "features").exists()
    assert any("2 networks to tune" in line for line in runner.lines)


def test_two_clips_per_class_and_two_folds_still_run(extracted, caplog) -> None:
    """With too few groups to stop early, all epochs of the recipe are run, with one warning."""
    extracted.keep(4)
    assert extracted(plan=PlanChoice(folds=2, replan=True)).tuned == 2
    assert caplog.text.count("2 of 2 networks have fewer than 3 groups of a class") == 1
    with pytest.raises(InputError, match="use --folds 2"):
        extracted(plan=PlanChoice(folds=6))


def test_another_seed_reuses_the_frozen_trunk(extracted) -> None:
    """A new fold seed tunes heads again but passes no clip through the trunk."""
    runner = extracted
    before = runner.open().plan.assignment
    done = runner(plan=PlanChoice(folds=2, seed=5))
    assert runner.open().plan.assignment != before and done.embedded == 10 * done.tuned
    assert any(
        "cross-fitting is off" in line for line in runner.lines
    )  # no pair of two folds can be held out
    runner(plan=PlanChoice(folds=2, seed=0))
    assert runner.open().plan.assignment == before


def test_features_of_an_earlier_network_are_computed_again(extracted, monkeypatch) -> None:
    """With another version of a network, extract reports which features the cache has, once."""
    current = NETWORKS["twodmcnn"]
    monkeypatch.setitem(NETWORKS, "twodmcnn", replace(current, version=99))
    assert extracted(plan=FOLDS).embedded > 0
    message = (
        f"twodmcnn: the cache has features of version {current.version} of twodmcnn; those of version 99"
    )
    assert any(line.startswith(message) for line in extracted.lines)
    assert extracted(plan=FOLDS).embedded == 0
    assert not any(line.startswith(message) for line in extracted.lines)


def test_unused_options_and_unknown_sources_are_refused(runner, heads_cache: Path) -> None:
    """--tune needs a source of the run; the error of a block that was never extracted names the sources."""
    with pytest.raises(InputError, match="--tune names 'i3d'"):
        runner(depths={"i3d": "full"})
    with pytest.raises((MissingBlockError, InputError), match="known: twodmcnn"):
        FeatureCache(heads_cache).block("c3d", "*")


def test_killed_while_tuning_resumes_to_the_same_bytes(runner, all_depths) -> None:
    """SIGKILL after the first checkpoint, then a second start: the same files as without."""
    runner.keep(4)
    words = [sys.executable, "-m", "moodfuse", "extract", str(runner.data), "--cache", str(runner.cache)]
    words += ["--source", "onedmcnn", "--tune", "full", "--folds", "2", "--recipe", str(runner.recipe)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while (
        not list(runner.cache.rglob("*.checkpoint")) and time.monotonic() < deadline and child.poll() is None
    ):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(runner.cache.rglob("*.checkpoint")), "the run was not interrupted while tuning"
    assert runner(sources=("onedmcnn",), depths={"onedmcnn": "full"}, plan=FOLDS).tuned
    for part in ("features", "networks"):
        folders = [cache / part / "onedmcnn" for cache in (all_depths.runner.cache, runner.cache)]
        whole, broken = ({name: data for name, (_, data) in snapshot(folder).items()} for folder in folders)
        assert {name: data for name, data in broken.items() if ".tmp-" not in name} == whole and whole


def test_recipes_are_separate_sources_that_share_the_trunk(extracted, caplog) -> None:
    """Clips pass the trunk of both recipes once; a recipe's former name finds what the cache holds."""
    runner = extracted
    new, former = "twodmcnn@zhou2022-adam", "twodmcnn@seed-adam"
    done = runner(plan=FOLDS, sources=(new,), depths={"twodmcnn": "head"})
    assert (done.tuned, done.embedded) == (2, 20)
    cache = runner.open()
    assert cache.sources() == ("twodmcnn", new)
    first, second = (cache.block(source, {0}) for source in cache.sources())
    np.testing.assert_array_equal(first.embedding, second.embedding)
    assert np.abs(first.logits - second.logits).max() > 0
    assert runner(plan=FOLDS, sources=(former,), depths={former: "head"}).tuned == 0
    assert "'seed-adam' is now called 'zhou2022-adam'" in caplog.text and runner.open().sources()[1] == new


def test_cross_fitting_tunes_every_pair_of_folds(extracted) -> None:
    """K + K (K - 1) / 2 networks by default, K without, one more for leaky runs; none is tuned twice."""
    runner, three = extracted, PlanChoice(folds=3)
    assert runner(plan=three, networks=NetworkChoice(crossfit=False)).tuned == 3
    assert runner(plan=three).tuned == 3
    assert runner(plan=three, networks=NetworkChoice(leaky=True)).tuned == 1
    cache = runner.open()
    for fold, other in ((0, 1), (0, 2), (1, 2)):
        block = cache.block("twodmcnn", {fold, other})
        assert {cache.plan.assignment[digest] for digest in block.training_clips} == {0, 1, 2} - {fold, other}
    assert cache.block("twodmcnn", "{}").training_clips == {status.digest for status in cache.clips}


def test_what_can_be_exported_is_printed_before_the_work(extracted) -> None:
    """Models of logits need pairs of folds or --for-export, which is not asked for where it was given."""
    runner, every = extracted, "export: every result of these sources can be exported as a model"
    for networks, limited in ((NetworkChoice(crossfit=False), True), (NetworkChoice(leaky=True), False)):
        runner(plan=PlanChoice(folds=3), networks=networks, dry_run=limited)
        (line,) = (line for line in runner.lines if line.startswith("export: "))
        assert ("the level of logits of twodmcnn; add --for-export" in line) == limited == (line != every)
    runner(plan=PlanChoice(folds=3), networks=NetworkChoice(crossfit=False), dry_run=True)
    assert every in runner.lines


def test_repeats_tune_under_further_plans(extracted) -> None:
    """A second repeat is a plan of another seed over the same clips; the first plan is reused."""
    runner, two = extracted, NetworkChoice(repeats=2)
    runner(plan=FOLDS)  # the clips are in another folder than those of the copied cache
    plans = runner.open().plans
    assert runner(plan=FOLDS, networks=two).tuned == 2
    cache = runner.open()
    (further,) = cache.repeat_plans
    assert (further.seed, further.repeat, cache.plan.repeat) == (1, 1, 0) and cache.plans == plans
    first, second = dict(cache.plan.assignment), dict(further.assignment)
    assert first != second and first.keys() == second.keys()
    for fold in range(2):
        block = cache.block("twodmcnn", fold, plan=further)
        assert not {digest for digest in block.training_clips if second[digest] == fold}
    assert runner(plan=FOLDS, networks=two).tuned == 0


def test_a_clip_without_audio_is_kept_under_missing_impute(runner, narrow) -> None:
    """Audio sources have no row of a mute clip, video sources have one; without the option it is refused."""
    runner.keep(4)
    add_mute_clip(runner)
    sources, depths = ("twodmcnn", "c3d"), {"c3d": "frozen"}
    assert [status.reason for status in runner(plan=FOLDS).refused] == ["no_audio"]
    done = runner(plan=FOLDS, sources=sources, depths=depths, impute=True)
    assert not done.refused and len(done.clips) == 5
    cache = runner.open()
    (mute,) = (status for status in cache.clips if status.missing)
    assert mute.missing == "sound" and mute.clip.id == "sad/mute.mp4"
    for fold in range(2):
        block = cache.block("twodmcnn", fold)
        assert block.absent == {mute.digest} and mute.digest not in block.training_clips
        assert not block.embedding[list(block.digests).index(mute.digest)].any()
    frozen = cache.block("c3d", "*")
    assert not frozen.absent and frozen.embedding[list(frozen.digests).index(mute.digest)].any()
    assert cache.reading == {"missing": "impute"}
    again = runner(plan=FOLDS, sources=sources, depths=depths, impute=True)
    assert (again.tuned, again.embedded) == (0, 0)


def test_odd_names_come_back_as_they_are_on_disk(runner) -> None:
    """Spaces, quotes, a line end, stray bytes, 255 bytes, equal stems."""
    for label in ("excited", "sad"):
        for file, name in zip(sorted((runner.data / label).iterdir()), ODD_NAMES, strict=True):
            file.rename(runner.data / label / name)
    frozen = {"plan": FOLDS, "depths": {"twodmcnn": "frozen"}}
    assert not runner(**frozen).refused
    expected = sorted(f"{label}/{name}" for label in ("excited", "sad") for name in ODD_NAMES)
    assert list(runner.open().block("twodmcnn", "*").ids) == expected
    assert runner(**frozen).embedded == 0


def test_identical_files_are_one_group_or_an_error(extracted) -> None:
    """Under one label both names have the same features and group; under two labels the error names both."""
    runner, frozen = extracted, {"plan": FOLDS, "depths": {"twodmcnn": "frozen"}}
    shutil.copy(runner.data / "sad" / "0.mp4", runner.data / "sad" / "copy.mp4")
    runner(**frozen)
    cache = runner.open()
    block = cache.block("twodmcnn", "*")
    rows = {name: row.tolist() for name, row in zip(block.ids, block.embedding, strict=True)}
    assert len(rows) == 11 and rows["sad/copy.mp4"] == rows["sad/0.mp4"] != rows["sad/2.mp4"]
    assert any(
        "the same file 2 times, so one group: sad/0.mp4, sad/copy.mp4" in line for line in runner.lines
    )
    groups = {status.clip.id: status.group for status in cache.clips}
    assert groups["sad/0.mp4"] == groups["sad/copy.mp4"]
    shutil.move(runner.data / "sad" / "copy.mp4", runner.data / "excited" / "copy.mp4")
    both = r"excited/copy.mp4 is labelled 'excited' and sad/0.mp4 'sad'.*same file twice"
    with pytest.raises(InputError, match=both):
        runner(**frozen)
