"""`cache verify` finds every changed byte and stops at no file."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from faults.looking import denied, mend, places, relative_path, state
from moodfuse.cache.errors import CacheError, InputError, SchemaError
from moodfuse.cache.maintenance.repair import Repair, repair
from moodfuse.cache.maintenance.verify import CHECKS, UNREADABLE, Fault, verify
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.storage.layout import entries
from moodfuse.cache.storage.parts import SCHEMA, write_part
from moodfuse.cache.store import FeatureCache

NET = Recipe("net@a", "net", 1, "random", "{}", "head", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
RECORDS = ("audit", "choice", "outcome", "recipe", "run", "training")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quarantined files are logged; here they are asserted."""
    monkeypatch.setattr(logging.getLogger("moodfuse.cache.storage.files"), "disabled", True)


def test_an_intact_cache_passes_and_is_left_alone(whole_cache: FeatureCache) -> None:
    before = state(whole_cache.path)
    found = verify(whole_cache.path)
    assert not found.faults and not found.disagreements and not found.stale_clips_csv
    assert found.others["output"] == ("runs/run-1/report/report.html",)
    assert found.checked == len(before) - 2 and state(whole_cache.path) == before


@pytest.mark.parametrize("kind", sorted(CHECKS))
def test_changed_bytes_and_lengths_are_found(whole_cache: FeatureCache, kind: str) -> None:
    entry = next(entry for entry in entries(whole_cache.path) if entry.kind == kind)
    data = entry.path.read_bytes()
    step = 1 + len(data) // (100 if kind in RECORDS else 10)
    flipped = [
        data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        for position in (range(0, len(data), step) if kind != "marker" else ())
    ]
    for changed in (*flipped, b"", data[: len(data) // 2], data + b"\n"):
        entry.path.write_bytes(changed)
        with pytest.raises(Exception):  # noqa: B017 - any error of reading it
            CHECKS[kind](entry)
    assert entry.relative_path in places(verify(whole_cache.path))


def test_a_part_in_the_wrong_folder_is_bad(whole_cache: FeatureCache) -> None:
    here, there = (whole_cache.block_folder(NET, whole_cache.training_clips(NET, fold)) for fold in (0, 1))
    part = min(here.glob("*.h5"))
    part.rename(there / part.name)
    (fault,) = verify(whole_cache.path).faults
    assert fault.relative_path == relative_path(whole_cache, there / part.name)
    assert f"belongs to net@a/{NET.digest16}" in fault.reason


@pytest.mark.parametrize("difference", [0, 1])
def test_rows_that_differ_in_two_parts_are_nondeterminism_and_no_damage(
    whole_cache: FeatureCache, difference: int
) -> None:
    owner = whole_cache.owner(STILL, None)
    block = whole_cache.block("still", "*")
    rows = block.embedding[:3].copy()
    rows[1] += difference
    digests = np.array(list(block.digests)[:3], dtype="S64")
    assert block.logits is not None
    arrays = {"clip": digests, "embedding": rows, "logits": block.logits[:3]}
    write_part(owner.folder, "zz", arrays, owner.attributes)
    found = verify(whole_cache.path)
    assert not found.faults and len(found.disagreements) == difference
    assert all("1 rows differ from those of" in sentence for sentence in found.disagreements)


def test_no_file_stops_the_others_from_being_checked(whole_cache: FeatureCache) -> None:
    root = whole_cache.path
    os.mkfifo(root / "plans" / "plan-pipe.h5")
    (whole_cache.block_folder(STILL, None) / "folder.h5").mkdir()
    (whole_cache.block_folder(STILL, None) / "link.h5").symlink_to("nowhere")
    (root / "features" / "a").symlink_to(root / "features", target_is_directory=True)
    (root / "audits" / "deep.json").write_text("[" * 100_000)
    (root / "audits" / "nan.json").write_text("NaN")
    (root / "clips" / "aa").mkdir()
    (root / "clips" / "aa" / "list.json").write_text("[1]")
    (root / os.fsdecode(b"odd \xff\n")).write_bytes(b"")
    found = verify(root)
    bad = {fault.relative_path.rpartition("/")[2]: fault.reason for fault in found.faults}
    assert set(bad) == {"plan-pipe.h5", "folder.h5", "link.h5", "deep.json", "nan.json", "list.json"}
    assert bad["plan-pipe.h5"].startswith("is not a regular file") and bad["folder.h5"] == "is a folder"
    assert {os.fsdecode(b"odd \xff\n"), "features/a"} <= set(found.others["unknown"])
    assert not repair(root, found).failed and not verify(root).faults


def test_unreadable_files_are_reported_and_left_alone(
    whole_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(entry: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setitem(CHECKS, "media", deny)
    (fault,) = verify(whole_cache.path).faults
    assert (fault.state, fault.reason) == (UNREADABLE, "cannot be read (Permission denied)")
    assert mend(whole_cache) == Repair((), (), (), ())


@pytest.mark.parametrize("path", ["media", "features", "plans", "sources", "clips.csv", "."])
def test_what_may_not_be_read_is_reported(whole_cache: FeatureCache, path: str) -> None:
    with denied(whole_cache.path / path):
        if path == ".":
            with pytest.raises(CacheError, match=r"cannot be read \(Permission denied\)"):
                verify(whole_cache.path)
            return
        (fault,) = verify(whole_cache.path).faults
    kind, verb = ("view", "read") if path == "clips.csv" else ("folder", "listed")
    assert fault == Fault(path, kind, f"cannot be {verb} (Permission denied)", UNREADABLE)


def test_foreign_folders_and_newer_caches_are_refused(tmp_path: Path, whole_cache: FeatureCache) -> None:
    (tmp_path / "other").mkdir()
    for name in ("none", "other"):
        with pytest.raises(InputError, match="not a moodfuse cache"):
            verify(tmp_path / name)
    marker = {"format": "moodfuse-cache", "schema": SCHEMA + 1, "written_by": "9.0"}
    (whole_cache.path / "moodfuse-cache.json").write_text(json.dumps(marker))
    with pytest.raises(SchemaError, match="upgrade"):
        verify(whole_cache.path)
