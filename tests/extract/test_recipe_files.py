"""Recipes by name and from files, for each source, or a message with what to change."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.extract import recipe_files
from moodfuse.extract.networks import Preprocessing, network_spec
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe, option_names, read_preprocessing

NETWORKS = ("onedmcnn", "twodmcnn", "c3d", "i3d")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[[str, str | bytes], str]:
    """Writes a recipe file and returns its path."""

    def write(name: str, text: str | bytes) -> str:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return str(tmp_path / name)

    return write


def test_unknown_names_list_the_known(recipe_file) -> None:
    """Source, recipe, depth and weights file."""
    networks = "known: audio-stats, c3d, frame-stats, hf:MODEL, i3d, musicnn, .*torchvision:MODEL, twodmcnn"
    with pytest.raises(UnknownNameError, match=networks):
        build_recipe("c4d", RecipeChoice())
    with pytest.raises(UnknownNameError, match="unknown recipe 'best'; known: default"):
        build_recipe("c3d", RecipeChoice(recipe="best"))
    with pytest.raises(InputError, match="unknown depth; known: frozen, head, full"):
        build_recipe("c3d", RecipeChoice(depths={"c3d": "deep"}))
    with pytest.raises(InputError, match="no such file, and no known name"):
        build_recipe("c3d", RecipeChoice(weights={"c3d": "none.h5"}))
    for name in ("c3d@", "c3d@../mine.toml"):
        with pytest.raises(UnknownNameError, match="unknown recipe .*; known: default, demo, zhou2022"):
            RecipeChoice().source(name)


def test_default_depths() -> None:
    """onedmcnn is tuned whole, the others at the head; a frozen recipe is not tuned."""
    depths = [build_recipe(name, RecipeChoice()).depth for name in NETWORKS]
    assert depths == ["full", "head", "head", "head"]
    assert build_recipe("c3d", RecipeChoice(depth="frozen")).tuning is None


def test_last_blocks_are_tuned_with_the_settings_of_full() -> None:
    """More blocks than the network has, and blocks of a network without weights, are refused."""
    full, last = (build_recipe("twodmcnn", RecipeChoice(depth=depth)) for depth in ("full", "last:2"))
    assert last.tuning == full.tuning and last.embedding_tuned and last.digest16 != full.digest16
    with pytest.raises(
        InputError, match=r"--tune i3d=last:13: i3d has 12 blocks; expected last:1 to last:12$"
    ):
        build_recipe("i3d", RecipeChoice(depths={"i3d": "last:13"}))
    with pytest.raises(InputError, match="frame-stats has no weights to tune; use frozen or head"):
        build_recipe("frame-stats", RecipeChoice(depth="last:1"))
    for depth in ("last:0", "imported"):
        with pytest.raises(InputError, match="unknown depth; known: frozen, head, full, last:N"):
            build_recipe("c3d", RecipeChoice(depth=depth))


def test_video_sources_read_even_frames_or_short_windows(recipe_file) -> None:
    """The option, or the recipe, chooses; the rate is that of the network unless one is given."""

    def preprocessing(source: str, frames: str, recipe: str = "default") -> Preprocessing:
        choice = RecipeChoice(recipe=recipe, depth="frozen", frames={source: frames} if frames else {})
        return read_preprocessing(build_recipe(source, choice))

    even = preprocessing("i3d", "")
    assert preprocessing("i3d", "even") == even and "windows" not in even.as_record()
    short = replace(even, windows=2, frame_rate_hz=25.0)
    assert preprocessing("i3d", "windows:2") == short
    assert preprocessing("i3d", "windows:2@12.5") == replace(short, frame_rate_hz=12.5)
    assert preprocessing("torchvision:mvit_v2_s", "windows:1").frame_rate_hz == 7.5
    assert preprocessing("i3d", "even,crops:3") == replace(even, crops=3) != even
    assert preprocessing("i3d", "windows:2,crops:3") == replace(short, crops=3)
    file = recipe_file("short.toml", '[i3d]\nframes = "windows:2"\n')
    assert preprocessing("i3d@short", "", file) == short
    assert preprocessing("i3d@short", "even", file) == even
    own = replace(short, crops=3)
    for frames, expected in (("even", even), ("windows:2", short)):
        spec = replace(network_spec("i3d"), preprocessing=own)
        assert recipe_files._choose_frames("", frames, own, spec) == expected
    for source, frames, message in (
        ("twodmcnn", "windows:2", "twodmcnn reads audio; choose frames for video sources only"),
        ("c3d", "windows:2", "frame rate at which c3d was trained is not known; .* such as windows:2@12.5"),
        ("i3d", "windows", r"expected even, windows:N or windows:N@RATE, such as windows:4@12.5"),
        (
            "i3d",
            "windows:33",
            "--frames i3d=windows:33: 33 windows of 32 frames at 25.0 per second; expected .* 1024 frames",
        ),
        ("i3d", "windows:2@0", "a rate of more than 0"),
    ):
        with pytest.raises(InputError, match=message):
            preprocessing(source, frames)
    wrong = recipe_file("wrong.toml", "[i3d]\nframes = false\n")
    with pytest.raises(
        InputError, match=r"wrong.toml, table \[i3d\], frames = False: expected even, windows:N"
    ):
        preprocessing("i3d@wrong", "", wrong)


def test_sources_carry_their_recipe(recipe_file) -> None:
    """The default recipe adds nothing to a source's name; any other one, and that of a file, follows an @."""
    assert RecipeChoice().source("c3d") == "c3d"
    sgd = RecipeChoice(recipe="zhou2022-sgd")
    assert sgd.source("c3d") == "c3d@zhou2022-sgd" and sgd.source("c3d@default") == "c3d"
    assert RecipeChoice().source("c3d@zhou2022-adam") == "c3d@zhou2022-adam"
    text = "[c3d]\nhead = { optimizer = 'adam', learning_rate = 1e-3, epochs = 2 }\n"
    choice = RecipeChoice(recipe=recipe_file("mine.toml", text), depths={"c3d": "frozen"})
    assert choice.source("c3d") == "c3d@mine" and build_recipe("c3d@mine", choice).depth == "frozen"
    assert build_recipe("c3d", choice) == build_recipe("c3d", RecipeChoice(depths={"c3d": "frozen"}))
    assert RecipeChoice(depths={"c3d@default": "full"}).depth_of("c3d") == "full"
    named = RecipeChoice(recipe=recipe_file("bom.toml", b"\xef\xbb\xbfname = 'mine'\nseed = 3\n"))
    assert named.source("c3d") == "c3d@mine"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.toml",
            "[c3d.head]\noptimizer='adam'\nlearning_rate=1\nepochs=1\nspeed=9\n",
            "unknown key 'speed'",
        ),
        (
            "a.toml",
            "[c3d.head]\noptimizer='adam'\nlearning_rate=1\nepochs=1\nclass_weight='uncorrected'\n",
            "class_weight is 'uncorrected'; expected one of: none, balanced",
        ),
        (
            "a.toml",
            "[c3d.head]\noptimizer='adam'\nlearning_rate=1\nepochs=1\nclass_weight='rare'\n",
            "class_weight is 'rare'; expected one of: none, balanced",
        ),
        (
            "a.toml",
            "[c3d.head]\noptimizer='adam'\nlearning_rate=1\nepochs=1\nlayer_decay=0.5\n",
            "layer_decay has no effect at depth head; remove it, or use full or last:N",
        ),
        (
            "a.toml",
            "[c3d]\ndepth='last:1'\n[c3d.full]\noptimizer='adam'\nlearning_rate=1\nepochs=1\nspec_augment=0.1\n",
            "spec_augment masks audio, and c3d reads video; remove it",
        ),
        ("a.toml", "threads = 'x'\n[c3d]\ndepth = 'frozen'", "threads is 'x'; expected a whole number"),
        ("a.toml", b"name = '\xe9'", "cannot be read as UTF-8"),
        ("b@d.toml", "", "its name 'b@d' has to be letters"),
        ("zhou2022.toml", "", "'zhou2022' is a recipe of moodfuse; give yours another name"),
        ("seed.toml", "", "'seed' is a recipe of moodfuse; give yours another name"),
    ],
)
def test_bad_recipe_files_are_refused(name: str, text: str | bytes, message: str, recipe_file) -> None:
    """The message names the file and what to change."""
    choice = RecipeChoice(recipe=recipe_file(name, text))
    with pytest.raises(InputError, match=message):
        build_recipe(choice.source("c3d"), choice)


def test_the_recipes_of_the_paper_are_complete() -> None:
    """Each has settings for the four networks, whole and at the head, with the optimizers of its Table 1."""
    optimizers = {"zhou2022": ["adam", "sgd", "sgd", "adam"]}
    optimizers |= {f"zhou2022-{name}": [name] * 4 for name in ("adam", "sgd")}
    for recipe, expected in optimizers.items():
        whole = [build_recipe(f"{network}@{recipe}", RecipeChoice()) for network in NETWORKS]
        assert [recipe.tuning.optimizer for recipe in whole if recipe.tuning] == expected
        assert {recipe.depth for recipe in whole} == {"full"}
        assert all(build_recipe(f"{name}@{recipe}", RecipeChoice(depth="head")).tuning for name in NETWORKS)
    adam, sgd = (build_recipe(f"c3d@zhou2022-{name}", RecipeChoice()).tuning for name in ("adam", "sgd"))
    assert adam and sgd and adam.learning_rate == sgd.learning_rate == 1e-5 and sgd.momentum == 0.0


@pytest.mark.parametrize("former", ["seed", "seed-adam", "seed-sgd"])
def test_former_names_of_recipes_give_the_same_recipe(former: str, caplog: pytest.LogCaptureFixture) -> None:
    """A warning gives the new name; options address a source by either name, and both give one digest."""
    current = former.replace("seed", "zhou2022")
    choice = RecipeChoice(recipe=former)
    assert choice.source("c3d") == RecipeChoice().source(f"c3d@{former}") == f"c3d@{current}"
    assert f"{former!r} is now called {current!r}" in caplog.text
    recipes = [build_recipe(f"c3d@{name}", RecipeChoice()) for name in (former, current)]
    assert recipes[0].digest16 == recipes[1].digest16
    assert RecipeChoice(depths={f"c3d@{former}": "head"}).depth_of(f"c3d@{current}") == "head"
    assert option_names(f"c3d@{current}") == (f"c3d@{current}", f"c3d@{former}", "c3d")
