"""`cache verify --repair` sets aside what is damaged, writes anew what follows from others, and loses nothing sound."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from faults.looking import file_of, mend, place, state
from moodfuse.cache.errors import MissingBlockError
from moodfuse.cache.maintenance.repair import repair
from moodfuse.cache.maintenance.verify import DAMAGED, MISSING, UNREADABLE, verify
from moodfuse.cache.recipe import Recipe, Tuning, frozen_counterpart
from moodfuse.cache.storage.parts import SCHEMA, read_header
from moodfuse.cache.store import FeatureCache

Fill = Callable[..., None]
NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set aside is logged; here it is asserted."""
    monkeypatch.setattr(logging.getLogger("moodfuse.cache.storage.files"), "disabled", True)


def test_a_damaged_part_is_set_aside_and_extract_is_asked_for(tuned_cache: FeatureCache, fill: Fill) -> None:
    """After a repair the block asks for extract, nothing else is lost, and new rows make the cache whole again."""
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    sound = tuned_cache.block("still", "*").embedding
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    before = state(tuned_cache.path)
    done = mend(tuned_cache)
    assert done.set_aside == (place(tuned_cache, part),) and not done.failed and not done.rewritten
    assert done.remedies == (f"moodfuse extract DATA --cache {tuned_cache.path} --source still",)
    assert state(tuned_cache.path) == {
        f"{name}.bad" if name == done.set_aside[0] else name: data for name, data in before.items()
    }
    with pytest.raises(MissingBlockError, match="extract again with --source still"):
        FeatureCache(tuned_cache.path).block("still", "*")
    again = verify(tuned_cache.path)
    assert not again.faults and again.others["bad"] == (f"{done.set_aside[0]}.bad",)
    fill(tuned_cache, STILL, ["*"])
    assert np.array_equal(FeatureCache(tuned_cache.path).block("still", "*").embedding, sound)


def test_activations_are_made_again_by_the_source_whose_heads_they_serve(tuned_cache: FeatureCache) -> None:
    """The remedy names a source that the user can ask for."""
    min(tuned_cache.block_folder(frozen_counterpart(NET), None).glob("*.h5")).write_bytes(b"")
    assert mend(tuned_cache).remedies == (f"moodfuse extract DATA --cache {tuned_cache.path} --source net@a",)


@pytest.mark.parametrize("harm", ["damaged", "gone"])
@pytest.mark.parametrize("holdout", [0, {0, 1}])
def test_what_a_network_was_tuned_on_is_written_anew(
    tuned_cache: FeatureCache, harm: str, holdout: object
) -> None:
    """It follows from the plan, so nothing has to be computed."""
    record = tuned_cache.block_folder(NET, tuned_cache.roles(NET, holdout)) / "trained.json"
    sound = record.read_bytes()
    record.unlink() if harm == "gone" else record.write_bytes(b"[]")
    done = mend(tuned_cache)
    assert done.rewritten == (place(tuned_cache, record),) and not done.remedies
    assert record.read_bytes() == sound and not verify(tuned_cache.path).faults


@pytest.mark.parametrize("harm", [b"", b"{}\n", b'{"format":"moodfuse-cache","schema":2}\n', None])
def test_a_damaged_marker_is_written_anew(tuned_cache: FeatureCache, harm: bytes | None) -> None:
    """Or one that is gone from what is plainly a cache."""
    marker = tuned_cache.path / "moodfuse-cache.json"
    sound = marker.read_bytes()
    marker.unlink() if harm is None else marker.write_bytes(harm)
    done = mend(tuned_cache)
    assert done.rewritten == ("moodfuse-cache.json",) and marker.read_bytes() == sound
    assert not verify(tuned_cache.path).faults


def test_a_stale_view_is_a_note_and_is_written_anew(tuned_cache: FeatureCache) -> None:
    """`clips.csv` is read by nobody, so it is no fault."""
    view = tuned_cache.path / "clips.csv"
    sound = view.read_bytes()
    view.write_bytes(sound.replace(b",a,", b",b,"))
    found = verify(tuned_cache.path)
    assert found.stale_clips_csv and not found.faults
    assert repair(tuned_cache.path, found).rewritten == ("clips.csv",) and view.read_bytes() == sound


@pytest.mark.parametrize("kind", ["table", "recipe"])
def test_what_is_in_force_must_be_there(tuned_cache: FeatureCache, kind: str) -> None:
    """The table of the plan in force, and the recipe of a source in force."""
    gone = tuned_cache.path / f"tables/clips-{tuned_cache.plan.records[0]}.h5"
    if kind == "recipe":
        gone = tuned_cache.block_folder(STILL, None).parent / "recipe.json"
    gone.unlink()
    (fault,) = verify(tuned_cache.path).faults
    assert (fault.place, fault.state) == (place(tuned_cache, gone), MISSING)
    assert "moodfuse extract DATA" in mend(tuned_cache).remedies[0]


def test_a_run_with_damaged_predictions_is_set_aside_whole(tuned_cache: FeatureCache) -> None:
    """So that `fuse` can make it again under its name."""
    file_of(tuned_cache, "predictions").write_bytes(b"")
    done = mend(tuned_cache)
    assert len(done.set_aside) == 2 and done.remedies == (
        f"moodfuse fuse --cache {tuned_cache.path} --run run-1",
    )
    assert not verify(tuned_cache.path).faults


def test_a_part_of_a_newer_version_is_never_set_aside(tuned_cache: FeatureCache) -> None:
    """It is no damage; an upgrade reads it."""
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    newer = replace(read_header(part), schema=SCHEMA + 1).to_bytes()
    part.write_bytes(newer + part.read_bytes()[len(newer) :])
    (fault,) = verify(tuned_cache.path).faults
    assert fault.state == UNREADABLE and "upgrade" in fault.reason
    assert not mend(tuned_cache).set_aside and part.exists()


def test_nothing_behind_a_link_is_renamed(tuned_cache: FeatureCache, tmp_path: Path) -> None:
    """Readers follow a link, so its files are checked; a repair changes nothing outside of the cache."""
    (tuned_cache.path / "media").rename(tmp_path / "elsewhere")
    (tuned_cache.path / "media").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert not verify(tuned_cache.path).faults
    file = next((tmp_path / "elsewhere").rglob("*.h5"))
    file.write_bytes(b"")
    done = mend(tuned_cache)
    assert file.exists() and not done.set_aside and "is behind a link" in done.failed[0]


def test_a_second_piece_of_damage_of_one_name_can_be_set_aside(tuned_cache: FeatureCache, fill: Fill) -> None:
    """The newer `.bad` stands; where that name is taken by a folder the failure is said."""
    part = min(tuned_cache.block_folder(STILL, None).glob("*.h5"))
    for content in (b"one", b"two"):
        part.write_bytes(content)
        assert mend(tuned_cache).set_aside
    bad = part.with_name(part.name + ".bad")
    assert bad.read_bytes() == b"two"
    bad.unlink()
    (bad / "x").mkdir(parents=True)
    part.write_bytes(b"three")
    done = mend(tuned_cache)
    assert not done.set_aside and "cannot be set aside" in done.failed[0]


def test_damage_to_what_is_in_force_is_named_with_its_remedy(tuned_cache: FeatureCache) -> None:
    """A plan, its table, the choice of sources: each with the command that makes it again."""
    for kind, words in (
        ("choice", "--source SOURCE"),
        ("table", "table of clips"),
        ("plan", "assigns the clips"),
    ):
        file_of(tuned_cache, kind).write_bytes(b"x")
        found = verify(tuned_cache.path)
        assert [fault.state for fault in found.faults] == [DAMAGED]
        assert words in repair(tuned_cache.path, found).remedies[0]
