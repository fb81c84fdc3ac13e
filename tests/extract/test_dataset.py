"""Folders and CSVs become clips, or a message that says what to change."""

import os
from pathlib import Path

import pytest

from cache.errors import InputError, UnknownNameError
from extract.dataset import ignored_files, scan
from extract.recipe_files import RecipeChoice, build_recipe


def write(folder: Path, text: str) -> Path:
    """A CSV with this content."""
    file = folder / "clips.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_folder_per_label_is_read(tmp_path: Path) -> None:
    """Labels keep their spelling; hidden files, strays and other suffixes are ignored and listed."""
    for name in ("Sad/b.mp4", "Sad/a.MKV", "Très gai/c.mp4", "Sad/.hidden.mp4", "Sad/notes.txt", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = scan(tmp_path)
    assert [(clip.id, clip.label) for clip in clips] == [
        ("Sad/a.MKV", "Sad"),
        ("Sad/b.mp4", "Sad"),
        ("Très gai/c.mp4", "Très gai"),
    ]
    assert {file.name for file in ignored_files(tmp_path)} == {".hidden.mp4", "notes.txt", "README.md"}


def test_a_csv_gives_groups_windows_folds_and_splits(tmp_path: Path) -> None:
    """Every column is read; paths are relative to the CSV; a window is part of the id."""
    file = write(tmp_path, "path,label,group,fold,start_s,end_s,split\na.mp4,sad,g,1,2.5,10,\na.mp4,sad,g,1,,,test\n")
    first, second = scan(file)
    assert (second.id, second.group, second.fold, second.start_s, second.end_s) == ("a.mp4@2.5-10", "g", 1, 2.5, 10.0)
    assert (first.id, first.split, first.path) == ("a.mp4", "test", str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,sad\n", r"column\(s\) path missing, found file, label"),
        ("", r"column\(s\) path, label missing, found none"),
        ("path,label\n", "holds no clip"),
        ("path,label\na.mp4,../etc\n", r"line 2: label '../etc' is empty or a path"),
        ("path,label\na.mp4,\n", "label '' is empty or a path"),
        ("path,label\n,sad\n", "line 2: the path is empty"),
        ("path,label,start_s\na.mp4,sad,soon\n", "start_s is 'soon'; expected a number"),
        ("path,label,start_s,end_s\na.mp4,sad,5,4\n", "is empty"),
        ("path,label,fold\na.mp4,sad,1.5\n", "expected a whole number"),
        ("path,label\na.mp4,sad\na.mp4,sad\n", "line 3: a.mp4 stands in line 2 already"),
        ("path,label,split\na.mp4,sad,dev\n", "expected 'train' or 'test'"),
    ],
)
def test_bad_tables_are_named_with_line_and_cause(tmp_path: Path, text: str, message: str) -> None:
    """Each message says where, what was found and what was expected."""
    with pytest.raises(InputError, match=message):
        scan(write(tmp_path, text))


def test_a_pipe_in_place_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    """It is not waited for."""
    os.mkfifo(tmp_path / "clips.csv")
    with pytest.raises(InputError, match=r"clips\.csv: .*is a pipe; expected a regular file"):
        scan(tmp_path / "clips.csv")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A path that does not exist is said, with what was expected."""
    with pytest.raises(InputError, match="does not exist; expected a folder"):
        scan(tmp_path / "none")


def test_unknown_names_list_the_known(tmp_path: Path) -> None:
    """Source, recipe, depth and weights file: each error lists what there is, or what to give."""
    with pytest.raises(UnknownNameError, match="known: c3d, i3d, onedmcnn, torchvision:<video model>, twodmcnn"):
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
    depths = {name: build_recipe(name, RecipeChoice()).depth for name in ("onedmcnn", "twodmcnn", "c3d", "i3d")}
    assert depths == {"onedmcnn": "full", "twodmcnn": "head", "c3d": "head", "i3d": "head"}
    assert build_recipe("c3d", RecipeChoice(depth="frozen")).tuning is None


def test_sources_carry_their_recipe(tmp_path: Path) -> None:
    """The default recipe adds nothing to a source's name; any other one, and a file's, is said behind an @."""
    assert RecipeChoice().source("c3d") == "c3d" and RecipeChoice(recipe="seed-sgd").source("c3d") == "c3d@seed-sgd"
    assert RecipeChoice(recipe="seed-sgd").source("c3d@default") == "c3d"
    assert RecipeChoice().source("c3d@seed-adam") == "c3d@seed-adam"
    adam, sgd = (build_recipe(f"c3d@seed-{name}", RecipeChoice()) for name in ("adam", "sgd"))
    assert adam.tuning is not None and sgd.tuning is not None
    assert (adam.tuning.optimizer, sgd.tuning.optimizer, sgd.tuning.momentum) == ("adam", "sgd", 0.0)
    assert adam.tuning.learning_rate == sgd.tuning.learning_rate == 1e-5 and adam.digest16 != sgd.digest16
    (tmp_path / "mine.toml").write_text("[c3d]\nhead = { optimizer = 'adam', learning_rate = 1e-3, epochs = 2 }\n")
    choice = RecipeChoice(recipe=str(tmp_path / "mine.toml"), depths={"c3d": "frozen"})
    assert choice.source("c3d") == "c3d@mine" and build_recipe("c3d@mine", choice).depth == "frozen"
    assert build_recipe("c3d", choice) == build_recipe("c3d", RecipeChoice(depths={"c3d": "frozen"}))
    assert RecipeChoice(depths={"c3d@default": "full"}).depth_of("c3d") == "full"
    for name in ("c3d@", "c3d@../mine.toml"):
        with pytest.raises(UnknownNameError, match="unknown recipe .*; known: default, demo, seed"):
            RecipeChoice().source(name)
    (tmp_path / "seed.toml").write_text("")
    with pytest.raises(InputError, match="'seed' is a recipe of moodfuse; give yours another name"):
        RecipeChoice(recipe=str(tmp_path / "seed.toml")).source("c3d")
    (tmp_path / "bad.toml").write_text("threads = 'x'")
    with pytest.raises(InputError, match="threads is 'x'; expected a whole number"):
        build_recipe("c3d@bad", RecipeChoice(recipe=str(tmp_path / "bad.toml"), depth="frozen"))
    (tmp_path / "bad.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        RecipeChoice(recipe=str(tmp_path / "bad.toml")).source("c3d")
    (tmp_path / "b@d.toml").write_text("")
    with pytest.raises(InputError, match="its name 'b@d' has to be letters"):
        RecipeChoice(recipe=str(tmp_path / "b@d.toml")).source("c3d")


def test_the_seeds_recipes_are_complete() -> None:
    """Each of the seed's recipes has settings for the four networks, whole and at the head."""
    for name in ("seed", "seed-adam", "seed-sgd"):
        for network in ("onedmcnn", "twodmcnn", "c3d", "i3d"):
            whole = build_recipe(f"{network}@{name}", RecipeChoice())
            head = build_recipe(f"{network}@{name}", RecipeChoice(depth="head"))
            assert whole.depth == "full" and head.tuning is not None
    chosen = [build_recipe(f"{name}@seed", RecipeChoice()).tuning for name in ("onedmcnn", "twodmcnn", "c3d", "i3d")]
    assert [item.optimizer for item in chosen if item] == ["adam", "sgd", "sgd", "adam"]
