"""`cache verify --repair` quarantines damaged files and loses nothing that is valid."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from faults.looking import file_of, mend, relative_path, state
from moodfuse.cache.errors import MissingBlockError
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import DAMAGED, MISSING, UNREADABLE, verify
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart
from moodfuse.cache.storage.parts import SCHEMA, read_header
from moodfuse.cache.store import FeatureCache

Fill = Callable[..., None]
NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


def test_a_damaged_part_is_quarantined_and_extract_is_asked_for(
    tuned_cache: FeatureCache, fill: Fill
) -> None:
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    valid = tuned_cache.block("still", "*").embedding
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    before = state(tuned_cache.path)
    done = mend(tuned_cache)
    assert done.quarantined == (relative_path(tuned_cache, part),) and not done.failed and not done.rewritten
    assert done.remedies == (f"moodfuse extract DATA --cache {tuned_cache.path} --source still",)
    assert state(tuned_cache.path) == {
        f"{name}.bad" if name == done.quarantined[0] else name: data for name, data in before.items()
    }
    with pytest.raises(MissingBlockError, match="extract again with --source still"):
        FeatureCache(tuned_cache.path).block("still", "*")
    again = verify(tuned_cache.path)
    assert not again.faults and again.others["bad"] == (f"{done.quarantined[0]}.bad",)
    fill(tuned_cache, STILL, ["*"])
    assert np.array_equal(FeatureCache(tuned_cache.path).block("still", "*").embedding, valid)


def test_activations_are_computed_again_by_the_source_whose_heads_read_them(
    tuned_cache: FeatureCache,
) -> None:
    min(tuned_cache.block_folder(frozen_counterpart(NET), None).glob("*.h5")).write_bytes(b"")
    assert mend(tuned_cache).remedies == (f"moodfuse extract DATA --cache {tuned_cache.path} --source net@a",)


@pytest.mark.parametrize(("harm", "holdout"), [("damaged", 0), ("missing", {0, 1})])
def test_the_record_of_a_network_is_written_again(
    tuned_cache: FeatureCache, harm: str, holdout: object
) -> None:
    record = tuned_cache.block_folder(NET, tuned_cache.training_clips(NET, holdout)) / "trained.json"
    valid = record.read_bytes()
    record.unlink() if harm == "missing" else record.write_bytes(b"[]")
    done = mend(tuned_cache)
    assert done.rewritten == (relative_path(tuned_cache, record),) and not done.remedies
    assert record.read_bytes() == valid and not verify(tuned_cache.path).faults


@pytest.mark.parametrize("harm", [b"{}\n", None])
def test_a_damaged_or_missing_marker_is_written_again(tuned_cache: FeatureCache, harm: bytes | None) -> None:
    marker = tuned_cache.path / "moodfuse-cache.json"
    valid = marker.read_bytes()
    marker.unlink() if harm is None else marker.write_bytes(harm)
    done = mend(tuned_cache)
    assert done.rewritten == ("moodfuse-cache.json",) and marker.read_bytes() == valid
    assert not verify(tuned_cache.path).faults


def test_a_stale_clips_csv_is_not_a_fault_and_is_written_again(tuned_cache: FeatureCache) -> None:
    view = tuned_cache.path / "clips.csv"
    valid = view.read_bytes()
    view.write_bytes(valid.replace(b",a,", b",b,"))
    checked = verify(tuned_cache.path)
    assert checked.stale_clips_csv and not checked.faults
    assert repair(tuned_cache.path, checked).rewritten == ("clips.csv",) and view.read_bytes() == valid


@pytest.mark.parametrize("kind", ["table", "recipe"])
def test_what_the_current_plan_and_sources_need_must_exist(tuned_cache: FeatureCache, kind: str) -> None:
    missing = tuned_cache.path / f"tables/clips-{tuned_cache.plan.records[0]}.h5"
    if kind == "recipe":
        missing = tuned_cache.block_folder(STILL, None).parent / "recipe.json"
    missing.unlink()
    (fault,) = verify(tuned_cache.path).faults
    assert (fault.relative_path, fault.state) == (relative_path(tuned_cache, missing), MISSING)
    assert "moodfuse extract DATA" in mend(tuned_cache).remedies[0]


def test_a_run_with_damaged_predictions_is_quarantined_as_a_whole(tuned_cache: FeatureCache) -> None:
    file_of(tuned_cache, "predictions").write_bytes(b"")
    done = mend(tuned_cache)
    assert len(done.quarantined) == 2 and done.remedies == (
        f"moodfuse fuse --cache {tuned_cache.path} --run run-1",
    )
    assert not verify(tuned_cache.path).faults


def test_a_part_of_a_newer_version_is_never_quarantined(tuned_cache: FeatureCache) -> None:
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    newer = replace(read_header(part), schema=SCHEMA + 1).to_bytes()
    part.write_bytes(newer + part.read_bytes()[len(newer) :])
    (fault,) = verify(tuned_cache.path).faults
    assert fault.state == UNREADABLE and "upgrade" in fault.reason
    assert not mend(tuned_cache).quarantined and part.exists()


def test_nothing_behind_a_link_is_renamed(tuned_cache: FeatureCache, tmp_path: Path) -> None:
    (tuned_cache.path / "media").rename(tmp_path / "elsewhere")
    (tuned_cache.path / "media").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert not verify(tuned_cache.path).faults
    file = next((tmp_path / "elsewhere").rglob("*.h5"))
    file.write_bytes(b"")
    done = mend(tuned_cache)
    assert file.exists() and not done.quarantined and "is behind a link" in done.failed[0]


def test_damage_under_a_name_that_was_quarantined_before_replaces_it(tuned_cache: FeatureCache) -> None:
    """Where the name is taken by a folder the failure is reported."""
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    for content in (b"one", b"two"):
        part.write_bytes(content)
        assert mend(tuned_cache).quarantined
    bad = part.with_name(part.name + ".bad")
    assert bad.read_bytes() == b"two"
    bad.unlink()
    (bad / "x").mkdir(parents=True)
    part.write_bytes(b"three")
    done = mend(tuned_cache)
    assert not done.quarantined and "cannot be written" in done.failed[0]


def test_damage_to_current_records_is_named_with_its_remedy(tuned_cache: FeatureCache) -> None:
    for kind, words in (
        ("choice", "--source SOURCE"),
        ("table", "extract DATA"),
        ("plan", "work/clips.csv --cache"),
    ):
        file_of(tuned_cache, kind).write_bytes(b"x")
        checked = verify(tuned_cache.path)
        assert [fault.state for fault in checked.faults] == [DAMAGED]
        assert words in repair(tuned_cache.path, checked).remedies[0]
