"""Series of numbered file names that carry one label are found, described and grouped."""

import re

import pytest

from moodfuse.cache.name_series import describe_series_for_report, find_name_series, make_group_pattern

OTHERS = {f"{label}/{label} other.mp4": label for label in ("sad", "fear", "calm")}


def find(*ids: str, labels: dict[str, str] | None = None, groups: dict[str, str] | None = None) -> list[str]:
    """Stems of the series among clips, sad or with the label given by id, and further clips of each label."""
    names = [*ids, *OTHERS]
    of_clips = {**dict.fromkeys(ids, "sad"), **OTHERS, **(labels or {})}
    found = find_name_series(
        names, [of_clips[name] for name in names], [(groups or {}).get(name, name) for name in names]
    )
    return [entry.stem for entry in found]


@pytest.mark.parametrize(
    "names",
    [
        ("LLT_TENS(1)", "LLT_TENS(2)", "LLT_TENS(14)"),
        ("name 1", "name (2)", "name_03"),
        ("name-4", "name.5", "name6"),
        ("part2_1", "part2_2", "part2_3"),
    ],
)
def test_spellings_of_numbers(names: tuple[str, ...]) -> None:
    """Names that differ only in their last number are a series, in one folder or in several."""
    stem = {"L": "LLT_TENS", "n": "name", "p": "part2"}[names[0][0]]
    assert find(*(f"sad/{name}.mp4" for name in names)) == [stem]
    assert find(*(f"sad/{folder}/{name}.mp4" for folder, name in enumerate(names))) == [stem]


def test_what_is_no_series() -> None:
    """Two files, names without letters, several labels, one group, and windows of two files are none."""
    ids = ("a/x(1).mp4", "a/x(2).mp4", "a/x(3).mp4")
    assert find(*ids) == ["x"]
    assert find(*ids[:2]) == []
    assert find("sad/1.mp4", "sad/2.mp4", "sad/3.mp4") == []
    assert find(*ids, labels={ids[1]: "fear"}) == []
    assert find(*ids, groups=dict.fromkeys(ids, "film")) == []
    assert find(*ids, groups=dict.fromkeys(ids[:2], "film")) == ["x"]
    assert find("a/x(1).mp4@0-30", "a/x(1).mp4@30-60", "a/x(2).mp4@0-30") == []


def test_files_named_after_their_label_are_left_out() -> None:
    """A series that holds all clips of its label is not reported."""
    ids = [f"{label}{number}.mp4" for label in ("sad", "fear") for number in range(4)]
    labels, groups = [clip_id[:-5] for clip_id in ids], list(map(str, range(8)))
    assert find_name_series(ids, labels, groups) == ()
    assert [entry.stem for entry in find_name_series([*ids, "x"], [*labels, "sad"], [*groups, "8"])] == [
        "sad"
    ]


@pytest.mark.parametrize("given", [None, "song", r"(song) [a-c]", r"(?P<group>song)"])
def test_pattern_groups_exactly_the_series(given: str | None) -> None:
    """The suggested pattern matches the clips of the series only, besides those of the given pattern."""
    ids = [f"sad/x+y ({number}).mp4" for number in range(3)]
    series = find_name_series([*ids, "sad/z.mp4"], ["sad"] * 4, ["0", "1", "2", "3"])
    pattern = re.compile(make_group_pattern(series, given))
    others = ("sad/axx+y (1).mp4", "sad/x+y.mp4", "sad/x+y (1) live.mp4", "sad/xxy (1).mp4")
    assert all(set(filter(None, match.groups())) == {"x+y"} for match in map(pattern.search, ids) if match)
    assert all(map(pattern.search, ids)) and not any(map(pattern.search, others))
    assert bool(pattern.search("sad/song a.mp4")) == (given is not None)


def test_summary_names_the_largest_series() -> None:
    """The note counts clips and series; without a series there is none."""
    ids = [*(f"x{number}" for number in range(3)), *(f"y{number}" for number in range(5)), "z"]
    note = describe_series_for_report(find_name_series(ids, ["sad"] * 9, ids))
    assert note is not None and "8 clips are in 2 series" in note and "such as y (5 clips, all sad)" in note
    assert describe_series_for_report(()) is None
    note = describe_series_for_report(find_name_series(ids, ["sad"] * 9, ids), (0.754, 0.699), 5)
    assert (
        note is not None
        and "one of 5 folds, the accuracy of the best result is 69.9 % instead of 75.4 %" in note
    )
