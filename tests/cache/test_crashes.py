"""A kill or a failed write at any call loses nothing that was complete; the next run completes the work."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from faults.interrupts import Killed, interrupted
from faults.looking import state
from moodfuse.cache.audits import Audit, Finding, write_audit
from moodfuse.cache.digests import digest
from moodfuse.cache.errors import CacheError
from moodfuse.cache.folds import PlanChoice, next_plan
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.recipe import Recipe, Tuning
from moodfuse.cache.records import Outcome
from moodfuse.cache.storage.files import discard, write_atomic
from moodfuse.cache.storage.parts import write_part
from moodfuse.cache.store import FeatureCache

MakeCache = Callable[..., FeatureCache]
Fill = Callable[..., None]
NET = Recipe("net", "net", 1, "random", "{}", "full", Tuning("adam", 1e-3, 3), embedding_tuned=True)
STILL = Recipe("still", "still", 1, "random", "{}", "frozen", None, embedding_tuned=False)
EARLIER = 18
"""Clips with features before the work."""


@pytest.fixture
def base(small_cache: MakeCache, fill: Fill) -> FeatureCache:
    """A cache with a source."""
    cache = small_cache()
    fill(cache, STILL, ["*"])
    cache.select([STILL])
    return cache


@pytest.fixture
def work(fill: Fill) -> Callable[[Path], None]:
    """What an extract of two new clips and a new source writes."""

    def run(folder: Path) -> None:
        cache = FeatureCache(folder, create=True)
        statuses = list(cache.statuses[:EARLIER])
        for number in range(2):
            clip = replace(statuses[number].clip, id=f"new {number}")
            new = replace(statuses[number], clip=clip, digest=digest(f"new {number}"), group=clip.id)
            cache.write_outcome(Outcome(new.digest, ok=True, duration_s=30.0, decoder="test"))
            statuses.append(new)
        cache.write_plan(next_plan(cache.plans, statuses, PlanChoice()), statuses)
        fill(cache, STILL, ["*"])
        fill(cache, NET, [0])
        cache.select([STILL, NET], command="extract")
        write_audit(
            cache, Audit("rules", (Finding("name", "000", "001", 1.0, 0.0, 0.0, 0.0, grouped=False),))
        )

    return run


def complete_files(folder: Path) -> dict[str, bytes]:
    """Every file but temporaries."""
    return {name: data for name, data in state(folder).items() if "/.tmp-" not in f"/{name}"}


def check_intact(folder: Path) -> None:
    """Nothing is damaged, and the features of the earlier clips are as they were written."""
    cache = FeatureCache(folder)
    assert not verify(folder).faults
    rows = cache.rows(STILL, None, cache.clips[:EARLIER], ("embedding",))
    assert rows.present.all() and np.array_equal(rows.arrays["embedding"][:, 0], np.arange(EARLIER))


def test_a_kill_at_any_call_loses_nothing(
    base: FeatureCache, work: Callable[[Path], None], tmp_path: Path
) -> None:
    whole = shutil.copytree(base.path, tmp_path / "whole")
    with interrupted() as calls:
        work(whole)
    assert set(calls) == {"open", "fsync", "sync", "mkdir", "replace"}
    # The folder is the same before a file is opened as before the sync that precedes it.
    for number, call in enumerate(calls):
        if call in ("open", "mkdir"):
            continue
        folder = shutil.copytree(base.path, tmp_path / f"killed-{number}")
        with pytest.raises(Killed), interrupted(number):
            work(folder)
        check_intact(folder)
        if number % 5 == 0:
            with interrupted():
                work(folder)
            assert complete_files(folder) == complete_files(whole)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EACCES, "remove the cause"),
    ],
)
def test_a_failed_write_is_named_and_leaves_the_cache_intact(
    base: FeatureCache, work: Callable[[Path], None], tmp_path: Path, error: int, remedy: str
) -> None:
    whole = shutil.copytree(base.path, tmp_path / "whole")
    with interrupted() as calls:
        work(whole)
    for number in range(error % 5, len(calls), 5):
        folder = shutil.copytree(base.path, tmp_path / f"failed-{number}")
        failure = OSError(error, os.strerror(error))
        with pytest.raises(CacheError, match=remedy) as raised, interrupted(number, failure):
            work(folder)
        assert str(folder) in str(raised.value) and raised.value.exit_code == 1
        check_intact(folder)
        assert not list(folder.rglob(".tmp-*"))
        with interrupted():
            work(folder)
        assert complete_files(folder) == complete_files(whole)
        shutil.rmtree(folder)


def test_a_file_is_synced_before_it_gets_its_name_and_folders_after(tmp_path: Path) -> None:
    with interrupted() as calls:
        write_atomic(tmp_path / "a" / "b" / "file", b"data")
        calls.append("next")
        write_atomic(tmp_path / "a" / "b" / "file", b"other")
    write = ["open", "fsync", "replace", "sync"]
    made = [call for call in calls[: calls.index("next")] if call != "mkdir"]
    assert made == ["sync", "sync", *write] and calls[calls.index("next") + 1 :] == write


def test_the_old_file_stays_where_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / "clips.csv", b"old")
    failure = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with (
        pytest.raises(CacheError, match=r"clips\.csv: cannot be written .*Read-only"),
        interrupted(2, failure),
    ):
        write_atomic(tmp_path / "clips.csv", b"new and longer")
    assert (tmp_path / "clips.csv").read_bytes() == b"old" and os.listdir(tmp_path) == ["clips.csv"]


def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    discard(tmp_path / "none")
    failure = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(CacheError, match=r"kept\.checkpoint.*Read-only"), interrupted(0, failure):
        discard(tmp_path / "kept.checkpoint")


def test_other_bytes_read_back_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"other")
    with pytest.raises(CacheError, match="read back differs from what was written; check the disk"):
        write_part(tmp_path, "part", {"a": np.zeros(3)}, {})
    assert not list(tmp_path.iterdir())


def test_old_temporaries_are_removed_when_a_cache_is_opened_for_writing(base: FeatureCache) -> None:
    old, new = base.path / "plans" / ".tmp-1-a.h5", base.path / "plans" / ".tmp-2-b.h5"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    FeatureCache(base.path, create=True)
    assert new.exists() and not old.exists()


def test_damage_is_logged_with_its_cause(base: FeatureCache, caplog: pytest.LogCaptureFixture) -> None:
    part = min(base.block_folder(STILL, None).glob("*.h5"))
    part.write_bytes(part.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert len(FeatureCache(base.path).held(STILL, None)) < EARLIER
    assert f"{part} is damaged" in caplog.text and f"renamed to {part.name}.bad" in caplog.text
