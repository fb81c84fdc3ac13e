"""Folders and CSVs become clips, or a message that says what to change."""

import os
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.extract.dataset.check import CheckSettings, check
from moodfuse.extract.dataset.scan import long_window_lines, scan, scan_data
from moodfuse.extract.pipeline import extract_features
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe
from moodfuse.extract.settings import ExtractSettings


def write(folder: Path, text: str) -> Path:
    """A CSV with this content."""
    file = folder / "clips.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_folder_per_label_is_read(tmp_path: Path) -> None:
    """Labels keep their spelling; what is left out is named by reason, media files beside the labels with a warning."""
    for name in ("Sad/b.mp4", "Sad/a.MKV", "Très gai/c.mp4", "Sad/.hidden.mp4", "Sad/notes.txt", "x.MP4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = scan(tmp_path)
    assert [(clip.id, clip.label) for clip in clips] == [
        ("Sad/a.MKV", "Sad"),
        ("Sad/b.mp4", "Sad"),
        ("Très gai/c.mp4", "Très gai"),
    ]
    assert set(scan_data(tmp_path).messages) == {
        f"ignored in {tmp_path}: 1 hidden or system files and folders: 'Sad/.hidden.mp4'",
        f"ignored in {tmp_path}: 1 files without a media suffix: 'Sad/notes.txt'",
        f"WARNING ignored in {tmp_path}: 1 media files outside a label folder: 'x.MP4'; move each into a folder named "
        "after its label",
    }


def touch(folder: Path, *names: str) -> None:
    """Make empty files, with the folders above them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_linked_folders_are_read_under_their_label(tmp_path: Path) -> None:
    """A link may be a label folder or be inside one; a link from one label to another does not move its clips."""
    touch(tmp_path, "nas/a/1.mp4", "nas/b/2.mp4", "data/happy/live/3.mp4", "data/sad/4.mp4")
    (tmp_path / "data/fear").symlink_to(tmp_path / "nas/a")
    (tmp_path / "data/happy/more").symlink_to(tmp_path / "nas/b")
    (tmp_path / "data/happy/other").symlink_to(tmp_path / "data/sad")
    clips = scan(tmp_path / "data")
    assert [(clip.id, clip.label) for clip in clips] == [
        ("fear/1.mp4", "fear"),
        ("happy/live/3.mp4", "happy"),
        ("happy/more/2.mp4", "happy"),
        ("sad/4.mp4", "sad"),
    ]
    assert clips[2].path == str(tmp_path / "data/happy/more/2.mp4")


@pytest.mark.parametrize(
    "splits",
    [
        ("train", "test"),
        ("Train",),
        ("training", "validation", "extra"),
        ("train_set", "val"),
        ("fold1", "fold2"),
    ],
)
def test_folders_of_splits_are_refused_as_labels(splits: tuple[str, ...], tmp_path: Path) -> None:
    """The error names the split folders, the labels below them, and the two remedies."""
    touch(tmp_path, *(f"{split}/{label}/1.mp4" for split in splits for label in ("happy", "sad")))
    message = r"are named like splits, not labels \(inside them: 'happy', 'sad'\); give one of them, .*path,label,split"
    with pytest.raises(InputError, match=message):
        scan(tmp_path)
    assert [clip.label for clip in scan(tmp_path / splits[0])] == ["happy", "sad"]


def test_a_split_folder_next_to_label_folders_is_refused(tmp_path: Path) -> None:
    """It is recognised by the names of the labels below it."""
    touch(tmp_path, "happy/1.mp4", "sad/2.mp4", "test/happy/3.mp4", "test/sad/4.mp4")
    with pytest.raises(
        InputError, match=r"its folders 'test' are named like splits, not labels \(inside them: 'happy', 'sad'"
    ):
        scan(tmp_path)


def test_the_training_folder_is_the_example_of_what_to_give(tmp_path: Path) -> None:
    """The example in the message is the folder `train`, even if another split comes first by name."""
    touch(tmp_path, "test/sad/1.mp4", "train/sad/1.mp4", "val/sad/1.mp4")
    with pytest.raises(InputError, match=rf"give one of them, such as {tmp_path}/train, or a CSV"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (("train/1.mp4", "test/2.mp4"), "WARNING label folders are named like splits: 'test', 'train'"),
        (
            ("sad/train/1.mp4", "sad/test/2.mp4", "fear/3.mp4"),
            "WARNING 2 clips are in folders named like splits ('sad/tes",
        ),
        (("test/1.mp4", "sad/2.mp4", "fear/3.mp4"), "WARNING label folders are named like splits: 'test'"),
        (("tension/live/1.mp4", "relaxation/2.mp4"), ""),
    ],
)
def test_names_of_splits_elsewhere_are_a_warning(
    names: tuple[str, ...], warning: str, tmp_path: Path
) -> None:
    """Where the folders may be labels all the same, they are read, with a warning."""
    touch(tmp_path, *names)
    found = scan_data(tmp_path)
    assert len(found.clips) == len(names)
    assert [line[: len(warning)] for line in found.messages] == ([warning] if warning else [])


def test_windows_longer_than_the_audio_that_is_read_are_counted(tmp_path: Path) -> None:
    """The warning has both counts, the longest window and what to do; windows of 30 s, rounded, are not counted."""
    assert not long_window_lines([(0.0, None), (30.1, 60.1), (0.0, 30.0)])
    file = write(tmp_path, "path,label,start_s,end_s\na.mp4,sad,0,60\nb.mp4,sad,5,45.5\nc.mp4,sad,0,30\n")
    (line,) = scan_data(file).messages
    assert line.startswith("WARNING 2 of 3 windows are longer than 30 s (up to 60 s): ")
    assert line.endswith("split them into windows of 30 s or less to use all of the audio")


def test_a_csv_gives_groups_windows_folds_and_splits(tmp_path: Path) -> None:
    """Every column is read; paths are relative to the CSV; a window is part of the id."""
    file = write(
        tmp_path, "path,label,group,fold,start_s,end_s,split\na.mp4,sad,g,1,2.5,10,\na.mp4,sad,g,1,,,test\n"
    )
    first, second = scan(file)
    assert (second.id, second.group, second.fold, second.start_s, second.end_s) == (
        "a.mp4@2.5-10",
        "g",
        1,
        2.5,
        10.0,
    )
    assert (first.id, first.split, first.path) == ("a.mp4", "test", str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,sad\n", r"column\(s\) path missing, found 'file, label'"),
        ("", "is empty; expected a first line of column names"),
        ("path,label\n", "holds no clip"),
        ("path,label\na.mp4,../etc\n", r"line 2: label '../etc' is empty or a path"),
        ("path,label\na.mp4,\n", "label '' is empty or a path"),
        ("path,label\n,sad\n", "line 2: the path is empty"),
        ("path,label,start_s\na.mp4,sad,soon\n", "start_s is 'soon'; expected a number"),
        ("path,label,start_s,end_s\na.mp4,sad,5,4\n", "is empty"),
        ("path,label,fold\na.mp4,sad,1.5\n", "expected a whole number"),
        ("path,label\na.mp4,sad\na.mp4,sad\n", "line 3: a.mp4 is in line 2 already"),
        ("path,label,split\na.mp4,sad,dev\n", "expected 'train' or 'test'"),
        ("path,label,label\na.mp4,x,y\n", "line 1: column 'label' occurs twice"),
        ("path,label\na.mp4, live.mp4,sad\n", "line 2: 3 cells; expected 2, .* a comma in double quotes"),
        ("path,label,group\na.mp4,sad\n", "line 2: 2 cells; expected 3"),
        ("path;label;start_s\na.mp4;sad;2,5\n", "line 2: start_s is '2,5'; expected a number such as 2.5"),
        ('path,label,group\n"a\nb.mp4",sad,"x\ny"\n\n,sad,\n', "line 6: the path is empty"),
    ],
)
def test_bad_tables_are_named_with_line_and_cause(tmp_path: Path, text: str, message: str) -> None:
    """Each message says where, what was found and what was expected."""
    with pytest.raises(InputError, match=message):
        scan(write(tmp_path, text))


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    """Semicolons or tabs, a byte order mark and empty rows change nothing; spaces around cells are removed."""
    rows = [
        ("path", " label", "group", "start_s"),
        ("a, b.mp4", " sad ", " g ", " 2.5"),
        (" c.mp4", "fear", "", ""),
    ]
    for separator in (";", "\t"):
        text = "\ufeff" + "".join(separator.join(row) + "\r\n" for row in (*rows, ("", "", "", "")))
        first, second = scan(write(tmp_path, text))
        assert (first.id, first.label, first.group, first.start_s) == ("a, b.mp4@2.5-", "sad", "g", 2.5)
        assert (second.id, second.label, second.group) == ("c.mp4", "fear", None)


def test_a_path_is_taken_as_it_stands_if_there_is_such_a_file(tmp_path: Path) -> None:
    """Spaces at its end and bytes that are not UTF-8 are parts of a name; a label in such bytes is an error."""
    (tmp_path / "end.mp4 ").touch()
    (tmp_path / "both.mp4").touch()
    (tmp_path / "both.mp4 ").touch()
    (tmp_path / "c.mp4").touch()
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    file = tmp_path / "clips.csv"
    file.write_bytes(b"path,label\nend.mp4 ,sad\nboth.mp4 ,sad\nc.mp4 ,sad\ncaf\xe9.mp4,sad\n")
    assert [clip.id for clip in scan(file)] == ["both.mp4 ", "c.mp4", "caf\udce9.mp4", "end.mp4 "]
    assert all(Path(clip.path).exists() for clip in scan(file))
    for row, what in ((b"c.mp4,tr\xe4nen", "label: 'tr.*nen'"), (b"na\xefve.mp4,sad", "path: 'na.*ve.mp4'")):
        file.write_bytes(b"path,label\n" + row + b"\n")
        with pytest.raises(InputError, match=rf"line 2, {what} is not UTF-8; save the file as UTF-8"):
            scan(file)


def test_a_pipe_in_place_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    """A named pipe in place of the CSV is an error, and the command does not wait for its writer."""
    os.mkfifo(tmp_path / "clips.csv")
    with pytest.raises(InputError, match=r"clips\.csv: .*is a pipe; expected a regular file"):
        scan(tmp_path / "clips.csv")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that does not exist, or is a media file, is named with what was expected."""
    with pytest.raises(InputError, match="does not exist; expected a folder"):
        scan(tmp_path / "none")
    (tmp_path / "one.mp4").touch()
    with pytest.raises(InputError, match=r"one\.mp4 is a media file; expected a folder"):
        scan(tmp_path / "one.mp4")


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    """Source, recipe, depth and weights file: each error lists what there is, or what to give."""
    with pytest.raises(
        UnknownNameError, match="known: c3d, i3d, onedmcnn, torchvision:<video model>, twodmcnn"
    ):
        build_recipe("c4d", RecipeChoice())
    with pytest.raises(UnknownNameError, match="unknown recipe 'best'; known: default"):
        build_recipe("c3d", RecipeChoice(recipe="best"))
    with pytest.raises(InputError, match="unknown depth; known: frozen, head, full"):
        build_recipe("c3d", RecipeChoice(depths={"c3d": "deep"}))
    with pytest.raises(InputError, match="no such file, and no known name"):
        build_recipe("c3d", RecipeChoice(weights={"c3d": str(tmp_path / "none.h5")}))
    (tmp_path / "bad.toml").write_text("[c3d.head]\noptimizer='adam'\nlearning_rate=1\nepochs=1\nspeed=9\n")
    with pytest.raises(InputError, match="unknown key 'speed'"):
        build_recipe("c3d@bad", RecipeChoice(recipe=str(tmp_path / "bad.toml")))


def test_defaults_of_depth_and_weights() -> None:
    """onedmcnn is tuned whole, the others at the head; weights enter the digest by content."""
    depths = {
        name: build_recipe(name, RecipeChoice()).depth for name in ("onedmcnn", "twodmcnn", "c3d", "i3d")
    }
    assert depths == {"onedmcnn": "full", "twodmcnn": "head", "c3d": "head", "i3d": "head"}
    assert build_recipe("c3d", RecipeChoice(depth="frozen")).tuning is None


def test_sources_carry_their_recipe(tmp_path: Path) -> None:
    """The default recipe adds nothing to a source's name; any other one, and a file's, is said behind an @."""
    assert (
        RecipeChoice().source("c3d") == "c3d"
        and RecipeChoice(recipe="zhou2022-sgd").source("c3d") == "c3d@zhou2022-sgd"
    )
    assert RecipeChoice(recipe="zhou2022-sgd").source("c3d@default") == "c3d"
    assert RecipeChoice().source("c3d@zhou2022-adam") == "c3d@zhou2022-adam"
    adam, sgd = (build_recipe(f"c3d@zhou2022-{name}", RecipeChoice()) for name in ("adam", "sgd"))
    assert adam.tuning is not None and sgd.tuning is not None
    assert (adam.tuning.optimizer, sgd.tuning.optimizer, sgd.tuning.momentum) == ("adam", "sgd", 0.0)
    assert adam.tuning.learning_rate == sgd.tuning.learning_rate == 1e-5 and adam.digest16 != sgd.digest16
    (tmp_path / "mine.toml").write_text(
        "[c3d]\nhead = { optimizer = 'adam', learning_rate = 1e-3, epochs = 2 }\n"
    )
    choice = RecipeChoice(recipe=str(tmp_path / "mine.toml"), depths={"c3d": "frozen"})
    assert choice.source("c3d") == "c3d@mine" and build_recipe("c3d@mine", choice).depth == "frozen"
    assert build_recipe("c3d", choice) == build_recipe("c3d", RecipeChoice(depths={"c3d": "frozen"}))
    assert RecipeChoice(depths={"c3d@default": "full"}).depth_of("c3d") == "full"
    for name in ("c3d@", "c3d@../mine.toml"):
        with pytest.raises(UnknownNameError, match="unknown recipe .*; known: default, demo, zhou2022"):
            RecipeChoice().source(name)
    (tmp_path / "seed.toml").write_text("")
    with pytest.raises(InputError, match="'seed' is a recipe of moodfuse; give yours another name"):
        RecipeChoice(recipe=str(tmp_path / "seed.toml")).source("c3d")
    (tmp_path / "bad.toml").write_text("threads = 'x'")
    with pytest.raises(InputError, match="threads is 'x'; expected a whole number"):
        build_recipe("c3d@bad", RecipeChoice(recipe=str(tmp_path / "bad.toml"), depth="frozen"))
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfname = 'mine'\nseed = 3\n")
    assert RecipeChoice(recipe=str(tmp_path / "bom.toml")).source("c3d") == "c3d@mine"
    (tmp_path / "bad.toml").write_text("seed = 3", encoding="utf-16")
    with pytest.raises(InputError, match=r"is UTF-16, .*; save the file as UTF-8"):
        RecipeChoice(recipe=str(tmp_path / "bad.toml")).source("c3d")
    (tmp_path / "bad.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        RecipeChoice(recipe=str(tmp_path / "bad.toml")).source("c3d")
    (tmp_path / "b@d.toml").write_text("")
    with pytest.raises(InputError, match="its name 'b@d' has to be letters"):
        RecipeChoice(recipe=str(tmp_path / "b@d.toml")).source("c3d")


def test_the_seeds_recipes_are_complete() -> None:
    """Each of the seed's recipes has settings for the four networks, whole and at the head."""
    for name in ("zhou2022", "zhou2022-adam", "zhou2022-sgd"):
        for network in ("onedmcnn", "twodmcnn", "c3d", "i3d"):
            whole = build_recipe(f"{network}@{name}", RecipeChoice())
            head = build_recipe(f"{network}@{name}", RecipeChoice(depth="head"))
            assert whole.depth == "full" and head.tuning is not None
    chosen = [
        build_recipe(f"{name}@zhou2022", RecipeChoice()).tuning
        for name in ("onedmcnn", "twodmcnn", "c3d", "i3d")
    ]
    assert [item.optimizer for item in chosen if item] == ["adam", "sgd", "sgd", "adam"]


def test_suspicious_labels_and_groups_are_said_by_extract_and_check(tmp_path: Path) -> None:
    """`check` and `extract` print the warnings that an import prints, even if no clip can be read."""
    rows = ["a.mp4,sad,nan", "b.mp4,Sad,nan", "c.mp4,fear,", "d.mp4,fear,x"]
    table = write(tmp_path, "\n".join(["path,label,group", *rows]))
    said: list[str] = []
    with pytest.raises(InputError, match="none of the 4 clips could be read"):
        extract_features(ExtractSettings(table, tmp_path / "work", ("onedmcnn",), jobs=1), report=said.append)
    with pytest.raises(InputError, match="none of the 4 clips could be read") as refused:
        check(CheckSettings(table, decode=False))
    for lines in (said, [line.strip() for line in str(refused.value).splitlines()]):
        alike, missing = [line for line in lines if line.startswith("WARNING ")]
        assert "'Sad' (1 clip) and 'sad' (1 clip)" in alike and "'nan' (2 clips)" in missing


def test_folds_from_one_are_refused_before_a_clip_is_read(tmp_path: Path) -> None:
    """`extract` makes no cache if folds count from 1, and `check` lists its findings before the same error."""
    rows = [f"{row}.mp4,{'sad' if row % 2 else 'fear'},{row // 2 % 3 + 1}" for row in range(12)]
    table = write(tmp_path, "\n".join(["path,label,fold", *rows]))
    with pytest.raises(
        InputError, match="counts from 1: found folds 1 to 3 in 12 clips; .* subtract 1 from each"
    ):
        extract_features(ExtractSettings(table, tmp_path / "work", ("onedmcnn",), jobs=1))
    assert not (tmp_path / "work").exists()
    with pytest.raises(InputError, match=r"(?s)12 clips in .*counts from 1: found folds 1 to 3"):
        check(CheckSettings(table, decode=False))
