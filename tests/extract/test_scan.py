"""Folders and CSVs become clips, or a message with what to change."""

import os
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.dataset.scan import (
    BROKEN,
    HIDDEN,
    MEDIA_SUFFIXES,
    OTHER,
    REPEATED,
    describe_ignored,
    describe_long_windows,
    find_media,
    scan,
    scan_data,
)
from moodfuse.extract.media.container import FORMATS

DOCS = Path(__file__).parents[2] / "docs" / "media.md"


def write(folder: Path, text: str) -> Path:
    """A CSV with this content."""
    file = folder / "clips.csv"
    file.write_text(text, encoding="utf-8")
    return file


def touch(folder: Path, *names: str) -> None:
    """Make empty files, with the folders above them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_per_label_is_read(tmp_path: Path) -> None:
    """Labels keep their spelling; ignored files are named by reason, files outside labels with a warning."""
    touch(tmp_path, "Sad/b.mp4", "Sad/a.MKV", "Très gai/c.mp4", "Sad/.hidden.mp4", "Sad/notes.txt", "x.MP4")
    clips = [(clip.id, clip.label) for clip in scan(tmp_path)]
    assert clips == [("Sad/a.MKV", "Sad"), ("Sad/b.mp4", "Sad"), ("Très gai/c.mp4", "Très gai")]
    assert set(scan_data(tmp_path).messages) == {
        f"ignored in {tmp_path}: 1 hidden or system files and folders: 'Sad/.hidden.mp4'",
        f"ignored in {tmp_path}: 1 files without a media suffix: 'Sad/notes.txt'",
        f"WARNING ignored in {tmp_path}: 1 media files outside a label folder: 'x.MP4'; move each into a "
        "folder named after its label",
    }


@pytest.mark.parametrize("splits", [("test", "train"), ("fold1", "fold2")])
def test_folders_of_splits_are_refused_as_labels(splits: tuple[str, ...], tmp_path: Path) -> None:
    """The error names the split folders, the labels in them, and two remedies, with `train` as example."""
    touch(tmp_path, *(f"{split}/{label}/1.mp4" for split in splits for label in ("happy", "sad")))
    first = "train" if "train" in splits else splits[0]
    message = (
        rf"are named like splits, not labels \(inside them: 'happy', 'sad'\); give one of them, such as "
        rf"{tmp_path}/{first}, or a CSV with the columns path,label,split"
    )
    with pytest.raises(InputError, match=message):
        scan(tmp_path)
    assert [clip.label for clip in scan(tmp_path / splits[0])] == ["happy", "sad"]


def test_windows_longer_than_the_audio_that_is_read_are_counted(tmp_path: Path) -> None:
    """The warning has both counts, the longest window and a remedy; windows of 30 s are not counted."""
    assert not describe_long_windows([(0.0, None), (30.1, 60.1), (0.0, 30.0)])
    file = write(tmp_path, "path,label,start_s,end_s\na.mp4,sad,0,60\nb.mp4,sad,5,45.5\nc.mp4,sad,0,30\n")
    (line,) = scan_data(file).messages
    assert line.startswith("WARNING 2 of 3 windows are longer than 30 s (up to 60 s): ")
    assert line.endswith("split them into windows of 30 s or less to use all of the audio")


def test_a_csv_gives_groups_windows_folds_and_splits(tmp_path: Path) -> None:
    """Every column is read; paths are relative to the CSV; a window is part of the id."""
    columns = "path,label,group,fold,start_s,end_s,split\n"
    first, second = scan(write(tmp_path, f"{columns}a.mp4,sad,g,1,2.5,10,\na.mp4,sad,g,1,,,test\n"))
    assert (second.id, second.group, second.fold) == ("a.mp4@2.5-10", "g", 1)
    assert (second.start_s, second.end_s) == (2.5, 10.0)
    assert (first.id, first.split, first.path) == ("a.mp4", "test", str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,sad\n", r"column\(s\) path missing, found 'file, label'"),
        ("path,label\n", "holds no clip"),
        ("path,label\na.mp4,../etc\n", r"line 2: label '../etc' is empty or a path"),
        ("path,label,start_s\na.mp4,sad,soon\n", "start_s is 'soon'; expected a number"),
        ("path,label,start_s,end_s\na.mp4,sad,5,4\n", "is empty"),
        ("path,label\na.mp4,sad\na.mp4,sad\n", "line 3: a.mp4 is in line 2 already"),
        ("path,label,split\na.mp4,sad,dev\n", "expected 'train' or 'test'"),
    ],
)
def test_bad_tables_are_named_with_line_and_cause(tmp_path: Path, text: str, message: str) -> None:
    """Each message names the place, what was found and what was expected."""
    with pytest.raises(InputError, match=message):
        scan(write(tmp_path, text))


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    """Spaces around cells are removed."""
    text = "\ufeffpath; label;group;start_s\r\na, b.mp4; sad ; g ; 2.5\r\n c.mp4;fear;;\r\n;;;\r\n"
    first, second = scan(write(tmp_path, text))
    assert (first.id, first.label, first.group, first.start_s) == ("a, b.mp4@2.5-", "sad", "g", 2.5)
    assert (second.id, second.label, second.group) == ("c.mp4", "fear", None)


def test_a_path_is_read_as_it_is_if_there_is_such_a_file(tmp_path: Path) -> None:
    """Spaces at its end and bytes that are not UTF-8 are parts of a name; such a label is an error."""
    touch(tmp_path, "end.mp4 ", "both.mp4", "both.mp4 ", "c.mp4", os.fsdecode(b"caf\xe9.mp4"))
    file = tmp_path / "clips.csv"
    file.write_bytes(b"path,label\nend.mp4 ,sad\nboth.mp4 ,sad\nc.mp4 ,sad\ncaf\xe9.mp4,sad\n")
    assert [clip.id for clip in scan(file)] == ["both.mp4 ", "c.mp4", "caf\udce9.mp4", "end.mp4 "]
    assert all(Path(clip.path).exists() for clip in scan(file))
    file.write_bytes(b"path,label\nc.mp4,tr\xe4nen\n")
    with pytest.raises(InputError, match=r"line 2, label: 'tr.*nen' is not UTF-8; save the file as UTF-8"):
        scan(file)


def test_data_that_is_no_folder_or_table_is_refused(tmp_path: Path) -> None:
    """A missing path, a media file, and a pipe, without waiting for its writer."""
    with pytest.raises(InputError, match="does not exist; expected a folder"):
        scan(tmp_path / "none")
    (tmp_path / "one.mp4").touch()
    with pytest.raises(InputError, match=r"one\.mp4 is a media file; expected a folder"):
        scan(tmp_path / "one.mp4")
    os.mkfifo(tmp_path / "clips.csv")
    with pytest.raises(InputError, match=r"clips\.csv: .*expected a regular file"):
        scan(tmp_path / "clips.csv")


def test_group_pattern(tmp_path: Path) -> None:
    """The match of the pattern names the group; a declared group stays; an unusable pattern is refused."""
    touch(tmp_path, "sad/a(1).mp4", "sad/a(2).mp4", "sad/b.mp4")

    def groups(pattern: str) -> list[str | None]:
        return [clip.group for clip in scan(tmp_path, group_pattern=pattern)]

    assert groups(r"sad/(\w+)\(") == ["a", "a", None]
    assert groups(r"(?P<group>[ab])(\(|\.)") == ["a", "a", "b"]
    assert groups(r"a\(") == ["a(", "a(", None]
    assert groups(r"(a)\(2|([ab])[(.]") == ["a", "a", "b"]
    with pytest.raises(InputError, match="not a regular expression"):
        groups("(")
    with pytest.raises(InputError, match=r"matches no clip; the first clip id is 'sad/a\(1\)\.mp4'"):
        groups("song")
    table = write(tmp_path, "path,label,group\nsad/a(1).mp4,sad,mine\nsad/b.mp4,sad,\n")
    assert [clip.group for clip in scan(table, group_pattern="sad/(.)")] == ["mine", "b"]


def test_hidden_system_and_other_files_are_ignored_by_reason(tmp_path: Path) -> None:
    """Each reason makes one line with the count and the first names; an ignored folder counts once."""
    touch(tmp_path, "b.MP4", "a.flac", "live/c.webm", "notes.txt", "clip", "x.mp4/y.mp4")
    touch(tmp_path, "._b.mp4", ".Trash-1000/z.mp4", "@eaDir/z.mp4", "__MACOSX/z.mp4")
    files = find_media(tmp_path)
    media = [file.relative_to(tmp_path).as_posix() for file in files.media]
    assert media == ["a.flac", "b.MP4", "live/c.webm", "x.mp4/y.mp4"]
    assert sorted(describe_ignored(tmp_path, files.ignored)) == [
        f"ignored in {tmp_path}: 2 {OTHER}: 'clip', 'notes.txt'",
        f"ignored in {tmp_path}: 4 {HIDDEN}: '.Trash-1000', '._b.mp4', '@eaDir', ...",
    ]


def test_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    """Loops of links end; a folder in the tree keeps its name; of two links to a folder the upper is read."""
    data, disk = tmp_path / "data", tmp_path / "disk"
    touch(data, "happy/1.mp4", "sad/2.mp4")
    touch(disk, "fear/3.mp4", "more/deep/4.mp4")
    links = {
        "happy/peer": data / "sad",
        "happy/loop": data,
        "happy/fear": disk / "fear",
        "fear": disk / "fear",
    }
    links |= {"sad/more": disk / "more", "../disk/more/deep/again": disk / "more", "sad/self": Path("self")}
    links |= {"sad/unmounted": tmp_path / "unmounted", "sad/gone.mp4": tmp_path / "gone.mp4"}
    for name, target in links.items():
        os.symlink(target, data / name)
    files = find_media(data)
    media = [file.relative_to(data).as_posix() for file in files.media]
    assert media == ["fear/3.mp4", "happy/1.mp4", "sad/2.mp4", "sad/gone.mp4", "sad/more/deep/4.mp4"]
    assert sorted(path.name for path in files.ignored[REPEATED]) == ["again", "fear", "loop", "peer"]
    assert sorted(path.name for path in files.ignored[BROKEN]) == ["self", "unmounted"]


def test_the_documented_suffixes_are_those_that_are_read() -> None:
    """docs/media.md lists these suffixes; every format with a suffix of its name is among them."""
    lines = DOCS.read_text(encoding="utf-8").split("* **")
    line = next(line for line in lines if line.startswith("Suffixes"))
    assert {f".{name}" for name in line.partition(":")[2].split("`")[1::2]} == MEDIA_SUFFIXES
    without_suffix = {"matroska", "mpegts", "mpegvideo"}
    assert {f".{name}" for name in FORMATS.split(",") if name not in without_suffix} <= MEDIA_SUFFIXES


def test_unused_columns_of_a_csv_are_reported(tmp_path: Path) -> None:
    """A column of groups under another name would leak without a word."""
    file = write(tmp_path, "path,label,artist\na.mp4,sad,x\n")
    (line,) = scan_data(file).messages
    assert line.startswith(f"WARNING {file}: columns not used: 'artist'; optional columns are group, fold, ")
    assert scan_data(write(tmp_path, "path,label,group\na.mp4,sad,x\n")).messages == ()
