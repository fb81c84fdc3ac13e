"""What `cache ls` counts is what is there: clips, plans, runs, and files that nothing reads."""

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
from moodfuse.cache.errors import DamagedPartError
from moodfuse.cache.folds import assign_folds, clip_groups
from moodfuse.cache.maintenance.inventory import read_inventory
from moodfuse.cache.maintenance.printing import as_record
from moodfuse.cache.recipe import Recipe
from moodfuse.cache.records import Plan
from moodfuse.cache.runs import run_folder
from moodfuse.cache.storage import layout
from moodfuse.cache.storage.layout import entries, kind_of
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
Fill = Callable[..., None]
FROZEN = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


def test_every_kind_of_file_is_known(tuned_cache: FeatureCache) -> None:
    kinds = {entry.kind for entry in entries(tuned_cache.path)}
    assert kinds == set(layout.KINDS) and "unknown" not in kinds
    inventory = read_inventory(tuned_cache)
    (run,) = inventory.runs
    assert run.name == "run-1" and run.whole and not run.gone + run.replaced
    files = (file for file in tuned_cache.path.rglob("*") if file.is_file())
    assert sum(entry.bytes for entry in inventory.entries) == sum(file.stat().st_size for file in files)


def test_clips_are_counted_by_what_became_of_them(small_cache: MakeCache) -> None:
    cache = small_cache()
    statuses = list(cache.statuses)
    statuses[0] = replace(statuses[0], ok=False, reason="no_audio")
    statuses[1] = replace(statuses[1], clip=replace(statuses[1].clip, split="test"))
    statuses[4] = replace(statuses[4], group=statuses[2].group)
    assignment = assign_folds(clip_groups(statuses[2:]), folds=3, seed=0, placed={})
    cache.write_plan(Plan(3, 0, "test", assignment, (table_name(statuses),)), statuses)
    inventory = read_inventory(FeatureCache(cache.path))
    assert inventory.clips == {"listed": 18, "ok": 17, "refused": 1, "test": 1}
    assert inventory.plan is not None and (inventory.plan["clips"], inventory.plan["groups"]) == (16, 15)


def test_leftovers_are_listed_by_place(tuned_cache: FeatureCache) -> None:
    root = tuned_cache.path
    (root / "plans" / "plan-0.h5.bad").write_bytes(b"bad")
    (root / "clips" / "aa").mkdir()
    (root / "clips" / "aa" / ".tmp-1-x.json").write_bytes(b"half")
    (root / "features" / ".tmp-pruned-1" / "deep").mkdir(parents=True)
    (root / "features" / ".tmp-pruned-1" / "deep" / "x.h5").write_bytes(b"12345")
    (root / "notes.txt").write_text("mine")
    (root / "mine" / "deep").mkdir(parents=True)
    record = as_record(read_inventory(tuned_cache))
    assert record["set_aside"] == [{"file": "plans/plan-0.h5.bad", "bytes": 3}]
    assert record["temporaries"] == [
        {"file": "clips/aa/.tmp-1-x.json", "bytes": 4},
        {"file": "features/.tmp-pruned-1", "bytes": 5},
    ]
    assert [item["file"] for item in record["unknown"]] == ["mine", "notes.txt"]


def test_runs_name_their_sources_that_are_gone_or_replaced(tuned_cache: FeatureCache, fill: Fill) -> None:
    fill(tuned_cache, replace(FROZEN, seed=7), ["*"])
    tuned_cache.select([replace(FROZEN, seed=7)])
    (tuned_cache.path / "features" / "net@a").rename(tuned_cache.path / "mine")
    (run,) = read_inventory(FeatureCache(tuned_cache.path)).runs
    assert run.replaced == ("still",) and run.gone == ("net@a",) and run.whole
    (run_folder(tuned_cache, "run-1") / "run.json").write_text("{")
    assert not read_inventory(FeatureCache(tuned_cache.path)).runs[0].whole


def test_an_empty_cache_has_no_plan_and_a_damaged_plan_is_an_error(
    tmp_path: Path, small_cache: MakeCache
) -> None:
    inventory = read_inventory(FeatureCache(tmp_path / "new", create=True))
    assert inventory.plan is None and inventory.clips is None and not inventory.recipes
    cache = small_cache()
    (plan,) = (cache.path / "plans").glob("*.h5")
    plan.write_bytes(b"x")
    with pytest.raises(DamagedPartError, match="run extract again"):
        read_inventory(FeatureCache(cache.path))


def test_under_the_first_plan_no_part_of_features_is_opened(
    small_cache: MakeCache, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = small_cache()
    fill(cache, FROZEN, ["*"])
    cache.select([FROZEN])
    opened: list[str] = []
    really = h5py.File

    def spy(name: object, *arguments: object, **options: object) -> h5py.File:
        opened.append(str(name))
        return really(name, *arguments, **options)

    monkeypatch.setattr(h5py, "File", spy)
    assert read_inventory(FeatureCache(cache.path)).recipes[0].blocks[0].complete
    assert opened and not [name for name in opened if "/features/" in name]


def test_listing_imports_nothing_heavy(whole_cache: FeatureCache) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "moodfuse", "cache", "ls", "--cache"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command.append(str(whole_cache.path))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    lines = (line.rsplit("|", 1)[-1] for line in done.stderr.splitlines() if "|" in line)
    modules = {line.strip().split(".")[0] for line in lines}
    assert "moodfuse" in modules
    assert not modules & {"torch", "sklearn", "lightgbm", "matplotlib", "safetensors"}


@given(st.text(), st.text())
def test_any_path_has_a_kind_and_is_printed_on_one_line(folder: str, name: str) -> None:
    place = f"{folder}/{name}"
    assert kind_of(place) and kind_of(f"features/{place}")
    assert printable(place + "\udcff\n\x1b[0m").isprintable()
