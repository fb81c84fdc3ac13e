"""Which files of a folder are read, and which are ignored and why."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.dataset.scan import (
    BROKEN,
    HIDDEN,
    MEDIA_SUFFIXES,
    OTHER,
    REPEATED,
    find_media,
    ignored_lines,
)
from moodfuse.extract.media.container import FORMATS

DOCS = Path(__file__).parents[2] / "docs" / "media.md"


def touch(folder: Path, *names: str) -> None:
    """Make empty files, with the folders above them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """What is found and what is ignored, relative to the folder."""
    found = find_media(folder)
    ignored = {
        why: sorted(str(path.relative_to(folder)) for path in paths) for why, paths in found.ignored.items()
    }
    return [str(path.relative_to(folder)) for path in found.media], ignored


def test_hidden_system_and_other_files_are_ignored_by_reason(tmp_path: Path) -> None:
    """Each reason to ignore files makes one line with the count and the first names; an ignored folder counts once."""
    touch(tmp_path, "b.MP4", "a.flac", "live/c.webm", "notes.txt", "clip", "x.mp4/y.mp4")
    hidden = (".Trash-1000", ".AppleDouble", "@eaDir", "$RECYCLE.BIN", "__MACOSX", "#recycle")
    touch(tmp_path, "._b.mp4", *(f"{name}/z.mp4" for name in hidden))
    media, ignored = names_of(tmp_path)
    assert media == ["a.flac", "b.MP4", "live/c.webm", "x.mp4/y.mp4"]
    assert ignored == {HIDDEN: sorted(["._b.mp4", *hidden]), OTHER: ["clip", "notes.txt"]}
    lines = ignored_lines(tmp_path, find_media(tmp_path).ignored)
    assert f"ignored in {tmp_path}: 2 files without a media suffix: 'clip', 'notes.txt'" in lines
    hidden_line = "7 hidden or system files and folders: '#recycle', '$RECYCLE.BIN', '.AppleDouble', .."
    assert any(hidden_line in line for line in lines)


def test_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    """Links that form a loop end; a folder in the tree keeps its name; of two links to a folder the upper is read."""
    data, disk = tmp_path / "data", tmp_path / "disk"
    touch(data, "happy/1.mp4", "sad/2.mp4")
    touch(disk, "fear/3.mp4", "more/deep/4.mp4")
    os.symlink(data / "sad", data / "happy/peer")
    os.symlink(data, data / "happy/loop")
    os.symlink(disk / "fear", data / "happy/fear")
    os.symlink(disk / "fear", data / "fear")
    os.symlink(disk / "more", data / "sad/more")
    os.symlink(disk / "more", disk / "more/deep/again")
    os.symlink(tmp_path / "unmounted", data / "sad/unmounted")
    os.symlink(tmp_path / "gone.mp4", data / "sad/gone.mp4")
    os.symlink("self", data / "sad/self")
    media, ignored = names_of(data)
    assert media == ["happy/1.mp4", "sad/2.mp4", "sad/gone.mp4", "fear/3.mp4", "sad/more/deep/4.mp4"]
    assert ignored == {
        REPEATED: ["happy/fear", "happy/loop", "happy/peer", "sad/more/deep/again"],
        BROKEN: ["sad/self", "sad/unmounted"],
    }


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed is an error, and a hidden folder is not opened."""
    touch(tmp_path, "a.mp4", "shut/b.mp4", "lost+found/c.mp4")
    listed: Callable[..., object] = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith(("shut", "lost+found")):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(
        InputError, match=r"shut: the folder cannot be read \(Permission denied\); correct its perm"
    ):
        find_media(tmp_path)
    (tmp_path / "shut/b.mp4").unlink()
    (tmp_path / "shut").rmdir()
    assert names_of(tmp_path) == (["a.mp4"], {HIDDEN: ["lost+found"]})


def test_the_documented_suffixes_are_those_that_are_read() -> None:
    """docs/media.md lists these suffixes; every format with a suffix of its name is among them."""
    lines = DOCS.read_text(encoding="utf-8").split("* **")
    line = next(line for line in lines if line.startswith("Suffixes"))
    assert {f".{name}" for name in line.partition(":")[2].split("`")[1::2]} == MEDIA_SUFFIXES
    without_suffix = {"matroska", "mpegts", "mpegvideo"}
    assert {f".{name}" for name in FORMATS.split(",") if name not in without_suffix} <= MEDIA_SUFFIXES
