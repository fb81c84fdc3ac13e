"""Kills and power losses at any call that writes a cache; at full size benchmarks/crash_points.py and power_loss.py."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from faults.calls import CHANGES, Call, tree, watched
from faults.disks import Disk, promises
from faults.kills import kill_points, record
from faults.power import append_in_place, lose_power, lose_power_appending, without_sync
from faults.samples import STILL, Sample, right_rows
from moodfuse.cache.blocks import part_files
from moodfuse.cache.storage import parts
from moodfuse.cache.storage.files import write_aside
from moodfuse.cache.store import FeatureCache

SMALL = Sample(parts=2, clips_per_part=4)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without the warnings on what the straw men damage."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("parts", "clips"), [(2, 4), (0, 4)])
def test_a_kill_after_any_call_loses_nothing(tmp_path: Path, parts: int, clips: int) -> None:
    """After every call and within writes, what is accepted is right, the earlier intact, a resume makes it whole."""
    points = list(
        kill_points(Sample(parts=parts, clips_per_part=clips, added=2), tmp_path, tears=1, resumes=40)
    )
    assert [point for point in points if point.faults] == []
    assert {point.call.kind for point in points if point.whole} >= CHANGES - {"truncate", "unlink"}
    assert sum(not point.whole for point in points) > 15


def test_a_power_loss_gives_no_wrong_row_and_takes_nothing_that_was_done(tmp_path: Path) -> None:
    """Whatever subset of unsynced pages and names is lost, what was called done is there and all else is missing."""
    calls, _ = record(SMALL, tmp_path)
    losses = lose_power(SMALL, tmp_path / "base", calls, range(30))
    assert (losses.wrong, losses.lost) == (0, 0), losses.first


def test_the_model_of_a_power_loss_has_teeth(tmp_path: Path, quiet: None) -> None:
    """Without syncs finished work is lost, nothing wrong is read; a file that grows in place gives wrong rows."""
    calls, _ = record(SMALL, tmp_path)
    unsynced = lose_power(SMALL, tmp_path / "base", without_sync(calls), range(15))
    assert unsynced.lost > 5 and unsynced.wrong == 0
    (tmp_path / "grown").mkdir()
    base = tmp_path / "grown" / "base"
    assert lose_power_appending(SMALL, base, append_in_place(SMALL, base), range(100)).wrong > 0


def test_without_its_digest_a_part_that_lost_a_page_would_be_read(tmp_path: Path) -> None:
    """HDF5 itself does not notice a page of zeros among the rows; the digest does, and the judge would."""
    folder = FeatureCache(SMALL.fill(tmp_path / "cache")).block_folder(STILL, None)
    row = right_rows(SMALL.clips_of(0), "still")["embedding"][0].tobytes()
    part = next(file for file in part_files(folder) if row in file.read_bytes())
    data = part.read_bytes()
    start = data.index(row)
    part.write_bytes(data[:start] + bytes(len(row)) + data[start + len(row) :])
    assert not SMALL.judge(tmp_path / "cache").wrong
    part.with_name(f"{part.name}.bad").replace(part)
    with patch.object(parts, "check_part", lambda path: None):
        assert SMALL.judge(tmp_path / "cache").wrong


def test_new_folders_are_synced_in_their_parents(tmp_path: Path) -> None:
    """A file is not done before the names of all folders that were made for it last."""
    with watched(tmp_path) as calls:
        write_aside(tmp_path / "a" / "b" / "file", b"data")
    kinds = Counter(call.kind for call in calls)
    assert kinds["mkdir"] == 2 and [call.path for call in calls if call.kind == "sync"] == ["a", ".", "a/b"]
    with watched(tmp_path) as again:
        write_aside(tmp_path / "a" / "b" / "other", b"data")
    changes = [call.kind for call in again if call.kind in CHANGES]
    assert changes == ["open", "write", "fsync", "rename", "sync"]


def test_a_disk_keeps_what_was_synced_and_may_lose_the_rest(tmp_path: Path) -> None:
    """A file is safe once it and its folder are synced; before, some losses take it, its data, or its name."""
    (tmp_path / "base").mkdir()
    calls = [
        Call("open", ".tmp-1"),
        Call("write", ".tmp-1", b"new" * 2000),
        Call("fsync", ".tmp-1"),
        Call("rename", ".tmp-1", target="file"),
        Call("sync", "."),
    ]
    found = {}
    for stop in (2, 4, 5):
        disk = Disk(tmp_path / "base")
        for call in calls[:stop]:
            disk.make(call)
        for seed in range(30):
            disk.lose_power(tmp_path / f"{stop}-{seed}", np.random.default_rng(seed))
        found[stop] = [tree(tmp_path / f"{stop}-{seed}").get("file") for seed in range(30)]
    assert (
        set(found[2]) == {None}
        and set(found[4]) == {None, b"new" * 2000}
        and set(found[5]) == {b"new" * 2000}
    )
    assert promises(calls) == {"file": b"new" * 2000} and promises(calls[:4]) == {}
