"""What readers list and read of a cache folder: names with a dot are passed over, what is withheld is an error."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from moodfuse.cache.errors import CacheError, DamagedPartError
from moodfuse.cache.maintenance.verify import verify
from moodfuse.cache.media import Media, MediaStore, Rendition, kept_frame
from moodfuse.cache.runs import run_names
from moodfuse.cache.storage.files import (
    NotRegularFileError,
    facts_of,
    listing,
    open_regular,
    read_regular,
    write_text,
)
from moodfuse.cache.storage.json_files import read_json
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.storage.weight_files import check_sealed
from moodfuse.cache.store import FeatureCache


def test_a_listing_is_by_name_and_passes_over_what_begins_with_a_dot(tmp_path: Path) -> None:
    """Names are filtered by both ends; a folder that is not there, or is a file, holds nothing."""
    for name in ("plan-b.h5", "plan-a.h5", ".plan-c.h5", ".tmp-plan-d.h5", "plan-e.bad", "other.h5"):
        (tmp_path / name).touch()
    assert [file.name for file in listing(tmp_path, prefix="plan-", suffix=".h5")] == [
        "plan-a.h5",
        "plan-b.h5",
    ]
    assert listing(tmp_path / "none") == listing(tmp_path / "other.h5") == []


def test_a_folder_that_is_withheld_is_an_error_and_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that it holds would be computed again."""

    def withheld(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", withheld)
    with pytest.raises(CacheError, match=r"cannot be listed \(Permission denied\); correct that"):
        listing(tmp_path)


def test_a_file_that_is_withheld_is_an_error_and_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader says so with the path; what is not there, a pipe and a folder are told apart."""
    assert facts_of(tmp_path / "none") is None and facts_of(tmp_path) is not None
    with pytest.raises(DamagedPartError, match="is a folder; expected a regular file"):
        read_json(tmp_path)
    with pytest.raises(CacheError, match="none: cannot be read"):
        read_json(tmp_path / "none")

    def withheld(path: Path, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", withheld)
    with pytest.raises(CacheError, match=r"recipe.json: cannot be read \(Permission denied\); correct that"):
        read_json(Path("recipe.json"))


@pytest.mark.parametrize("name", [".snapshot", "sub", "repeat-x"])
def test_a_plan_in_a_folder_that_is_none_of_plans_is_never_in_force(
    tuned_cache: FeatureCache, name: str
) -> None:
    """A snapshot, or a folder of the user's, may hold older plans or newer ones."""
    arrays, values = read_part(next((tuned_cache.path / "plans").glob("plan-*.h5")))
    write_part(tuned_cache.path / "plans" / name, "plan", arrays, {**values, "sequence": 99})
    again = FeatureCache(tuned_cache.path)
    assert again.plan == tuned_cache.plan and [plan.repeat for plan in again.all_plans] == [0, 1]
    assert not verify(tuned_cache.path).faults


def test_no_reader_looks_into_a_folder_that_begins_with_a_dot(tuned_cache: FeatureCache) -> None:
    """Copies of runs, media, outcomes and features under such a name are none."""
    root, clip = tuned_cache.path, "ab" * 32
    picture = np.zeros((32, 4, 6, 3), np.uint8)
    seen = Media(picture, np.arange(32.0), np.zeros(0, np.float32), 0)
    MediaStore(root / "media", Rendition("picture", "large")).write(clip, seen)
    for folder in (root / "runs" / "run-1", *(root / "media").iterdir(), *(root / "clips").iterdir()):
        shutil.copytree(folder, folder.with_name(f".{folder.name}"))
    shutil.rmtree(root / "media" / Rendition("picture", "large").name)
    for block in list((root / "features" / "still").glob("*/frozen")):
        shutil.copytree(block, block.with_name(".frozen"))
    again = FeatureCache(root)
    assert run_names(again) == ("run-1",) and kept_frame(root / "media", clip, 0) is None
    assert not verify(root).faults


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    """A pipe, a folder, a socket and a device are named for what they are, and a link leads to what it leads to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "text").write_text("a\n")
    (tmp_path / "good link").symlink_to(tmp_path / "text")
    there = socket.socket(socket.AF_UNIX)
    there.bind(str(tmp_path / "socket"))
    odd = {"pipe": "a pipe", "link": "a pipe", ".": "a folder", "socket": "a socket", "/dev/zero": "a device"}
    for name, kind in odd.items():
        with pytest.raises(NotRegularFileError, match=f"is {kind}; expected a regular file"):
            open_regular(tmp_path / name)
        with pytest.raises(DamagedPartError, match=f"is {kind}; expected a regular file"):
            read_json(tmp_path / name)
        with pytest.raises(DamagedPartError, match=f"is {kind}; expected a regular file"):
            check_sealed(tmp_path / name)
    there.close()
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")
    with open_regular(tmp_path / "good link", "r", encoding="utf-8") as stream:
        assert stream.read() == "a\n" and read_regular(tmp_path / "text") == b"a\n"


def test_a_small_file_is_written_in_place_of_a_pipe(tmp_path: Path) -> None:
    """Writing a file replaces a named pipe without opening it to compare the content."""
    os.mkfifo(tmp_path / "clips.csv")
    assert write_text(tmp_path / "clips.csv", "a") and (tmp_path / "clips.csv").read_text() == "a"
