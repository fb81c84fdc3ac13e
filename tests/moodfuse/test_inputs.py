"""What `predict` is asked to label: files, folders and lists, and no silence where there is nothing."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.model.model import Ask
from moodfuse.predict.inputs import expand


def test_inputs_are_files_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder gives its media files by name at any depth; lists give paths beside them, with windows in a CSV."""
    for name in ("b/2.mp4", "b/1.MKV", "b/notes.pdf", "b/.hidden.mp4", "b/c/0.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "some.txt").write_bytes(b"b/2.mp4\r\n\n/abs.mp4\n")
    (tmp_path / "some.csv").write_text("path,start_s,end_s\nb/2.mp4,3,\nb/1.MKV,,9.5\n", encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    found = [
        Ask(str(Path(ask.file)), ask.start_s, ask.end_s)
        for ask in expand(["x.mp4", "b", "some.txt", "some.csv"])
    ]
    assert found == [
        *(Ask(name) for name in ("x.mp4", "b/1.MKV", "b/2.mp4", "b/c/0.wav", "b/2.mp4", "/abs.mp4")),
        Ask("b/2.mp4", 3.0),
        Ask("b/1.MKV", 0.0, 9.5),
    ]
    (tmp_path / "bad.csv").write_text("path,start_s\nb/2.mp4,soon\n")
    (tmp_path / "blank.csv").write_text('path,start_s\n"b\n.mp4",1\n,3\n')
    (tmp_path / "wide.csv").write_text("path\nb/2.mp4,3\n")
    (tmp_path / "utf16.txt").write_text("b/2.mp4\n", encoding="utf-16")
    for name, said in (
        ("bad.csv", "line 2: start_s is 'soon'"),
        ("blank.csv", "line 4: the path is empty"),
        ("wide.csv", "line 2: 2 cells; expected 1"),
        ("utf16.txt", "is UTF-16, .*; save the file as UTF-8"),
        ("none.txt", "cannot be"),
        ("none.csv", "cannot be"),
    ):
        with pytest.raises(InputError, match=said):
            expand([name])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty.txt", ""),
        ("blank.txt", "\n \n"),
        ("head.csv", "path,start_s\n"),
        ("blank.csv", "path,start_s\n,\n"),
    ],
)
def test_a_list_of_no_file_is_refused(name: str, text: str, tmp_path: Path) -> None:
    """Nothing to do is no success: the error names the list."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: the list names no file; expected a path in each line"):
        expand([str(tmp_path / name)])


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_pipe_in_place_of_a_list_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """A named pipe in place of a list is an error, and the command does not wait for its writer."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read .is a pipe; expected a regular file"):
        list(expand([str(tmp_path / name)]))


def test_a_folder_of_no_media_file_is_refused(tmp_path: Path) -> None:
    """The error names the folder and the names that it looked for."""
    (tmp_path / "notes.pdf").touch()
    with pytest.raises(InputError, match=r"holds no media file; expected names that end in .*\.mp4"):
        expand([str(tmp_path)])


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
    with pytest.raises(
        InputError, match=r"shut: the folder cannot be read \(Permission denied\); correct its perm"
    ):
        expand([str(tmp_path)])


def test_lists_are_read_as_data_sets_are(tmp_path: Path) -> None:
    """Lists may be separated by semicolons or tabs; a path keeps a space at its end if such a file exists."""
    for name in ("end.mp4 ", "a.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "one.csv").write_text("\ufeffpath;start_s;end_s\nend.mp4 ;1;2\n a.mp4 ;;\n;;\n")
    (tmp_path / "two.tsv").write_text("label\tpath\nsad\ta.mp4\n")
    (tmp_path / "three.txt").write_bytes(b"end.mp4 \r\na.mp4 \r\n")
    found = expand([str(tmp_path / name) for name in ("one.csv", "two.tsv", "three.txt")])
    assert [(Path(ask.file).name, ask.start_s, ask.end_s) for ask in found] == [
        ("end.mp4 ", 1.0, 2.0),
        ("a.mp4", 0.0, None),
        ("a.mp4", 0.0, None),
        ("end.mp4 ", 0.0, None),
        ("a.mp4", 0.0, None),
    ]


def test_what_a_folder_leaves_out_is_said(tmp_path: Path) -> None:
    """A folder gives its audio files and those of linked folders; other files are counted and named by reason."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far/song.opus").touch()
    songs = tmp_path / "songs"
    songs.mkdir()
    for name in ("a.flac", "b.WMA", "c.m4b", "d.vob", "cover.jpg", "._a.flac"):
        (songs / name).touch()
    (songs / "more").symlink_to(tmp_path / "far")
    said: list[str] = []
    names = [Path(ask.file).name for ask in expand([str(songs)], say=said.append)]
    assert names == ["a.flac", "b.WMA", "c.m4b", "d.vob", "song.opus"]
    assert sorted(said) == [
        f"ignored in {songs}: 1 files without a media suffix: 'cover.jpg'",
        f"ignored in {songs}: 1 hidden or system files and folders: '._a.flac'",
    ]


def test_windows_longer_than_the_audio_that_is_read_are_said(tmp_path: Path) -> None:
    """`predict` warns with both counts, as `check` and `extract` do, if windows are longer than 30 s."""
    (tmp_path / "some.csv").write_text("path,start_s,end_s\na.mp4,0,60\nb.mp4,0,30\n")
    said: list[str] = []
    assert len(expand([str(tmp_path / "some.csv")], say=said.append)) == 2
    assert len(said) == 1 and said[0].startswith("WARNING 1 of 2 windows are longer than 30 s (up to 60 s)")
