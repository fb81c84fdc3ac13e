"""What `predict` is asked to label: files, folders and lists, and no silence where there is nothing."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import InputError
from moodfuse.inputs import expand
from moodfuse.model.model import Ask


def test_inputs_are_files_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder gives its media files by name at any depth; lists give paths beside them, with windows in a CSV."""
    for name in ("b/2.mp4", "b/1.MKV", "b/notes.pdf", "b/.hidden.mp4", "b/c/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "some.txt").write_bytes(b"b/2.mp4\r\n\n/abs.mp4\n")
    (tmp_path / "some.csv").write_text("path,start_s,end_s\nb/2.mp4,3,\nb/1.MKV,,9.5\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    found = [Ask(str(Path(ask.file)), ask.start_s, ask.end_s) for ask in expand(["x.mp4", "b", "some.txt", "some.csv"])]
    assert found == [
        *(Ask(name) for name in ("x.mp4", "b/1.MKV", "b/2.mp4", "b/c/0.wav", "b/2.mp4", "/abs.mp4")),
        Ask("b/2.mp4", 3.0),
        Ask("b/1.MKV", 0.0, 9.5),
    ]
    (tmp_path / "bad.csv").write_text("path,start_s\nb/2.mp4,soon\n")
    for name, said in (("bad.csv", "line 2: start_s is 'soon'"), ("none.txt", "cannot be")):
        with pytest.raises(InputError, match=said):
            list(expand([name]))


@pytest.mark.parametrize(
    ("name", "text"),
    [("empty.txt", ""), ("blank.txt", "\n \n"), ("head.csv", "path,start_s\n"), ("blank.csv", "path,start_s\n,3\n")],
)
def test_a_list_of_no_file_is_refused(name: str, text: str, tmp_path: Path) -> None:
    """Nothing to do is no success: the error names the list."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: the list names no file; expected a path in each line"):
        list(expand([str(tmp_path / name)]))


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_pipe_in_place_of_a_list_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="the list cannot be read .is a pipe; expected a regular file"):
        list(expand([str(tmp_path / name)]))


def test_a_folder_of_no_media_file_is_refused(tmp_path: Path) -> None:
    """The error names the folder and the names that it looked for."""
    (tmp_path / "notes.pdf").touch()
    with pytest.raises(InputError, match=r"holds no media file; expected names that end in .*\.mp4"):
        list(expand([str(tmp_path)]))


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One below that may not be listed is an error, not a folder without files."""
    (tmp_path / "shut").mkdir()
    (tmp_path / "a.mp4").touch()
    listed: Callable[..., object] = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"shut: the folder cannot be read \(Permission denied\); correct its perm"):
        list(expand([str(tmp_path)]))
