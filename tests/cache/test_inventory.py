"""What `cache ls` counts is what is there: clips, blocks by holdout, recipes in force and not, what is stale."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moodfuse.cache.clip_table import table_name
from moodfuse.cache.console import printable
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.folds import deal, units_of
from moodfuse.cache.maintenance.holdings import IN_FORCE, REPLACED, SERVES, UNFINISHED, HeldRecipe, Inventory
from moodfuse.cache.maintenance.inventory import take_stock
from moodfuse.cache.maintenance.printing import _headlines, as_record, coverage
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import MISSING, verify
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart, import_recipe
from moodfuse.cache.records import Plan
from moodfuse.cache.runs import run_folder
from moodfuse.cache.storage import layout
from moodfuse.cache.storage.layout import entries, kind_of
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
Fill = Callable[..., None]
TUNED = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
FROZEN = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


def of(stock: Inventory, recipe: Recipe) -> HeldRecipe:
    """What is listed of a recipe."""
    (found,) = [
        item for item in stock.recipes if (item.source, item.digest16) == (recipe.source, recipe.digest16)
    ]
    return found


def named(held: HeldRecipe) -> dict[str, int]:
    """Rows by holdout, in words."""
    return {str(name): block.rows for block in held.blocks for name in block.names}


def test_every_kind_of_file_is_known(tuned_cache: FeatureCache) -> None:
    """A cache with every kind of file has no unknown one, and each kind is there."""
    found = {entry.place: entry.kind for entry in entries(tuned_cache.path)}
    assert not [place for place, kind in found.items() if kind == "unknown"]
    assert set(found.values()) == set(layout.KINDS)


def test_blocks_are_named_by_the_plans_in_force(tuned_cache: FeatureCache) -> None:
    """Single folds, pairs, none, the frozen counterpart and a repeat, each with its rows."""
    stock = take_stock(tuned_cache)
    assert (stock.plan.folds, stock.plan.clips, stock.plan.groups, stock.plan.repeats) == (3, 18, 18, 2)
    held = {item.source: item for item in stock.recipes}
    assert {name: item.state for name, item in held.items()} == {
        "net": SERVES,
        "net@a": IN_FORCE,
        "still": IN_FORCE,
    }
    assert named(held["still"]) == {"*": 18} and named(held["net"]) == {"*": 18}
    assert named(held["net@a"]) == {
        **dict.fromkeys(("{}", "{0}", "{1}", "{0,1}", "{0} of repeat 1"), 18),
        **dict.fromkeys(("{2}", "{1} of repeat 1", "{2} of repeat 1"), 0),
    }
    assert coverage(held["net@a"], stock.plan) == "{} 1 of 1, {k} 3 of 6, {j,k} 1 of 6"
    assert [(block.parts, block.clips) for block in held["still"].blocks] == [(2, 18)]
    assert (
        stock.runs[0].name == "run-1"
        and stock.runs[0].whole
        and not stock.runs[0].gone + stock.runs[0].replaced
    )
    assert sum(entry.bytes for entry in stock.entries) == sum(
        file.stat().st_size for file in tuned_cache.path.rglob("*") if file.is_file()
    )


def test_a_changed_label_leaves_networks_without_a_name(small_cache: MakeCache, fill: Fill) -> None:
    """After a correction only the network that held the clip out is named; the others are of no plan in force."""
    cache = small_cache(("a", "b") * 9 + ("c",) * 4)
    fill(cache, TUNED, [0, 1, 2])
    cache.select([TUNED])
    statuses = list(cache.statuses)
    held_out = cache.plan.assignment[statuses[0].digest]
    statuses[0] = replace(statuses[0], clip=replace(statuses[0].clip, label="c"))
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    stock = take_stock(FeatureCache(cache.path))
    assert named(of(stock, TUNED)) == {f"{{{fold}}}": 22 if fold == held_out else 0 for fold in range(3)}
    assert len([block for block in of(stock, TUNED).blocks if not block.names]) == 2
    assert not any(plan.superseded for plan in stock.plans) and not stock.old_tables
    cache.write_plan(replace(cache.plan, records=(table_name(statuses[1:]),)), statuses[1:])
    stock = take_stock(FeatureCache(cache.path))
    assert [plan.superseded for plan in stock.plans] == [True, False, False] and len(stock.old_tables) == 1


def test_two_recipes_of_one_source_and_one_that_was_never_finished(
    small_cache: MakeCache, fill: Fill
) -> None:
    """The last that was chosen is in force, the one before is replaced, one never chosen is unfinished."""
    cache = small_cache()
    for seed in range(3):
        fill(cache, replace(TUNED, seed=seed), [0, 1, 2])
        if seed < 2:
            cache.select([replace(TUNED, seed=seed)])
    stock = take_stock(FeatureCache(cache.path))
    states = {seed: of(stock, replace(TUNED, seed=seed)).state for seed in range(3)}
    assert states == {0: REPLACED, 1: IN_FORCE, 2: UNFINISHED}
    assert all(named(item) == {"{0}": 18, "{1}": 18, "{2}": 18} for item in stock.recipes)


def test_the_frozen_network_under_replaced_heads_is_replaced_too(small_cache: MakeCache, fill: Fill) -> None:
    """It serves as long as a recipe in force tunes its heads on it."""
    cache = small_cache()
    heads = replace(TUNED, depth="head")
    fill(cache, frozen_counterpart(heads), ["*"])
    fill(cache, heads, [0, 1, 2])
    cache.select([heads])
    other = replace(TUNED, source=heads.source, weights="other")
    fill(cache, other, [0])
    assert of(take_stock(FeatureCache(cache.path)), frozen_counterpart(heads)).state == SERVES
    cache.select([other])
    assert of(take_stock(FeatureCache(cache.path)), frozen_counterpart(heads)).state == REPLACED


def test_a_holdout_of_many_folds_is_found_by_what_its_network_saw(small_cache: MakeCache, fill: Fill) -> None:
    """Imported features may be held out from any folds; one whose record is lost is found all the same."""
    cache = small_cache(("a", "b") * 9, folds=4)
    recipe = import_recipe("own", sees_labels=True)
    fill(cache, recipe, [{0, 1, 3}, {1, 2}])
    cache.select([recipe])
    assert {"{0,1,3}", "{1,2}"} <= set(named(of(take_stock(cache), recipe)))
    (cache.block_folder(recipe, cache.roles(recipe, {1, 2})) / "trained.json").write_text("[[")
    assert "{1,2}" in named(of(take_stock(cache), recipe))
    many = cache.block_folder(recipe, cache.roles(recipe, {0, 1, 3})) / "trained.json"
    text = many.read_text()
    many.unlink()
    assert "{0,1,3}" in named(of(take_stock(cache), recipe))
    found = verify(cache.path)
    assert [fault.place.split("/")[-2:] for fault in found.faults if fault.state == MISSING] == [
        list(many.parts[-2:])
    ]
    repair(cache.path, found)
    assert many.read_text() == text


def test_clips_are_counted_as_they_are(small_cache: MakeCache) -> None:
    """Refused and test clips are listed and in no plan; groups are those of covered clips."""
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses[0] = replace(statuses[0], ok=False, reason="no_audio")
    statuses[1] = replace(statuses[1], clip=replace(statuses[1].clip, split="test"))
    statuses[4] = replace(statuses[4], group=statuses[2].group)
    assignment = deal(units_of(statuses[2:]), folds=3, seed=0, placed={})
    cache.write_plan(Plan(3, 0, "test", assignment, (table_name(statuses),)), statuses)
    stock = take_stock(FeatureCache(cache.path))
    assert vars(stock.clips) == {"listed": 18, "ok": 17, "refused": 1, "test": 1}
    assert (stock.plan.clips, stock.plan.groups) == (16, 15)


def test_a_block_wants_no_row_of_a_clip_that_lacks_its_view(small_cache: MakeCache, fill: Fill) -> None:
    """A source of sound is complete without the clips that have none."""
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses[0] = replace(statuses[0], missing="sound")
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    sound = replace(FROZEN, preprocessing='{"kind":"audio"}')
    fill(cache, sound, ["*"])
    cache.select([sound])
    assert of(take_stock(cache), sound).blocks[0].clips == 17


def test_two_copies_of_a_file_want_one_row(small_cache: MakeCache, fill: Fill) -> None:
    """A block is complete that holds every different clip, and the plan says how many are copies."""
    cache = small_cache()
    statuses = list(cache.statuses)
    first = statuses[0]
    statuses.append(replace(first, clip=replace(first.clip, id="copy")))
    cache.write_plan(replace(cache.plan, records=(table_name(statuses),)), statuses)
    lacking = [
        replace(status, missing="sound" if status.digest == first.digest else "") for status in statuses
    ]
    for table, clips in ((statuses, 18), (lacking, 17)):
        cache.write_plan(replace(cache.plan, records=(table_name(table),)), table)
        sound = replace(FROZEN, preprocessing='{"kind":"audio"}')
        fill(cache, sound, ["*"])
        cache.select([sound])
        (block,) = of(take_stock(cache), sound).blocks
        assert (block.rows, block.clips, block.complete) == (18, clips, True)
    assert any(
        "18 clips (1 the same file and seconds as another)" in line for line in _headlines(take_stock(cache))
    )


def test_rows_of_clips_that_left_do_not_count(
    small_cache: MakeCache, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is not complete with rows of other clips; in too many bytes headers are all that is read."""
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    cache.select([FROZEN])
    other = [replace(status, digest=digest(status.clip.id)) for status in cache.statuses[:16]]
    assignment = deal(units_of((*other, cache.statuses[17])), folds=3, seed=0, placed={})
    statuses = (*other, cache.statuses[17])
    cache.write_plan(Plan(3, 0, "test", assignment, (table_name(statuses),)), statuses)
    (block,) = of(take_stock(FeatureCache(cache.path)), FROZEN).blocks
    assert (block.rows, block.clips, block.complete) == (1, 17, False)
    monkeypatch.setattr("moodfuse.cache.maintenance.recipe_listing._COUNTED_BYTES", 0)
    assert of(take_stock(FeatureCache(cache.path)), FROZEN).blocks[0].rows == 18


def test_strays_are_listed(tuned_cache: FeatureCache) -> None:
    """What was set aside, temporaries, and files of unknown kind, by place."""
    root = tuned_cache.path
    (root / "plans" / "plan-0.h5.bad").write_bytes(b"bad")
    (root / "clips" / "aa").mkdir()
    (root / "clips" / "aa" / ".tmp-1-x.json").write_bytes(b"half")
    (root / "features" / ".tmp-pruned-1" / "deep").mkdir(parents=True)
    (root / "features" / ".tmp-pruned-1" / "deep" / "x.h5").write_bytes(b"12345")
    (root / "notes.txt").write_text("mine")
    (root / "mine" / "deep").mkdir(parents=True)
    record = as_record(take_stock(tuned_cache))
    assert record["set_aside"] == [{"file": "plans/plan-0.h5.bad", "bytes": 3}]
    assert record["temporaries"] == [
        {"file": "clips/aa/.tmp-1-x.json", "bytes": 4},
        {"file": "features/.tmp-pruned-1", "bytes": 5},
    ]
    assert [item["file"] for item in record["unknown"]] == ["mine", "notes.txt"]


def test_runs_say_what_became_of_their_sources(tuned_cache: FeatureCache, fill: Fill) -> None:
    """A recipe that was replaced, and one that is gone."""
    fill(tuned_cache, replace(FROZEN, seed=7), ["*"])
    tuned_cache.select([replace(FROZEN, seed=7)])
    folder = tuned_cache.path / "features" / "net@a"
    folder.rename(tuned_cache.path / "mine")
    (run,) = take_stock(FeatureCache(tuned_cache.path)).runs
    assert run.replaced == ("still",) and run.gone == ("net@a",) and run.whole
    (run_folder(tuned_cache, "run-1") / "run.json").write_text("{")
    assert not take_stock(FeatureCache(tuned_cache.path)).runs[0].whole


def test_an_empty_cache_has_no_plan(tmp_path: Path) -> None:
    """A cache that no extract has filled yet is listed all the same."""
    stock = take_stock(FeatureCache(tmp_path / "new", create=True))
    assert stock.plan is None and stock.clips is None and not stock.recipes


def test_no_part_of_features_is_opened_and_no_clip_is_made_a_record(
    small_cache: MakeCache, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sources that saw no label, headers and columns suffice, however many clips there are."""
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    cache.select([FROZEN])
    opened: list[str] = []
    really = h5py.File

    def spy(name: object, *arguments: object, **options: object) -> h5py.File:
        opened.append(str(name))
        return really(name, *arguments, **options)

    monkeypatch.setattr(h5py, "File", spy)
    stock = take_stock(FeatureCache(cache.path))
    assert of(stock, FROZEN).blocks[0].complete
    assert opened and not [name for name in opened if "/features/" in name]


def test_a_part_without_a_header_is_said(small_cache: MakeCache, fill: Fill) -> None:
    """Its rows do not count."""
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    part = min(cache.block_folder(FROZEN, None).glob("*.h5"))
    part.write_bytes(b"")
    os.mkfifo(part.with_name("pipe.h5"))
    stock = take_stock(cache)
    assert stock.unreadable == (part.relative_to(cache.path).as_posix(),)
    assert of(stock, FROZEN).blocks[0].rows in (7, 11)


def test_a_damaged_plan_is_an_error_that_says_what_to_do(small_cache: MakeCache) -> None:
    """Nothing is guessed of what is in force."""
    cache = small_cache()
    (plan,) = (cache.path / "plans").glob("*.h5")
    plan.write_bytes(b"x")
    with pytest.raises(DamagedPartError, match="run extract again"):
        take_stock(FeatureCache(cache.path))


def test_listing_imports_nothing_heavy(tuned_cache: FeatureCache) -> None:
    """`cache ls` loads no torch, scikit-learn, LightGBM or matplotlib."""
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "moodfuse",
        "cache",
        "ls",
        "--cache",
        str(tuned_cache.path),
    ]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root}
    )
    modules = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "moodfuse" in modules and not modules & {
        "torch",
        "sklearn",
        "lightgbm",
        "matplotlib",
        "safetensors",
    }


@given(st.text(), st.text())
def test_places_have_a_kind_and_names_can_be_printed(folder: str, name: str) -> None:
    """Whatever a file is called, it has a kind, and its name is printed on one line."""
    place = f"{folder}/{name}"
    assert kind_of(place) and kind_of(f"features/{place}")
    assert printable(place + "\udcff\n\x1b[0m").isprintable()
