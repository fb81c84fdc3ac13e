"""Recipes and their blocks are listed with their state, the holdouts that they serve, and the rows that they have."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.digests import digest
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.maintenance.inventory import Inventory, read_inventory
from moodfuse.cache.maintenance.networks import IN_FORCE, REPLACED, SERVES, UNFINISHED, RecipeInfo
from moodfuse.cache.maintenance.printing import coverage, summary_lines
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import MISSING, verify
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart, import_recipe
from moodfuse.cache.records import ClipStatus, Plan
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
Fill = Callable[..., None]
TUNED = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
FROZEN = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
AUDIO = replace(FROZEN, preprocessing='{"kind":"audio"}')


def read(cache: FeatureCache) -> Inventory:
    """The inventory, with nothing remembered from before."""
    return read_inventory(FeatureCache(cache.path))


def of(inventory: Inventory, recipe: Recipe) -> RecipeInfo:
    """What is listed of a recipe."""
    key = (recipe.source, recipe.digest16)
    (found,) = [item for item in inventory.recipes if (item.source, item.digest16) == key]
    return found


def rows(recipe: RecipeInfo) -> dict[str, int]:
    """Rows by holdout."""
    return {str(name): block.rows for block in recipe.blocks for name in block.names}


def write_clips(cache: FeatureCache, statuses: list[ClipStatus]) -> None:
    """Put a table of clips in force, under the same plan."""
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)


def test_blocks_are_named_by_the_plans_in_force(tuned_cache: FeatureCache) -> None:
    inventory = read_inventory(tuned_cache)
    recipes = {item.source: item for item in inventory.recipes}
    states = {name: item.state for name, item in recipes.items()}
    assert states == {"net": SERVES, "net@a": IN_FORCE, "still": IN_FORCE}
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
    assert rows(of(inventory, TUNED)) == {f"{{{fold}}}": 22 * (fold == held_out) for fold in range(3)}
    assert len([block for block in of(inventory, TUNED).blocks if not block.names]) == 2
    assert not inventory.old_plans and not inventory.old_tables
    write_clips(cache, statuses[1:])
    inventory = read(cache)
    assert len(inventory.old_plans) == 1 and len(inventory.old_tables) == 1
    assert cache.read_plan(inventory.old_plans[0].path).sequence == 1


def test_a_recipe_is_in_force_replaced_or_unfinished(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache()
    for seed in range(3):
        fill(cache, replace(TUNED, seed=seed), [0, 1, 2])
        if seed < 2:
            cache.select([replace(TUNED, seed=seed)])
    inventory = read(cache)
    states = [of(inventory, replace(TUNED, seed=seed)).state for seed in range(3)]
    assert states == [REPLACED, IN_FORCE, UNFINISHED]
    assert all(rows(item) == {"{0}": 18, "{1}": 18, "{2}": 18} for item in inventory.recipes)


def test_a_frozen_network_serves_while_heads_in_force_are_tuned_on_it(
    small_cache: MakeCache, fill: Fill
) -> None:
    cache = small_cache()
    heads = replace(TUNED, depth="head")
    fill(cache, frozen_counterpart(heads), ["*"])
    fill(cache, heads, [0])
    cache.select([heads])
    other = replace(TUNED, source=heads.source, weights="other")
    fill(cache, other, [0])
    assert of(read(cache), frozen_counterpart(heads)).state == SERVES
    cache.select([other])
    assert of(read(cache), frozen_counterpart(heads)).state == REPLACED


def test_an_import_may_hold_out_any_folds_and_is_named_without_its_record(
    small_cache: MakeCache, fill: Fill
) -> None:
    cache = small_cache(("a", "b") * 9, folds=4)
    recipe = import_recipe("own", sees_labels=True)
    fill(cache, recipe, [{0, 1, 3}, {1, 2}])
    cache.select([recipe])
    assert {"{0,1,3}", "{1,2}"} <= set(rows(of(read_inventory(cache), recipe)))
    (cache.block_folder(recipe, cache.roles(recipe, {1, 2})) / "trained.json").write_text("[[")
    record = cache.block_folder(recipe, cache.roles(recipe, {0, 1, 3})) / "trained.json"
    text = record.read_text()
    record.unlink()
    assert {"{0,1,3}", "{1,2}"} <= set(rows(of(read_inventory(cache), recipe)))
    found = verify(cache.path)
    missing = [fault.place.split("/")[-2:] for fault in found.faults if fault.state == MISSING]
    assert missing == [list(record.parts[-2:])]
    repair(cache.path, found)
    assert record.read_text() == text


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
        (block,) = of(read_inventory(cache), AUDIO).blocks
        assert (block.rows, block.clips, block.complete) == (18, clips, True)
    lines = list(summary_lines(read_inventory(cache)))
    assert any("18 clips (1 the same file and seconds as another)" in line for line in lines)


def test_rows_of_clips_that_left_do_not_count_where_parts_are_small(
    small_cache: MakeCache, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    cache.select([FROZEN])
    statuses = [replace(status, digest=digest(status.clip.id)) for status in cache.statuses[:16]]
    statuses.append(cache.statuses[17])
    assignment = assign_folds(clip_groups(statuses), folds=3, seed=0, placed={})
    cache.write_plan(Plan(3, 0, "test", assignment, (table_name(statuses),)), statuses)
    (block,) = of(read(cache), FROZEN).blocks
    assert (block.rows, block.clips, block.complete) == (1, 17, False)
    monkeypatch.setattr("moodfuse.cache.maintenance.networks._COUNTED_BYTES", 0)
    assert of(read(cache), FROZEN).blocks[0].rows == 18


def test_a_part_without_a_header_has_no_rows(small_cache: MakeCache, fill: Fill) -> None:
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    part = min(cache.block_folder(FROZEN, None).glob("*.h5"))
    part.write_bytes(b"")
    os.mkfifo(part.with_name("pipe.h5"))
    inventory = read_inventory(cache)
    assert inventory.unreadable == (part.relative_to(cache.path).as_posix(),)
    assert of(inventory, FROZEN).blocks[0].rows in (7, 11)
