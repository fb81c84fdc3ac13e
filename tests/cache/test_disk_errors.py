"""A disk that refuses at any call of a write; every error at every call of an extract: benchmarks/disk_errors.py."""

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from faults.calls import watched
from faults.extracting import computing_once, extracting, make_clips
from faults.refusals import ERRORS, Refusal, calls_of, refuse
from faults.samples import Sample
from moodfuse.cache.errors import CacheError, MoodfuseError
from moodfuse.cache.storage.files import discard, write_aside

FEW = Sample(parts=0, clips_per_part=4)


def fill(root: Path) -> tuple[int, str]:
    """Fill a cache of a few parts, and answer as the command line would."""
    try:
        FEW.extend(root)
    except MoodfuseError as error:
        return error.exit_code, f"Error: {error}"
    return 0, ""


def test_every_call_may_be_refused(tmp_path: Path) -> None:
    """The error names path and remedy, the cache verifies, nothing is left over, and the work can be done again."""
    undisturbed = calls_of(fill, tmp_path / "cache")
    kinds = {call.kind for call in undisturbed[0]}
    assert kinds == {"mkdir", "open", "write", "fsync", "read back", "rename", "open folder", "sync"}
    chosen = [Refusal(number, ERRORS[number % len(ERRORS)]) for number in range(0, len(undisturbed[0]), 12)]
    writes = [number for number, call in enumerate(undisturbed[0]) if call.kind == "write"]
    chosen += [Refusal(number, errno.ENOSPC, short=True) for number in writes[::8]]
    refused = [refuse(fill, tmp_path / "cache", refusal, undisturbed) for refusal in chosen]
    assert [item for item in refused if item.faults] == []
    assert {item.call.kind for item in refused} == kinds


def test_extract_on_a_disk_that_refuses(tmp_path: Path) -> None:
    """The command ends with 1, path and remedy, no traceback, and goes on when there is room again."""
    with computing_once():
        work = extracting(make_clips(tmp_path / "clips"))
        undisturbed = calls_of(work, tmp_path / "work")
        numbers = range(5, len(undisturbed[0]), len(undisturbed[0]) // len(ERRORS))
        for number, error in zip(numbers, ERRORS, strict=False):
            assert refuse(work, tmp_path / "work", Refusal(number, error), undisturbed).faults == ()


def test_a_refusal_that_is_not_borne_would_be_seen(tmp_path: Path) -> None:
    """The judge of refusals has teeth: a run that says nothing, or leaves a half-written file, does not pass."""

    def careless(root: Path) -> tuple[int, str]:
        root.mkdir(exist_ok=True)
        try:
            write_aside(root / "one.h5", b"no part")
        except CacheError:
            return 0, "done"
        return 0, ""

    faults = refuse(
        careless, tmp_path / "cache", Refusal(2, errno.EIO), calls_of(careless, tmp_path / "cache")
    ).faults
    assert any("exit code 0" in fault for fault in faults) and any(
        "names no remedy" in fault for fault in faults
    )


def test_the_old_file_stays_where_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    """A view that cannot be replaced is the old one, whole, and no temporary is left."""
    write_aside(tmp_path / "clips.csv", b"old")
    with (
        watched(tmp_path, before=Refusal(1, errno.ENOSPC, short=True).hook()),
        pytest.raises(
            CacheError, match=r"clips\.csv: cannot be written \(No space left.*free space .*prune --media"
        ),
    ):
        write_aside(tmp_path / "clips.csv", b"new and longer")
    assert (tmp_path / "clips.csv").read_bytes() == b"old" and os.listdir(tmp_path) == ["clips.csv"]


def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    """A checkpoint that is needed no more, on a read-only disk."""
    discard(tmp_path / "none")
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with (
        patch.object(os, "unlink", side_effect=error),
        pytest.raises(CacheError, match="kept.checkpoint.*read-only"),
    ):
        discard(tmp_path / "kept.checkpoint")
