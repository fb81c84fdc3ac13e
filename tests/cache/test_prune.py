"""`cache prune` frees what nothing in force reads, keeps the rest bit for bit, and may be killed at any step."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from faults.looking import state
from moodfuse.cache.cli import cache_group
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import DamagedPartError, MissingBlockError, UnknownNameError
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.maintenance.inventory import read_inventory
from moodfuse.cache.maintenance.prune import PRUNED_PREFIX, PruneOptions, Pruning, choose_removals, remove
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart
from moodfuse.cache.records import Holdout, Plan
from moodfuse.cache.runs import run_names
from moodfuse.cache.store import FeatureCache

Fill = Callable[..., None]
NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
DAY_S = 24 * 3600.0


def decided(cache: FeatureCache, *, later_s: float = 0.0, **choice: object) -> Pruning:
    """What would go after a while."""
    inventory = read_inventory(FeatureCache(cache.path))
    return choose_removals(inventory, PruneOptions(**choice), now_s=time.time() + later_s)  # type: ignore[arg-type]


def reasons(pruning: Pruning) -> set[str]:
    """Why something is removed."""
    return {removal.why for removal in pruning.removals}


def blocks(cache: FeatureCache) -> dict[str, bytes]:
    """Every block that can be read of the sources in force, and the activations that heads are tuned on."""
    cache = FeatureCache(cache.path)
    found = {}
    for plan in (cache.plan, *cache.repeat_plans):
        for source in cache.sources():
            for holdout in ("*", 0, 1, {0, 1}, {1, 2}, ()):
                if (holdout == "*") != (cache.recipe(source).depth == "frozen"):
                    continue
                try:
                    block = cache.block(source, holdout, plan=plan)  # type: ignore[arg-type]
                except MissingBlockError:
                    continue
                found[f"{plan.repeat} {source} {Holdout.of(holdout)}"] = block.embedding.tobytes()  # type: ignore[arg-type]
    rows = cache.rows(frozen_counterpart(NET), None, cache.clips, ("embedding",))
    return {**found, "activations": rows.arrays["embedding"].tobytes() if rows.found.all() else b""}


@pytest.fixture
def stale_cache(stale_template: Path, tmp_path: Path) -> FeatureCache:
    """A cache with something of everything that can go, which a test may change."""
    shutil.copytree(stale_template, tmp_path / "work")
    return FeatureCache(tmp_path / "work")


@pytest.fixture(scope="module")
def stale_template(tuned_template: Path, fill: Fill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with something of everything that can go.

    One clip was put under another label, and before that another, so a plan, a table and networks are of no use; a
    replaced recipe; an unfinished one; a heads' recipe whose frozen network nothing else reads; a file set aside, a
    temporary.
    """
    cache = FeatureCache(shutil.copytree(tuned_template, tmp_path_factory.mktemp("stale") / "work"))
    other = replace(NET, source="net", network="old", weights="old")
    fill(cache, frozen_counterpart(other), ["*"])
    fill(cache, other, [0, 1])
    cache.select([other])
    cache.select([replace(other, depth="full", network="net")])
    fill(cache, replace(other, depth="full", network="net"), [0])
    fill(cache, replace(STILL, seed=9), ["*"])
    as_made = tuple(cache.statuses)
    for row, label in ((1, "a"), (0, "b")):
        statuses = list(as_made)
        statuses[row] = replace(statuses[row], clip=replace(statuses[row].clip, label=label))
        records = (table_name(statuses),)
        cache.write_plan(replace(cache.plan, records=records), statuses)
        again = assign_folds(clip_groups(statuses), folds=3, seed=1, placed={})
        cache.write_plan(Plan(3, 1, "test", again, records, repeat=1), statuses)
    fill(cache, NET, [0, {1, 2}])
    fill(cache, NET, [1], cache.repeat_plans[0])
    (cache.path / "clips" / "old.json.bad").write_bytes(b"bad")
    (cache.path / "clips" / ".tmp-1-x.json").write_bytes(b"half")
    return cache.path


def test_a_sound_cache_in_use_has_nothing_to_prune(tuned_cache: FeatureCache) -> None:
    assert decided(tuned_cache, later_s=30 * DAY_S) == Pruning((), ())


def test_what_is_in_force_stays_bit_for_bit_and_everything_else_goes(stale_cache: FeatureCache) -> None:
    before, held = blocks(stale_cache), state(stale_cache.path)
    assert len(before) > 6 and before["activations"]
    pruning = decided(stale_cache, later_s=30 * DAY_S)
    assert reasons(pruning) == {
        *("recipe of net: replaced", "recipe of old: replaced", "recipe of still: unfinished"),
        *("network of net@a that no plan in force names", "network of net that no plan in force names"),
        "two later plans have its folds and seed",
        *("table of clips that no plan in force names", "set aside as damaged", "temporary"),
        "kept fits of other clips, labels or groups than those in force",
    }
    assert not remove(stale_cache.path, pruning.removals)
    assert blocks(stale_cache) == before and not verify(stale_cache.path).faults
    after = state(stale_cache.path)
    assert after.items() <= held.items()
    freed = sum(map(len, held.values())) - sum(map(len, after.values()))
    assert freed == sum(removal.bytes for removal in pruning.removals)
    assert decided(stale_cache, later_s=30 * DAY_S) == Pruning((), ())


def test_unfinished_recipes_stay_for_a_week_and_leftovers_for_a_day(stale_cache: FeatureCache) -> None:
    soon = decided(stale_cache)
    assert len(soon.kept) == 1 and "unfinished" in soon.kept[0]
    later = reasons(decided(stale_cache, later_s=2 * DAY_S)) - reasons(soon)
    assert later == {"table of clips that no plan in force names", "set aside as damaged", "temporary"}
    assert {"set aside as damaged", "temporary"} <= reasons(decided(stale_cache, bad=True))
    assert not decided(stale_cache, recipes=False).removals


def test_what_was_set_aside_just_now_is_young(tuned_cache: FeatureCache) -> None:
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    os.utime(part, (0, 0))
    part.rename(part.with_name(part.name + ".bad"))
    assert not decided(tuned_cache).removals
    assert len(decided(tuned_cache, later_s=2 * DAY_S).removals) == 1


@pytest.mark.parametrize(
    ("option", "why"), [("media", "decoded clips; extract decodes"), ("fits", "kept fits; fuse fits again")]
)
def test_media_and_kept_fits_are_removed_when_asked(tuned_cache: FeatureCache, option: str, why: str) -> None:
    (removal,) = decided(tuned_cache, **{option: True}).removals
    assert removal.why.startswith(why) and removal.bytes > 0
    assert not remove(tuned_cache.path, (removal,))
    assert not list((tuned_cache.path / option).iterdir()) and not verify(tuned_cache.path).faults


def test_runs_are_removed_by_name_and_no_name_leads_out_of_the_cache(tuned_cache: FeatureCache) -> None:
    (removal,) = decided(tuned_cache, runs=("run-1",)).removals
    assert not remove(tuned_cache.path, (removal,)) and not run_names(tuned_cache)
    assert not (tuned_cache.path / "runs" / "run-1").exists()
    for name in ("run-1", "..", "../../x"):
        with pytest.raises(UnknownNameError, match="known: none"):
            decided(tuned_cache, runs=(name,))


def test_a_dry_run_changes_nothing(stale_cache: FeatureCache) -> None:
    before = state(stale_cache.path)
    words = ["prune", "--cache", str(stale_cache.path), "--media", "--bad", "--runs", "run-1"]
    dry = CliRunner().invoke(cache_group, words)
    assert dry.exit_code == 0 and "would be freed" in dry.output and "--yes" in dry.output
    assert state(stale_cache.path) == before
    done = CliRunner().invoke(cache_group, [*words, "--yes"])
    assert done.exit_code == 0 and dry.output.partition("would be")[0].splitlines()[-1].strip() in done.output
    assert not verify(stale_cache.path).faults and not run_names(stale_cache)


@pytest.mark.parametrize(("step", "name"), [(0, "rename"), (1, "unlink"), (20, "unlink"), (2, "rmdir")])
def test_a_prune_that_is_killed_leaves_a_sound_cache(
    stale_cache: FeatureCache, step: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = blocks(stale_cache)
    pruning = decided(stale_cache, later_s=30 * DAY_S, media=True, runs=("run-1",))
    really, calls = getattr(os, name), 0

    def killed(*arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KeyboardInterrupt
        really(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, killed)
        with pytest.raises(KeyboardInterrupt):
            remove(stale_cache.path, pruning.removals)
    assert blocks(stale_cache) == before and not verify(stale_cache.path).faults
    again = decided(
        stale_cache, later_s=30 * DAY_S, media=True, runs=() if not run_names(stale_cache) else ("run-1",)
    )
    assert not remove(stale_cache.path, again.removals)
    assert blocks(stale_cache) == before and not list(stale_cache.path.rglob(f"{PRUNED_PREFIX}*"))


def test_two_prunes_at_once_do_no_harm(stale_cache: FeatureCache) -> None:
    pruning = decided(stale_cache, later_s=30 * DAY_S, media=True)
    for _ in range(2):
        assert not remove(stale_cache.path, pruning.removals)


def test_links_are_not_followed(stale_cache: FeatureCache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (stale_cache.path / "media").rename(outside)
    (stale_cache.path / "media").symlink_to(outside, target_is_directory=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    old = next(item for item in decided(stale_cache).removals if item.why == "recipe of old: replaced")
    (stale_cache.path / old.place / "link").symlink_to(tmp_path / "mine", target_is_directory=True)
    kept = state(outside)
    pruning = decided(stale_cache, media=True)
    assert any("is behind a link" in sentence for sentence in pruning.kept)
    assert not remove(stale_cache.path, pruning.removals)
    assert not (stale_cache.path / old.place).exists()
    assert state(outside) == kept and (tmp_path / "mine" / "file").read_text() == "keep"


def test_a_recipe_cannot_name_a_folder_outside(tuned_cache: FeatureCache) -> None:
    folder = tuned_cache.path / "features" / "evil"
    recipe = replace(STILL, seed=5)
    (folder / recipe.digest16).mkdir(parents=True)
    values = {**json.loads(recipe.to_json()), "source": "../../../mine"}
    (folder / recipe.digest16 / "recipe.json").write_text(json.dumps(values))
    (removal,) = decided(tuned_cache, later_s=30 * DAY_S).removals
    assert removal.place == f"features/evil/{recipe.digest16}"


@pytest.mark.parametrize("folder", ["plans", "sources"])
def test_nothing_is_called_unused_after_a_plan_or_a_choice_was_set_aside(
    tuned_cache: FeatureCache, folder: str
) -> None:
    file = max((tuned_cache.path / folder).glob("*.*"))
    file.rename(file.with_name(file.name + ".bad"))
    with pytest.raises(DamagedPartError, match="may be older than what was; run extract again"):
        decided(tuned_cache)
    assert len(decided(tuned_cache, recipes=False, bad=True).removals) == 1


def test_a_record_that_is_lost_makes_nothing_unused(tuned_cache: FeatureCache) -> None:
    (tuned_cache.block_folder(frozen_counterpart(NET), None).parent / "recipe.json").unlink()
    assert not decided(tuned_cache, later_s=30 * DAY_S).removals  # the recipe of the heads needs it
    (tuned_cache.block_folder(STILL, None).parent / "recipe.json").write_text("{}")
    with pytest.raises(DamagedPartError, match="recipe in force of still cannot be read"):
        decided(tuned_cache)


def test_without_a_plan_no_network_is_called_unused(tuned_cache: FeatureCache) -> None:
    for file in (tuned_cache.path / "plans").rglob("*.h5"):
        file.unlink()
    places = [removal.place for removal in decided(tuned_cache).removals]
    assert not [place for place in places if place.startswith(("features", "networks"))]


def test_an_older_plan_of_other_folds_stays(tuned_cache: FeatureCache) -> None:
    statuses = list(tuned_cache.statuses)
    assignment = assign_folds(clip_groups(statuses), folds=2, seed=0, placed={})
    tuned_cache.write_plan(Plan(2, 0, "test", assignment, tuned_cache.plan.records), statuses)
    assert not [item for item in decided(tuned_cache).removals if item.place.startswith("plans/plan-")]


def test_the_plan_before_the_one_in_force_stays(tuned_cache: FeatureCache) -> None:
    statuses = list(tuned_cache.statuses)
    for row in range(3):
        statuses[row] = replace(statuses[row], group=f"group {row}")
        tuned_cache.write_plan(replace(tuned_cache.plan, records=(table_name(statuses),)), statuses)
    pruning = decided(tuned_cache, later_s=30 * DAY_S)
    assert not remove(tuned_cache.path, pruning.removals)
    files = list((tuned_cache.path / "plans").glob("*.h5"))
    assert len(files) == len(list((tuned_cache.path / "tables").iterdir())) == 2
    last = next(file for file in files if tuned_cache.read_plan(file).sequence == 4)
    last.rename(last.with_name(f"{last.name}.bad"))
    again = FeatureCache(tuned_cache.path)
    assert again.plan.sequence == 3 and again.plan.assignment == tuned_cache.plan.assignment
    assert len(again.clips) == 18


def test_a_source_is_removed_by_name_and_its_name_is_free_again(
    tuned_cache: FeatureCache, fill: Fill
) -> None:
    before = blocks(tuned_cache)
    words = ["prune", "--cache", str(tuned_cache.path), "--source", "net@a"]
    dry = CliRunner().invoke(cache_group, words)
    assert dry.exit_code == 0 and "features/net@a" in dry.output and blocks(tuned_cache) == before
    assert CliRunner().invoke(cache_group, [*words, "--yes"]).exit_code == 0
    again = FeatureCache(tuned_cache.path)
    assert again.sources() == ("still",) and not verify(again.path).faults
    assert not [entry.place for entry in read_inventory(again).entries if "/net" in entry.place]
    assert again.block("still", "*").embedding.tobytes() == before["0 still *"]
    fill(again, replace(NET, seed=7), [0])
    again.select([replace(NET, seed=7)])
    assert FeatureCache(again.path).sources() == ("net@a", "still")
    with pytest.raises(UnknownNameError, match="unknown source 'none'; known: net@a, still"):
        read_inventory(again, without=("none",))


def test_features_whose_record_is_lost_are_not_called_unused(tuned_cache: FeatureCache) -> None:
    for holdout in (0, ()):
        record = tuned_cache.block_folder(NET, tuned_cache.roles(NET, holdout)) / "trained.json"
        text = record.read_text()
        record.unlink()
        found = verify(tuned_cache.path)
        assert [fault.place for fault in found.faults] == [str(record.relative_to(tuned_cache.path))]
        assert repair(tuned_cache.path, found).rewritten and record.read_text() == text
    other = record.parent.with_name("0" * 16)
    shutil.copytree(record.parent, other)
    for harm in (lambda: (other / "trained.json").write_text("[["), (other / "trained.json").unlink):
        harm()
        with pytest.raises(DamagedPartError, match="no record of what they were tuned on.*verify --repair"):
            decided(tuned_cache)
    places = [fault.place for fault in verify(tuned_cache.path).faults]
    assert any(place.endswith(f"{other.name}/trained.json") for place in places)


def test_what_cannot_be_removed_is_printed_and_the_rest_is_removed(
    stale_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", denied)
    done = CliRunner().invoke(cache_group, ["prune", "--cache", str(stale_cache.path), "--yes"])
    assert done.exit_code == 1 and "cannot be removed (Permission denied)" in done.output
    assert not verify(stale_cache.path).faults


def test_readers_of_plans_pass_over_one_that_was_pruned(
    stale_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = next(item for item in decided(stale_cache).removals if item.place.startswith("plans/plan-"))
    plans, really = stale_cache.path / "plans", os.listdir
    listed = really(plans)
    remove(stale_cache.path, (old,))
    monkeypatch.setattr(os, "listdir", lambda folder: listed if Path(folder) == plans else really(folder))
    assert FeatureCache(stale_cache.path).plan.sequence == 3
