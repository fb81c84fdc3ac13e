"""Settings of an ablation: combinations of sources by name, and errors before anything is read."""

import pytest

from moodfuse.cache.errors import InputError, UnknownNameError
from moodfuse.fuse.settings import PAPER_COMBINATIONS, AblationSettings, parse_combinations, resolve_heads

FOUR = ("c3d", "i3d", "onedmcnn", "twodmcnn")


def test_combinations(caplog: pytest.LogCaptureFixture) -> None:
    """`zhou2022`, `all` and names are told apart; each combination is sorted and stands once."""
    assert parse_combinations(["zhou2022"], FOUR) == PAPER_COMBINATIONS == parse_combinations(["seed"], FOUR)
    assert "--combine seed is now called zhou2022" in caplog.text
    assert len(parse_combinations(["all"], FOUR)) == 15
    pair = (("c3d", "i3d"), ("c3d",), ("i3d",))
    assert parse_combinations(["i3d+c3d", "c3d+i3d", "all"], FOUR[:2]) == pair
    assert parse_combinations(["all"], ("c3d",)) == (("c3d",),)
    with pytest.raises(InputError, match="--combine zhou2022 needs onedmcnn, twodmcnn as well; run extract"):
        parse_combinations(["zhou2022"], FOUR[:2])
    with pytest.raises(UnknownNameError, match="unknown source 'c4d'; known: c3d, i3d"):
        parse_combinations(["c3d+c4d"], FOUR[:2])
    with pytest.raises(InputError, match="the cache holds no features"):
        parse_combinations(["all"], ())


def test_paper_combinations_of_each_complete_recipe() -> None:
    """`zhou2022` gives five combinations for each recipe with all four networks, which share that recipe."""
    adam = tuple(f"{name}@seed-adam" for name in FOUR)
    assert parse_combinations(["zhou2022"], adam)[2] == ("c3d@seed-adam", "twodmcnn@seed-adam")
    both = parse_combinations(["zhou2022"], (*adam, *FOUR))
    assert both[:5] == PAPER_COMBINATIONS and len(both) == 10
    assert all(len({name.partition("@")[2] for name in names}) == 1 for names in both)
    others = (*FOUR, *adam[:3], "clip-vit", "other@mine")
    assert parse_combinations(["zhou2022"], others) == PAPER_COMBINATIONS


def test_the_error_names_the_networks_that_are_missing() -> None:
    """Where no recipe is complete, those of the recipe with the most networks."""
    with pytest.raises(
        InputError, match="needs twodmcnn@seed-adam as well; run extract .* --recipe seed-adam$"
    ):
        parse_combinations(["zhou2022"], ("c3d", "c3d@seed-adam", "i3d@seed-adam", "onedmcnn@seed-adam"))


def test_all_is_bounded() -> None:
    """`all` mixes recipes and takes eight sources; for nine the error counts the combinations."""
    assert ("c3d", "c3d@seed-adam") in parse_combinations(["all"], ("c3d", "c3d@seed-adam", "i3d"))
    names = [f"s{number}" for number in range(9)]
    assert len(parse_combinations(["all"], names[:8])) == 255
    with pytest.raises(InputError, match=r"9 sources have 511 combinations, more than 256; .* s0\+s1"):
        parse_combinations(["all"], names)


def test_settings_of_heads_are_merged() -> None:
    """From tables and `search`; those in the text of a head stay, and `mean` has none."""
    tables = {"softmax": {"C": 10}, "lightgbm": {"num_leaves": 8, "learning_rate": 0.05}}
    assert resolve_heads(["softmax", "softmax:C=1"], tables) == ("softmax:C=10", "softmax:C=1")
    assert resolve_heads((), tables, 5) == (
        "softmax:C=10,search=5",
        "logistic:search=5",
        "lightgbm:num_leaves=8,learning_rate=0.05,search=5",
        "mean",
    )
    for wrong in (
        {"svm": {}},
        {"softmax": {"D": 1}},
        {"softmax": {"C": "high"}},
        {"softmax": 3},
        ["softmax"],
    ):
        with pytest.raises(InputError):
            resolve_heads((), wrong)  # type: ignore[arg-type]


def test_wrong_settings_are_errors() -> None:
    """Unknown heads, levels and protocols list the known."""
    with pytest.raises(UnknownNameError, match="unknown head 'svm'; known: lightgbm"):
        AblationSettings(heads=("svm",))
    with pytest.raises(UnknownNameError, match="unknown level 'pixels'"):
        AblationSettings(levels=("pixels",))
    with pytest.raises(UnknownNameError, match="'nested'; known: crossfit, leaky, no-crossfit"):
        AblationSettings(protocol="nested")
    with pytest.raises(InputError, match="--jobs is 0 "):
        AblationSettings(jobs=0)
