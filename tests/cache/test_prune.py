"""`cache prune` frees what nothing reads, keeps the rest bit for bit, and may be killed at any step."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from faults.looking import state
from moodfuse.cache.cli import cache_group
from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import DamagedPartError, MissingBlockError, UnknownNameError
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.maintenance.listing import read_inventory
from moodfuse.cache.maintenance.prune import PRUNED_PREFIX, PrunePlan, choose_removals, remove
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart
from moodfuse.cache.records import Plan
from moodfuse.cache.runs import run_names
from moodfuse.cache.store import FeatureCache

Fill = Callable[..., None]
NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
DAY_S = 24 * 3600.0


def choose(cache: FeatureCache, *, later_s: float = 0.0, **options: object) -> PrunePlan:
    """What would be removed after some time."""
    inventory = read_inventory(FeatureCache(cache.path))
    return choose_removals(inventory, now_s=time.time() + later_s, **options)  # type: ignore[arg-type]


def call(cache: FeatureCache, *words: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(cache_group, ["prune", "--cache", str(cache.path), *words])


def reasons(pruning: PrunePlan) -> set[str]:
    return {removal.reason for removal in pruning.removals}


def blocks(cache: FeatureCache) -> dict[str, bytes]:
    """Every block of the current sources that can be read, and the activations that heads are tuned on."""
    cache = FeatureCache(cache.path)
    found = {}
    for plan in (cache.plan, *cache.repeat_plans):
        for source in cache.sources():
            for holdout in ("*",) if cache.recipe(source).depth == "frozen" else (0, 1, (0, 1), (1, 2), ()):
                try:
                    block = cache.block(source, holdout, plan=plan)
                except MissingBlockError:
                    continue
                found[f"{plan.repeat} {source} {block.holdout}"] = block.embedding.tobytes()
    rows = cache.rows(frozen_counterpart(NET), None, cache.clips, ("embedding",))
    return {**found, "activations": rows.arrays["embedding"].tobytes() if rows.present.all() else b""}


@pytest.fixture
def stale_cache(stale_template: Path, tmp_path: Path) -> FeatureCache:
    """A copy of the stale cache that a test may change."""
    shutil.copytree(stale_template, tmp_path / "work")
    return FeatureCache(tmp_path / "work")


@pytest.fixture(scope="module")
def stale_template(tuned_template: Path, fill: Fill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with every kind of removal.

    Labels were changed twice, so a plan, a table and networks are unused; a replaced recipe; an unfinished
    one; heads whose frozen network nothing else reads; a quarantined file, a temporary.
    """
    cache = FeatureCache(shutil.copytree(tuned_template, tmp_path_factory.mktemp("stale") / "work"))
    other = replace(NET, source="net", network="old", weights="old")
    fill(cache, frozen_counterpart(other), ["*"])
    fill(cache, other, [0])
    cache.select([other])
    cache.select([replace(other, depth="full", network="net")])
    fill(cache, replace(other, depth="full", network="net"), [0])
    fill(cache, replace(STILL, seed=9), ["*"])
    first_table = tuple(cache.statuses)
    for row, label in ((1, "a"), (0, "b")):
        statuses = list(first_table)
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


def test_a_cache_in_use_has_nothing_to_prune(tuned_cache: FeatureCache) -> None:
    assert choose(tuned_cache, later_s=30 * DAY_S) == PrunePlan((), ())


def test_current_blocks_stay_bit_for_bit_and_everything_else_goes(stale_cache: FeatureCache) -> None:
    before, files = blocks(stale_cache), state(stale_cache.path)
    assert len(before) > 5 and before["activations"]
    pruning = choose(stale_cache, later_s=30 * DAY_S)
    assert reasons(pruning) == {
        *("recipe of net: replaced", "recipe of old: replaced", "recipe of still: unfinished"),
        *("network of net@a that no current plan names", "network of net that no current plan names"),
        "two later plans have its folds and seed",
        *("table of clips that no current plan names", "quarantined as damaged", "temporary"),
        "cached fits of other clips, labels or groups",
    }
    for _ in range(2):  # a second prune of the same files does no harm
        assert not remove(stale_cache.path, pruning.removals)
    assert blocks(stale_cache) == before and not verify(stale_cache.path).faults
    after = state(stale_cache.path)
    assert after.items() <= files.items()
    freed = sum(map(len, files.values())) - sum(map(len, after.values()))
    assert freed == sum(removal.bytes for removal in pruning.removals)
    assert choose(stale_cache, later_s=30 * DAY_S) == PrunePlan((), ())


def test_unfinished_recipes_stay_for_a_week_and_leftovers_for_a_day(stale_cache: FeatureCache) -> None:
    soon = choose(stale_cache)
    assert len(soon.kept) == 1 and "unfinished" in soon.kept[0]
    later = reasons(choose(stale_cache, later_s=2 * DAY_S)) - reasons(soon)
    assert later == {"table of clips that no current plan names", "quarantined as damaged", "temporary"}
    assert {"quarantined as damaged", "temporary"} <= reasons(choose(stale_cache, bad=True))
    assert not choose(stale_cache, recipes=False).removals


@pytest.mark.parametrize(("option", "reason"), [("media", "decoded clips; "), ("fits", "cached fits; ")])
def test_media_and_cached_fits_are_removed_on_request(
    tuned_cache: FeatureCache, option: str, reason: str
) -> None:
    (removal,) = choose(tuned_cache, **{option: True}).removals
    assert removal.reason.startswith(reason) and removal.bytes > 0
    assert not remove(tuned_cache.path, (removal,))
    assert not list((tuned_cache.path / option).iterdir()) and not verify(tuned_cache.path).faults


def test_runs_are_removed_by_name(tuned_cache: FeatureCache) -> None:
    (removal,) = choose(tuned_cache, runs=("run-1",)).removals
    assert not remove(tuned_cache.path, (removal,)) and not run_names(tuned_cache)
    assert not (tuned_cache.path / "runs" / "run-1").exists()
    for name in ("run-1", ".."):
        with pytest.raises(UnknownNameError, match="known: none"):
            choose(tuned_cache, runs=(name,))


def test_a_dry_run_changes_nothing(stale_cache: FeatureCache) -> None:
    before = state(stale_cache.path)
    words = ("--media", "--bad", "--runs", "run-1")
    dry = call(stale_cache, *words)
    assert dry.exit_code == 0 and "would be freed" in dry.output and "--yes" in dry.output
    assert state(stale_cache.path) == before
    done = call(stale_cache, *words, "--yes")
    assert done.exit_code == 0 and dry.output.partition("would be")[0].splitlines()[-1].strip() in done.output
    assert not verify(stale_cache.path).faults and not run_names(stale_cache)


@pytest.mark.parametrize(("step", "name"), [(0, "rename"), (20, "unlink")])
def test_a_killed_prune_leaves_a_valid_cache(
    stale_cache: FeatureCache, step: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = blocks(stale_cache)
    pruning = choose(stale_cache, later_s=30 * DAY_S, media=True, runs=("run-1",))
    original, calls = getattr(os, name), 0

    def kill(*arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KeyboardInterrupt
        original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, kill)
        with pytest.raises(KeyboardInterrupt):
            remove(stale_cache.path, pruning.removals)
    assert not verify(stale_cache.path).faults
    runs = ("run-1",) if run_names(stale_cache) else ()
    again = choose(stale_cache, later_s=30 * DAY_S, media=True, runs=runs)
    assert not remove(stale_cache.path, again.removals)
    assert blocks(stale_cache) == before and not list(stale_cache.path.rglob(f"{PRUNED_PREFIX}*"))


def test_links_are_not_followed(stale_cache: FeatureCache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (stale_cache.path / "media").rename(outside)
    (stale_cache.path / "media").symlink_to(outside, target_is_directory=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("keep")
    old = next(
        removal for removal in choose(stale_cache).removals if removal.reason == "recipe of old: replaced"
    )
    (stale_cache.path / old.relative_path / "link").symlink_to(tmp_path / "mine", target_is_directory=True)
    kept = state(outside)
    pruning = choose(stale_cache, media=True)
    assert any("is behind a link" in sentence for sentence in pruning.kept)
    assert not remove(stale_cache.path, pruning.removals)
    assert not (stale_cache.path / old.relative_path).exists()
    assert state(outside) == kept and (tmp_path / "mine" / "file").read_text() == "keep"


def test_a_recipe_cannot_name_a_folder_outside(tuned_cache: FeatureCache) -> None:
    folder = tuned_cache.path / "features" / "evil"
    recipe = replace(STILL, seed=5)
    (folder / recipe.digest16).mkdir(parents=True)
    values = {**json.loads(recipe.to_json()), "source": "../../../mine"}
    (folder / recipe.digest16 / "recipe.json").write_text(json.dumps(values))
    (removal,) = choose(tuned_cache, later_s=30 * DAY_S).removals
    assert removal.relative_path == f"features/evil/{recipe.digest16}"


@pytest.mark.parametrize("folder", ["plans", "sources"])
def test_nothing_is_unused_after_a_plan_or_a_choice_was_quarantined(
    tuned_cache: FeatureCache, folder: str
) -> None:
    file = max((tuned_cache.path / folder).glob("*.*"))
    file.rename(file.with_name(file.name + ".bad"))
    with pytest.raises(DamagedPartError, match="may be current now; run extract"):
        choose(tuned_cache)
    assert len(choose(tuned_cache, recipes=False, bad=True).removals) == 1


def test_nothing_is_unused_while_a_record_is_lost(tuned_cache: FeatureCache) -> None:
    (tuned_cache.block_folder(frozen_counterpart(NET), None).parent / "recipe.json").unlink()
    assert not choose(tuned_cache, later_s=30 * DAY_S).removals  # the recipe of the heads needs it
    block = tuned_cache.block_folder(NET, tuned_cache.training_clips(NET, 0))
    unnamed = block.with_name("0" * 16)
    shutil.copytree(block, unnamed)
    for harm in (lambda: (unnamed / "trained.json").write_text("[["), (unnamed / "trained.json").unlink):
        harm()
        with pytest.raises(DamagedPartError, match="verify --repair"):
            choose(tuned_cache)
    shutil.rmtree(unnamed)
    (tuned_cache.block_folder(STILL, None).parent / "recipe.json").write_text("{}")
    with pytest.raises(DamagedPartError, match=r"still.* cannot be read"):
        choose(tuned_cache)


def test_without_a_plan_no_network_is_unused(tuned_cache: FeatureCache) -> None:
    for file in (tuned_cache.path / "plans").rglob("*.h5"):
        file.unlink()
    paths = [removal.relative_path for removal in choose(tuned_cache).removals]
    assert not [path for path in paths if path.startswith(("features", "networks"))]


def test_the_plan_before_the_current_one_stays(tuned_cache: FeatureCache) -> None:
    statuses = list(tuned_cache.statuses)
    assignment = assign_folds(clip_groups(statuses), folds=2, seed=0, placed={})
    for row in range(3):
        statuses[row] = replace(statuses[row], group=f"group {row}")
        tuned_cache.write_plan(replace(tuned_cache.plan, records=(table_name(statuses),)), statuses)
    assert not remove(tuned_cache.path, choose(tuned_cache, later_s=30 * DAY_S).removals)
    files = list((tuned_cache.path / "plans").glob("*.h5"))
    assert len(files) == len(list((tuned_cache.path / "tables").iterdir())) == 2
    last = next(file for file in files if tuned_cache.read_plan(file).sequence == 4)
    last.rename(last.with_name(f"{last.name}.bad"))
    again = FeatureCache(tuned_cache.path)
    assert again.plan.sequence == 3 and again.plan.assignment == tuned_cache.plan.assignment
    again.write_plan(Plan(2, 0, "test", assignment, again.plan.records), again.statuses)  # of other folds
    assert not [path for path in reasons(choose(again, recipes=False)) if "later plans" in path]


def test_a_source_is_removed_by_name_and_its_name_is_free_again(
    tuned_cache: FeatureCache, fill: Fill
) -> None:
    before = blocks(tuned_cache)
    dry = call(tuned_cache, "--source", "net@a")
    assert dry.exit_code == 0 and "features/net@a" in dry.output and blocks(tuned_cache) == before
    assert call(tuned_cache, "--source", "net@a", "--yes").exit_code == 0
    again = FeatureCache(tuned_cache.path)
    assert again.sources() == ("still",) and not verify(again.path).faults
    assert not [
        entry.relative_path for entry in read_inventory(again).entries if "/net" in entry.relative_path
    ]
    assert again.block("still", "*").embedding.tobytes() == before["0 still *"]
    fill(again, replace(NET, seed=7), [0])
    again.select([replace(NET, seed=7)])
    assert FeatureCache(again.path).sources() == ("net@a", "still")
    with pytest.raises(UnknownNameError, match="unknown source 'none'; known: net@a, still"):
        read_inventory(again, without=("none",))


def test_failures_are_printed_and_the_rest_is_removed(
    stale_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", deny)
    done = call(stale_cache, "--yes")
    assert done.exit_code == 1 and "cannot be removed (Permission denied)" in done.output
    assert not verify(stale_cache.path).faults
