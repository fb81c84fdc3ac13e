"""Listing and reading the files of a cache, and records that a newer version wrote."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from faults.looking import file_of
from moodfuse.cache.audits import read_audit
from moodfuse.cache.digests import canonical_json, digest16
from moodfuse.cache.errors import CacheError, DamagedPartError, SchemaError
from moodfuse.cache.files import check_checksum
from moodfuse.cache.maintenance.verify import UNREADABLE, verify
from moodfuse.cache.media import Media, MediaStore, Rendition, read_frame
from moodfuse.cache.records import Outcome
from moodfuse.cache.runs import run_names
from moodfuse.cache.storage.files import (
    NotRegularFileError,
    file_status,
    listing,
    make_record,
    open_regular,
    read_json,
    read_named,
    read_regular,
    write_text,
)
from moodfuse.cache.storage.parts import read_part, write_part
from moodfuse.cache.store import FeatureCache

Change = Callable[[dict[str, object]], object]


def test_a_listing_is_by_name_and_skips_hidden_files(tmp_path: Path) -> None:
    for name in ("plan-b.h5", "plan-a.h5", ".plan-c.h5", ".tmp-plan-d.h5", "plan-e.bad", "other.h5"):
        (tmp_path / name).touch()
    names = [file.name for file in listing(tmp_path, prefix="plan-", suffix=".h5")]
    assert names == ["plan-a.h5", "plan-b.h5"]
    assert listing(tmp_path / "none") == listing(tmp_path / "other.h5") == []


def test_an_unreadable_folder_or_file_is_an_error_and_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise everything in it would be computed again."""
    assert file_status(tmp_path / "none") is None and file_status(tmp_path) is not None
    with pytest.raises(CacheError, match="none: cannot be read"):
        read_json(tmp_path / "none")

    def denied(path: Path, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(CacheError, match=r"cannot be listed \(Permission denied\); correct that"):
        listing(tmp_path)
    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(CacheError, match=r"recipe.json: cannot be read \(Permission denied\); correct that"):
        read_json(Path("recipe.json"))


@pytest.mark.parametrize("name", [".snapshot", "repeat-x"])
def test_a_plan_in_another_folder_is_never_the_current_one(tuned_cache: FeatureCache, name: str) -> None:
    """A snapshot, or a folder of the user's, may hold other plans."""
    arrays, values = read_part(next((tuned_cache.path / "plans").glob("plan-*.h5")))
    write_part(tuned_cache.path / "plans" / name, "plan", arrays, {**values, "sequence": 99})
    again = FeatureCache(tuned_cache.path)
    assert again.plan == tuned_cache.plan and [plan.repeat for plan in again.all_plans] == [0, 1]
    assert not verify(tuned_cache.path).faults


def test_hidden_folders_are_not_read(tuned_cache: FeatureCache) -> None:
    root, clip = tuned_cache.path, "ab" * 32
    frames = np.zeros((32, 4, 6, 3), np.uint8)
    MediaStore(root / "media", Rendition("picture", "large")).write(
        clip, Media(frames, np.arange(32.0), np.zeros(0, np.float32), 0)
    )
    for folder in (root / "runs" / "run-1", *(root / "media").iterdir()):
        shutil.copytree(folder, folder.with_name(f".{folder.name}"))
    shutil.rmtree(root / "media" / Rendition("picture", "large").name)
    assert run_names(FeatureCache(root)) == ("run-1",) and read_frame(root / "media", clip, 0) is None
    assert not verify(root).faults


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    """Not a pipe, a folder or a device; a link leads to its target."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "text").write_text("a\n")
    (tmp_path / "good link").symlink_to(tmp_path / "text")
    for name in ("pipe", "link", ".", "/dev/zero"):
        with pytest.raises(NotRegularFileError, match="expected a regular file"):
            open_regular(tmp_path / name)
        for read in (read_json, check_checksum):
            with pytest.raises(DamagedPartError, match="expected a regular file"):
                read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")
    with open_regular(tmp_path / "good link", "r", encoding="utf-8") as stream:
        assert stream.read() == "a\n" and read_regular(tmp_path / "text") == b"a\n"


def test_a_text_file_replaces_a_pipe_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clips.csv")
    assert write_text(tmp_path / "clips.csv", "a") and (tmp_path / "clips.csv").read_text() == "a"
    assert not write_text(tmp_path / "clips.csv", "a")


def rewrite(cache: FeatureCache, kind: str, change: Change) -> Path:
    """Change the first record of a kind, under a name that has its digest."""
    file = file_of(cache, kind)
    values = json.loads(file.read_text())
    change(values)
    file.unlink()
    file = file.with_name("-".join([*file.stem.split("-")[:-1], digest16(values)]) + ".json")
    file.write_text(canonical_json(values))
    return file


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("outcome", lambda values: values.update(loudness=3)),
        ("audit", lambda values: values["findings"][0].update(loudness=3)),
    ],
)
def test_a_record_of_a_newer_version_is_skipped_and_stays(
    whole_cache: FeatureCache, kind: str, change: Change
) -> None:
    """It is not damage; verify asks for an upgrade."""
    file = rewrite(whole_cache, kind, change)
    again = FeatureCache(whole_cache.path)
    assert not again.outcomes([again.clips[0].digest]) if kind == "outcome" else read_audit(again) is None
    (fault,) = verify(whole_cache.path).faults
    assert (fault.state, "upgrade moodfuse" in fault.reason) == (UNREADABLE, True)
    assert file.exists()


def test_a_recipe_of_a_newer_version_is_not_damage(whole_cache: FeatureCache) -> None:
    folder = whole_cache.block_folder(whole_cache.recipe("still"), None).parent
    values = {**json.loads((folder / "recipe.json").read_text()), "fused": True}
    name = digest16({key: value for key, value in values.items() if key != "source"})
    folder.with_name(name).mkdir()
    folder.with_name(name).joinpath("recipe.json").write_text(canonical_json(values))
    (fault,) = verify(whole_cache.path).faults
    assert (fault.state, "'fused', which a newer version wrote" in fault.reason) == (UNREADABLE, True)


def test_an_outcome_under_the_name_of_another_clip_is_quarantined(whole_cache: FeatureCache) -> None:
    file = file_of(whole_cache, "outcome")
    other = whole_cache.clips[1].digest
    wrong = whole_cache.path / "clips" / other[:2] / f"{other[:32]}-{file.stem.split('-')[1]}.json"
    wrong.parent.mkdir(exist_ok=True)
    file.rename(wrong)
    assert not whole_cache.outcomes([other]) and wrong.with_name(wrong.name + ".bad").exists()


def test_the_digest_is_checked_before_the_keys(tmp_path: Path) -> None:
    """Unknown keys in a damaged file are damage, and so are missing ones."""
    file = tmp_path / f"{'0' * 32}-{'0' * 16}.json"
    file.write_text(canonical_json({"digest": "0", "ok": True, "loudness": 3}))
    with pytest.raises(DamagedPartError, match="does not match its name"):
        read_named(file)
    with pytest.raises(SchemaError, match="'loudness', which a newer version wrote"):
        make_record(Outcome, json.loads(file.read_text()), file)
    with pytest.raises(DamagedPartError, match=r"is not a Outcome \(.*'ok'"):
        make_record(Outcome, {"digest": "0"}, file)
