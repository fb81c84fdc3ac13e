"""`cache ls` lists clips, plans, runs, recipes with their state, and blocks with their holdouts and rows."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.maintenance.listing import (
    CURRENT,
    REPLACED,
    SERVES,
    UNFINISHED,
    Inventory,
    RecipeInfo,
    read_inventory,
)
from moodfuse.cache.maintenance.printing import as_record, coverage
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart, import_recipe
from moodfuse.cache.records import ClipStatus, Plan
from moodfuse.cache.storage import layout
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
Fill = Callable[..., None]
TUNED = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
FROZEN = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
AUDIO = replace(FROZEN, preprocessing='{"kind":"audio"}')


def read(cache: FeatureCache) -> Inventory:
    """The inventory, with nothing remembered from before."""
    return read_inventory(FeatureCache(cache.path))


def info(inventory: Inventory, recipe: Recipe) -> RecipeInfo:
    key = (recipe.source, recipe.digest16)
    return next(entry for entry in inventory.recipes if (entry.source, entry.digest16) == key)


def rows(recipe: RecipeInfo) -> dict[str, int]:
    """Rows by holdout."""
    return {str(name): block.rows for block in recipe.blocks for name in block.names}


def write_clips(cache: FeatureCache, statuses: list[ClipStatus]) -> None:
    """Replace the table of clips, under the same folds."""
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)


# Files, clips and runs


def test_every_kind_of_file_is_listed(tuned_cache: FeatureCache) -> None:
    root = tuned_cache.path
    inventory = read_inventory(tuned_cache)
    assert {entry.kind for entry in inventory.entries} == set(layout.KINDS)
    files = (file for file in root.rglob("*") if file.is_file())
    assert sum(entry.bytes for entry in inventory.entries) == sum(file.stat().st_size for file in files)
    (root / "plans" / "plan-0.h5.bad").write_bytes(b"bad")
    (root / "features" / ".tmp-pruned-1" / "deep").mkdir(parents=True)
    (root / "features" / ".tmp-pruned-1" / "deep" / "x.h5").write_bytes(b"12345")
    (root / "notes.txt").write_text("mine")
    (root / "mine" / "deep").mkdir(parents=True)
    record = as_record(read_inventory(tuned_cache))
    assert record["set_aside"] == [{"file": "plans/plan-0.h5.bad", "bytes": 3}]
    assert record["temporaries"] == [{"file": "features/.tmp-pruned-1", "bytes": 5}]
    assert [entry["file"] for entry in record["unknown"]] == ["mine", "notes.txt"]


def test_clips_are_counted_by_status(small_cache: MakeCache) -> None:
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses[0] = replace(statuses[0], ok=False, reason="no_audio")
    statuses[1] = replace(statuses[1], clip=replace(statuses[1].clip, split="test"))
    statuses[4] = replace(statuses[4], group=statuses[2].group)
    assignment = assign_folds(clip_groups(statuses[2:]), folds=3, seed=0, placed={})
    cache.write_plan(Plan(3, 0, "test", assignment, (table_name(statuses),)), statuses)
    inventory = read(cache)
    assert inventory.clips == {"listed": 18, "ok": 17, "refused": 1, "test": 1}
    assert inventory.plan is not None and (inventory.plan["clips"], inventory.plan["groups"]) == (16, 15)


def test_runs_name_their_missing_and_replaced_sources(tuned_cache: FeatureCache, fill: Fill) -> None:
    (run,) = read(tuned_cache).runs
    assert run.name == "run-1" and run.whole and not run.gone + run.replaced
    fill(tuned_cache, replace(FROZEN, seed=7), ["*"])
    tuned_cache.select([replace(FROZEN, seed=7)])
    (tuned_cache.path / "features" / "net@a").rename(tuned_cache.path / "mine")
    (run,) = read(tuned_cache).runs
    assert run.replaced == ("still",) and run.gone == ("net@a",) and run.whole
    (tuned_cache.path / "runs" / "run-1" / "run.json").write_text("{")
    assert not read(tuned_cache).runs[0].whole


def test_an_empty_cache_has_no_plan_and_a_damaged_plan_is_an_error(
    tmp_path: Path, small_cache: MakeCache
) -> None:
    inventory = read_inventory(FeatureCache(tmp_path / "new", create=True))
    assert inventory.plan is None and inventory.clips is None and not inventory.recipes
    cache = small_cache()
    (plan,) = (cache.path / "plans").glob("*.h5")
    plan.write_bytes(b"x")
    with pytest.raises(DamagedPartError, match="run extract again"):
        read(cache)


def test_listing_imports_nothing_heavy(whole_cache: FeatureCache) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "moodfuse", "cache", "ls", "--cache"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command.append(str(whole_cache.path))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    lines = (line.rsplit("|", 1)[-1] for line in done.stderr.splitlines() if "|" in line)
    modules = {line.strip().split(".")[0] for line in lines}
    assert "moodfuse" in modules
    assert not modules & {"torch", "sklearn", "lightgbm", "matplotlib", "safetensors"}


# Recipes and blocks


def test_blocks_are_named_by_the_current_plans(tuned_cache: FeatureCache) -> None:
    inventory = read_inventory(tuned_cache)
    recipes = {recipe.source: recipe for recipe in inventory.recipes}
    states = {name: recipe.state for name, recipe in recipes.items()}
    assert states == {"net": SERVES, "net@a": CURRENT, "still": CURRENT}
    assert rows(recipes["still"]) == {"*": 18} and rows(recipes["net"]) == {"*": 18}
    assert rows(recipes["net@a"]) == {
        **dict.fromkeys(("{}", "{0}", "{1}", "{0,1}", "{0} of repeat 1"), 18),
        **dict.fromkeys(("{2}", "{1} of repeat 1", "{2} of repeat 1"), 0),
    }
    assert coverage(recipes["net@a"], inventory) == "{} 1 of 1, {k} 3 of 6, {j,k} 1 of 6"
    assert [(block.parts, block.clips) for block in recipes["still"].blocks] == [(2, 18)]


def test_a_changed_label_leaves_networks_without_a_name(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache(("a", "b") * 9 + ("c",) * 4)
    fill(cache, TUNED, [0, 1, 2])
    cache.select([TUNED])
    statuses = list(cache.statuses)
    held_out = cache.plan.assignment[statuses[0].digest]
    statuses[0] = replace(statuses[0], clip=replace(statuses[0].clip, label="c"))
    write_clips(cache, statuses)
    inventory = read(cache)
    assert rows(info(inventory, TUNED)) == {f"{{{fold}}}": 22 * (fold == held_out) for fold in range(3)}
    assert len([block for block in info(inventory, TUNED).blocks if not block.names]) == 2
    assert not inventory.old_plans and not inventory.old_tables
    write_clips(cache, statuses[1:])
    inventory = read(cache)
    assert len(inventory.old_plans) == 1 and len(inventory.old_tables) == 1
    assert cache.read_plan(inventory.old_plans[0].path).sequence == 1


def test_a_recipe_is_current_replaced_or_unfinished(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache()
    for seed in range(3):
        fill(cache, replace(TUNED, seed=seed), [0])
        if seed < 2:
            cache.select([replace(TUNED, seed=seed)])
    inventory = read(cache)
    states = [info(inventory, replace(TUNED, seed=seed)).state for seed in range(3)]
    assert states == [REPLACED, CURRENT, UNFINISHED]


def test_a_frozen_network_serves_current_heads(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache()
    heads = replace(TUNED, depth="head")
    fill(cache, frozen_counterpart(heads), ["*"])
    fill(cache, heads, [0])
    cache.select([heads])
    assert info(read(cache), frozen_counterpart(heads)).state == SERVES
    other = replace(TUNED, source=heads.source, weights="other")
    fill(cache, other, [0])
    cache.select([other])
    assert info(read(cache), frozen_counterpart(heads)).state == REPLACED


def test_an_import_may_hold_out_any_folds(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache(("a", "b") * 9, folds=4)
    recipe = import_recipe("own", sees_labels=True)
    fill(cache, recipe, [{0, 1, 3}, {1, 2}])
    cache.select([recipe])
    assert {"{0,1,3}", "{1,2}"} <= set(rows(info(read(cache), recipe)))


def test_a_block_has_one_row_per_different_clip_with_its_modality(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache()
    statuses = list(cache.statuses)
    first = statuses[0]
    statuses.append(replace(first, clip=replace(first.clip, id="copy")))
    silent = [replace(status, missing="sound" * (status.digest == first.digest)) for status in statuses]
    for table, clips in ((statuses, 18), (silent, 17)):
        write_clips(cache, table)
        fill(cache, AUDIO, ["*"])
        cache.select([AUDIO])
        (block,) = info(read_inventory(cache), AUDIO).blocks
        assert (block.rows, block.clips, block.complete) == (18, clips, True)


def test_a_part_without_a_header_has_no_rows(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    part = min(cache.block_folder(FROZEN, None).glob("*.h5"))
    part.write_bytes(b"")
    inventory = read_inventory(cache)
    assert inventory.unreadable == (part.relative_to(cache.path).as_posix(),)
    assert info(inventory, FROZEN).blocks[0].rows in (7, 11)
